"""The longest pause of the event loop while something is awaited."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise


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
