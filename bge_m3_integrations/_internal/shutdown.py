"""The end of the interpreter: threads of ours end between two forward passes.

A thread that is inside torch when the interpreter is torn down aborts the process.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import Protocol

from bge_m3_integrations.errors import WorkerError

SECONDS = 30.0
"""How long the interpreter waits for one pass; a remote encoder may not come back at all."""


class Stoppable(Protocol):
    """An owner of a thread."""

    def stop(self, seconds: float) -> None:
        """Cancel calls that wait, and wait so long for the one that runs."""
        ...


_owners: weakref.WeakSet[Stoppable] = weakref.WeakSet()
_leaving = threading.Event()


def stop_at_exit(owner: Stoppable) -> None:
    """Have `owner.stop` called when the interpreter ends."""
    if not _owners:
        atexit.unregister(_leave)
        atexit.register(_leave)  # behind torch's own, so before it
    _owners.add(owner)


def check_leaving() -> None:
    """Between two passes: raise `WorkerError` in a daemon thread of an interpreter that ends."""
    if _leaving.is_set() and threading.current_thread().daemon:
        raise WorkerError("the interpreter is shutting down; the remaining texts were not encoded")


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_owners.clear)  # their threads stayed with the parent


def _leave() -> None:
    _leaving.set()
    for owner in list(_owners):
        owner.stop(SECONDS)
