"""A lock on a folder itself, which leaves no trace in it: one writer, or any number of readers."""

from __future__ import annotations

import os
from pathlib import Path

_NO_CLAIM = -1
"""Where the system locks no folders: Windows, and NFS."""


def claim(folder: Path, *, shared: bool) -> int:
    """Lock a folder against writers, or against everybody.

    Args:
        folder: Or a file; it is there.
        shared: Let others have it too who share it.

    Returns:
        For `unclaim`.

    Raises:
        BlockingIOError: Another has it.
    """
    if os.name == "nt":
        return _NO_CLAIM
    import fcntl

    try:
        held = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder that may be entered, but not listed
        return _NO_CLAIM
    try:
        fcntl.flock(held, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise
    except OSError:
        os.close(held)
        return _NO_CLAIM
    return held


def unclaim(held: int, *, own: bool) -> None:
    """End a claim.

    Args:
        held: From `claim`.
        own: Whether this process made it; a fork of that one only lets go of its own copy.
    """
    if held == _NO_CLAIM:
        return
    if own:
        import fcntl

        fcntl.flock(held, fcntl.LOCK_UN)  # forks have it open too
    os.close(held)
