"""Values for a reader: short representations, one-line texts, tables for Jupyter.

Nothing here raises, waits or computes much: a debugger calls it at any moment.
"""

from __future__ import annotations

import html
import reprlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TEXT_WIDTH = 60
_SHOWN_NUMBERS = 8
_READ_NUMBERS = 100_000
_CONTROLS = frozenset({"Cc", "Cs"})
# they turn the order of what follows around, so a text could change how its neighbors read
_BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = TEXT_WIDTH
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 4
_SHORT.maxlevel = 3


class Shown:
    """Gives a subclass a `repr` of the parts that `_parts` yields."""

    __slots__ = ()

    def _parts(self) -> Iterable[str]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return called(self, self._parts)


class Verbatim(str):
    """A text whose `repr` is itself, for the parts of another one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def called(value: object, parts: Any) -> str:
    """Write `Name(part, part)`; the parts are left out where making them fails.

    Args:
        value: Gives the name of its class.
        parts: A function that yields the parts.

    Returns:
        One line.
    """
    name = type(value).__name__
    try:
        return f"{name}({', '.join(parts())})"
    except Exception as error:
        return f"{name}(cannot be shown: {type(error).__name__})"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 text", "3,110 documents"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def one_line(text: str) -> str:
    """A text on one line: white space as single spaces, control characters as "�"."""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    return "".join(map(_visible, " ".join(text.split())))


def shortened(text: str, width: int = TEXT_WIDTH) -> str:
    """The beginning of a text on one line; "…" marks that it was cut."""
    line = one_line(text[: 8 * width])  # the rest of a long text is not looked at
    if len(line) <= width and len(text) <= 8 * width:
        return line
    return line[: width - 1].rstrip() + "…"


def quoted(text: object, width: int = TEXT_WIDTH) -> str:
    """A text in quotes; one that is cut is followed by its length."""
    if not isinstance(text, str):
        return short(text)
    if len(text) <= width:
        return repr(text)
    return f"{text[:width].rstrip() + '…'!r} ({len(text):,} characters)"


def short(value: object) -> str:
    """The `repr` of any value, cut in length and depth."""
    if isinstance(value, Mapping):
        value = dict(value)
    return _SHORT.repr(value)


def path_name(path: Path) -> str:
    """A path in quotes, relative where it lies in the working directory."""
    try:
        return repr(str(path.relative_to(Path.cwd())))
    except (ValueError, OSError):
        return repr(str(path))


def numbers(array: Any) -> str:
    """A few numbers themselves, of many the least and the greatest."""
    values = np.asarray(array).ravel()
    if values.size <= _SHOWN_NUMBERS:
        return " ".join(f"{value:.4f}" for value in values.tolist()) or "none"
    finite = values[:_READ_NUMBERS]
    finite = finite[np.isfinite(finite)]
    if not finite.size or values.size > _READ_NUMBERS:
        return counted(values.size, "number")
    return f"{finite.min():.4f} to {finite.max():.4f}"


def shape_name(shape: Sequence[int]) -> str:
    """A shape in words: "2 x 3"."""
    return " x ".join(map(str, shape)) or "1"


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, note: str = "") -> str:
    """An HTML table; floats have four places, and every text is escaped.

    Args:
        head: The names of the columns.
        rows: One cell per column.
        note: Stands below the table.

    Returns:
        HTML without scripts, styles or links.
    """
    top = "".join(f"<th>{_escaped(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows)
    below = f"<p>{_escaped(note)}</p>" if note else ""
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{below}"


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else _escaped(str(value))


def _escaped(text: str) -> str:
    return html.escape("".join(map(_visible, text)))


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in _CONTROLS or character in _BIDIRECTIONAL
    return "�" if hidden else character
