"""The script that a text is mainly written in."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from typing import Final

_RANGES: Final = (
    (0x0041, 0x024F, "latin"),
    (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0530, 0x058F, "armenian"),
    (0x0590, 0x05FF, "hebrew"),
    (0x0600, 0x077F, "arabic"),
    (0x08A0, 0x08FF, "arabic"),
    (0x0900, 0x097F, "devanagari"),
    (0x0980, 0x09FF, "bengali"),
    (0x0B80, 0x0BFF, "tamil"),
    (0x0C00, 0x0C7F, "telugu"),
    (0x0E00, 0x0E7F, "thai"),
    (0x10A0, 0x10FF, "georgian"),
    (0x1100, 0x11FF, "hangul"),
    (0x1E00, 0x1EFF, "latin"),
    (0x1F00, 0x1FFF, "greek"),
    (0x3040, 0x30FF, "han"),
    (0x3130, 0x318F, "hangul"),
    (0x3400, 0x9FFF, "han"),
    (0xAC00, 0xD7AF, "hangul"),
    (0xF900, 0xFAFF, "han"),
    (0xFF66, 0xFF9F, "han"),
    (0x20000, 0x3FFFF, "han"),
)
_STARTS: Final = [start for start, _, _ in _RANGES]
_LETTERS: Final = 400
"""A text's first letters decide."""
_HAN_WORD: Final = 2.5
"""A Han character says as much as so many letters of an alphabet."""


def script_of(text: str) -> str | None:
    """Name the script of a text's first letters.

    Chinese and Japanese are one script here, "han", since they share characters.

    Args:
        text: Any.

    Returns:
        Such as "latin", "han" or "cyrillic"; None for a text without a letter of a known script.
    """
    counts: Counter[str] = Counter()
    seen = 0
    for character in text:
        if not character.isalpha():
            continue
        if (name := _script(ord(character))) is not None:
            counts[name] += 1
        seen += 1
        if seen >= _LETTERS:
            break
    if not counts:
        return None
    return max(counts, key=lambda name: counts[name] * (_HAN_WORD if name == "han" else 1.0))


def _script(point: int) -> str | None:
    at = bisect_right(_STARTS, point) - 1
    if at < 0:
        return None
    _, end, name = _RANGES[at]
    return name if point <= end else None


def is_spaceless(character: str) -> bool:
    """Whether a character is of a script that puts no spaces between words."""
    point = ord(character)
    return (
        _script(point) in ("han", "thai")
        or 0x0E80 <= point <= 0x0EFF
        or (0x1000 <= point <= 0x109F or 0x1780 <= point <= 0x17FF)
    )
