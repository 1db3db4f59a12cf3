"""Tools of the conformance tests: watching the event loop, events and errors."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index_instrumentation import get_dispatcher
from pydantic import PrivateAttr

from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Modes
from bge_m3_integrations.testing.fake import FakeEncoder


class GatedEncoder(FakeEncoder):
    """Waits inside `encode` until the event loop opens the gate; a blocked loop never does.

    Attributes:
        gate: Open at first.
        opened: Of each call, whether the gate was opened in time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.opened: list[bool] = []

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """See `FakeEncoder.encode`."""
        self.opened.append(self.gate.wait(timeout=2))
        return super().encode(texts, kind=kind, modes=modes, max_length=max_length)


def leaves_the_loop_free(encoder: GatedEncoder, work: Callable[[], Awaitable[object]]) -> bool:
    """Whether the event loop ran while the encoder was at work.

    Args:
        encoder: The encoder of `work`.
        work: Makes the awaitable to be watched; it must encode something.

    Returns:
        False if the loop stood still, or nothing was encoded.
    """

    async def watched() -> bool:
        encoder.gate.clear()
        encoder.opened.clear()
        task = asyncio.ensure_future(work())
        await asyncio.sleep(0)
        encoder.gate.set()
        await task
        return bool(encoder.opened) and all(encoder.opened)

    return asyncio.run(watched())


@dataclass(frozen=True, slots=True)
class Gap:
    """The longest pause of the event loop, in seconds.

    Attributes:
        longest: Between two ticks, whatever the reason.
        work: The same without the time that full garbage collections took.
        collection: The longest full garbage collection; 0 where there was none.
    """

    longest: float
    work: float
    collection: float


async def longest_gap(work: Awaitable[object], *, every: float = 0.001) -> Gap:
    """Measure the longest pause of the event loop while something is awaited.

    A full garbage collection stops Python for as long as it takes to visit all that was imported,
    whatever runs: 0.1 s where LlamaIndex is. So its share is told apart. A service avoids it by
    `gc.freeze()` once all is imported.

    A single measurement says little: take the least of several, for on a busy machine a process
    waits for its turn.

    Args:
        work: The work to await.
        every: Seconds between ticks, which the result includes.

    Returns:
        The gap and its shares.
    """
    times: list[float] = []

    async def tick() -> None:
        while True:
            times.append(time.perf_counter())
            await asyncio.sleep(every)

    with full_collections() as pauses:
        ticking = asyncio.ensure_future(tick())
        await asyncio.sleep(0)
        try:
            await work
        finally:
            await asyncio.sleep(0)
            times.append(time.perf_counter())
            ticking.cancel()
    return Gap(
        max(later - earlier for earlier, later in pairwise(times)),
        max(outside(pauses, earlier, later) for earlier, later in pairwise(times)),
        max((stop - start for start, stop in pauses), default=0.0),
    )


@contextmanager
def full_collections() -> Iterator[list[tuple[float, float]]]:
    """Record the start and end of full garbage collections, by `time.perf_counter`."""
    pauses: list[tuple[float, float]] = []
    started = 0.0

    def note(phase: str, info: Mapping[str, int]) -> None:
        nonlocal started
        if info["generation"] < 2:
            return
        if phase == "start":
            started = time.perf_counter()
        else:
            pauses.append((started, time.perf_counter()))

    gc.callbacks.append(note)
    try:
        yield pauses
    finally:
        gc.callbacks.remove(note)


def outside(pauses: Sequence[tuple[float, float]], earlier: float, later: float) -> float:
    """Subtract pauses, which do not overlap, from a stretch of time."""
    inside = (min(stop, later) - max(start, earlier) for start, stop in pauses)
    return later - earlier - sum(length for length in inside if length > 0)


def refusal(work: Callable[[], object]) -> str:
    """Get the message of the `ValueError` that a call must raise.

    Args:
        work: The call.

    Returns:
        The message.

    Raises:
        AssertionError: It raised none.
    """
    try:
        found = work()
    except ValueError as error:
        return str(error)
    raise AssertionError(f"no error, but {found!r}")


class _Collector(BaseEventHandler):
    _names: list[str] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex wants of every handler."""
        return "ConformanceCollector"

    def handle(self, event: BaseEvent, **_: Any) -> None:
        """Keep the event's name."""
        self._names.append(event.class_name())


@contextmanager
def collected_events() -> Iterator[list[str]]:
    """The class names of all events that LlamaIndex's dispatcher sees, as they come."""
    collector, root = _Collector(), get_dispatcher()
    root.add_event_handler(collector)
    try:
        yield collector._names
    finally:
        root.event_handlers.remove(collector)


def descendants(cls: Any) -> Iterator[Any]:
    """All classes below one that are known to this process."""
    for child in cls.__subclasses__():
        yield child
        yield from descendants(child)
