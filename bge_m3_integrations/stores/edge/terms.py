"""The terms of a record's metadata by which an engine runs `filters.matches` itself.

The metadata's values never reach the engine, whose own equality and order differ from ours.
It gets strings (*terms*), which are equal exactly when two values are, and integers that stand
in the order of the numbers. `filters` asks for the same terms and integers.

A number's *code* is an integer: twice the place of a float64 among all float64, plus one for an
integer that lies strictly between that float and the next. Codes keep the order of the numbers,
infinities included, and only integers between the same two neighboring floats share one. A code
is stored in two parts because payload numbers pass through decimal text, which the engine reads
back one unit off for about one float64 in six; integers below 2**53 survive.
"""

from __future__ import annotations

import hashlib
import math
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bge_m3_integrations.core.filter_comparison import every_path, lookup

TERMS: Final = "terms"
"""The payload key of the terms; wants a keyword index."""
LONGEST: Final = 100
"""Characters of a term above which its digest stands for it, to keep the index small."""
GREATEST_LOW: Final = (1 << 33) - 1
"""The greatest low part of a code."""
_SIGN: Final = 1 << 63
_MISSING: Final = lookup("nothing", {})


@dataclass(frozen=True, slots=True)
class FilterPayload:
    """One record's metadata as an engine filters it.

    Attributes:
        terms: Sorted and unique, to be stored under `TERMS`.
        numbers: Payload keys (see `number_keys`) with integers below 2**53 in size.
    """

    terms: tuple[str, ...]
    numbers: Mapping[str, int]


def filter_payload(metadata: Mapping[str, Any], fields: frozenset[str] | None) -> FilterPayload:
    """Return the terms and numbers of a record's metadata, to be stored with it.

    `fields` are the paths that filters may name; None is every path that leads somewhere.
    """
    paths = every_path(metadata) if fields is None else fields
    held = {path: lookup(path, metadata) for path in paths}
    held = {path: value for path, value in held.items() if value is not _MISSING}
    terms = {term for path, value in held.items() for term in _terms(path, value)}
    numbers = {key: part for path, value in held.items() for key, part in _numbers(path, value)}
    return FilterPayload(tuple(sorted(terms)), numbers)


def text_term(path: str) -> str:
    """The term of every record that holds a string under the path."""
    return _term("t", path, "")


def other_term(path: str) -> str:
    """The term of every record that holds anything but a string under the path."""
    return _term("o", path, "")


def equal_term(path: str, value: object) -> str | None:
    """The term of every record whose value equals this one; None where nothing equals it."""
    form = _form(value)
    return None if form is None else _term("e", path, form)


def item_term(path: str, value: object) -> str | None:
    """The term of every record whose list has an item equal to this value, or None as above."""
    form = _form(value)
    return None if form is None else _term("i", path, form)


def number_keys(path: str) -> tuple[str, str]:
    """The payload keys of a path's number codes: high part, and low part, which is left out if 0.

    Each wants a float index.
    """
    digest = hashlib.sha256(_bytes(path)).hexdigest()[:32]
    return f"n_{digest}", f"n_{digest}_low"


def number_code(value: object) -> int | None:
    """The place of a number in the order of numbers; None for NaN and all else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or _is_nan(value):
        return None
    below = _float_below(value)
    return 2 * _place(below) + (below != value)


def code_parts(code: int) -> tuple[int, int]:
    """A code as two integers, ordered by the first and then by the second."""
    return code >> GREATEST_LOW.bit_length(), code & GREATEST_LOW


def _terms(path: str, value: object) -> Iterator[str]:
    yield text_term(path) if isinstance(value, str) else other_term(path)
    if (whole := equal_term(path, value)) is not None:
        yield whole
    if isinstance(value, list | tuple):
        yield from filter(None, (item_term(path, item) for item in value))


def _numbers(path: str, value: object) -> Iterator[tuple[str, int]]:
    if (code := number_code(value)) is None:
        return
    high, low = code_parts(code)
    high_key, low_key = number_keys(path)
    yield high_key, high
    if low:  # small integers have none, and so need one index less
        yield low_key, low


def _term(kind: str, path: str, form: str) -> str:
    """One term: the path's length keeps path and value apart, whatever they are made of."""
    term = f"{kind}{len(path)}:{path}{form}"
    if len(term) <= LONGEST and term.isprintable():
        return term
    return "#" + hashlib.sha256(_bytes(term)).hexdigest()


def _form(value: object) -> str | None:
    """A string that two values share exactly when `_comparing.equal` holds; None: never."""
    if value is None:
        return "z"
    if isinstance(value, bool):
        return "b1" if value else "b0"
    if isinstance(value, int | float):
        return _number_form(value)
    if isinstance(value, str):
        return "s" + value
    if isinstance(value, list | tuple):
        return _list_form(value)
    return None


def _number_form(value: float) -> str | None:
    if _is_nan(value):
        return None
    if value in (math.inf, -math.inf):
        return "n+" if value > 0 else "n-"
    over, under = value.as_integer_ratio()
    # hexadecimal: Python refuses to write integers of over 4,300 digits in decimal
    return f"n{over:x}/{under:x}"


def _is_nan(value: float) -> bool:
    # math.isnan raises for integers above all floats
    return isinstance(value, float) and math.isnan(value)


def _list_form(items: list[Any] | tuple[Any, ...]) -> str | None:
    forms = [_form(item) for item in items]
    if None in forms:
        return None
    return "l" + "".join(f"{len(form)}:{form}" for form in forms if form is not None)


def _float_below(value: float) -> float:
    """The greatest float64 that is not above a number."""
    try:
        near = float(value)
    except OverflowError:
        return sys.float_info.max if value > 0 else -math.inf
    return near if near <= value else math.nextafter(near, -math.inf)


def _place(value: float) -> int:
    """The place of a float64 among all of them, counted from zero."""
    (bits,) = struct.unpack("<Q", struct.pack("<d", value))
    return -(bits ^ _SIGN) if bits & _SIGN else int(bits)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
