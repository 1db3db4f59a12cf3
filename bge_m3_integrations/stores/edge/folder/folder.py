"""An index's folder: its holder and its contents.

`manifest.json`, `lock`, `holder.json` and one `shard-NNNN`. While a shard is made its name ends in
`.new`; it counts once it is renamed and the manifest names it. Only known remains of a crash
are ever deleted, and only once the index is open: see `UNNAMED`.
"""

from __future__ import annotations

import inspect
import os
import secrets
import shutil
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock, Timeout

from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.discovery import check_ours, make_folder
from bge_m3_integrations.stores.edge.folder.files import sync_folder
from bge_m3_integrations.stores.edge.folder.locks import (
    HOLDER,
    claim,
    described_holder,
    is_orphan,
    no_locks,
    read_holder,
    unclaim,
    unwritable,
    write_holder,
)
from bge_m3_integrations.stores.edge.folder.manifest import NAME, SHARD, Manifest
from bge_m3_integrations.stores.edge.folder.open_handles import check_own
from bge_m3_integrations.stores.edge.folder.path_identity import FolderIdentity

UNNAMED = "unnamed"
"""A file in a shard that no manifest has named yet.

A crash between the renaming of a new shard and the writing of the manifest leaves an old manifest
beside a newer shard. So does a copy of the folder that raced a compaction, and so does an older
manifest that was put back; but there the newer shard may hold later writes. The file
tells them apart. It is there before the shard has its name, and goes before anything is written to
the shard: one that has it is a copy of the shard before, and holds nothing of its own.
"""

_NATIVE: dict[str, Any] = (
    {"fallback_to_soft": False}
    if "fallback_to_soft" in inspect.signature(FileLock.__init__).parameters
    else {}
)
"""A file that stands for a lock would outlive a killed process: newer versions make one unasked."""
_NAMELESS = 0.5
"""Seconds between the lock and the name of a process that takes or gives back a folder, at most."""
_LAST_CALLS = 10.0
"""Seconds that a process has to end whose caller is gone: it finishes what it does, and flushes."""


