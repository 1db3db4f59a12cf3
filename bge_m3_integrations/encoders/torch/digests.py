"""Digests of large weight files, remembered between processes: reading 2.3 GB takes seconds.

A file beside the hub's downloads, `HF_HOME/bge-m3-integrations/digests.json`, maps a checkpoint's
state (path, size and time of its files) to its digest. Losing it costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from bge_m3_integrations._internal.forks import new_lock

FileState: TypeAlias = tuple[tuple[str, int, int], ...]
"""Path, size in bytes and time in nanoseconds of each file."""

_WORTH_KEEPING = 100 << 20
_MOST = 64
_HELD: dict[FileState, str] = {}
_LOCK = new_lock()


def remembered(state: FileState, compute: Callable[[], str]) -> str:
    """The digest of files in a state, computed at most once.

    Args:
        state: Of all files that the digest is made of.
        compute: Reads them.

    Returns:
        What `compute` gave for this state, in this process or in an earlier one.
    """
    if state not in _HELD:
        large = sum(size for _, size, _ in state) >= _WORTH_KEEPING
        known = _read().get(_key(state)) if large else None
        _HELD[state] = compute() if known is None else known
        if large and known is None:
            _write(_key(state), _HELD[state])
    return _HELD[state]


def cache_file() -> Path:
    """Where digests are remembered."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "bge-m3-integrations" / "digests.json"


def _key(state: FileState) -> str:
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _read() -> dict[str, str]:
    try:
        held = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _write(key: str, digest: str) -> None:
    """Add a digest; another process that writes at the same time may win, which costs time only."""
    with _LOCK, suppress(OSError):
        file = cache_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = dict([*_read().items(), (key, digest)][-_MOST:])
        new = file.with_name(f"{file.name}.{os.getpid()}")
        new.write_text(json.dumps(kept), encoding="utf-8")
        new.replace(file)
