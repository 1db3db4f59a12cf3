"""Memory of this process and of those it started, as Linux counts it; zeros elsewhere."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MiB: `total` is `anonymous` plus pages of mapped files."""

    total: float
    anonymous: float
    peak: float


def memory() -> Memory:
    """Of this process and its living children; pages that two of them share count twice."""
    fields = [_status(pid) for pid in family(os.getpid())]
    kib = [sum(f.get(name, 0) for f in fields) for name in ("VmRSS", "RssAnon", "VmHWM")]
    return Memory(*(value / 1024 for value in kib))


def reset_peak() -> None:
    """Let the peak start again from what is resident now; where it cannot, it stays."""
    for pid in family(os.getpid()):
        with suppress(OSError):
            (_PROC / str(pid) / "clear_refs").write_text("5", encoding="ascii")


def family(root: int) -> list[int]:
    """A process and its living descendants."""
    parents = {int(p.name): _parent(p) for p in _PROC.glob("[0-9]*")}
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _parent(folder: Path) -> int:
    with suppress(OSError):
        return int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    return 0


def _status(pid: int) -> dict[str, int]:
    with suppress(OSError):
        lines = (_PROC / str(pid) / "status").read_text(encoding="utf-8").splitlines()
        pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
        return {name: int(value.split()[0]) for name, value in pairs}
    return {}
