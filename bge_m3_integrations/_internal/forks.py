"""Forks: the child has all memory and none of the other threads, whatever these held or began.

So a fork waits until no thread computes, loads or is in a transaction; the child's locks are free;
and it computes on one thread, as OpenMP would wait there for threads that stayed with the parent.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Protocol

from bge_m3_integrations.errors import WorkerError

SECONDS = 30.0
"""How long a fork waits for other threads; after that the child may not encode."""


class Forks(Protocol):
    """An object that a fork must find in order, and leave so."""

    def forking(self) -> None:
        """In the parent, while no thread computes."""
        ...

    def forked(self) -> None:
        """In the child, before its locks are free."""
        ...


class _Here(threading.local):
    depth = 0
    waits = True


class Gate:
    """Holds forks up while threads compute: any number at once, none while a fork is made.

    It is a context manager; a thread may be inside already.

    Raises:
        WorkerError: This process was forked in the middle of another thread's work.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._forking = self._torn = False
        self._here = _Here()

    def __enter__(self) -> None:
        here = self._here
        if not here.depth:
            if self._torn:
                raise WorkerError(
                    f"this process was forked while another thread computed for more than "
                    f"{SECONDS:g} seconds, so the state of that thread is lost here. Fork before "
                    "encoding, or start workers with 'spawn'"
                )
            with self._changed:
                while self._forking and here.waits:
                    self._changed.wait()
                self._inside += 1
        here.depth += 1

    def __exit__(self, *_: object) -> None:
        self._here.depth -= 1
        if not self._here.depth:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Enter with a lock in hand that somebody inside may wait for: do not wait for a fork."""
        self._here.waits = False
        try:
            with self:
                self._here.waits = True
                yield
        finally:
            self._here.waits = True

    def close(self) -> None:
        """Before a fork: wait until no other thread is inside, and keep them out."""
        self._changed.acquire()
        self._forking = True
        self._changed.wait_for(lambda: not self._others, SECONDS)

    def open(self) -> None:
        """After a fork, in the parent."""
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

    def renew(self) -> None:
        """After a fork, in the child."""
        self._torn = self._torn or self._others
        self._changed = threading.Condition()
        self._inside, self._forking = int(self._here.depth > 0), False

    @property
    def _others(self) -> bool:
        return self._inside > (self._here.depth > 0)


between_forks = Gate()
"""Around everything that holds locks of libraries: passes, tokenizing, loading, transactions."""

_owners: weakref.WeakSet[Forks] = weakref.WeakSet()
_locks: weakref.WeakSet[threading.Lock] = weakref.WeakSet()
_classes: set[type] = set()


def new_lock() -> threading.Lock:
    """Return a lock that is free in a forked child."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def new_rlock() -> threading.RLock:
    """See `new_lock`."""
    lock = threading.RLock()
    _locks.add(lock)  # type: ignore[arg-type]
    return lock


def follows(owner: Forks) -> None:
    """Have an object told of forks, as long as it lives."""
    _owners.add(owner)


def frees_properties(owner: type) -> type:
    """Decorate a class with cached properties: before Python 3.12 each has a lock of its own."""
    _classes.add(owner)
    return owner


def _before() -> None:
    between_forks.close()
    for owner in list(_owners):
        owner.forking()


def _in_child() -> None:
    between_forks.renew()
    for owner in list(_owners):
        owner.forked()
    for lock in list(_locks):
        lock._at_fork_reinit()  # type: ignore[attr-defined]
    for owner_class in _classes:
        for value in vars(owner_class).values():
            if isinstance(value, cached_property) and hasattr(value, "lock"):
                value.lock = threading.RLock()
    use_one_thread = getattr(sys.modules.get("torch"), "set_num_threads", None)
    if use_one_thread is not None:
        use_one_thread(1)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_before, after_in_parent=between_forks.open, after_in_child=_in_child
    )
