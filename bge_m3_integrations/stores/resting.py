"""Records at rest: kept in forms that Python's garbage collector does not walk.

A full collection visits every container that is alive, and holds the interpreter meanwhile: half a
microsecond each, so eight per record stop a service with 100,000 records for 0.4 s. Bytes are no
containers, and CPython (up to 3.13) does not track a dict of numbers and strings. So a record is
bytes, and what filters look at is a dict whose nested values are bytes.

The bytes are pickles, which give back plain data exactly as it was, three times as fast as
`copy.deepcopy`. Only built-in types and dates are pickled: no class of a user's is called.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone
from typing import Any, Final, TypeAlias

from bge_m3_integrations.types import Record

Resting: TypeAlias = bytes | Record
"""A record at rest; a record where other things than plain data are in it."""
Flat: TypeAlias = dict[Any, Any]
"""Metadata for filters: a dict, whose nested values are bytes where it has the key `_NESTED`."""

_NESTED: Final = object()
_PACKED = (list, dict, tuple, set, frozenset, bytes)
"""Containers, and bytes: in a `Flat`, bytes are always a pickle."""
_DATES = (date, datetime, time, timedelta, timezone)


def resting(record: Record) -> Resting:
    """A copy of a record that nobody can change."""
    # by itself, or what it shares with the metadata would come back shared
    payload = _packed(record.payload)
    if payload is None:
        return _copied(record)
    packed = _packed((record.id, record.text, dict(record.metadata), record.content, payload))
    return _copied(record) if packed is None else packed


def awake(held: Resting) -> Record:
    """A copy of the record that rests, which its receiver may change."""
    if isinstance(held, Record):
        return _copied(held)
    name, text, metadata, content, payload = pickle.loads(held)
    return Record(name, text, metadata, content=content, payload=pickle.loads(payload))


def flat(metadata: Mapping[str, Any]) -> Flat:
    """A copy of metadata for `seen`."""
    held: Flat = {}
    for key, value in metadata.items():
        packed = _packed(value) if type(value) in _PACKED else None
        held[key] = copy.deepcopy(value) if packed is None else packed
        if packed is not None:
            held[_NESTED] = True
    return held


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
    if not whole:
        return _Unpacking(held)
    return {key: _unpacked(value) for key, value in held.items() if key is not _NESTED}


class _Unpacking(Mapping[str, Any]):
    """Unpacks a value when it is asked for: a filter asks for one or two."""

    __slots__ = ("_held",)

    def __init__(self, held: Flat) -> None:
        self._held = held

    def __getitem__(self, key: str) -> Any:
        value = self._held[key]
        return pickle.loads(value) if type(value) is bytes else value

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._held if key is not _NESTED)

    def __len__(self) -> int:
        return len(self._held) - 1


def _unpacked(value: Any) -> Any:
    return pickle.loads(value) if type(value) is bytes else value


class _Plain(pickle.Pickler):
    """Refuses all but built-in types and dates; subclasses too, whose class may change."""

    def reducer_override(self, held: Any) -> Any:
        """Called for everything that is not of a built-in type, and for the classes of dates."""
        if type(held) in _DATES or any(held is cls for cls in _DATES):
            return NotImplemented  # the usual way
        raise pickle.PicklingError(f"{type(held).__name__} is not plain data")


def _packed(value: Any) -> bytes | None:
    """The bytes of plain data; None where something else is among it."""
    written = io.BytesIO()
    try:
        _Plain(written, pickle.HIGHEST_PROTOCOL).dump(value)
    except (pickle.PicklingError, RecursionError):
        return None
    return written.getvalue()


def _copied(record: Record) -> Record:
    return Record(
        record.id,
        record.text,
        copy.deepcopy(dict(record.metadata)),
        content=record.content,
        payload=copy.deepcopy(record.payload),
    )
