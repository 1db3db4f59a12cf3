"""Texts and dicts as records: whoever gives no id gets one that is made of what is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from bge_m3_integrations.core.metadata import plain
from bge_m3_integrations.core.records import Record, text_hash
from bge_m3_integrations.errors import InputError

RecordLike: TypeAlias = Record | str | Mapping[str, Any]
"""A record; a text; or a dict of a record's fields, of which only "text" is needed."""

_FIELDS = tuple(field.name for field in fields(Record))


@dataclass(frozen=True, slots=True)
class Numbered:
    """A record, and whether its id was made here."""

    record: Record
    id_was_made: bool


def as_records(given: Iterable[RecordLike]) -> Iterator[Numbered]:
    """Read what `HybridIndex.add` and `ingest` take.

    Args:
        given: Records, texts and dicts, mixed as they come.

    Yields:
        One record for each, in order.

    Raises:
        InputError: Something is none of these, or one of them was given alone, without a list.
    """
    if isinstance(given, str | bytes | Mapping | Record) or not isinstance(given, Iterable):
        raise InputError(
            f"records must be a list of records, texts or dicts, not one {type(given).__name__}; "
            "write add([...])"
        )
    if getattr(given, "ndim", 1) == 0:
        raise InputError(f"records must be a list, not the one value {given!r}; write add([...])")
    if hasattr(given, "columns"):  # to go through a table of pandas gives the names of its columns
        raise InputError(
            f"records must be a list, not a {type(given).__name__}; write "
            'add(table.to_dict("records")), with a column "text" and nothing but '
            f"{list(_FIELDS)}"
        )
    for i, item in enumerate(given):
        yield _read(item, i)


def made_id(
    text: str,
    metadata: Mapping[str, Any] | None = None,
    *,
    content: str | None = None,
    payload: Mapping[str, Any] | None = None,
) -> str:
    """Make an id of a record's content, so that adding it again replaces it.

    Args:
        text: The text; alone it gives `text_hash(text)`.
        metadata: Part of the id where it is not empty: equal texts of two sources stay two records.
        content: Part of the id where it is not None.
        payload: Part of the id where it is not None.

    Returns:
        64 hexadecimal digits.
    """
    rest = {"metadata": metadata or None, "content": content, "payload": payload}
    if all(value is None for value in rest.values()):
        return text_hash(text)
    packed = json.dumps([text, plain(rest, "record")], sort_keys=True)
    return hashlib.sha256(packed.encode()).hexdigest()


def _read(item: Any, i: int) -> Numbered:
    if isinstance(item, Record):
        return Numbered(item, False)
    if isinstance(item, str):
        return Numbered(Record(made_id(item), item), True)
    if isinstance(item, Mapping):
        return _of_dict(item, i)
    if hasattr(item, "page_content") or hasattr(item, "get_content"):
        raise InputError(
            f"record {i} is a {type(item).__name__} of a framework; add it to BGEM3VectorStore of "
            "bge_m3_integrations.langchain or .llama_index"
        )
    raise InputError(
        f"record {i} must be a Record, a text or a dict, not {type(item).__name__}; a dict is "
        '{"text": ..., "metadata": {...}}'
    )


def _of_dict(item: Mapping[str, Any], i: int) -> Numbered:
    name = f"record {i}"
    if unknown := [key for key in item if key not in _FIELDS]:
        raise InputError(
            f"{name} has unknown keys {unknown!r:.200}; a dict has {list(_FIELDS)}, and what "
            'filters are to see belongs under "metadata"'
        )
    if not isinstance(item.get("text"), str):
        held = type(item["text"]).__name__ if "text" in item else "missing"
        raise InputError(f'{name}: "text" must be str, not {held}')
    rest = {key: item[key] for key in ("content", "payload") if key in item}
    metadata = {} if item.get("metadata") is None else item["metadata"]
    if item.get("id") is not None:
        return Numbered(Record(item["id"], item["text"], metadata, **rest), False)
    checked = Record(f"number {i}", item["text"], metadata, **rest)  # before anything is made of it
    made = made_id(checked.text, checked.metadata, **rest)
    return Numbered(Record(made, item["text"], metadata, **rest), True)
