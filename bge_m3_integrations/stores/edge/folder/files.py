"""Files: read, replaced as a whole, brought to disk, copied with their holes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bge_m3_integrations.errors import StoreError

_PIECE = 1 << 20
_BLOCK = 1 << 12
_STRETCH = 1 << 16
_ZEROS = bytes(_STRETCH)
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def read_file(path: Path) -> str:
    """Read a small file, which somebody may have edited by hand.

    It raises `OSError` for a pipe or a device too, whose end would be waited for.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is no file but a pipe or a device", str(path))
    return path.read_text(encoding="utf-8-sig")


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a small file; an empty one where there is none that is sound."""
    try:
        held = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}


def replace_file(path: Path, text: str) -> None:
    """Write a file that is the old one or the new one, whatever crashes.

    It raises `StoreError` where the file cannot be written; then the old one is there.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise StoreError(f"{path} cannot be written: {error}; it is as before") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    _sync(folder)


def sync_files(folder: Path) -> None:
    """Sync a folder's files to disk, memory-mapped pages included."""
    for parent, _, names in os.walk(folder, topdown=False):  # passes over what is removed meanwhile
        for name in [*names, "."]:
            # Windows syncs only files opened for writing; the engine's flush does
            with suppress(OSError):
                _sync(Path(parent) / name)


def _sync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders; a file was removed meanwhile
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def bytes_on_disk(status: os.stat_result) -> int:
    """Return the bytes that a file takes, not its length: the engine's files are mostly holes."""
    return getattr(status, "st_blocks", -(-status.st_size // 512)) * 512


def size_on_disk(path: Path) -> int:
    """Return the bytes that a folder's files take."""
    found = 0
    for parent, _, names in os.walk(path):  # passes over what is removed meanwhile
        for name in names:
            with suppress(FileNotFoundError):
                found += bytes_on_disk((Path(parent) / name).stat())
    return found


def copy_file(source: str, target: str) -> None:
    """Copy a file that nobody writes to, for `shutil.copytree`: holes and zeros become holes.

    An index of one record takes 260 kB of a disk, but its files are 237 MB long.
    """
    with Path(source).open("rb") as old, Path(target).open("xb", buffering=0) as new:
        size = os.fstat(old.fileno()).st_size
        for place, run in _runs(blocks_of(old.fileno(), size)):
            new.seek(place)
            view = memoryview(run)
            while view:
                view = view[new.write(view) :]
        new.truncate(size)
    shutil.copystat(source, target)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder whose files nobody writes to, see `copy_file` and `reason_of`."""
    shutil.copytree(source, target, False, None, copy_file)


def reason_of(error: OSError) -> str:
    """Say in a line why files could not be copied: `shutil` gives a list of all of them."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        _, target, why = error.args[0][0]
        return f"{target}: {why}"
    return str(error)


def blocks_of(file: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Read the blocks of an open file of so many bytes that hold anything but zeros.

    The place of a block is a multiple of 4 KiB. They are the same for a file with holes and for
    one without.
    """
    done = 0
    for start, end in _stretches(file, size):
        place = max(done, start - start % _BLOCK)
        while place < end:
            os.lseek(file, place, os.SEEK_SET)
            piece = os.read(file, _PIECE)
            if not piece:
                return
            yield from _filled(piece, place)
            place += len(piece)
        done = place


def _stretches(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of parts that may hold more than zeros; all where that is unknown."""
    if not hasattr(os, "SEEK_DATA"):
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
            end = os.lseek(file, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                yield end, size
            elif error.errno != errno.ENXIO:  # that: nothing but a hole follows
                raise
            return
        yield start, min(end, size)


def _filled(piece: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    """The blocks of a piece that are not all zeros; large stretches of zeros are passed over."""
    for start in range(0, len(piece), _STRETCH):
        stretch = piece[start : start + _STRETCH]
        if stretch == _ZEROS[: len(stretch)]:
            continue
        for i in range(0, len(stretch), _BLOCK):
            block = stretch[i : i + _BLOCK]
            if block != _ZEROS[: len(block)]:
                yield place + start + i, block


def _runs(blocks: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Blocks that follow each other as one, up to a MiB."""
    start, run = 0, bytearray()
    for place, block in blocks:
        if run and (place != start + len(run) or len(run) >= _PIECE):
            yield start, bytes(run)
            run.clear()
        if not run:
            start = place
        run += block
    if run:
        yield start, bytes(run)
