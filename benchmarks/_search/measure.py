"""Fill one collection and time its searches, step by step, within a time box."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks._memory import memory
from benchmarks._search.corpus import Block
from benchmarks._search.results import Outcome, Stage, Timing
from benchmarks._search.subjects.base import Setup, Subject
from benchmarks._search.tasks import TASKS

MIN_SECONDS, MAX_PASSES = 1.0, 5
MAX_SECONDS, MIN_CALLS = 20.0, 5
"""Fast searches are repeated; a slow one is asked fewer queries."""
WARM_UP = 3
INGEST_SHARE = 0.5
"""Of the time box; the rest is for searching and optimizing."""

Save = Callable[[Outcome], None]


class OutOfTimeError(Exception):
    """The time box is over; what was measured stands."""


@dataclass
class Run:
    """One subject over one collection; every step saves what is known so far.

    Args:
        setup: What is measured over.
        subject: Open and empty.
        outcome: What is known.
        save: Keeps it, as this process may be ended in a long step.
        seconds: The time box.
    """

    setup: Setup
    subject: Subject
    outcome: Outcome
    save: Save
    seconds: float

    def __post_init__(self) -> None:
        self.start = time.perf_counter()

    def all(self) -> Outcome:
        """Every step in order, as far as the time box reaches."""
        try:
            self._step("adding", self._ingest)
            self._step("searching before optimize", lambda: self._searched("before"), late=True)
            if self.subject.optimizes:
                self._step("optimize", self._optimize)
                self._step("searching after optimize", lambda: self._searched("after"), late=True)
            if self.subject.durable:
                self._step("reopening", self._reopen, late=True)
            if self.setup.checkpoint is not None:
                self._step("searching by text", self._by_text, late=True)
            self._note(doing="")
        except OutOfTimeError as error:
            self._note(status="stopped", detail=str(error))
        return self.outcome

    def _step(self, name: str, step: Callable[[], None], *, late: bool = False) -> None:
        """Do it; a short one (`late`) also when the time is over."""
        spent = time.perf_counter() - self.start
        if spent > self.seconds and not late:
            raise OutOfTimeError(f"before {name}, after {spent / 60:.1f} minutes")
        self._note(doing=name)
        step()

    def _note(self, **known: object) -> None:
        self.outcome = replace(self.outcome, **known)
        self.save(self.outcome)

    def _ingest(self) -> None:
        setup, spent = self.setup, 0.0
        gc.collect()
        self._note(empty=memory())
        for part in parts(setup):
            texts = setup.corpus.texts(part.start, len(part))
            tokens = setup.corpus.tokens(part) if setup.colbert else None
            start = time.perf_counter()
            self.subject.add(part, texts, tokens)
            end = time.perf_counter()
            spent += end - start
            self.outcome = replace(self.outcome, documents=part.start + len(part))
            if end - self.start > INGEST_SHARE * self.seconds:
                break
        start = time.perf_counter()
        self.subject.flush()
        flushed = time.perf_counter() - start
        self._note(ingest_seconds=spent + flushed, flush_seconds=flushed, **self._stopped())

    def _stopped(self) -> dict[str, str]:
        """What to say where the time box ended before the documents did."""
        done, wanted = self.outcome.documents, self.outcome.wanted
        if done == wanted:
            return {}
        return {"status": "stopped", "detail": f"adding stopped at {done:,} of {wanted:,}"}

    def _searched(self, name: str) -> None:
        timings = tuple(self._timed(task) for task in TASKS if task in self.subject.tasks)
        gc.collect()
        stage = Stage(name, occupied(self.setup.folder), memory(), timings)
        self._note(stages=(*self.outcome.stages, stage))

    def _timed(self, task: str) -> Timing:
        count = len(self.setup.queries)
        found = self._warmed_up(task)
        seconds: list[float] = []
        for i in turns(count):
            if i == 0 and sum(seconds) > MIN_SECONDS:
                break
            if len(seconds) >= MIN_CALLS and sum(seconds) > MAX_SECONDS:
                break
            start = time.perf_counter()
            ids = self.subject.search(task, i)
            seconds.append(time.perf_counter() - start)
            if len(found) == i:
                found.append(ids)
        return Timing(task, tuple(seconds), tuple(map(tuple, found)))

    def _warmed_up(self, task: str) -> list[list[str]]:
        """What the first queries find, off the clock; a slow search has one."""
        start, found = time.perf_counter(), []
        for i in range(min(WARM_UP, len(self.setup.queries))):
            if not found or time.perf_counter() - start < MIN_SECONDS:
                found.append(self.subject.search(task, i))
        return found

    def _optimize(self) -> None:
        start = time.perf_counter()
        self.subject.optimize()
        self._note(optimize_seconds=time.perf_counter() - start)

    def _reopen(self) -> None:
        self.subject.close()
        start = time.perf_counter()
        self.subject.reopen()
        opened = time.perf_counter()
        self.subject.search("hybrid" if "hybrid" in self.subject.tasks else "dense", 0)
        first = time.perf_counter() - opened
        self._note(reopen_seconds=opened - start, first_seconds=first)

    def _by_text(self) -> None:
        timings = self.subject.by_text(self.setup)
        if timings:
            stage = Stage("text", occupied(self.setup.folder), memory(), timings)
            self._note(stages=(*self.outcome.stages, stage))


def parts(setup: Setup) -> Iterator[Block]:
    """The documents in the order and size in which they are added."""
    for block in setup.corpus.blocks():
        for start in range(0, len(block), setup.batch):
            yield block.part(start, start + setup.batch)


def turns(count: int) -> Iterator[int]:
    """The queries' numbers, `MAX_PASSES` times over."""
    for _ in range(MAX_PASSES):
        yield from range(count)


def occupied(folder: Path) -> int:
    """Bytes on disk: of blocks in use, not of preallocated or sparse sizes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_blocks * 512 for path in files)
