"""Three stages that overlap where a device gains from it: tokenize, run, bring back.

Nothing here knows a device: `encoders.torch.stages` says what a device gains, `Work` what is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from typing import Generic, Protocol, Self, TypeVar

import numpy as np

from bge_m3_integrations.core.embeddings import IntArray
from bge_m3_integrations.encoders.batching import (
    TokenBudget,
    batches,
    smaller_for,
)


class Sized(Protocol):
    """A stretch of texts, tokenized."""

    @property
    def lengths(self) -> IntArray:
        """`(n,)` tokens per text."""
        ...


Piece = TypeVar("Piece")
Stretch = TypeVar("Stretch", bound=Sized)
Started = TypeVar("Started")
_Piece_contra = TypeVar("_Piece_contra", contravariant=True)
_Stretch = TypeVar("_Stretch")
_FIRST = np.zeros(1, np.int64)


class Work(Protocol[_Piece_contra, _Stretch, Started]):
    """The stages' work. A stage that raises has changed nothing."""

    def prepare(self, piece: _Piece_contra) -> _Stretch:
        """Tokenize some texts; one call at a time, in order, from any thread."""
        ...

    def start(self, stretch: _Stretch, rows: IntArray) -> Started:
        """Begin a forward pass over texts of a stretch; on the caller's thread."""
        ...

    def finish(self, started: Started) -> None:
        """Wait for a pass and store its numbers; from any thread, also several at once."""
        ...


@dataclass(frozen=True, slots=True)
class Overlap:
    """The stages that run at once.

    Attributes:
        ahead: Tokenize a stretch of texts while the one before it runs.
        in_flight: Passes that may be on their way back while the next is started; 0 ends each
            before the next starts, without any thread.
    """

    ahead: bool = False
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Conditions that the stages run under.

    Attributes:
        budget: Most tokens of a pass.
        padded: See `batching.batches`.
        overlap: The stages that run at once.
        is_out_of_memory: Tells a full device from every other error.
        make_room: Called after out of memory, with no pass under way.
    """

    budget: TokenBudget
    padded: bool
    overlap: Overlap
    is_out_of_memory: Callable[[BaseException], bool]
    make_room: Callable[[], None]


def run_stages(
    work: Work[Piece, Stretch, Started], pieces: Iterable[Piece], options: RunOptions
) -> None:
    """Do all work on all pieces.

    An error of any stage is raised as it was, once nothing is under way any more. Out of memory is
    none, except at a single text with nothing beside it: the passes under way come back, the texts
    that did not fit run again in smaller batches, and the budget stays smaller.

    Args:
        work: The stages' work.
        pieces: Stretches of texts. At most two are tokenized and not yet run.
        options: The conditions they run under.
    """
    held: AbstractContextManager[Iterable[Stretch]] = (
        closing(prepared(work.prepare, pieces))
        if options.overlap.ahead
        else nullcontext(map(work.prepare, pieces))
    )
    with held as stretches:
        if options.overlap.in_flight:
            with _Flight(work, options) as flight:
                for stretch in stretches:
                    for rows in batches(stretch.lengths, options.budget, padded=options.padded):
                        flight.launch(stretch, rows)
                flight.collect_all()
            return
        for stretch in stretches:
            if len(stretch.lengths) == 1:  # such as a query: nothing to divide
                work.finish(work.start(stretch, _FIRST))
            else:
                _run_serially(work, stretch, options, np.arange(len(stretch.lengths)))


def prepared(
    prepare: Callable[[Piece], Stretch], pieces: Iterable[Piece]
) -> Generator[Stretch, None, None]:
    """Prepare pieces in order, the next one on a thread while the last one is in use.

    Args:
        prepare: Makes a stretch of a piece.
        pieces: The pieces; a single one starts no thread.

    Yields:
        The stretches.
    """
    waiting = iter(pieces)
    with ThreadPoolExecutor(1, "bge-m3-tokenize") as thread:
        for first in waiting:
            stretch = prepare(first)
            for piece in waiting:
                following = thread.submit(prepare, piece)
                yield stretch
                stretch = following.result()
            yield stretch


def _run_serially(
    work: Work[Piece, Stretch, Started], stretch: Stretch, options: RunOptions, texts: IntArray
) -> None:
    """Texts of a stretch, one pass after the other."""
    for batch in batches(stretch.lengths[texts], options.budget, padded=options.padded):
        rows = texts[batch]
        try:
            work.finish(work.start(stretch, rows))
            continue
        except Exception as error:
            if len(rows) == 1 or not options.is_out_of_memory(error):
                raise
        # behind the handler: the error holds the frames, and they the tensors that filled memory
        _run_again(work, stretch, options, rows)


def _run_again(
    work: Work[Piece, Stretch, Started], stretch: Stretch, options: RunOptions, rows: IntArray
) -> None:
    """Texts of a pass that did not fit in memory, in smaller ones; a single text as it was."""
    if len(rows) > 1:
        smaller = smaller_for(stretch.lengths[rows], options.budget, padded=options.padded)
        options = replace(options, budget=smaller)
    options.make_room()
    _run_serially(work, stretch, options, rows)


class _Flight(Generic[Piece, Stretch, Started]):
    """Passes that were started and have not come back.

    The newest is kept by the caller until another follows: so a call of a single pass ends it
    itself, without a thread.
    """

    def __init__(self, work: Work[Piece, Stretch, Started], options: RunOptions) -> None:
        self._work, self._terms = work, options
        self._newest: tuple[Stretch, IntArray, Started] | None = None
        self._returning: deque[tuple[Stretch, IntArray, Future[None]]] = deque()
        self._lost: list[tuple[Stretch, IntArray]] = []
        self._threads = ThreadPoolExecutor(options.overlap.in_flight, "bge-m3-finish")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._newest = None
        self._threads.shutdown(cancel_futures=True)

    def launch(self, stretch: Stretch, rows: IntArray) -> None:
        """Start a pass; waits while as many are on their way back as may be."""
        self._hand_over()
        while len(self._returning) > self._terms.overlap.in_flight:
            self._collect()
        if self._lost:
            self.collect_all()
        if not self._start(stretch, rows):
            self._lost.append((stretch, rows))
            self.collect_all()

    def collect_all(self) -> None:
        """Wait until every pass is back; texts that did not fit in memory run again, serially."""
        if not self._returning:
            self._finish_newest()
        self._hand_over()
        while self._returning:
            self._collect()
        for stretch, rows in self._lost:
            _run_again(self._work, stretch, self._terms, rows)
        self._lost.clear()

    def _start(self, stretch: Stretch, rows: IntArray) -> bool:
        """Whether the pass fitted in memory."""
        try:
            self._newest = (stretch, rows, self._work.start(stretch, rows))
        except Exception as error:
            if not self._terms.is_out_of_memory(error):
                raise
            return False
        return True

    def _hand_over(self) -> None:
        if self._newest is not None:
            (stretch, rows, started), self._newest = self._newest, None
            future = self._threads.submit(self._work.finish, started)
            self._returning.append((stretch, rows, future))

    def _finish_newest(self) -> None:
        if self._newest is not None:
            (stretch, rows, started), self._newest = self._newest, None
            self._settle(stretch, rows, lambda: self._work.finish(started))

    def _collect(self) -> None:
        stretch, rows, future = self._returning.popleft()
        self._settle(stretch, rows, future.result)

    def _settle(self, stretch: Stretch, rows: IntArray, end: Callable[[], None]) -> None:
        try:
            end()
        except Exception as error:
            if not self._terms.is_out_of_memory(error):
                raise
            self._lost.append((stretch, rows))
