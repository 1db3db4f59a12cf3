"""Forward passes as they end: who counts them, and who shows how far a call has come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

Told: TypeAlias = Callable[[int], None]
"""Takes the number of texts of a pass that has just ended, on whatever thread it ended."""


def _nobody(texts: int) -> None:
    """Tell nobody."""


_TOLD: ContextVar[Told] = ContextVar("bge_m3_passes", default=_nobody)


def listener() -> Told:
    """What to call after each pass of the call under way; asked for on the caller's thread."""
    return _TOLD.get()


@contextmanager
def told(tell: Told) -> Iterator[None]:
    """Have a function called after each pass; whoever listens outside is told too."""
    outer = _TOLD.get()

    def both(texts: int) -> None:
        tell(texts)
        outer(texts)

    token = _TOLD.set(both)
    try:
        yield
    finally:
        _TOLD.reset(token)


class PassCount:
    """Counts passes, which may end on several threads."""

    def __init__(self) -> None:
        self.passes = self.texts = 0
        self._lock = threading.Lock()

    def __call__(self, texts: int) -> None:
        """Count one pass of so many texts."""
        with self._lock:
            self.passes += 1
            self.texts += texts
