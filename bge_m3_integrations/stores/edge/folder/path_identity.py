"""Whether a folder's path still leads to the index that was opened there.

A folder may be deleted, renamed, made anew or restored while a process has it open. The engine goes
on with the files that it has mapped, and writes others by their names: old records come back, and
a restored index becomes unreadable.
"""

from __future__ import annotations

import os
from pathlib import Path
from stat import S_ISREG

from bge_m3_integrations.stores.edge.folder.manifest import NAME


class FolderIdentity:
    """The identity of a folder, its manifest and its shard at one moment: the system's numbers.

    Each thing is kept open until `close`, where the system allows that: the number of one that is
    gone would soon be that of another. Without a shard, only the folder counts.
    """

    def __init__(self, path: Path, shard: str | None = None) -> None:
        self._shard = None if shard is None else path / shard
        places = [path] if self._shard is None else [path, path / NAME, self._shard]
        self._marks = {place: _mark(place) for place in places}
        # not on Windows, where they would be in the way
        kept = [] if os.name == "nt" else places
        self._open = [os.open(place, os.O_RDONLY | os.O_CLOEXEC) for place in kept]

    def change(self) -> str | None:
        """Describe a change; None where all is as it was."""
        for place, before in self._marks.items():
            try:
                now = _mark(place)
            except (FileNotFoundError, NotADirectoryError):
                return f"{place} is no longer there"
            except OSError as error:
                return f"{place} cannot be looked at ({error.strerror})"
            if now != before:
                return f"{place} is not the one that was opened, or has been written to"
        return None

    def within(self, name: str) -> os.stat_result | None:
        """Return the state of something in the shard, wherever that is; None where it is gone."""
        if self._shard is None:
            return None
        try:
            if self._open:
                return os.stat(f"{self._shard.name}/{name}", dir_fd=self._open[0])
            return (self._shard / name).stat()
        except OSError:
            return None

    def close(self) -> None:
        """Keep nothing open."""
        held, self._open = self._open, []
        for handle in held:
            os.close(handle)


def _mark(place: Path) -> tuple[int, ...]:
    found = place.stat()
    mark = found.st_dev, found.st_ino
    # a folder is the same whatever comes into it, a file is not
    return (*mark, found.st_size, found.st_mtime_ns) if S_ISREG(found.st_mode) else mark
