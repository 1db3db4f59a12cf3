"""Whether a file that others may replace has changed."""

from __future__ import annotations

import os
from pathlib import Path


def file_state(path: Path) -> tuple[int, int, int] | None:
    """Time in ns, size in bytes and inode of a file: they differ once it was written again.

    Args:
        path: A file.

    Returns:
        The three numbers; None where there is no file.
    """
    try:
        held = os.stat(path)  # noqa: PTH116 - in every search: no frame of pathlib's
    except OSError:
        return None
    return held.st_mtime_ns, held.st_size, held.st_ino
