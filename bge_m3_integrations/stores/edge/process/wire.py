"""The messages between an index's process and its caller, of Python's own types.

A class of the caller's, such as an enum of a script, is unknown there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bge_m3_integrations.core.filters import (
    PREDICATE,
    RECORD_PREDICATE,
    And,
    Compare,
    Filter,
    Ids,
    Not,
    Or,
)
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import FilterError
from bge_m3_integrations.stores.edge.points import body_of, record_of
from bge_m3_integrations.stores.validation import id_list


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the store.

    Attributes:
        name: The method, or a property.
        arguments: By position.
        options: By name.
        told: Whether the method takes `progress`; its texts are sent, and a caller that is gone
            ends it.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    told: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """The text for `progress` of now."""

    text: str


@dataclass(frozen=True, slots=True)
class Part:
    """Some items of an answer that is a list."""

    items: list[Any]


@dataclass(frozen=True, slots=True)
class Done:
    """The answer; the last message of a call that did not fail."""

    value: Any = None


def to_builtin_records(records: Sequence[Record]) -> list[Record]:
    """Records of nothing but JSON's own types, as the store gives them back.

    Args:
        records: To be written.

    Returns:
        Equal ones.

    Raises:
        InputError: A value that JSON would change.
    """
    return [
        record_of({"name": json.dumps(record.id), "body": body_of(record)}) for record in records
    ]


def to_builtin_ids(ids: Sequence[str]) -> list[str]:
    """A list of exact strings; one string in place of a list raises `InputError`."""
    return to_builtin_texts(id_list(ids))


def to_builtin_texts(texts: Iterable[str]) -> list[str]:
    """A list of exact strings."""
    return [_to_builtin(text) for text in texts]


def to_builtin_filter(where: Filter | None) -> Filter | None:
    """The same filter of plain values.

    Args:
        where: A filter.

    Returns:
        One that means the same.

    Raises:
        FilterError: It holds a Python function.
    """
    match where:
        case None:
            return None
        case And(parts):
            return And(_filters(parts))
        case Or(parts):
            return Or(_filters(parts))
        case Not(part):
            return Not(_filters([part])[0])
        case Compare(path, op, value):
            return Compare(_to_builtin(path), _to_builtin(op), _to_builtin(value))
        case Ids(ids):
            return Ids(to_builtin_texts(ids))
        case _:
            raise FilterError(
                f"a Python function ({PREDICATE} or {RECORD_PREDICATE}) does not go to the process "
                "of the index; search through HybridIndex, which looks at the records here"
            )


def _filters(parts: Iterable[Filter]) -> list[Filter]:
    return [made for part in parts if (made := to_builtin_filter(part)) is not None]


def _to_builtin(value: Any) -> Any:
    match value:
        case str():
            return str.__str__(value)
        case bool() | None:
            return value
        case int():
            return int(value)
        case float():
            return float(value)
        case list() | tuple():
            return [_to_builtin(part) for part in value]
        case _:
            return value
