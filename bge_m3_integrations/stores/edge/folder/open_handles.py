"""The open indexes of a process: one per folder, and none of its parent's after a fork."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.locks import note_opens

_LOG = logging.getLogger(__name__)


class Closes(Protocol):
    """System resources of an open index."""

    def close(self) -> None:
        """Give them back, once."""

    def leave(self) -> None:
        """In a forked child, leave them to the parent."""


_Index = TypeVar("_Index")
_Held = TypeVar("_Held", bound=Closes)


@dataclass(frozen=True, slots=True, eq=False)
class _Entry(Generic[_Index, _Held]):
    place: Path
    index: weakref.ref[_Index]
    held: _Held


class OpenHandles(Generic[_Index, _Held]):
    """The open indexes of this process; a forked child begins with none.

    An index that nobody has any more is closed. That comes at any moment, in any thread, and so it
    waits for no lock: whoever has the folder's turn then closes it at the end of that.
    """

    def __init__(self) -> None:
        self._entries: dict[Path, _Entry[_Index, _Held]] = {}
        self._locks: dict[Path, threading.Lock] = {}
        self._lost: dict[_Entry[_Index, _Held], None] = {}
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    @contextmanager
    def turn(self, place: Path) -> Iterator[None]:
        """A block in which nobody else opens or closes the index of a folder."""
        try:
            with self._lock(place):
                yield
        finally:
            self._close_lost()

    def at(self, place: Path) -> _Index | None:
        """The open index of a folder, for whoever has its turn."""
        entry = self._entries.get(place)
        if entry is None:
            return None
        if (index := entry.index()) is None:
            self._close(entry)
        return index

    def put(self, place: Path, index: _Index, held: _Held) -> None:
        """Add an index, with the resources for `close`, which must not refer to it."""
        entry = _Entry(place, weakref.ref(index), held)
        self._entries[place] = entry
        # not at exit: threads may be in the middle of a call, and the log has all that counts
        weakref.finalize(index, self._drop, entry).atexit = False

    def close(self, place: Path, held: _Held) -> None:
        """Close an index, unless it is closed already; for whoever has the folder's turn."""
        entry = self._entries.get(place)
        if entry is not None and entry.held is held:
            self._close(entry)

    def _lock(self, place: Path) -> threading.Lock:
        return self._locks.setdefault(place, threading.Lock())

    def _close(self, entry: _Entry[_Index, _Held]) -> None:
        if self._entries.get(entry.place) is entry:
            del self._entries[entry.place]
            entry.held.close()

    def _drop(self, entry: _Entry[_Index, _Held]) -> None:
        """Close an index that nobody has any more, in the process that opened it."""
        if self._entries.get(entry.place) is entry:
            self._lost[entry] = None
            self._close_lost()

    def _close_lost(self) -> None:
        for entry in list(self._lost):
            lock = self._lock(entry.place)
            if not lock.acquire(blocking=False):
                continue  # whoever has it comes by here
            try:
                self._lost.pop(entry, None)
                self._close(entry)
            except Exception:
                _LOG.warning("an index was dropped without close: %s", entry.place, exc_info=True)
            finally:
                lock.release()

    def _forked(self) -> None:
        inherited, self._entries = self._entries, {}
        self._locks, self._lost = {}, {}  # a thread that stayed in the parent may hold one
        for entry in inherited.values():
            never_free(entry.held)
            entry.held.leave()


class SharedHandle:
    """A handle on an open folder that all its users in this process share, and that counts them.

    Args:
        path: The folder.
        read_only: Whether nothing in it can be changed by this handle.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path, self.read_only, self._pid = path, read_only, os.getpid()
        self._opens: list[None] = []  # as many as are not closed: changed without a lock

    @property
    def _inherited(self) -> bool:
        return self._pid != os.getpid()

    def _use(self) -> None:
        """Count an open."""
        self._opens.append(None)
        self._note_opens()

    def forget(self) -> None:
        """Count an open no more whose user is gone; an index that nobody has any more is closed.

        It waits for nothing, so it may be called while garbage is collected.
        """
        if self._inherited:
            return
        with suppress(IndexError):
            self._opens.pop()
            if self._opens:
                self._note_opens()

    def _note_opens(self) -> None:
        if not self.read_only:
            note_opens(self.path, len(self._opens))

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a handle on one collection: frameworks copy the objects that hold it


def check_own(path: Path, opener: int) -> None:
    """Raise `StoreError` where another process has opened the index, and this is a fork of it."""
    if opener != os.getpid():
        raise StoreError(
            f"the index in {path} was opened by process {opener}, and came here by fork; open it "
            "in one process only, after the fork"
        )


def close_handles(wanted: os.stat_result | None) -> None:
    """Close this process' handles of a file or folder: a lock counts until then."""
    if wanted is None:
        return
    try:
        open_now = os.listdir("/dev/fd")  # noqa: PTH208 - numbers, not paths
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

    The engine flushes a shard that is freed, over whatever lies in its folder by then: in a forked
    child, over newer writes of the parent, which makes the parent's index unreadable.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
