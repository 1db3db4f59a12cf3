"""Checks of the values and the depth of filters: each error names the path and the fix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bge_m3_integrations.core.metadata import MOST_LEVELS, brief, scalar
from bge_m3_integrations.errors import FilterError, InputError


def checked_value(path: str, op: str, value: object) -> object:
    """Check the value of a test; return it in its kept form."""
    if op in {"$in", "$nin"} and not isinstance(value, list | tuple):
        fix = (
            "" if isinstance(value, str) or not isinstance(value, Iterable) else "; write list(...)"
        )
        raise FilterError(f"{path!r}: {op} takes a list of values, not {brief(value)}{fix}")
    if op == "$exists" and type(value).__name__ not in {"bool", "bool_"}:  # numpy's is one
        raise FilterError(f"{path!r}: $exists takes true or false, not {brief(value)}")
    return _frozen(path, op, value)


def _frozen(path: str, op: str, value: object, level: int = 1) -> object:
    if isinstance(value, list | tuple):
        if level > MOST_LEVELS:
            raise _too_deep(f"the value of {op} under {path!r}")
        return tuple(_frozen(path, op, item, level + 1) for item in value)
    if isinstance(value, Mapping):
        raise FilterError(
            f"{path!r}: {op} takes null, booleans, numbers, strings and lists of these, not the "
            f"dict {brief(value)}; a nested key is written '{path}.key'"
        )
    try:
        plain = scalar(value, "{!r}: the value of {}".format, path, op)
    except InputError as error:
        raise FilterError(str(error)) from error
    if isinstance(plain, float) and not math.isfinite(plain):
        raise FilterError(f"{path!r}: {op} takes finite numbers, not {value!r}")
    return plain


def check_levels(root: Any, inside: Callable[[Any], Iterable[Any]]) -> None:
    """Refuse a nested filter that is too deep to be read, or holds itself, before it is read.

    Args:
        root: The filter in a form of a user's.
        inside: The parts of one of its parts.

    Raises:
        FilterError: It goes more than twice `MOST_LEVELS` deep, as each level of the dict form is
            a dict and a list; `And`, `Or` and `Not` count exactly.
    """
    waiting = [(root, 0)]
    while waiting:
        value, level = waiting.pop()
        if level > 2 * MOST_LEVELS + 1:
            raise _too_deep("a filter")
        waiting += [(part, level + 1) for part in inside(value)]


def levels_over(parts: Sequence[object]) -> int:
    """Count the filters that lie in one another, the one over these parts included."""
    levels = 1 + max((getattr(part, "levels", 0) for part in parts), default=0)
    if levels > MOST_LEVELS:
        raise _too_deep("a filter")
    return levels


def _too_deep(name: str) -> FilterError:
    return FilterError(
        f"{name} goes more than {MOST_LEVELS} levels deep, or holds itself; $and and $or take any "
        "number of parts side by side"
    )