class Folder:
    """A folder that this process holds, until `release`.

    Args:
        path: Made where it does not exist yet.

    Attributes:
        caller: The process for which this one holds folders; None is itself.
        read_only: Whether nothing in it may be changed.
        rewriting: Held to `write`, so that nobody takes this process' change for that of others.
    """

    caller: ClassVar[int | None] = None
    read_only: ClassVar[bool] = False
    _claims: tuple[int | None, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path, self._pid = path, os.getpid()
        make_folder(path)
        check_ours(path)
        self._lock = FileLock(path / "lock", timeout=0, thread_local=False, **_NATIVE)
        self.rewriting = threading.RLock()
        self._take()
        self._identity = FolderIdentity(path)

    def _take(self) -> None:
        try:
            self._lock_it()
        except Timeout as error:
            if (refused := no_locks(self.path / "lock")) is not None:
                raise unwritable(self.path, refused) from error
            raise self._in_use() from error
        except (OSError, NotImplementedError) as error:
            raise unwritable(self.path, error) from error
        try:
            self._claims = (claim(self.path, shared=False),)
        except BlockingIOError as error:
            self._lock.release()
            raise StoreError(
                f"the index in {self.path} is in use by a process that reads it, so nobody may "
                "write to it; close it there, or open it with read_only=True here too"
            ) from error
        try:
            write_holder(self.path, caller=self.caller)
        except OSError as error:
            self._nameless()
            self._unclaim()
            self._lock.release()
            raise unwritable(self.path, error) from error

    def _lock_it(self) -> None:
        try:
            self._lock.acquire(timeout=_LAST_CALLS if is_orphan(self.path) else 0)
        except Timeout:
            if read_holder(self.path):
                raise
            self._lock.acquire(timeout=_NAMELESS)

    def _nameless(self) -> None:
        with suppress(OSError):  # a folder that is read-only by now is given back all the same
            (self.path / HOLDER).unlink(missing_ok=True)

    def _unclaim(self) -> None:
        claims, self._claims = self._claims, ()
        for held in claims:
            if held is not None:
                unclaim(held, own=not self.inherited)

    def _in_use(self) -> StoreError:
        return StoreError(
            f"the index in {self.path} is in use by {described_holder(self.path)}; an index "
            "belongs to one process at a time: close it there as often as it was opened, or "
            "serve it from there"
        )

    def check_writable(self) -> None:
        """Raise `StoreError` where it is only read."""

    @property
    def inherited(self) -> bool:
        """Whether a process that this one was forked from holds it."""
        return self._pid != os.getpid()

    def check_own(self) -> None:
        """Raise `StoreError` in a forked child: memory and files of the engine are the parent's."""
        check_own(self.path, self._pid)

    def release(self) -> None:
        """Let other processes have the folder."""
        if self.change() is None:  # else it may be another's by now
            self._nameless()
        self._unclaim()
        self._lock.release()
        self._identity.close()

    def see(self, manifest: Manifest) -> None:
        """Remember the contents of now, for `change`; `StoreError` if the index is gone already."""
        before = self._identity
        try:
            self._identity = FolderIdentity(self.path, manifest.shard)
        except OSError as error:
            raise StoreError(
                f"{self.path} was changed while it was being opened: {error}"
            ) from error
        before.close()

    def change(self) -> str | None:
        """Describe others' change of the folder meanwhile; None where it is as it was."""
        if self._identity.change() is None:
            return None
        with self.rewriting:  # it may have been this process, which has just written the manifest
            return self._identity.change()

    def write(self, manifest: Manifest) -> None:
        """Replace the manifest, in `rewriting`."""
        manifest.write(self.path)
        self.see(manifest)

    def holds(self, manifest: Manifest) -> bool:
        """Whether the folder's manifest is this one after a `write` that was cut, in `rewriting`.

        `change` goes by what lies there in either case; the shard is the one of before.
        """
        held = Manifest.read(self.path)
        self.see(manifest)
        return held == manifest

    def log_lock(self) -> os.stat_result | None:
        """The file that the engine's lock of its log is on, wherever the folder is by now."""
        return self._identity.within("wal")

    def check_shards(self, manifest: Manifest) -> None:
        """Raise `StoreError` where another shard than the manifest's may be the index.

        The named shard is not there, or a newer one lies beside it. The message says what to do;
        nothing is deleted.
        """
        named = self.path / manifest.shard
        others = [entry for entry in self._shards() if entry != named]
        newer = [e for e in others if _generation(e) > manifest.generation]
        newer = [entry for entry in newer if not _is_unfinished(entry, manifest)]
        if manifest.generation and not named.is_dir():
            raise StoreError(f"{named} is missing, although {NAME} names it; {_ways_out(others)}")
        if newer:
            empty = "belongs to an index without records"
            said = f"names {named.name}" if manifest.generation else empty
            raise StoreError(
                f"{NAME} in {self.path} {said}, but {newer[-1].name} lies beside it, which is "
                f"newer; {_ways_out(newer)}"
            )

    def tidy(self, manifest: Manifest) -> None:
        """Delete what a crash left: shards that were never named, and those before this one.

        Args:
            manifest: The folder's; `check_shards` has passed, and its shard is loaded.
        """
        for entry in self._shards(finished=False):
            if _is_unfinished(entry, manifest) or _generation(entry) < manifest.generation:
                # a process that outlived its parent may still write there: then the rest goes later
                shutil.rmtree(entry, ignore_errors=True)

    def _shards(self, *, finished: bool = True) -> list[Path]:
        """Folders that are called like shards, the newest last; `finished` leaves `.new` out."""
        held = [e for e in self.path.iterdir() if SHARD.fullmatch(e.name) and not e.is_symlink()]
        if finished:
            held = [entry for entry in held if not entry.name.endswith(".new")]
        return sorted((entry for entry in held if entry.is_dir()), key=_generation)

    def place_for(self, manifest: Manifest) -> Path:
        """Return the place to make a shard in: a name that no crashed attempt has had."""
        return self.path / f"{manifest.shard}.{secrets.token_hex(4)}.new"

    def switch(self, made: Path, manifest: Manifest) -> None:
        """Make a finished shard the index's: after this it is, whatever crashes.

        Args:
            made: From `place_for`; all of it is on disk.
            manifest: Names the shard.
        """
        (made / UNNAMED).touch()
        sync_folder(made)
        made.replace(self.path / manifest.shard)
        sync_folder(self.path)
        self.write(manifest)

    def name(self, manifest: Manifest) -> None:
        """Make a shard ready to be written to: the manifest names it, and it loads."""
        shard = self.path / manifest.shard
        if (shard / UNNAMED).exists():
            (shard / UNNAMED).unlink()
            sync_folder(shard)


def _generation(shard: Path) -> int:
    return int(SHARD.sub(r"\1", shard.name))


def _is_unfinished(shard: Path, manifest: Manifest) -> bool:
    """Whether a shard was never the index: it holds nothing that the manifest's does not."""
    follows = _generation(shard) == manifest.generation + 1
    return shard.name.endswith(".new") or (follows and (shard / UNNAMED).exists())


def _ways_out(found: Sequence[Path]) -> str:
    """Suggest what to do about shards that the manifest does not name."""
    if not found:
        return "restore a backup"
    newest = found[-1]
    return (
        f"it may be an older {NAME}, or a copy that was made while the index was compacted. "
        f'Nothing was deleted. Restore a backup; or write "generation": {_generation(newest)} into '
        f"{NAME} to open {newest.name}, or move {newest.name} elsewhere to do without it"
    )
