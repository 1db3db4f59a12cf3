"""Open, begin, copy and restore index folders."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from bge_m3_integrations.core.weighting import COMPANION_FILES
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.checksums import Checksums
from bge_m3_integrations.stores.edge.folder.config import FolderConfig
from bge_m3_integrations.stores.edge.folder.discovery import (
    as_folder,
    check_empty,
    check_outside,
    names_in,
    no_index,
    reading,
)
from bge_m3_integrations.stores.edge.folder.disk_space import check_opening, check_room
from bge_m3_integrations.stores.edge.folder.files import (
    copy_folder,
    reason_of,
    size_on_disk,
    sync_files,
    sync_folder,
)
from bge_m3_integrations.stores.edge.folder.folder import Folder
from bge_m3_integrations.stores.edge.folder.locks import unwritable
from bge_m3_integrations.stores.edge.folder.manifest import NAME, Manifest, shard_name
from bge_m3_integrations.stores.edge.folder.read_only import ReadFolder
from bge_m3_integrations.stores.edge.folder.reservation import take
from bge_m3_integrations.stores.edge.shard.checked import CheckedShard
from bge_m3_integrations.stores.edge.shard.shard import Shard

_EMPTY = 100 << 20
"""Bytes of an empty shard, its log above all."""


def open_folder(
    path: Path, config: FolderConfig, *, create: bool
) -> tuple[Folder, Manifest, CheckedShard]:
    """Take hold of a folder and load its shard, or begin a new one; see `EdgeStore.open`."""
    new = None
    if Manifest.read(path) is None:
        if not create:
            raise no_index(path)
        check_outside(path)
        new = config.new_manifest()
    folder, shard = take(path), None
    try:
        manifest = _begun(folder, config, new)
        shard = CheckedShard(path / manifest.shard, manifest)
        folder.name(manifest)
        folder.see(manifest)
        folder.tidy(manifest)  # not before: the index is open and whole
        return folder, manifest, shard
    except BaseException:
        if shard is not None:  # a traceback that somebody keeps would keep it open
            shard.close()
        folder.release()
        raise


def _begun(folder: Folder, config: FolderConfig, new: Manifest | None) -> Manifest:
    """Return the manifest of a folder that nobody else changes now; its shard is there."""
    path = folder.path
    manifest = Manifest.read(path) or new
    if manifest is None:  # it was deleted meanwhile
        raise no_index(path)
    if manifest.generation:
        check_opening(path)
    else:
        check_room(path, _EMPTY, "a new index")
    if manifest is new:
        manifest.write(path)
    config.check(manifest, path)
    folder.check_shards(manifest)
    if manifest.generation:
        return manifest
    folder.tidy(manifest)  # it may be the beginning that was cut
    manifest = manifest.next()
    made = folder.place_for(manifest)
    Shard.create(made, manifest)
    sync_files(made)
    folder.switch(made, manifest)
    return manifest


def read_folder(path: Path, config: FolderConfig) -> tuple[Folder, Manifest, CheckedShard]:
    """Load a folder's shard without changing anything in the folder; see `EdgeStore.open`.

    The shard's own folder goes with the folder's release.
    """
    if Manifest.read(path) is None:
        raise no_index(path)
    folder = ReadFolder(path)
    try:
        manifest = Manifest.read(path)  # again, now that nobody changes it
        if manifest is None or not manifest.generation:
            raise no_index(path)
        config.check(manifest, path)
        folder.check_shards(manifest)
        checksums = Checksums(path / manifest.shard)
        checksums.check()
        shard = Shard(folder.shard(manifest), manifest, warm=True)
        try:
            checksums.check_records(shard.count(None))
            folder.see(manifest)
        except BaseException:
            shard.close()
            raise
        # nobody calls the methods that it lacks: its folder refuses all changes
        return folder, manifest, cast("CheckedShard", shard)
    except BaseException:
        folder.release()
        raise


def back_up(folder: Folder, manifest: Manifest, target: Path) -> None:
    """Copy an index that nothing writes to meanwhile, all of which is on disk.

    It raises `StoreError` where the target holds something, or the disk has no room.
    """
    with atomic_target(target) as place:
        check_room(target, size_on_disk(folder.path / manifest.shard), "a copy of the index")
        place.mkdir()
        copy_folder(folder.path / manifest.shard, place / manifest.shard)
        for name in COMPANION_FILES:
            if (folder.path / name).is_file():
                shutil.copyfile(folder.path / name, place / name)
        manifest.write(place)


@contextmanager
def atomic_target(target: Path) -> Iterator[Path]:
    """Make an index that becomes the target's when the block ends, whole or not at all.

    The target does not exist yet, or is empty; so it is again after an error. The block gets a
    folder that is not there yet, and closes the index that it makes there. It lies inside the
    target, which may be a disk of its own; a cut copy is no index there. It raises `StoreError`
    where the target holds something, or cannot be written to.
    """
    check_outside(target)
    try:
        new = not target.exists()
    except OSError as error:  # a name that is too long
        raise unwritable(target, error) from error
    check_empty(target)
    place = target / f"{shard_name(1)}.{secrets.token_hex(4)}.new"
    try:
        yield place
        _settle(place, target)
    except BaseException as error:
        shutil.rmtree(place, ignore_errors=True)
        if new:
            with suppress(OSError):  # not empty: somebody else has put something there
                target.rmdir()
        if not isinstance(error, OSError):
            raise
        raise StoreError(
            f"no copy in {target}: {reason_of(error)}; nothing is left of it"
        ) from error
    shutil.rmtree(place, ignore_errors=True)


def _settle(place: Path, target: Path) -> None:
    """Move a closed index up into the folder that it lies in."""
    manifest = Manifest.read(place)
    if manifest is None:
        raise no_index(place)
    made, shard = place / manifest.shard, target / manifest.shard
    sync_files(made)
    if held := [name for name in names_in(target) if name != place.name]:
        raise StoreError(f"{target} holds {held[:3]} by now; choose a new or empty folder")
    made.rename(shard)
    try:
        for name in COMPANION_FILES:
            if (place / name).exists():
                (place / name).rename(target / name)
        sync_folder(target)
        # last: a copy that was cut is no index
        manifest.write(target)
    except BaseException:
        for name in (NAME, f"{NAME}.new", *COMPANION_FILES):
            (target / name).unlink(missing_ok=True)
        shutil.rmtree(shard, ignore_errors=True)
        raise


def restore(backup: str | Path, target: str | Path) -> None:
    """Copy a backup to where it is to be used; the backup stays as it is.

    Args:
        backup: A folder that `back_up` made.
        target: A folder that does not exist yet, or is empty.

    Raises:
        StoreError: The backup is none or in use, the target holds something, or the disk has no
            room.
    """
    source, place = as_folder(backup, name="backup"), as_folder(target)
    manifest = Manifest.read(source)
    if manifest is None:
        raise StoreError(f"{source} is no backup of an index: it holds no manifest")
    if not manifest.generation:
        raise StoreError(f"{source} is no backup: it is an index that was begun, without records")
    folder = ReadFolder(source)  # it may lie on a read-only disk
    try:
        with reading(source):
            folder.check_shards(manifest)
            Checksums(source / manifest.shard).check()
        back_up(folder, manifest, place)
    finally:
        folder.release()
