"""Which pages of a folder's files are in this process' memory: Linux's `smaps`, else zeros."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_HEAD = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)$")
_SMAPS = Path("/proc/self/smaps")


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes in memory.

    Attributes:
        files: Pages of the folder's mapped files, its log aside, each counted once.
        mappings: The same as the process' resident size has it: the engine maps a file more than
            once, and each mapping counts.
        anonymous: Memory of the process that no file backs.
    """

    files: int
    mappings: int
    anonymous: int


def resident(folder: Path) -> Resident:
    """What is resident of a folder's files in this process now."""
    with suppress(OSError):
        return counted(_SMAPS.read_text(encoding="utf-8").splitlines(), folder.resolve())
    return Resident(0, 0, 0)


def counted(lines: Iterable[str], folder: Path) -> Resident:
    """Add up the lines of `smaps`.

    Args:
        lines: For each mapping a head and `Name: value kB` lines. `Pss` is a page's share of each
            of its mappings, so that pages mapped twice count once.
        folder: As the heads have it.

    Returns:
        The sums.
    """
    files = mappings = anonymous = 0
    inside = False
    for line in lines:
        if head := _HEAD.match(line):
            path = Path(head[1])
            inside = path.is_relative_to(folder) and "wal" not in path.relative_to(folder).parts
            continue
        name, _, value = line.partition(":")
        if name == "Anonymous":
            anonymous += _bytes(value)
        elif name == "Pss" and inside:
            files += _bytes(value)
        elif name == "Rss" and inside:
            mappings += _bytes(value)
    return Resident(files, mappings, anonymous)


def _bytes(value: str) -> int:
    return 1024 * int(value.split(maxsplit=1)[0])
