"""How an index comes to be in its folder: opened, begun, replaced by an optimised copy."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import cast

from bge_m3_integrations._internal.subprocesses import command, environment
from bge_m3_integrations.core.embeddings import Mode, Modes, as_modes, ordered_modes
from bge_m3_integrations.core.validation import whole
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.stores.edge.folder.checksums import Sums, check_at_rest, forget
from bge_m3_integrations.stores.edge.folder.discovery import (
    as_folder,
    check_outside,
    no_index,
    reading,
    unwritable,
)
from bge_m3_integrations.stores.edge.folder.disk_space import check_opening, check_room
from bge_m3_integrations.stores.edge.folder.file_copy import copy_folder, reason_of
from bge_m3_integrations.stores.edge.folder.folder import (
    Folder,
    check_empty,
    names_in,
    size_on_disk,
)
from bge_m3_integrations.stores.edge.folder.manifest import (
    NAME,
    REENCODE,
    Manifest,
    Wanted,
    shard_name,
    sync_folder,
)
from bge_m3_integrations.stores.edge.folder.read_only import ReadFolder
from bge_m3_integrations.stores.edge.folder.reservation import handed_over
from bge_m3_integrations.stores.edge.shard.checked import WatchedShard as Shard
from bge_m3_integrations.stores.edge.shard.shard import COLBERT_TYPES, Layout, sync_files
from bge_m3_integrations.stores.edge.shard.shard import Shard as UnwatchedShard

_TURBO8_FROM = 1024
"""Width of token vectors from which one byte per number is exact enough to be the default."""
_OPTIMISE = "bge_m3_integrations.stores.edge.optimize_main"
_EMPTY = 100 << 20
"""Bytes of an empty shard, its log above all."""


def open_folder(path: Path, wanted: Wanted, *, create: bool) -> tuple[Folder, Manifest, Shard]:
    """Take hold of a folder and load its shard, a new one if there is none.

    Args:
        path: The folder.
        wanted: What it must hold.
        create: Whether an index may begin there.

    Returns:
        Folder, manifest and shard.

    Raises:
        StoreError: See `EdgeStore.open`.
        InputError: See `EdgeStore.open`.
    """
    begun = Manifest.read(path)
    if begun is None and not create:
        raise no_index(path)
    new = None
    if begun is None:
        check_outside(path)
        new = begun_by(wanted)
    folder = handed_over(path)
    if folder is not None and folder.change():  # it was reserved, and made anew since
        folder.release()
        folder = None
    folder, shard = folder or Folder(path), None
    try:
        # again, now that nobody else changes it
        manifest = Manifest.read(path) or new
        assert manifest is not None
        if manifest.generation:
            check_opening(path)
        else:
            check_room(path, _EMPTY, "a new index")
        if manifest is new:
            manifest.write(path)
        wanted.check(manifest, path)
        folder.check_shards(manifest)
        if not manifest.generation:
            folder.tidy(manifest)  # it may be the beginning that was cut
            manifest = _with_shard(folder, manifest)
        shard = Shard(path / manifest.shard, layout_of(manifest))
        folder.name(manifest)
        folder.see(manifest)
        folder.tidy(manifest)  # not before: the index is open and whole
        return folder, manifest, shard
    except BaseException:
        if shard is not None:  # a traceback that somebody keeps would keep it open
            shard.close()
        folder.release()
        raise


def read_folder(path: Path, wanted: Wanted) -> tuple[Folder, Manifest, Shard]:
    """Load a folder's shard without changing anything in the folder.

    Args:
        path: The folder.
        wanted: What it must hold.

    Returns:
        Folder, manifest and shard; the shard's own folder goes with the folder's release.

    Raises:
        StoreError: See `EdgeStore.open`; also for an index without records.
    """
    if Manifest.read(path) is None:
        raise no_index(path)
    folder = ReadFolder(path)
    try:
        manifest = Manifest.read(path)  # again, now that nobody changes it
        if manifest is None or not manifest.generation:
            raise no_index(path)
        wanted.check(manifest, path)
        folder.check_shards(manifest)
        sums = Sums(path / manifest.shard)
        sums.check()
        shard = UnwatchedShard(folder.shard(manifest), layout_of(manifest), warm=True)
        try:
            sums.check_records(shard.count(None))
            folder.see(manifest)
        except BaseException:
            shard.close()
            raise
        # nothing asks it for what it lacks: its folder refuses all changes
        return folder, manifest, cast("Shard", shard)
    except BaseException:
        folder.release()
        raise


def optimised_copy(
    folder: Folder, manifest: Manifest, tell: Callable[[str], None], *, vacuum: bool
) -> Path:
    """Copy the shard and optimise the copy in another process.

    Args:
        folder: Held; nothing writes to its shard meanwhile, and all of it is on disk.
        manifest: The folder's.
        tell: Is told what happens.
        vacuum: See `Shard`.

    Returns:
        Where the copy lies, for `switched`.

    Raises:
        StoreError: The disk has no room, or the process failed; the index is as before.
    """
    old, new = folder.path / manifest.shard, folder.place_for(manifest.next())
    size = size_on_disk(old)
    check_room(folder.path, 3 * size, "an optimised copy")
    try:
        tell(f"copying {size / 2**20:,.0f} MiB")
        copy_folder(old, new)
        forget(new)
        _optimize_in_child(new, layout_of(manifest), tell, vacuum=vacuum)
        sync_files(new)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise StoreError(
            f"no optimised copy: {reason_of(error)}; the index is as before"
        ) from error
    return new


def switched(folder: Folder, made: Path, manifest: Manifest) -> tuple[Shard, Manifest]:
    """Make a copy the index's and load it; where that fails, the old shard counts as before.

    Args:
        folder: Held; nobody writes to its shard.
        made: From `optimised_copy`.
        manifest: The folder's.

    Returns:
        The new shard, loaded, and the manifest that names it.

    Raises:
        StoreError: The copy cannot be loaded, or the folder cannot be written to.
    """
    following, shard = manifest.next(), None
    try:
        folder.switch(made, following)
        shard = Shard(folder.path / following.shard, layout_of(following))
        folder.name(following)
    except BaseException as error:
        if shard is not None:
            shard.close()
        # or writes to the old shard would be lost with the next open
        folder.write(manifest)
        shutil.rmtree(folder.path / following.shard, ignore_errors=True)
        shutil.rmtree(made, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise StoreError(f"no optimised copy: {error}; the index is as before") from error
    return shard, following


def _with_shard(folder: Folder, begun: Manifest) -> Manifest:
    manifest = begun.next()
    made = folder.place_for(manifest)
    Shard.create(made, layout_of(manifest))
    sync_files(made)
    folder.switch(made, manifest)
    return manifest


def _optimize_in_child(
    shard: Path, layout: Layout, tell: Callable[[str], None], *, vacuum: bool
) -> None:
    given = [str(shard), json.dumps(asdict(layout)), "vacuum" if vacuum else "keep"]
    start = time.monotonic()
    # not this process' own input: where that is a pipe being read, Windows' Python waits for it
    with subprocess.Popen(
        command(_OPTIMISE, *given),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            while True:
                tell(f"building, {time.monotonic() - start:.0f} s")
                try:
                    _, said = child.communicate(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise StoreError(
            f"the process that optimised the index ended with {child.returncode}: "
            f"{said.strip()[-500:]}; the index is as before"
        )


def back_up(folder: Folder, manifest: Manifest, target: Path) -> None:
    """Copy an index that nothing writes to meanwhile, all of which is on disk.

    Args:
        folder: The index's.
        manifest: Its manifest.
        target: A folder that does not exist yet, or is empty.

    Raises:
        StoreError: The target holds something, or the disk has no room.
    """
    with making(target) as place:
        check_room(target, size_on_disk(folder.path / manifest.shard), "a copy of the index")
        place.mkdir()
        copy_folder(folder.path / manifest.shard, place / manifest.shard)
        manifest.write(place)


@contextmanager
def making(target: Path) -> Iterator[Path]:
    """A place for an index that becomes the target's when the block ends, whole or not at all.

    The place is inside the target, which may be a disk of its own; a cut copy is no index there.

    Args:
        target: A folder that does not exist yet, or is empty; so it is again after an error.

    Yields:
        A folder to make an index in, which is not there yet. The block closes that index.

    Raises:
        StoreError: The target holds something, or cannot be written to.
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
    assert manifest is not None
    made, shard = place / manifest.shard, target / manifest.shard
    sync_files(made)
    if held := [name for name in names_in(target) if name != place.name]:
        raise StoreError(f"{target} holds {held[:3]} by now; choose a new or empty folder")
    made.rename(shard)
    try:
        sync_folder(target)
        # last: a copy that was cut is no index
        manifest.write(target)
    except BaseException:
        for name in (NAME, f"{NAME}.new"):
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
            check_at_rest(source / manifest.shard)
        back_up(folder, manifest, place)
    finally:
        folder.release()


