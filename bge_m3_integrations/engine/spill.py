"""Embeddings that are still awaited and do not fit in memory: a file that nobody else sees."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import IO, TypeAlias

from bge_m3_integrations.core.codec import packed, unpacked
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode

_LEAST_FREE = 1024**3
"""Bytes of the disk that stay free for everybody else."""


Key: TypeAlias = tuple[int, str]
"""Length limit and text."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a row lies: from a byte on, one length per mode; and how often it is still awaited."""

    start: int
    lengths: dict[Mode, int]
    awaited: int

    @property
    def size(self) -> int:
        return sum(self.lengths.values())

    @property
    def end(self) -> int:
        return self.start + self.size


class Spill:
    """Rows by key in a temporary file, the oldest first out; its user holds the lock.

    The file is written as a ring, so it never grows over its bound, and it is emptied when nothing
    is in it. It lies where `tempfile` puts files (`TMPDIR`), ends with the process, and is made
    for the first row.

    Args:
        max_bytes: Most bytes of the file.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._file: IO[bytes] | None = None
        self._pid = 0
        self._places: OrderedDict[Key, _Place] = OrderedDict()
        self._end = 0

    def put(self, key: Key, row: EmbeddingBatch, *, awaited: int) -> list[Key]:
        """Keep a row in place of an older one of its key.

        Args:
            key: Of the text.
            row: A batch of one text, any modes.
            awaited: How often it will be taken.

        Returns:
            The keys that are lost by it: of the oldest rows, or this one where the row is larger
            than the file may be, or the disk is nearly full.
        """
        self._forget(key)
        values = packed(row, 0)
        size = sum(map(len, values.values()))
        if size > self._max_bytes:
            return [key]
        start, lost = self._room(size)
        try:
            self._write(start, b"".join(values.values()))
        except OSError:
            return [*lost, key]
        lengths = {mode: len(value) for mode, value in values.items()}
        self._places[key] = _Place(start, lengths, awaited)
        self._end = start + size
        return lost

    def take(self, key: Key, modes: frozenset[Mode]) -> EmbeddingBatch | None:
        """Read a row for one of those who await it; with the last one it leaves the file.

        Args:
            key: Of the text.
            modes: What the row must have.

        Returns:
            The row with all its modes, bit by bit, or None where it is not there.
        """
        place = self._places.get(key)
        if place is None or self._pid != os.getpid() or not modes <= place.lengths.keys():
            return None
        try:
            row = self._read(place)
        except (OSError, ValueError, struct.error):  # it can be computed again
            self._forget(key)
            return None
        if place.awaited > 1:
            self._places[key] = replace(place, awaited=place.awaited - 1)
        else:
            self._forget(key)
        return row

    def _room(self, size: int) -> tuple[int, list[Key]]:
        """Where the next bytes of the ring begin, and whose rows lie there, which leave it."""
        start, lost = self._end, list[Key]()
        if start + size > self._max_bytes:
            lost, start = self._left(start, self._max_bytes), 0
        return start, lost + self._left(start, start + size)

    def _left(self, start: int, end: int) -> list[Key]:
        """Remove the rows of a stretch; the oldest lie first behind the newest."""
        lost = []
        while self._places:
            key, oldest = next(iter(self._places.items()))
            if oldest.end <= start or end <= oldest.start:
                break
            del self._places[key]
            lost.append(key)
        return lost

    def _forget(self, key: Key) -> None:
        if self._places.pop(key, None) is None or self._places:
            return
        self._end = 0
        if self._file is not None and self._pid == os.getpid():
            self._file.truncate(0)

    def _write(self, start: int, data: bytes) -> None:
        if shutil.disk_usage(tempfile.gettempdir()).free < _LEAST_FREE + len(data):
            raise OSError(f"less than {_LEAST_FREE} bytes would stay free")
        file = self._opened()
        file.seek(start)
        if file.write(data) < len(data):
            raise OSError("the disk is full")

    def _read(self, place: _Place) -> EmbeddingBatch:
        file = self._opened()
        file.seek(place.start)
        return unpacked({mode: file.read(n) for mode, n in place.lengths.items()})

    def _opened(self) -> IO[bytes]:
        """This process's own file: one that came through a fork shares its position."""
        if self._file is None or self._pid != os.getpid():
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # as long as this is
            self._pid = os.getpid()
            self._places.clear()
        return self._file
