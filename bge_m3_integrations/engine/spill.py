"""Embeddings that are still awaited and do not fit in memory: a file that nobody else sees."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import IO, TypeAlias

from bge_m3_integrations.core.codec import packed, unpacked
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode

_LEAST_FREE = 1024**3
"""Bytes of the disk that stay free for everybody else."""

Key: TypeAlias = tuple[int | None, str]
"""Length limit and text."""


@dataclass(slots=True)
class _Place:
    """The place of a row: its first byte, one length per mode, and how often it is awaited."""

    start: int
    lengths: dict[Mode, int]
    awaited: int

    @property
    def end(self) -> int:
        return self.start + sum(self.lengths.values())


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

    def put(self, key: Key, row: EmbeddingBatch, *, awaited: int) -> bool:
        """Keep a row in place of an older one of its key.

        Args:
            key: Of the text.
            row: A batch of one text, any modes.
            awaited: How often it will be taken.

        Returns:
            False where the row is larger than the file may be, or the disk is nearly full.
        """
        self._forget(key)
        values = packed(row, 0)
        data = b"".join(values.values())
        if len(data) > self._max_bytes:
            return False
        start = self._room(len(data))
        try:
            self._write(start, data)
        except OSError:
            return False
        lengths = {mode: len(value) for mode, value in values.items()}
        self._places[key] = _Place(start, lengths, awaited)
        self._end = start + len(data)
        return True

    def take(self, key: Key, modes: frozenset[Mode]) -> EmbeddingBatch | None:
        """Read a row for one of those who await it; with the last one it leaves the file.

        Args:
            key: Of the text.
            modes: The modes that the row must have.

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
        place.awaited -= 1
        if place.awaited < 1:
            self._forget(key)
        return row

    def _room(self, size: int) -> int:
        """Return where the next bytes of the ring begin; rows that lie there leave it."""
        start = self._end
        if start + size > self._max_bytes:
            self._clear(start, self._max_bytes)
            start = 0
        self._clear(start, start + size)
        return start

    def _clear(self, start: int, end: int) -> None:
        """Remove the rows of a stretch; the oldest lie first behind the newest."""
        while self._places:
            key, oldest = next(iter(self._places.items()))
            if oldest.end <= start or end <= oldest.start:
                break
            del self._places[key]

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