def begun_by(wanted: Wanted) -> Manifest:
    """Make the manifest of a new index.

    Args:
        wanted: What it is to hold.

    Returns:
        A manifest, not written yet.

    Raises:
        InputError: A width is missing, or a value makes no sense.
    """
    colbert = _usual(wanted.colbert_dim) if wanted.colbert is None else wanted.colbert
    if colbert not in {*COLBERT_TYPES, REENCODE}:
        raise InputError(f"colbert={colbert!r} is not one of {sorted({*COLBERT_TYPES, REENCODE})}")
    widths: dict[Mode, int | None] = {"dense": wanted.dim, "colbert": wanted.colbert_dim}
    given = frozenset(mode for mode, width in widths.items() if width is not None)
    modes = as_modes(given | {"sparse"} if wanted.modes is None else wanted.modes)
    without: Modes = ["colbert"] if colbert == REENCODE else []
    kept: frozenset[Mode] = modes.difference(without)
    if missing := [mode for mode in widths if mode in kept and widths[mode] is None]:
        raise InputError(
            f"a new index by {ordered_modes(modes)} needs the width of {missing}: dim= and "
            "colbert_dim=, as the encoder has them"
        )
    return Manifest(
        modes=tuple(ordered_modes(modes)),
        dim=wanted.dim if "dense" in kept else None,
        colbert_dim=wanted.colbert_dim if "colbert" in kept else None,
        colbert=colbert if "colbert" in modes else None,
        pooling=1 if wanted.pooling is None else whole("pooling", wanted.pooling),
        filter_fields=wanted.filter_fields,
        encoder=wanted.encoder,
    )


def _usual(width: int | None) -> str:
    """The cheapest kind whose scores are within 0.0003 of float32's: see `docs/storage.md`."""
    return "turbo8" if width is None or width >= _TURBO8_FROM else "float16"


def layout_of(manifest: Manifest) -> Layout:
    """What the shard of an index holds."""
    return Layout(
        manifest.dim,
        "sparse" in manifest.kept,
        manifest.colbert_dim,
        manifest.colbert or "turbo8",
    )
