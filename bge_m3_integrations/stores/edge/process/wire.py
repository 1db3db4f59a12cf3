"""The messages between an index's process and its caller, of Python's own types."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from bge_m3_integrations._internal import channel
from bge_m3_integrations.core.filters import PREDICATE, RECORD_PREDICATE, Predicate, RecordPredicate
from bge_m3_integrations.errors import FilterError


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
    """A text for `progress`."""

    text: str


@dataclass(frozen=True, slots=True)
class Part:
    """Some items of an answer that is a list."""

    items: list[Any]


@dataclass(frozen=True, slots=True)
class Done:
    """The answer; the last message of a call that did not fail."""

    value: Any = None


class _BuiltinPickler(pickle.Pickler):
    """Turns strings of the caller's classes, such as an enum of a script, into Python's own.

    Those classes are unknown in the other process. Records and filters hold no other ones.
    """

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, str):
            return str, (str.__str__(obj),)
        if isinstance(obj, Predicate | RecordPredicate):
            raise FilterError(
                f"a Python function ({PREDICATE} or {RECORD_PREDICATE}) does not go to the process "
                "of the index; search through HybridIndex, which looks at the records here"
            )
        return NotImplemented


def send(connection: Connection, call: Call) -> None:
    """Send a call; see `channel.send`. `FilterError` where it holds a Python function."""
    channel.send(connection, call, pickler=_BuiltinPickler)
