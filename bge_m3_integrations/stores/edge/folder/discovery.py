"""A folder that holds no index: whether one could begin there, and which one may be meant."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from bge_m3_integrations.core.validation import as_path
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.stores.edge.folder.files import read_object
from bge_m3_integrations.stores.edge.folder.locks import HOLDER, unwritable
from bge_m3_integrations.stores.edge.folder.manifest import KIND, NAME, SHARD

_NO_FOLDER = re.compile(r":memory:$|[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""Addresses, and the usual name for "in memory": a new folder of such a name is not meant."""
_SYSTEMS = re.compile(
    r"lost\+found|\.DS_Store|\._.*|\.localized|\.directory|Thumbs\.db|desktop\.ini|"
    r"\$RECYCLE\.BIN|System Volume Information|\.Trash-\d+|@eaDir|\.snapshot|\.stfolder|"
    r"\.nfs[0-9a-f]+|\.fuse_hidden[0-9a-f]+|\.gitignore|\.gitkeep",
    re.IGNORECASE,
)
_OURS = frozenset({"lock", f"{NAME}.new"})
"""Files that a folder may hold before its manifest, which is written before any shard."""
_LOOKED_AT = 1000
"""Most entries of a folder that are looked at for an index that may be meant."""


def as_folder(path: str | os.PathLike[str], *, name: str = "path") -> Path:
    """Return a folder's absolute path, without links; the folder need not exist, `~` is home.

    `name` is the caller's word for it, in the `InputError` about what is no path.
    """
    given = as_path(path, name=name)
    if _NO_FOLDER.match(str(path)):
        raise InputError(
            f"{name} must be a folder of this machine, not {str(path)!r}; for an index in memory, "
            "without a folder, write HybridIndex(BGEM3(...))"
        )
    try:
        return given.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise InputError(f"{name} {str(path)!r} leads nowhere: {error}") from error


def is_systems(name: str) -> bool:
    """Whether a name is one that systems put into folders unasked, of no index or user.

    Such as "lost+found" on a disk of its own, ".DS_Store", "Thumbs.db".
    """
    return _SYSTEMS.fullmatch(name) is not None


def no_index(path: Path) -> StoreError:
    """Describe that a folder holds no index, with those nearby that may be meant."""
    likely, others = _nearby(path)
    near = ""
    if likely:
        near = f"; did you mean {' or '.join(map(str, likely))}?"
    elif others:
        near = f" (there is one in {' and in '.join(map(str, others))})"
    return StoreError(
        f"there is no index in {path}, which {_state(path)}{near}{'' if likely else '.'} A new one "
        "begins with the first add() through an engine, or at once: HybridIndex.open(path, "
        "BGEM3(...), create=True)"
    )


def check_outside(path: Path) -> None:
    """Raise `StoreError` for a place in the folder of an index, where only its own may lie."""
    for parent in path.resolve().parents:
        if _is_index(parent):
            raise StoreError(
                f"{path} lies in the folder of the index in {parent}, which holds nothing but that "
                "index; choose a folder elsewhere"
            )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of the system into ours in this block: files that this user may not read."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"the index in {path} cannot be opened: {error}") from error


def check_place(path: Path) -> None:
    """Raise `StoreError` for a place where no index could begin, before anything is made."""
    try:
        there = next(parent for parent in (path, *path.parents) if parent.exists())
    except OSError as error:  # a name that is too long; a folder that may not be looked into
        raise unwritable(path, error) from error
    if not there.is_dir():
        raise StoreError(f"{there} is a file; an index needs a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise unwritable(path, _refusal(there))
    check_outside(path)
    if there == path:
        check_ours(path)


def check_empty(path: Path) -> None:
    """Make a folder where there is none; raise `StoreError` for one that holds something."""
    make_folder(path)
    if held := names_in(path):
        raise StoreError(f"{path} already holds {held[:3]}; choose a new or empty folder")


def names_in(path: Path) -> list[str]:
    """Names of a folder's entries, but for those that systems put there; sorted."""
    return sorted(entry.name for entry in path.iterdir() if not is_systems(entry.name))


def make_folder(path: Path) -> None:
    """Make a folder, unless it is there; raise `StoreError` where that cannot be."""
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file; an index needs a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def check_ours(path: Path) -> None:
    """Raise `StoreError` for a folder of something else, or of shards without a manifest."""
    if (path / NAME).exists():
        return
    held = [entry.name for entry in path.iterdir() if not entry.name.startswith(HOLDER)]
    foreign = sorted(name for name in set(held) - _OURS if not is_systems(name))
    if any(SHARD.fullmatch(name) for name in foreign):
        raise StoreError(
            f"{path} holds {foreign[:3]} but no {NAME}, which says what they are; restore it from "
            "a backup, or choose a new folder"
        )
    if foreign:
        raise StoreError(
            f"{path} is no index, but holds {foreign[:3]}; choose a new or empty folder"
        )


def _refusal(folder: Path) -> OSError:
    read_only = getattr(os, "ST_RDONLY", 0)
    if read_only and os.statvfs(folder).f_flag & read_only:
        return OSError(errno.EROFS, os.strerror(errno.EROFS))
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _state(path: Path) -> str:
    try:
        held = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        return "does not exist" if not path.exists() else f"cannot be read ({error.strerror})"
    return f"holds {held[:3]}" if held else "is empty"


def _nearby(path: Path) -> tuple[list[Path], list[Path]]:
    """Indexes that may be meant, and others beside the folder; at most three of each."""
    inside = sorted(_indexes(path))
    around = [parent for parent in path.parents if _is_index(parent)]
    beside = {index.name: index for index in _indexes(path.parent) if index != path}
    close = difflib.get_close_matches(path.name, beside, n=3)
    likely = [*inside, *around, *(beside[name] for name in close)]
    return likely[:3], [beside[name] for name in sorted(beside)][:3]


def _indexes(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, _LOOKED_AT):
                if _is_index(Path(entry.path)):
                    yield Path(entry.path)
    except OSError:  # no such folder, or not for our eyes
        return


def _is_index(folder: Path) -> bool:
    return read_object(folder / NAME).get("kind") == KIND
