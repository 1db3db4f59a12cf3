"""The one rule for values of metadata, and of filters: JSON's own types, whatever the store.

Numpy's scalars and subclasses of Python's types (a StrEnum, an IntEnum) become Python's own, a
tuple becomes a list, any mapping a dict. All else is refused, with the fix.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import enum
import math
import pathlib
import re
import uuid
from collections.abc import Mapping
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np

from bge_m3_integrations.errors import InputError

T = TypeVar("T")
Scalar: TypeAlias = bool | int | float | str | None

MOST_LEVELS: Final = 100
"""Levels of nesting of metadata, payloads and filters: far below Python's recursion limit."""
MOST_DIGITS: Final = 4300
"""Digits of an integer: Python neither writes nor reads longer ones in decimal."""

_DIGITS_PER_BIT: Final = math.log10(2)
_HALVES: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_FIXES: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (enum.Enum, "write value.value"),
    ((datetime.date, datetime.time), "write value.isoformat()"),
    (datetime.timedelta, "write value.total_seconds()"),
    ((np.datetime64, np.timedelta64), "write str(value)"),
    (decimal.Decimal, "write float(value), or str(value) for every digit"),
    ((uuid.UUID, pathlib.PurePath), "write str(value)"),
    ((bytes, bytearray, memoryview), "write bytes(value).decode()"),
    ((set, frozenset), "write sorted(value)"),
    ((complex, np.complexfloating), "write [value.real, value.imag]"),
)


def brief(value: object) -> str:
    """A value as an error shows it: one that is huge, or holds itself, in few words."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # too many digits or levels to be written
        return f"a {type(value).__name__} that is too large to be shown"
    return text if len(text) <= 200 else f"{text[:200]}..."


def plain(value: Any, place: str, path: tuple[str | int, ...] = ()) -> Any:
    """A value of metadata in JSON's own types, which every store gives back as it is.

    Args:
        value: Any value; it is not changed.
        place: Where it stands, for an error.
        path: The keys and positions that lead to it from there.

    Returns:
        The value itself where all of it is plain already, else a copy.

    Raises:
        InputError: JSON would change or drop it, or it goes too deep; the message names where it
            stands, and the fix.
    """
    if len(path) > MOST_LEVELS:
        raise InputError(
            f"{_at(place, path[:5])}... goes more than {MOST_LEVELS} levels deep, or holds itself; "
            "flatten it"
        )
    if isinstance(value, Mapping):
        return _plain_mapping(value, place, path)
    if isinstance(value, list | tuple):
        items = [plain(item, place, (*path, i)) for i, item in enumerate(value)]
        same = type(value) is list and all(a is b for a, b in zip(value, items, strict=True))
        return value if same else items
    return scalar(value, _at, place, path)


def deep_copy(value: T, name: str) -> T:
    """A deep copy of what need not be JSON, such as metadata that no store keeps.

    Args:
        value: Any value.
        name: Its name in an error.

    Returns:
        The copy.

    Raises:
        InputError: It goes too deep to be copied.
    """
    try:
        return copy.deepcopy(value)
    except RecursionError as error:
        raise InputError(f"{name} goes too many levels deep to be copied; flatten it") from error


def scalar(value: Any, place: Any, *about: Any) -> Scalar:
    """A single value as Python's own type.

    Args:
        value: Any value.
        place: A function that says where it stands; only called for an error.
        *about: What it is called with.

    Returns:
        None, a boolean, an integer, a float or a string of exactly that class.

    Raises:
        InputError: It is none of these, or an integer of too many digits.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _joined(str.__str__(value))
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int):
        if (digits := _digits(value)) > MOST_DIGITS:
            raise InputError(
                f"{place(*about)} is an integer of {digits:,} digits, but at most {MOST_DIGITS:,} "
                "can be kept; write it as a string"
            )
        return int.__int__(value)
    if isinstance(value, np.bool_ | np.integer):
        return scalar(value.item(), place, *about)
    if isinstance(value, np.floating):
        return float(value)  # item() leaves a long double as it is
    raise InputError(
        f"{place(*about)} is {brief(value)} of type {type(value).__name__}, which JSON does not "
        f"keep; {_fix(value)}"
    )


def _plain_mapping(value: Mapping[Any, Any], place: str, path: tuple[str | int, ...]) -> Any:
    made: dict[str, Any] = {}
    same = type(value) is dict
    for key, held in value.items():
        if not isinstance(key, str):
            raise InputError(
                f"{_at(place, path)} has the key {brief(key)}; keys must be strings: write str(key)"
            )
        own = _joined(str.__str__(key))
        made[own] = plain(held, place, (*path, own))
        same = same and type(key) is str and own == key and made[own] is held
    return value if same else made


def _joined(text: str) -> str:
    """Two halves of a character that stand side by side as that character, as JSON reads them."""
    if text.isascii() or not _HALVES.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _digits(value: int) -> int:
    """Count the decimal digits, those of a long integer without writing it."""
    if -(10**18) < value < 10**18:
        return 1  # as good as any number that is allowed
    size = abs(value)
    digits = int((size.bit_length() - 1) * _DIGITS_PER_BIT) + 1
    return digits + 1 if size >= 10**digits else digits


def _at(place: str, path: tuple[str | int, ...]) -> str:
    return place + "".join(f"[{brief(step)}]" for step in path)


def _fix(value: object) -> str:
    for kinds, fix in _FIXES:
        if isinstance(value, kinds):
            return fix
    if hasattr(value, "tolist"):
        return "write value.tolist()"
    return "store a string, a number, a boolean, None, a list or a dict"
