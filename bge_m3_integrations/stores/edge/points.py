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
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from qdrant_edge import Point, SparseVector, UpdateOperation

from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    Mode,
    Modes,
    SparseRows,
    TokenVectors,
    offsets_of,
    ordered_modes,
)
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.stores.edge.terms import filter_payload

Payload: TypeAlias = Mapping[str, Any]

_TOKENS_AT_ONCE = 1024
"""Most token vectors of one write: the engine holds Python's lock meanwhile, up to 80 ms."""
_RECORDS_AT_ONCE = 256


def point_id(record_id: str) -> UUID:
    """Return the engine's id of a record: half a sha256, so that no table of ids is needed."""
    return UUID(bytes=hashlib.sha256(record_id.encode("utf-8", "surrogatepass")).digest()[:16])


def checked(record: Record) -> Record:
    """Check a record again, since its metadata may have been changed; see `Record`."""
    return replace(record)


def payload_of(record: Record, fields: frozenset[str] | None) -> dict[str, Any]:
    """Build the payload of a record, without `tokens` and `truncated`; `InputError` as `Record`.

    `fields` are the metadata paths to filter by in the engine; None takes all.
    """
    record = checked(record)
    found = filter_payload(record.metadata, fields)
    return {
        "name": json.dumps(record.id),
        "body": json.dumps([record.text, record.metadata, record.content, record.payload]),
        "hash": record.text_hash,
        "terms": list(found.terms),
        **found.numbers,
    }


@dataclass(frozen=True, slots=True)
class PayloadBatch:
    """Payloads for the current filter fields, which may change before the write.

    Attributes:
        fields: The metadata paths that they can be found by; None is all.
        payloads: Of `payload_of`, one per record.
        numbers: The keys that are filtered by as numbers.
        size: An upper estimate of the bytes that the batch takes on disk: in the log, in the
            store, in the indexes.
    """

    fields: frozenset[str] | None
    payloads: Sequence[dict[str, Any]]
    numbers: set[str]
    size: int

    @classmethod
    def from_records(
        cls,
        records: Sequence[Record],
        embeddings: EmbeddingBatch | None,
        fields: frozenset[str] | None,
    ) -> Self:
        """Build the payloads of records, and count what is written with them; see `payload_of`."""
        payloads = [payload_of(record, fields) for record in records]
        numbers = {name for payload in payloads for name in payload if name.startswith("n_")}
        texts = sum(len(str(payload)) for payload in payloads)
        return cls(fields, payloads, numbers, 4 * texts + _bytes_of(embeddings))


def _bytes_of(embeddings: EmbeddingBatch | None) -> int:
    if embeddings is None:
        return 0
    dense, sparse, colbert = embeddings.dense, embeddings.sparse, embeddings.colbert
    numbers = 0 if dense is None else dense.size
    numbers += 0 if sparse is None else 4 * len(sparse.token_ids)
    numbers += 0 if colbert is None else colbert.vectors.size
    return 9 * numbers


def name_of(payload: Payload) -> str:
    """Read the id in a payload."""
    name: str = json.loads(payload["name"])
    return name


def record_of(payload: Payload) -> Record:
    """Read the record in a payload."""
    text, metadata, content, own = json.loads(payload["body"])
    return Record.from_stored((name_of(payload), text, metadata, content, own))


def metadata_of(payload: Payload) -> Mapping[str, Any]:
    """Read the metadata in a payload."""
    metadata: Mapping[str, Any] = json.loads(payload["body"])[1]
    return metadata


def spans_of(embeddings: EmbeddingBatch) -> Iterator[slice]:
    """Divide rows into short writes.

    At most `_RECORDS_AT_ONCE` rows with `_TOKENS_AT_ONCE` token vectors; a longer text alone.
    """
    lengths = [0] * len(embeddings)
    if embeddings.colbert is not None:
        lengths = np.diff(embeddings.colbert.offsets).tolist()
    start = held = 0
    for i, more in enumerate(lengths):
        if i > start and (held + more > _TOKENS_AT_ONCE or i - start == _RECORDS_AT_ONCE):
            yield slice(start, i)
            start, held = i, 0
        held += more
    if start < len(lengths):
        yield slice(start, len(lengths))


