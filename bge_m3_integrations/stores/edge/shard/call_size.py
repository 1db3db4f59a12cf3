"""The size of one call of the engine, kept short on a cold disk too.

The engine holds Python's lock during a call. Reading from the disk takes it thirty times as long as
reading from memory, and only the calls before tell where things lie.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

_Key = TypeVar("_Key")

_AIM = 0.010
"""Seconds that a call is to take at most..."""
_SLOW = 0.020
"""... and from which one makes the next smaller: between the two, sizes stay."""
_STALE = 10.0
"""Seconds without a call after which nothing is known any more: others have used the memory."""


class AdaptiveCallSize:
    """The size of the next call, by the duration of those before.

    A slow call cuts the size at once to one that seems to fit, as it may be the first of many from
    the disk; the first size and those below are only halved. A fast call allows up to twice its own
    size: a call that was slow because the machine was busy costs a few calls more. Sizes do no more
    than divide work, so calls of several threads may be mixed.

    Args:
        first: The size of the first call, in any unit, such that it is short on a cold disk.
        clock: Seconds that only grow.
    """

    def __init__(self, first: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = self._size = max(1, first)
        self._clock = clock
        self._last = clock()

    @property
    def now(self) -> int:
        """Size of the next call at most, at least 1."""
        if self._clock() - self._last > _STALE:
            return min(self._first, self._size)
        return self._size

    def observe(self, done: int, seconds: float) -> None:
        """Learn from a call of a size that took the engine so many seconds."""
        size = self.now
        fitting = int(done * _AIM / max(seconds, 1e-9))
        if seconds > _SLOW:
            size = max(1, min(size, fitting), min(self._first, size // 2))
        else:  # between aim and slow, what fits is less than what was asked
            size = max(size, min(fitting, 2 * done))
        self._size, self._last = size, self._clock()


def parts(lengths: Mapping[_Key, int], most: Callable[[], int]) -> Iterator[list[_Key]]:
    """Divide a request into calls of keys with so much length together; a longer key goes alone.

    `most` says how much, and is asked when a call begins.
    """
    part: list[_Key] = []
    room = 0
    for key, length in lengths.items():
        if part and length > room:
            yield part
            part = []
        if not part:
            room = most()
        part.append(key)
        room -= length
    if part:
        yield part
