"""Records at rest: kept in forms that Python's garbage collector does not walk.

A full collection visits every container that is alive, and holds the interpreter meanwhile: half a
microsecond each, so eight per record stop a service with 100,000 records for 0.4 s. Bytes are no
containers, and CPython (up to 3.13) does not track a dict of numbers and strings. So a record is
bytes, and what filters look at is a dict whose nested values are bytes.

The bytes are JSON, which gives back what frameworks put into metadata exactly as it was, three
times as fast as `copy.deepcopy`. Where something that JSON would change is among it (tuples, sets,
bytes, dates, keys that are no strings, classes of a user's), a deep copy is kept instead.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, TypeAlias

from bge_m3_integrations.types import Record

Resting: TypeAlias = bytes | Record
"""A record at rest; a record where JSON would change it."""
Flat: TypeAlias = dict[Any, Any]
"""Metadata for filters: a dict, whose nested values are bytes where it has the key `_NESTED`."""

_NESTED: Final = object()
_PLAIN: Final = frozenset({type(None), bool, int, float, str})
_DEEPEST: Final = 50
"""Levels of nesting that are followed."""


def resting(record: Record) -> Resting:
    """A copy of a record that nobody can change."""
    parts = [record.id, record.text, dict(record.metadata), record.content, record.payload]
    packed = _packed(parts) if _is_json(parts) else None
    return _copied(record) if packed is None else packed


def awake(held: Resting) -> Record:
    """A copy of the record that rests, which its receiver may change."""
    if isinstance(held, Record):
        return _copied(held)
    name, text, metadata, content, payload = _unpacked(held)
    return Record(name, text, metadata, content=content, payload=payload)


def flat(metadata: Mapping[str, Any]) -> Flat:
    """A copy of metadata for `seen`."""
    own = dict(metadata)
    if not _is_json(own):
        return copy.deepcopy(own)
    nested = {key: _packed(value) for key, value in own.items() if type(value) not in _PLAIN}
    if None in nested.values():
        return copy.deepcopy(own)
    # item by item: a dict that once held a list stays one that the collector walks
    held: Flat = {key: nested.get(key, value) for key, value in own.items()}
    return held | {_NESTED: True} if nested else held


def seen(held: Flat, *, whole: bool) -> Mapping[str, Any]:
    """The metadata as `filters.matches` takes it; to be read, not changed.

    Args:
        held: Of `flat`.
        whole: Unpack all of it at once, for a function that may ask for all of it.

    Returns:
        A mapping.
    """
    if _NESTED not in held:
        return held
    unpacking = _Unpacking(held)
    return dict(unpacking) if whole else unpacking


class _Unpacking(Mapping[str, Any]):
    """Unpacks a value when it is asked for: a filter asks for one or two."""

    __slots__ = ("_held",)

    def __init__(self, held: Flat) -> None:
        self._held = held

    def __getitem__(self, key: str) -> Any:
        value = self._held[key]
        return _unpacked(value) if type(value) is bytes else value

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._held if key is not _NESTED)

    def __len__(self) -> int:
        return len(self._held) - 1


def _is_json(value: Any, depth: int = 0) -> bool:
    """Whether JSON gives it back with all its types; nothing that holds itself does."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if depth > _DEEPEST:
        return False
    if kind is list:
        return all(_is_json(part, depth + 1) for part in value)
    return kind is dict and all(
        type(key) is str and _is_json(part, depth + 1) for key, part in value.items()
    )


def _packed(value: Any) -> bytes | None:
    """The bytes of what `_is_json`; None where an integer has too many digits to be written."""
    try:
        # not in ASCII: two halves of a character that stand side by side would come back as one
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except ValueError:
        return None


def _unpacked(held: bytes) -> Any:
    return json.loads(held.decode("utf-8", "surrogatepass"))


def _copied(record: Record) -> Record:
    return replace(
        record,
        metadata=copy.deepcopy(dict(record.metadata)),
        payload=copy.deepcopy(record.payload),
    )
