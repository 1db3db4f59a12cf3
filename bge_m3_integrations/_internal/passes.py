"""Forward passes as they end, to count them and to show the progress of a call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Self, TypeAlias

Told: TypeAlias = Callable[[int], None]
"""Takes the number of texts of a pass that has just ended, on whatever thread it ended."""


_LISTENER: ContextVar[Told | None] = ContextVar("bge_m3_passes", default=None)


def listener() -> Told | None:
    """Return the function to call after each pass of the call under way, on the caller's thread."""
    return _LISTENER.get()


class PassCount:
    """Counts the passes of the calls inside it, which may end on several threads.

    It is a context manager; whoever listens outside is told too.

    Args:
        tell: Called after each pass with the texts so far.
    """

    def __init__(self, tell: Told | None = None) -> None:
        self.passes = self.texts = 0
        self._tell, self._outer = tell, _LISTENER.get()
        self._token: Token[Told | None] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._token = _LISTENER.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _LISTENER.reset(self._token)

    def __call__(self, texts: int) -> None:
        """Count one pass of so many texts."""
        with self._lock:
            self.passes += 1
            self.texts += texts
            if self._tell is not None:
                self._tell(self.texts)
        if self._outer is not None:
            self._outer(texts)
