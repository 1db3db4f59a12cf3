"""Copy the engine's files: mostly holes, which stay holes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_PIECE = 1 << 20
_BLOCK = 1 << 12
_STRETCH = 1 << 16
_ZEROS = bytes(_STRETCH)
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def copy_file(source: str, target: str) -> None:
    """Copy a file that nobody writes to, for `shutil.copytree`: holes and zeros become holes.

    An index of one record takes 260 kB of a disk, but its files are 237 MB long.

    Args:
        source: The file.
        target: Is not there yet.

    Raises:
        OSError: A file cannot be read or written; some of the target may be there.
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
    """Copy a folder whose files nobody writes to, see `copy_file`.

    Args:
        source: The folder.
        target: Is not there yet.

    Raises:
        OSError: See `copy_file`; `reason_of` says why.
    """
    shutil.copytree(source, target, False, None, copy_file)


def reason_of(error: OSError) -> str:
    """Say in a line why files could not be copied: `shutil` gives a list of all of them."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        _, target, why = error.args[0][0]
        return f"{target}: {why}"
    return str(error)


def data_of(file: int, size: int) -> Iterator[tuple[int, int]]:
    """The stretches of an open file that may hold anything but zeros.

    Args:
        file: Its descriptor.
        size: Its length in bytes.

    Yields:
        Begin and end, ascending; the whole file where the system does not tell.
    """
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


def blocks_of(file: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The blocks of an open file that hold anything but zeros.

    Args:
        file: Its descriptor.
        size: Its length in bytes.

    Yields:
        The place of a block, a multiple of 4 KiB, and its bytes: the same for a file with holes and
        for one without.
    """
    done = 0
    for start, end in data_of(file, size):
        place = max(done, start - start % _BLOCK)
        while place < end:
            os.lseek(file, place, os.SEEK_SET)
            piece = os.read(file, _PIECE)
            if not piece:
                return
            yield from _filled(piece, place)
            place += len(piece)
        done = place


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
