"""Metadata filters: a frozen tree with one meaning, in every store and both frameworks.

`parse` reads the dict form; `{"lang": "en", "year": {"$gte": 2020}}` means both. Values are null,
booleans, numbers, strings and lists of these. What each test says about the value that a record
holds under the path:

| test                          | true when                                                       |
|-------------------------------|-----------------------------------------------------------------|
| `$eq: v`, or a bare `v`       | the held value equals `v`                                       |
| `$ne: v`                      | not `$eq`, so also when the key is missing                      |
| `$gt $gte $lt $lte: v`        | both are numbers, or both are strings, and stand in that order  |
| `$in: [v, ...]`               | the held value equals one of them                               |
| `$nin: [v, ...]`              | not `$in`, so also when the key is missing                      |
| `$exists: true` / `false`     | the key is there (also with null) / is missing                  |
| `$contains: v`                | a held list has an item equal to `v`, or `v` is inside a string |
| `$and`, `$or`: [condition...] | all, any; of an empty list: true, false                         |
| `$not: condition`             | the condition is false; under a key: its test is false          |

| held value     | equality                                                                       |
|----------------|--------------------------------------------------------------------------------|
| boolean        | only the same boolean: true is not 1                                           |
| int, float     | by value: 5 is 5.0; NaN equals nothing                                         |
| string         | the same code points, and ordered by code point                                |
| null           | only null; a missing key is not null                                           |
| list           | a list of the same length with equal items; never a scalar (use `$contains`)   |
| anything else  | nothing                                                                        |

A path is first an exact key ("a.b"), else one key per part through nested mappings (a, then b),
never into lists. A test that does not fit the held value is false; matching never raises.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from bge_m3_integrations._internal.lazy import public_names
from bge_m3_integrations.core.filter_checks import check_levels, checked_value, levels_over
from bge_m3_integrations.core.filter_comparison import lookup, tester
from bge_m3_integrations.core.filter_operators import COMPARISONS, LOGICAL, unknown_operator
from bge_m3_integrations.core.metadata import brief
from bge_m3_integrations.errors import FilterError

PREDICATE: Final = "$predicate"
"""The name under which `operators` reports a Python function; it has no dict form."""
RECORD_PREDICATE: Final = "$record_predicate"
"""The same for a function over whole records; no store runs it, the index does."""
OPERATORS: Final = COMPARISONS | LOGICAL | {PREDICATE}


@dataclass(frozen=True, slots=True)
class And:
    """A filter that is true if all its parts are; without parts it is true."""

    parts: Sequence[Filter]
    levels: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", _checked_parts("And", self.parts))
        object.__setattr__(self, "levels", levels_over(self.parts))


@dataclass(frozen=True, slots=True)
class Or:
    """A filter that is true if one of its parts is; without parts it is false."""

    parts: Sequence[Filter]
    levels: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", _checked_parts("Or", self.parts))
        object.__setattr__(self, "levels", levels_over(self.parts))


@dataclass(frozen=True, slots=True)
class Not:
    """A filter that is true if its part is false."""

    part: Filter
    levels: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", levels_over(_checked_parts("Not", [self.part])))


@dataclass(frozen=True, slots=True)
class Compare:
    """One test of one metadata value.

    Attributes:
        path: An exact key, or keys of nested mappings joined by dots.
        op: One of `COMPARISONS`.
        value: The value to test the held one against; lists are kept as tuples.
    """

    path: str
    op: str
    value: Any

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise FilterError(f"a filter's key must be a non-empty string, not {brief(self.path)}")
        if not isinstance(self.op, str) or self.op not in COMPARISONS:
            raise unknown_operator(self.op, COMPARISONS, f"under {self.path!r}")
        object.__setattr__(self, "value", checked_value(self.path, self.op, self.value))


@dataclass(frozen=True, slots=True)
class Predicate:
    """A Python function over the metadata, for what the operators cannot say."""

    fn: Callable[[Mapping[str, Any]], bool]

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise FilterError(f"Predicate needs a function over metadata, not {brief(self.fn)}")


@dataclass(frozen=True, slots=True)
class RecordPredicate:
    """A Python function over the whole record: text, content and id too.

    The index asks it about every record that the rest of the filter leaves, before the search.
    """

    fn: Callable[[Any], bool]

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise FilterError(
                f"RecordPredicate needs a function over a record, not {brief(self.fn)}"
            )


@dataclass(frozen=True, slots=True)
class Ids:
    """A filter for the records of these ids; every store supports it."""

    ids: Collection[str]

    def __post_init__(self) -> None:
        if isinstance(self.ids, str) or not isinstance(self.ids, Iterable):
            raise FilterError(f"Ids needs a collection of ids, not {brief(self.ids)}")
        ids = list(self.ids)
        if wrong := [one for one in ids if not isinstance(one, str)]:
            raise FilterError(f"ids are strings, not {brief(wrong[0])}; write str(id)")
        object.__setattr__(self, "ids", frozenset(ids))


Filter: TypeAlias = And | Or | Not | Compare | Predicate | RecordPredicate | Ids
Matcher: TypeAlias = Callable[[Mapping[str, Any], str | None, object | None], bool]
FilterLike: TypeAlias = Filter | Mapping[str, Any] | Callable[[Mapping[str, Any]], bool]


def as_filter(value: FilterLike | None) -> Filter | None:
    """Read a filter in any of the forms that users write.

    Args:
        value: A filter tree, a condition in dict form, a function over metadata, or None.

    Returns:
        The filter, or None for None.

    Raises:
        FilterError: The condition is malformed, or the value is none of these.
    """
    if value is None or isinstance(value, Filter):
        return value
    if isinstance(value, Mapping):
        return parse(value)
    if callable(value):
        return Predicate(value)
    raise no_filter(value)


def no_filter(value: object) -> FilterError:
    """The error for a value that is no filter in any form."""
    fix = "; json.loads() makes a dict of JSON" if isinstance(value, str) else ""
    return FilterError(f"a filter is a dict, a function or a filter tree, not {brief(value)}{fix}")


def parse(condition: Mapping[str, Any]) -> Filter:
    """Read a condition in dict form; the module's docstring is the reference.

    Args:
        condition: Keys with values or operators; `{}` matches everything.

    Returns:
        The filter tree.

    Raises:
        FilterError: An unknown operator, or a malformed value.
    """
    if isinstance(condition, Mapping) and not condition:
        return And(())
    check_levels(condition, _inside)
    return _condition(condition, "a filter")


def matches(
    where: Filter,
    metadata: Mapping[str, Any],
    *,
    record_id: str | None = None,
    record: object | None = None,
) -> bool:
    """Check whether a record passes a filter; every store agrees with this function.

    Args:
        where: The filter.
        metadata: The record's metadata.
        record_id: The record's id; only `Ids` looks at it.
        record: The record itself; only `RecordPredicate` looks at it.

    Returns:
        True or False; only a user's own function can raise.
    """
    return matcher(where)(metadata, record_id, record)


def matcher(where: Filter) -> Matcher:
    """`matches` by one filter, for many records: half the time for each.

    Args:
        where: The filter.

    Returns:
        A function of a record's metadata, its id and the record itself, each as in `matches`.
    """
    match where:
        case And(parts) | Or(parts):
            tests = [matcher(part) for part in parts]
            joined = all if isinstance(where, And) else any
            return lambda metadata, key, record: joined(
                test(metadata, key, record) for test in tests
            )
        case Not(part):
            test = matcher(part)
            return lambda metadata, key, record: not test(metadata, key, record)
        case Predicate(fn):
            return lambda metadata, key, record: bool(fn(MappingProxyType(dict(metadata))))
        case RecordPredicate(fn):
            return lambda metadata, key, record: bool(fn(record))
        case Ids(ids):
            return lambda metadata, key, record: key in ids
        case Compare(path, op, value):
            holds = tester(op, value)
            return lambda metadata, key, record: holds(lookup(path, metadata))


def operators(where: Filter) -> frozenset[str]:
    """Every operator in a filter, to hold against `Capabilities.operators`."""
    match where:
        case And(parts) | Or(parts):
            name = "$and" if isinstance(where, And) else "$or"
            return frozenset({name}).union(*map(operators, parts))
        case Not(part):
            return operators(part) | {"$not"}
        case Compare(_, op, _):
            return frozenset({op})
        case Predicate():
            return frozenset({PREDICATE})
        case RecordPredicate():
            return frozenset({RECORD_PREDICATE})
        case Ids():
            return frozenset()


def _condition(condition: object, place: str) -> Filter:
    """One dict of keys and logical operators, all of which must hold."""
    if not isinstance(condition, Mapping) or not condition:
        raise FilterError(f"{place} must be a non-empty dict of conditions, not {brief(condition)}")
    return _all([_entry(key, value) for key, value in condition.items()])


def _entry(key: object, value: object) -> Filter:
    if key == "$and":
        return And(_branches("$and", value))
    if key == "$or":
        return Or(_branches("$or", value))
    if key == "$not":
        return Not(_condition(value, "$not"))
    if isinstance(key, str) and key.startswith("$"):
        hint = "; write {key: {operator: value}}" if key in COMPARISONS else ""
        raise unknown_operator(key, LOGICAL, f"in place of a key{hint}")
    if _is_group(value):
        raise unknown_operator(key, LOGICAL, "over a list of conditions")
    return _under(key, value)


def _is_group(value: object) -> bool:
    """Whether a list holds conditions, which no value does."""
    return isinstance(value, list | tuple) and any(isinstance(part, Mapping) for part in value)


def _branches(op: str, value: object) -> list[Filter]:
    if not isinstance(value, list | tuple):
        raise FilterError(f"{op} takes a list of conditions, not {brief(value)}")
    return [_condition(part, f"each part of {op}") for part in value]


def _under(key: Any, value: object) -> Filter:
    """Parse the condition under one key: a bare value, or a dict of operators."""
    if not isinstance(value, Mapping):
        return Compare(key, "$eq", value)
    if not value:
        raise FilterError(f"{key!r} has an empty dict; name an operator, as in {{'$eq': value}}")
    return _all([_test(key, op, operand) for op, operand in value.items()])


def _test(key: Any, op: Any, operand: object) -> Filter:
    if op == "$not":
        return Not(_under(key, operand))
    if op not in COMPARISONS:
        nested = "" if str(op).startswith("$") else f"; a nested key is written '{key}.{op}'"
        raise unknown_operator(op, COMPARISONS | {"$not"}, f"under {key!r}{nested}")
    return Compare(key, op, operand)


def _all(parts: list[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else And(parts)


def _checked_parts(name: str, given: Iterable[Filter]) -> tuple[Filter, ...]:
    if isinstance(given, Filter) or not isinstance(given, Iterable):
        raise FilterError(
            f"{name} takes a list of filters, not {brief(given)}; write {name}([...])"
        )
    parts = tuple(given)  # a generator is read once
    if wrong := [part for part in parts if not isinstance(part, Filter)]:
        raise FilterError(f"{name} is made of filters, not {brief(wrong[0])}; parse() reads dicts")
    return parts


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


__all__ = [
    "And",
    "Compare",
    "Filter",
    "FilterLike",
    "Ids",
    "Not",
    "Or",
    "Predicate",
    "RecordPredicate",
    "as_filter",
    "matches",
    "parse",
]
__dir__ = public_names(__name__)
