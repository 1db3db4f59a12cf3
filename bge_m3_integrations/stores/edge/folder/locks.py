"""Who has a folder: a lock on the folder itself, and `holder.json` for those who are refused."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.files import read_object

if sys.platform != "win32":
    import fcntl

HOLDER = "holder.json"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


def write_holder(folder: Path, *, caller: int | None) -> None:
    """Write down that this process has a folder, and the `caller` that it works for, if it does."""
    mine = {"pid": os.getpid(), "host": socket.gethostname(), "for": caller}
    _write(folder, {**mine, "since": time.strftime("%Y-%m-%d %H:%M:%S")})


def note_opens(folder: Path, count: int) -> None:
    """Write down how many opens of an index this process has not closed."""
    held = read_holder(folder)
    if os.getpid() in {held.get("pid"), held.get("for")}:
        with suppress(OSError):  # it is a help, no more
            _write(folder, {**held, "opens": count})


def read_holder(folder: Path) -> dict[str, Any]:
    """Return the note of a folder's holder; empty where there is no sound one."""
    return read_object(folder / HOLDER)


def described_holder(folder: Path) -> str:
    """Describe the holder of a folder."""
    held = read_holder(folder)
    try:
        place = f"on {held['host']} since {held['since']}"
        caller = f" for process {held['for']}" if held.get("for") else ""
        opens = held.get("opens", 1)
        unclosed = f", where {opens} opens of it are not closed" if opens > 1 else ""
    except (KeyError, TypeError):
        return "another process, which may only read it"
    return f"process {held.get('pid')}{caller} {place}{unclosed}"


def is_held_for(folder: Path, pid: int) -> bool:
    """Whether a folder in use is so by a process of this machine, or by one that works for it."""
    held = read_holder(folder)
    return held.get("host") == socket.gethostname() and pid in (held.get("pid"), held.get("for"))


def is_orphan(folder: Path) -> bool:
    """Whether a process of this machine holds the folder for one that is gone."""
    held = read_holder(folder)
    caller = held.get("for")
    if not isinstance(caller, int) or held.get("host") != socket.gethostname():
        return False
    if os.name != "nt":  # where signal 0 is no question but Ctrl-C
        try:
            os.kill(caller, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # somebody else's
            return False
    return False


def _write(folder: Path, held: Mapping[str, Any]) -> None:
    """Replace the file as a whole: others read it at any moment."""
    new = folder / f"{HOLDER}.{threading.get_ident()}.new"
    new.write_text(json.dumps(held), encoding="utf-8")
    new.replace(folder / HOLDER)


def claim(folder: Path, *, shared: bool) -> int | None:
    """Lock a folder or file that is there, against writers (`shared`) or everybody.

    It leaves no trace there. `unclaim` takes what it returns: None where the system locks no
    folders, as Windows and NFS. It raises `BlockingIOError` where another has it.
    """
    if sys.platform == "win32":
        return None
    try:
        held = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder that may be entered, but not listed
        return None
    try:
        fcntl.flock(held, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return held


def unclaim(held: int, *, own: bool) -> None:
    """End a claim; a fork of the process that made it (not `own`) only lets go of its own copy."""
    if own and sys.platform != "win32":
        fcntl.flock(held, fcntl.LOCK_UN)  # forks have it open too
    os.close(held)


def no_locks(file: Path) -> OSError | None:
    """Return the error of a file system without locks; None where somebody holds the lock.

    Older versions of filelock take every refusal for "in use".
    """
    if sys.platform == "win32":
        return None
    try:
        with file.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error if error.errno in _NO_LOCKS else None
    return None


def unwritable(path: Path, error: Exception) -> StoreError:
    """Describe that a folder cannot be written to, or has no locks, with the fix."""
    why = getattr(error, "strerror", None) or error
    if isinstance(error, NotImplementedError) or getattr(error, "errno", None) in _NO_LOCKS:
        return StoreError(
            f"the file system of {path} has no locks ({why}), like NFS without its lock service "
            "and some network and FUSE file systems. An index needs locks, because only one "
            "process at a time may write; copy the folder to a local disk, or open it with "
            "read_only=True"
        )
    return StoreError(
        f"{path} cannot be written to ({why}); an index needs a writable folder, unless it is "
        "opened with read_only=True"
    )
