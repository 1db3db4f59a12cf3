"""Weight files that a model reads as long as it is served: noticed when they are overwritten."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from bge_m3_integrations.errors import CheckpointError


class _Seen(NamedTuple):
    """Which file it is, and what changes when it is written."""

    file: tuple[int, int]
    size: int
    time: int

    @classmethod
    def from_path(cls, path: Path) -> _Seen | None:
        try:
            stat = path.stat()
        except OSError:
            return None
        return cls((stat.st_dev, stat.st_ino), stat.st_size, stat.st_mtime_ns)

    def __str__(self) -> str:
        written = datetime.fromtimestamp(self.time / 1e9).astimezone()
        return f"{self.size:,} bytes of {written:%Y-%m-%d %H:%M:%S}"


class WatchedFiles:
    """Files as they are now, before anything of them is read.

    A file that was renamed into their place, or deleted, changes nothing: what is mapped stays.
    One that is cut shorter while a pass reads it still ends the process (SIGBUS).

    Args:
        paths: The files.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._seen = {path: _Seen.from_path(path) for path in paths}

    def check(self) -> None:
        """Raise `CheckpointError` where one was overwritten."""
        for path, before in self._seen.items():
            try:  # two of these calls are in every pass: the usual case makes no further one
                stat = path.stat()
            except OSError:
                continue
            now = ((stat.st_dev, stat.st_ino), stat.st_size, stat.st_mtime_ns)
            if before is not None and now != before and now[0] == before.file:
                raise CheckpointError(
                    f"{path} was overwritten while its model is served: {before} became "
                    f"{_Seen(*now)}, and numbers would be of neither model. Make a new BGEM3 to "
                    "serve what is there now; next time write to another file and rename it "
                    "into place"
                )
