"""An index's folder: who holds it, what lies in it, whether the disk has room.

`manifest.json`, `lock`, `holder.json` and one `shard-NNNN`. While a shard is made its name ends in
`.new`; it counts once it is renamed and the manifest names it. Folders named like shards that the
manifest does not name are remains of a crash, and the only thing ever deleted.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import time
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock, Timeout

from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.manifest import NAME, Manifest, sync_folder
from bge_m3_integrations.stores.edge.opened import check_own

_OURS = frozenset({"lock", "holder.json", f"{NAME}.new"})
"""What may lie in a folder before there is a manifest, which is written before any shard."""
_SHARD = re.compile(r"shard-\d{4,}(\.([0-9a-f]{8}\.)?new)?")
_SLACK = 96 << 20
"""Bytes that stay free: the engine's log grows by 32 MiB at a time, two of them at most."""


_LAST_CALLS = 10.0
"""Seconds that a process has to end whose caller is gone: it finishes what it does, and flushes."""


class Folder:
    """A folder that this process holds, until `release`.

    Args:
        path: Made where it does not exist yet.

    Attributes:
        caller: The process for which this one holds folders; None is itself.
    """

    caller: ClassVar[int | None] = None

    def __init__(self, path: Path) -> None:
        self.path, self._pid = path, os.getpid()
        _make(path)
        _check_ours(path)
        self._lock = FileLock(path / "lock", timeout=0, thread_local=False)
        self._take()

    def _take(self) -> None:
        holder = self.path / "holder.json"
        try:
            self._lock.acquire(timeout=_LAST_CALLS if _is_orphan(holder) else 0)
        except Timeout as error:
            raise StoreError(
                f"the index in {self.path} is in use by {_holder(holder)}; an index belongs to "
                "one process at a time: close it there, or serve it from there"
            ) from error
        except (OSError, NotImplementedError) as error:  # the latter: no locks on this filesystem
            raise _unwritable(self.path, error) from error
        try:
            mine: dict[str, Any] = {"pid": os.getpid(), "host": socket.gethostname()}
            mine |= {"since": _now(), "for": self.caller}
            holder.write_text(json.dumps(mine), encoding="utf-8")
        except OSError as error:
            self._lock.release()
            raise _unwritable(self.path, error) from error

    @property
    def inherited(self) -> bool:
        """Whether a process that this one was forked from holds it."""
        return self._pid != os.getpid()

    def check_own(self) -> None:
        """Raise `StoreError` in a forked child: memory and files of the engine are the parent's."""
        check_own(self.path, self._pid)

    def release(self) -> None:
        """Let other processes have the folder."""
        (self.path / "holder.json").unlink(missing_ok=True)
        self._lock.release()

    def tidy(self, manifest: Manifest) -> None:
        """Delete what a crash left of shards that the manifest does not name."""
        for entry in self.path.iterdir():
            named = _SHARD.fullmatch(entry.name) and entry.name != manifest.shard
            if named and entry.is_dir() and not entry.is_symlink():
                # a process that outlived its parent may still write there: then the rest goes later
                shutil.rmtree(entry, ignore_errors=True)

    def place_for(self, manifest: Manifest) -> Path:
        """Where the manifest's shard is made: a name that no crashed attempt has had."""
        return self.path / f"{manifest.shard}.{secrets.token_hex(4)}.new"

    def switch(self, made: Path, manifest: Manifest) -> None:
        """Make a finished shard the index's: after this it is, whatever crashes.

        Args:
            made: From `place_for`; all of it is on disk.
            manifest: Names the shard.
        """
        made.replace(self.path / manifest.shard)
        sync_folder(self.path)
        manifest.write(self.path)


def check_room(path: Path, bytes_needed: int, what: str) -> None:
    """Refuse a write that the disk may have no room for: a full disk would kill the process.

    Args:
        path: Where.
        bytes_needed: An upper estimate.
        what: Is going to be written.

    Raises:
        StoreError: There is less room; both numbers are named.
    """
    free = shutil.disk_usage(path).free
    if free < bytes_needed + _SLACK:
        raise StoreError(
            f"{what} may need {_mib(bytes_needed + _SLACK)} in {path}, but only {_mib(free)} are "
            "free; nothing was written: free some space, or write less at a time"
        )


def check_empty(path: Path) -> None:
    """Make a folder where there is none; raise `StoreError` for one that holds something."""
    _make(path)
    if held := sorted(entry.name for entry in path.iterdir()):
        raise StoreError(f"{path} already holds {held[:3]}; choose a new or empty folder")


def size_on_disk(path: Path) -> int:
    """Bytes that a folder's files take, not what they claim."""
    found = 0
    for parent, _, names in os.walk(path):  # passes over what is removed meanwhile
        for name in names:
            try:
                status = (Path(parent) / name).stat()
            except FileNotFoundError:
                continue
            found += getattr(status, "st_blocks", status.st_size // 512) * 512
    return found


def _make(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file; an index needs a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _check_ours(path: Path) -> None:
    if (path / NAME).exists():
        return
    foreign = sorted(file.name for file in path.iterdir() if file.name not in _OURS)
    if any(_SHARD.fullmatch(name) for name in foreign):
        raise StoreError(
            f"{path} holds {foreign[:3]} but no {NAME}, which says what they are; restore it from "
            "a backup, or choose a new folder"
        )
    if foreign:
        raise StoreError(
            f"{path} is no index, but holds {foreign[:3]}; choose a new or empty folder"
        )


def _unwritable(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{path} cannot be written to ({getattr(error, 'strerror', None) or error}); an index "
        "needs a writable folder, also for searching"
    )


def _holder(file: Path) -> str:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        place = f"on {held['host']} since {held['since']}"
        caller = f" for process {held['for']}" if held.get("for") else ""
        return f"process {held['pid']}{caller} {place}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _is_orphan(file: Path) -> bool:
    """Whether a process of this machine holds the folder for one that is gone."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        caller, here = held["for"], held["host"] == socket.gethostname()
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if caller is None or not here or os.name == "nt":  # where signal 0 is no question but Ctrl-C
        return False
    try:
        os.kill(caller, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        return False
    return False


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
