"""Whether a folder's path still leads to the index that was opened there.

A folder may be deleted, renamed, made anew or restored while a process has it open. The engine goes
on with the files that it has mapped, and writes others by their names: old records come back, and
what was restored becomes unreadable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

_Mark = tuple[int, ...]


class FolderIdentity:
    """The identity of a folder, its manifest and its shard at one moment: the system's numbers.

    Each thing is kept open until `close`, where the system allows that: the number of one that is
    gone would soon be that of another.

    Args:
        path: The folder.
        manifest: The file that says what the folder holds; None where only the folder counts.
        shard: The folder in it that holds the records.
    """

    def __init__(self, path: Path, manifest: str | None = None, shard: str = "") -> None:
        self._path, self._shard = path, shard
        asked: list[tuple[Path, Callable[[os.stat_result], _Mark]]] = [(path, _place)]
        if manifest is not None:
            asked += [(path / manifest, _state), (path / shard, _place)]
        self._marks = [(place, mark, mark(place.stat())) for place, mark in asked]
        self._open = _opened([place for place, _ in asked])

    def change(self) -> str | None:
        """What is not as it was, in words; None where all is."""
        for place, mark, before in self._marks:
            try:
                now = mark(place.stat())
            except (FileNotFoundError, NotADirectoryError):
                return f"{place} is no longer there"
            except OSError as error:
                return f"{place} cannot be looked at ({error.strerror})"
            if now != before:
                return f"{place} is not the one that was opened, or has been written to"
        return None

    def within(self, name: str) -> os.stat_result | None:
        """The state of something in the shard, wherever that is by now; None where it is gone."""
        try:
            if self._open:
                return os.stat(f"{self._shard}/{name}", dir_fd=self._open[0])
            return (self._path / self._shard / name).stat()
        except OSError:
            return None

    def close(self) -> None:
        """Keep nothing open."""
        held, self._open = self._open, []
        for handle in held:
            os.close(handle)


def _place(found: os.stat_result) -> _Mark:
    return found.st_dev, found.st_ino


def _state(found: os.stat_result) -> _Mark:
    return *_place(found), found.st_size, found.st_mtime_ns


def _opened(places: Sequence[Path]) -> list[int]:
    """Handles of files and folders; none on Windows, where they would be in the way."""
    if os.name == "nt":
        return []
    return [os.open(place, os.O_RDONLY | os.O_CLOEXEC) for place in places]
