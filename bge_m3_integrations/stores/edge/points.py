"""Records and embeddings as the engine's points, and back.

A point's payload holds `name` (the id), `body` (the record), `hash` (of the encoded text), `tokens`
and `truncated` (of the embedding), `terms` (for filters) and one key per number to filter by. Id
and record are JSON *text*: the engine would change or refuse some of their values as its own.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
from qdrant_edge import Point, SparseVector

from bge_m3_integrations.errors import InputError
from bge_m3_integrations.stores.edge.terms import filter_payload
from bge_m3_integrations.types import (
    EmbeddingBatch,
    Mode,
    Modes,
    Record,
    SparseRows,
    TokenVectors,
    offsets_of,
    ordered_modes,
)

Payload: TypeAlias = Mapping[str, Any]

_TOKENS_AT_ONCE = 1024
"""Most token vectors of one write: the engine holds Python's lock meanwhile, up to 80 ms."""
_RECORDS_AT_ONCE = 256
_DEEPEST = 100
"""Levels of metadata and payload: reading them must not meet Python's recursion limit."""


def point_id(record_id: str) -> UUID:
    """The engine's id of a record: half a sha256, so that no table of ids is needed."""
    return UUID(bytes=hashlib.sha256(record_id.encode("utf-8", "surrogatepass")).digest()[:16])


def payload_of(record: Record, fields: frozenset[str] | None) -> dict[str, Any]:
    """What a record's point holds beside its vectors.

    Args:
        record: The record.
        fields: The metadata paths to filter by in the engine; None takes all.

    Returns:
        The payload, without `tokens` and `truncated`.

    Raises:
        InputError: Metadata, content or payload hold what JSON does not give back as it was; the
            message names it.
    """
    for name in ("metadata", "content", "payload"):
        _check_json(getattr(record, name), f"record {record.id!r}: {name}")
    body = [record.text, dict(record.metadata), record.content, record.payload]
    found = filter_payload(record.metadata, fields)
    return {
        "name": json.dumps(record.id),
        "body": _json(body, record.id),
        "hash": record.text_hash,
        "terms": list(found.terms),
        **found.numbers,
    }


def numbers_of(payload: Payload) -> set[str]:
    """The keys of a payload that are filtered by as numbers."""
    return {name for name in payload if name.startswith("n_")}


def text_bytes(payloads: Sequence[Payload]) -> int:
    """An upper estimate of what payloads take on disk: in the log, in the store, in the indexes."""
    return sum(4 * len(str(payload)) for payload in payloads)


def name_of(payload: Payload) -> str:
    """The id in a payload."""
    name: str = json.loads(payload["name"])
    return name


def record_of(payload: Payload) -> Record:
    """The record in a payload."""
    text, metadata, content, own = json.loads(payload["body"])
    return Record(name_of(payload), text, metadata, content=content, payload=own)


def metadata_of(payload: Payload) -> Mapping[str, Any]:
    """The metadata in a payload."""
    metadata: Mapping[str, Any] = json.loads(payload["body"])[1]
    return metadata


def batches_of(
    payloads: Sequence[dict[str, Any]], names: Sequence[str], embeddings: EmbeddingBatch
) -> Iterator[tuple[slice, list[Point]]]:
    """Points in batches that are short to write.

    Args:
        payloads: Of `payload_of`, one per row.
        names: The records' ids.
        embeddings: Checked.

    Yields:
        Rows, and their points: at most `_RECORDS_AT_ONCE` with `_TOKENS_AT_ONCE` token vectors; a
        longer text comes alone.
    """
    batch: list[Point] = []
    held = 0
    lengths = None if embeddings.colbert is None else np.diff(embeddings.colbert.offsets)
    for i, (payload, name) in enumerate(zip(payloads, names, strict=True)):
        more = 0 if lengths is None else int(lengths[i])
        if batch and (held + more > _TOKENS_AT_ONCE or len(batch) == _RECORDS_AT_ONCE):
            yield slice(i - len(batch), i), batch
            batch, held = [], 0
        counts = {
            "tokens": int(embeddings.tokens[i]),
            "truncated": int(embeddings.truncated[i]),
        }
        batch.append(Point(point_id(name), vectors_of(embeddings, i), {**payload, **counts}))
        held += more
    if batch:
        yield slice(len(names) - len(batch), len(names)), batch