def upsert_of(
    payloads: Sequence[dict[str, Any]],
    names: Sequence[str],
    embeddings: EmbeddingBatch,
    rows: slice,
    *,
    rounded: bool,
) -> UpdateOperation:
    """Make the write of some rows (see `spans_of`): an operation that holds copies of all.

    Each record has a payload, of `payload_of`, and its id as name. `rounded` says whether token
    vectors need no more digits than float16 has; see `_rounded`.
    """
    vectors = [vectors_of(embeddings, i, rounded=rounded) for i in range(rows.start, rows.stop)]
    points = []
    for i, held in zip(range(rows.start, rows.stop), vectors, strict=True):
        tokens, truncated = int(embeddings.tokens[i]), int(embeddings.truncated[i])
        payload = {**payloads[i], "tokens": tokens, "truncated": truncated}
        points.append(Point(point_id(names[i]), dict(held), payload))
    # Points and vectors are let go only when the operation lies behind them in memory: so their
    # room stays with the process, and the engine's next copies, made under Python's lock, find
    # pages that are there. That is a fifth of the time for a long text.
    return UpdateOperation.upsert_points(points)


def vectors_of(embeddings: EmbeddingBatch, i: int, *, rounded: bool = False) -> dict[str, Any]:
    """One row in the forms that the engine reads fastest; no lexical weights are left out."""
    vectors: dict[str, Any] = {}
    if embeddings.dense is not None:
        vectors["dense"] = embeddings.dense[i].tolist()
    if embeddings.sparse is not None:
        ids, weights = embeddings.sparse.row(i)
        if len(ids):
            vectors["sparse"] = SparseVector(ids.tolist(), weights.tolist())
    if embeddings.colbert is not None:
        vectors["colbert"] = _rows(embeddings.colbert, i, rounded=rounded)
    return vectors


def embeddings_of(
    points: Sequence[Any], modes: Modes, widths: Mapping[Mode, int]
) -> EmbeddingBatch:
    """Pack points that were read back with payload and vectors, one row each."""
    if not points:
        return EmbeddingBatch.empty(
            modes, dim=widths.get("dense", 0), colbert_dim=widths.get("colbert", 0)
        )
    wanted = ordered_modes(modes)
    held = {mode: [point.vector.get(mode) for point in points] for mode in wanted}
    tokens, truncated = (
        np.array([point.payload[name] for point in points], np.int64)
        for name in ("tokens", "truncated")
    )
    return EmbeddingBatch(
        np.array(held["dense"], np.float32) if "dense" in held else None,
        SparseRows.from_dicts(list(map(_weights, held["sparse"]))) if "sparse" in held else None,
        _token_vectors(held["colbert"]) if "colbert" in held else None,
        tokens,
        truncated,
    )


def _rows(vectors: TokenVectors, i: int, *, rounded: bool) -> list[array[float]]:
    # a third of the time that the engine takes over a numpy array
    rows = np.ascontiguousarray(vectors.row(i), np.float32)
    if rounded and vectors.vectors.dtype != np.float16:
        rows = _rounded(rows)
    return [array("f", row.tobytes()) for row in rows]


def _rounded(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The numbers with the digits of float16, unless one is too large for it.

    The engine's log writes such a number in 3 bytes instead of 5: less disk, and less time with
    Python's lock held. Of a kind with at most 16 bits that adds less than its own error.
    """
    with np.errstate(over="ignore"):
        halves = rows.astype(np.float16)
    return halves.astype(np.float32) if np.isfinite(halves).all() else rows


def _weights(held: SparseVector | None) -> dict[int, float]:
    return {} if held is None else dict(zip(held.indices, held.values, strict=True))


def _token_vectors(held: Sequence[Any]) -> TokenVectors:
    rows = [np.array(vectors, np.float32) for vectors in held]
    return TokenVectors(np.concatenate(rows), offsets_of([len(row) for row in rows]))
