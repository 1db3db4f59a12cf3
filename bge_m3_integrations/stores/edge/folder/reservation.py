"""Folders that are held for an index before it is opened: cheap, and without the engine.

An adapter opens its folder when it is first used. Until then it has the folder reserved, so that a
second process that is given the same folder hears of it when it starts, not at its first search.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Self

from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.folder import Folder
from bge_m3_integrations.stores.edge.folder.locks import is_held_for
from bge_m3_integrations.stores.edge.folder.read_only import ReadFolder

_lock = threading.RLock()  # the garbage collector may let go of one while another is made
_reserved: dict[Path, tuple[Folder, set[int]]] = {}
"""Each folder with those who reserved it."""


class Reservation:
    """Keeps other processes from a folder until an index is opened in it, or nobody wants it.

    It ends when this process opens the folder, forks, or lets go of all of its reservations. Where
    the folder is open in this process already, there is nothing to do.

    Args:
        path: A folder that holds an index; its real path.
        shared: Keep away who would write to it, and let others read it.

    Raises:
        StoreError: Another process holds it, or it cannot be written to.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self._release: Callable[[], object]
        if shared:
            self._release = weakref.finalize(self, ReadFolder(path).release)
            return
        with _lock:
            self._release = weakref.finalize(self, _let_go, path, id(self), os.getpid())
            if path in _reserved:
                _reserved[path][1].add(id(self))
            elif (folder := _taken(path)) is not None:
                _reserved[path] = folder, {id(self)}

    def release(self) -> None:
        """Let others have the folder, unless somebody else here has it reserved too."""
        self._release()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self  # frameworks copy the objects that hold it


def take(path: Path) -> Folder:
    """End reservations of a folder that is being opened, and hold it.

    Args:
        path: The folder; its real path.

    Returns:
        The folder of the reservations, or a new one where there are none, or where it was made
        anew since.

    Raises:
        StoreError: Another process holds it, or it cannot be written to.
    """
    with _lock:  # in between, a reservation of another thread would take it
        folder = _unreserved(path)
        if folder is not None and folder.change():
            folder.release()
            folder = None
        return folder or Folder(path)


def give_up(path: Path) -> None:
    """End a folder's reservations: another process is to open it."""
    if (folder := _unreserved(path)) is not None:
        folder.release()


def _unreserved(path: Path) -> Folder | None:
    with _lock:
        held = _reserved.pop(path, None)
    return None if held is None else held[0]


def _taken(path: Path) -> Folder | None:
    """The folder, held; None where an index of this process holds it."""
    try:
        return Folder(path)
    except StoreError:
        if is_held_for(path, os.getpid()):
            return None
        raise


def _let_go(path: Path, owner: int, pid: int) -> None:
    if os.getpid() != pid:
        return
    with _lock:
        folder, owners = _reserved.get(path, (None, set[int]()))
        owners.discard(owner)
        if folder is not None and not owners:
            del _reserved[path]
            folder.release()


def _before_fork() -> None:
    """Who searches after a fork, parent or child, is not known: whoever opens a folder has it."""
    for path in list(_reserved):
        give_up(path)


def _forked() -> None:
    global _lock  # noqa: PLW0603 - a thread that stayed in the parent may hold the other
    _lock = threading.RLock()
    _reserved.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_forked)