def vectors_of(embeddings: EmbeddingBatch, i: int) -> dict[str, Any]:
    """One row in the forms that the engine reads fastest; no lexical weights are left out."""
    vectors: dict[str, Any] = {}
    if embeddings.dense is not None:
        vectors["dense"] = embeddings.dense[i].tolist()
    if embeddings.sparse is not None and (weights := _sparse(embeddings.sparse, i)) is not None:
        vectors["sparse"] = weights
    if embeddings.colbert is not None:
        vectors["colbert"] = _rows(embeddings.colbert, i)
    return vectors


def embeddings_of(
    points: Sequence[Any], modes: Modes, widths: Mapping[Mode, int]
) -> EmbeddingBatch:
    """Points read back with their vectors.

    Args:
        points: The engine's records, with payload and vectors.
        modes: What to take.
        widths: Of dense and token vectors.

    Returns:
        One row per point.
    """
    if not points:
        return EmbeddingBatch.empty(
            modes, dim=widths.get("dense", 0), colbert_dim=widths.get("colbert", 0)
        )
    found: dict[Mode, Any] = {"dense": None, "sparse": None, "colbert": None}
    for mode in ordered_modes(modes):
        found[mode] = _PACKED[mode]([point.vector.get(mode) for point in points])
    counts = [
        np.array([point.payload[name] for point in points], np.int64)
        for name in ("tokens", "truncated")
    ]
    return EmbeddingBatch(found["dense"], found["sparse"], found["colbert"], *counts)


def _sparse(rows: SparseRows, i: int) -> SparseVector | None:
    ids, weights = rows.row(i)
    return SparseVector(ids.tolist(), weights.tolist()) if len(ids) else None


def _rows(vectors: TokenVectors, i: int) -> list[array[float]]:
    # a third of the time that the engine takes over a numpy array
    rows = np.ascontiguousarray(vectors.row(i), np.float32)
    return [array("f", row.tobytes()) for row in rows]


def _packed_dense(vectors: Sequence[Any]) -> Any:
    return np.array(vectors, np.float32)


def _packed_sparse(vectors: Sequence[Any]) -> SparseRows:
    held = [{} if v is None else dict(zip(v.indices, v.values, strict=True)) for v in vectors]
    return SparseRows.of(held)


def _packed_colbert(vectors: Sequence[Any]) -> TokenVectors:
    rows = [np.array(v, np.float32) for v in vectors]
    return TokenVectors(np.concatenate(rows), offsets_of([len(row) for row in rows]))


_PACKED: Mapping[Mode, Any] = {
    "dense": _packed_dense,
    "sparse": _packed_sparse,
    "colbert": _packed_colbert,
}


def _json(value: Any, record_id: str) -> str:
    try:
        return json.dumps(value, default=dict)  # a mapping that is no dict
    except (ValueError, RecursionError) as error:
        raise InputError(f"record {record_id!r} cannot be kept as JSON: {error}") from error


def _check_json(value: Any, place: str, depth: int = 0) -> None:
    """Refuse what JSON would change or drop; a tuple becomes a list, which filters take alike."""
    if depth > _DEEPEST:
        raise InputError(
            f"{place[:100]}... goes more than {_DEEPEST} levels deep, or holds itself; flatten it"
        )
    if isinstance(value, Mapping):
        for key, held in value.items():
            if not isinstance(key, str):
                raise InputError(f"{place} has the key {key!r}; keys must be strings")
            _check_json(held, f"{place}[{key!r}]", depth + 1)
    elif isinstance(value, list | tuple):
        for i, held in enumerate(value):
            _check_json(held, f"{place}[{i}]", depth + 1)
    elif not isinstance(value, str | int | float | None):
        raise InputError(
            f"{place} is {value!r} of type {type(value).__name__}, which JSON does not keep; "
            "store a string, a number, a boolean, None, a list or a dict"
        )
