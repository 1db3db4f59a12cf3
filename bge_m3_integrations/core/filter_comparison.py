"""The tests of a filter on one held value; `filters` has the tables of their meaning."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Final, TypeAlias

HeldTest: TypeAlias = Callable[[object], bool]


class _Missing(Enum):
    """The value of a key that is not there: no null."""

    MISSING = 0


def lookup(path: str, metadata: Mapping[str, Any]) -> Any:
    """The value under a path, or a marker that equals nothing where there is none."""
    if path in metadata:
        return metadata[path]
    held: Any = metadata
    for key in path.split("."):
        if not isinstance(held, Mapping) or key not in held:
            return _Missing.MISSING
        held = held[key]
    return held


def every_path(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every path that may lead to a value; `lookup` tells which do, and to what."""
    for key, value in metadata.items():
        if isinstance(key, str):
            yield prefix + key
            if isinstance(value, Mapping):
                yield from every_path(value, f"{prefix}{key}.")


def equal(left: object, right: object) -> bool:
    """Equality of two metadata values, as the module's second table has it."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if _number(left) and _number(right):
        return left == right
    if isinstance(left, str) and isinstance(right, str):
        return left == right
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return left is None and right is None


def tester(op: str, value: Any) -> HeldTest:
    """A function of a held value, for many: what can be worked out once is.

    Args:
        op: One of `COMPARISONS`.
        value: As a `Compare` keeps it.

    Returns:
        Whether the test holds; of a missing key too, as `lookup` gives it.
    """
    return _TESTERS[op](value)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equals(value: object) -> HeldTest:
    return lambda held: equal(held, value)


def _ordered(test: Callable[[Any, Any], bool]) -> Callable[[Any], HeldTest]:
    def run(value: object) -> HeldTest:
        if isinstance(value, str):
            return lambda held: isinstance(held, str) and test(held, value)
        if _number(value):
            return lambda held: _number(held) and test(held, value)
        return lambda held: False

    return run


def _one_of(values: Iterable[object]) -> HeldTest:
    """Looked up by a key, for lists of any length."""
    keys = frozenset(map(_key, values))
    return lambda held: _key(held) in keys


def _contains(value: object) -> HeldTest:
    def run(held: object) -> bool:
        if isinstance(held, str):
            return isinstance(value, str) and value in held
        return isinstance(held, list | tuple) and any(equal(item, value) for item in held)

    return run


def _exists(wanted: object) -> HeldTest:
    return lambda held: (held is not _Missing.MISSING) is wanted


def _unless(make: Callable[[Any], HeldTest]) -> Callable[[Any], HeldTest]:
    def run(value: object) -> HeldTest:
        test = make(value)
        return lambda held: not test(held)

    return run


def _key(value: object) -> object:
    """A key that two values share exactly when `equal`; no value of a filter has that of others."""
    if isinstance(value, bool):
        return bool, value
    if isinstance(value, list | tuple):
        return list, *map(_key, value)
    if value is None or isinstance(value, str | int | float):
        return value
    return _Missing.MISSING


_TESTERS: Final[Mapping[str, Callable[[Any], HeldTest]]] = {
    "$eq": _equals,
    "$ne": _unless(_equals),
    "$gt": _ordered(operator.gt),
    "$gte": _ordered(operator.ge),
    "$lt": _ordered(operator.lt),
    "$lte": _ordered(operator.le),
    "$in": _one_of,
    "$nin": _unless(_one_of),
    "$exists": _exists,
    "$contains": _contains,
}
