"""What a process has opened: one index per folder, and none of its parent's after a fork."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from bge_m3_integrations.errors import StoreError

_Index = TypeVar("_Index")


class Opened(Generic[_Index]):
    """The open indexes of this process; a forked child begins with none.

    Args:
        leave: Is called in a forked child with each index of its parent.

    Attributes:
        lock: Is held while one is looked up, opened or closed.
        at: The index of each folder.
    """

    def __init__(self, leave: Callable[[_Index], None]) -> None:
        self.lock = threading.Lock()
        self.at: dict[Path, _Index] = {}
        self._leave = leave
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        inherited, self.at = self.at, {}
        self.lock = threading.Lock()  # a thread that stayed in the parent may hold the other
        for index in inherited.values():
            never_free(index)
            self._leave(index)


class Places:
    """A lock for each folder; a forked child begins with none that is held."""

    def __init__(self) -> None:
        self._locks: dict[Path, threading.Lock] = {}
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._locks.clear)

    def of(self, place: Path) -> threading.Lock:
        """The lock of a folder, the same to everybody."""
        return self._locks.setdefault(place, threading.Lock())


def check_own(path: Path, opener: int) -> None:
    """Raise `StoreError` where another process has opened the index, and this is a fork of it."""
    if opener != os.getpid():
        raise StoreError(
            f"the index in {path} was opened by process {opener}, and came here by fork; open it "
            "in one process only, after the fork"
        )


def close_inherited(place: Path) -> None:
    """In a forked child, close what came along of a file or folder: a lock counts until then."""
    try:
        wanted, open_now = place.stat(), os.listdir("/dev/fd")  # noqa: PTH208 - numbers, not paths
    except OSError:  # a system without the list
        return
    for number in map(int, open_now):
        try:
            if os.path.samestat(os.fstat(number), wanted):
                os.close(number)
        except OSError:  # it was that of the listing
            continue


def never_free(thing: object) -> None:
    """Keep a thing to the end of the process and beyond, whoever lets go of it.

    The engine flushes a shard that is freed, also one that came by fork, when the interpreter ends:
    over what the parent has written since, which makes the parent's index unreadable.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
