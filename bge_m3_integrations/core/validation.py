"""Checks of callers' arguments, shared by the core: each error names the value and the fix."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bge_m3_integrations.core.metadata import brief
from bge_m3_integrations.errors import InputError

T = TypeVar("T")

ENCODED_CHARACTERS = 262_144
"""Most characters whose token vectors are in memory at once where texts come in bulk; at 3
characters a token and 4 KiB a vector that is 350 MiB. A longer text still goes, alone."""


def as_path(path: str | os.PathLike[str], *, name: str = "path") -> Path:
    """Return a caller's path, in which a leading `~` stands for the home folder.

    Args:
        path: A name; of a file or folder that need not exist.
        name: The caller's name for it.

    Returns:
        The path.

    Raises:
        InputError: It is none, or empty, or names the home of a user who does not exist.
    """
    try:
        given = os.fspath(path)
        if not isinstance(given, str) or not given.strip() or "\0" in given:
            raise TypeError
        return Path(given).expanduser()
    except TypeError:
        raise InputError(
            f'{name} must be a path, such as "my_index" or "~/my_index", not {path!r}'
        ) from None
    except RuntimeError as error:
        raise InputError(
            f"{name} {str(path)!r} begins with the home folder of an unknown user: {error}"
        ) from error


def check_int(name: str, value: Any, *, least: int = 1) -> int:
    """A whole number from a caller.

    Args:
        name: The caller's name for it.
        value: A Python or numpy integer; bool is none.
        least: The smallest that makes sense.

    Returns:
        The number as an int.

    Raises:
        InputError: It is something else, or too small.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return number


def check_fraction(name: str, value: Any) -> float:
    """A number from 0 to 1 from a caller.

    Args:
        name: The caller's name for it.
        value: A Python or numpy number; bool is none.

    Returns:
        The number.

    Raises:
        InputError: It is something else, or out of range.
    """
    number = _number(value)
    if not 0 <= number <= 1:
        raise InputError(f"{name} must be a number from 0 to 1, not {value!r}")
    return number


def check_finite(name: str, value: Any) -> float:
    """A finite number from a caller; see `check_fraction`."""
    number = _number(value)
    if not math.isfinite(number):
        raise InputError(f"{name} must be a finite number, not {value!r}")
    return number


def _number(value: Any) -> float:
    """A number as a float; NaN for what is none."""
    try:
        return math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError):
        return math.nan


def as_list(values: Iterable[T], name: str, *, of: str = "strings") -> list[T]:
    """Read a list, a generator or an array of one dimension to its end, once.

    Args:
        values: Any number of values.
        name: The caller's name for them.
        of: The kind of each of them.

    Returns:
        A list of them, in order.

    Raises:
        InputError: It is one string, a dict, a table or another thing that is no list.
    """
    kind = type(values).__name__
    if isinstance(values, str | bytes):
        raise InputError(f"{name} must be a list of {of}, not one {kind}")
    table = getattr(values, "ndim", 1) != 1
    if table or isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise InputError(f"{name} must be a list of {of}, not {kind} {brief(values)}")
    return list(values)


def check_texts(texts: Sequence[str], *, surrogates: bool = False) -> None:
    """Refuse texts that no tokenizer can read.

    Args:
        texts: The caller's input.
        surrogates: Let lone surrogates pass, because cleaning mends them.

    Raises:
        InputError: It is a bare string, holds something that is no string, or a text holds a lone
            surrogate (half of a UTF-16 pair, as broken decoding leaves it).
    """
    if isinstance(texts, str | bytes):
        raise InputError(f"texts must be a list of strings, not one {type(texts).__name__}")
    for position, text in enumerate(texts):
        if not isinstance(text, str) or not (surrogates or text.isascii()):
            check_text(text, name=f"text {position}", surrogates=surrogates)


def check_text(text: str, *, name: str, surrogates: bool = False) -> None:
    """Refuse one text that no tokenizer can read; see `check_texts`."""
    if not isinstance(text, str):
        raise InputError(f"{name} must be str, not {type(text).__name__}")
    if surrogates or text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} holds the lone surrogate {text[error.start]!r} at character {error.start}, "
            "which is no Unicode text; repair it with "
            'text.encode("utf-8", "replace").decode(), or pass clean=True to BGEM3'
        ) from error


def chunks(
    texts: Sequence[str], *, most: int | None = None, characters: int = ENCODED_CHARACTERS
) -> Iterator[slice]:
    """Consecutive stretches of texts that are small enough to encode and hold at once.

    Args:
        texts: Any number of texts.
        most: Most texts of one stretch; None sets no such bound.
        characters: Most characters of one stretch; a longer text comes alone.

    Yields:
        Slices that cover the texts in order.
    """
    start = held = 0
    for i, text in enumerate(texts):
        full = held + len(text) > characters or (most is not None and i - start >= most)
        if full and i > start:
            yield slice(start, i)
            start, held = i, 0
        held += len(text)
    if start < len(texts):
        yield slice(start, len(texts))
