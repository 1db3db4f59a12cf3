"""Room on the disk, asked for before the engine needs it.

The engine writes to files in memory maps: where the disk is full, the system kills the process.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bge_m3_integrations.errors import StoreError

SLACK = 96 << 20
"""Bytes that stay free after a write: the engine's log grows by 32 MiB at a time, two of them at
most."""
_OPENING = 40 << 20
"""Bytes that an index may need to be opened, 36 MiB at most where they were measured."""
_FLUSHING = 4 << 20
_WRITE = "nothing was written: free some space, or write less at a time"


def check_room(
    path: Path, bytes_needed: int, subject: str, *, spare: int = SLACK, then: str = _WRITE
) -> None:
    """Refuse a write that the disk may have no room for: a full disk would kill the process.

    Args:
        path: Where.
        bytes_needed: An upper estimate.
        subject: Is going to be written.
        spare: Bytes that must stay free.
        then: The rest of the message: the state of things, and the fix.

    Raises:
        StoreError: There is less room; both numbers are named.
    """
    free = shutil.disk_usage(path).free
    if free < bytes_needed + spare:
        raise StoreError(
            f"{subject} may need {_mib(bytes_needed + spare)} in {path}, but only {_mib(free)} are "
            f"free; {then}"
        )


def check_opening(path: Path) -> None:
    """Raise `StoreError` where an index that is there may find no room to be opened."""
    then = "a full disk would kill this process: free some space, and open it again"
    check_room(path, _OPENING, "opening an index", spare=0, then=then)


def check_flush(path: Path, in_log: int) -> None:
    """Raise `StoreError` where bytes of the log may find no room on their way to the files."""
    then = "nothing is lost but by a power cut: free some space, and flush or close again"
    check_room(path, _FLUSHING + in_log // 16, "bringing writes to disk", spare=0, then=then)


class DiskBudget:
    """The room on the disk of an index's folder, promised to writes that are under way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._promised = 0
        self._lock = threading.Lock()

    @contextmanager
    def promised(self, size: int, subject: str) -> Iterator[Callable[[int], None]]:
        """Keep room for a write until the block ends, beside that of all other writes.

        The `size` is an upper estimate in bytes. The block gets a function that takes so many of
        them, under the lock of all writes. `StoreError`: there is not so much room; in the
        function, others have filled the disk since.
        """
        with self._lock:
            check_room(self._path, size + self._promised, subject)
            self._promised += size
        left = size

        def take(part: int) -> None:
            nonlocal left
            cut = "the first records of the batch were written, the others not: free some space"
            check_room(self._path, part, subject, then=cut if left < size else _WRITE)
            part = min(part, left)
            left -= part
            self._give_back(part)

        try:
            yield take
        finally:
            self._give_back(left)

    def _give_back(self, size: int) -> None:
        with self._lock:
            self._promised -= size


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
