"""Writes to an open index: checked, with room on the disk, in short calls of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.core.filters import Filter
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.stores.edge.folder.disk_space import check_room
from bge_m3_integrations.stores.edge.open_index import OpenIndex
from bge_m3_integrations.stores.edge.points import (
    PayloadBatch,
    point_id,
    record_of,
    spans_of,
    upsert_of,
)
from bge_m3_integrations.stores.edge.shard.checked import CheckedShard
from bge_m3_integrations.stores.validation import check_batch, check_fits, check_same_texts, id_list

_KEPT = ["tokens", "truncated"]
_RECORDS_IN_LOG = 50_000
"""Records whose payloads the engine's log holds before they are flushed."""
_DELETION = 64
"""Bytes of a deletion in the log, at most."""


def upsert(index: OpenIndex, records: Sequence[Record], embeddings: EmbeddingBatch) -> None:
    """Insert or replace records; see `EdgeStore.upsert`."""
    index.folder.check_writable()
    check_batch(records, embeddings)
    with index.reading():
        if not records:
            return
    manifest = index.manifest
    check_fits(embeddings, manifest.kept, manifest.widths)
    batch = _payloads(index, records, embeddings)
    ids, rounded = [record.id for record in records], manifest.colbert != "float32"
    each = batch.size // len(records)
    with index.budget.promised(batch.size, f"{len(records)} records") as take:
        for rows in spans_of(embeddings):
            points = upsert_of(batch.payloads, ids, embeddings, rows, rounded=rounded)
            size = each * len(ids[rows])
            with index.changing() as shard:
                if (now := _payloads(index, records, embeddings, batch)) is not batch:
                    batch = now
                    points = upsert_of(batch.payloads, ids, embeddings, rows, rounded=rounded)
                take(size)
                shard.index_numbers(batch.numbers, named=batch.fields is not None)
                shard.write(points)
                index.ids.added(ids[rows])
                index.written(size, shard)


def rewrite(index: OpenIndex, records: Sequence[Record]) -> None:
    """Replace all of records but their text; see `EdgeStore.rewrite`."""
    index.folder.check_writable()
    batch = _payloads(index, records)
    with index.changing() as shard:
        points = [point_id(record.id) for record in records]
        held = shard.payloads(points, ["hash", *_KEPT])
        check_same_texts(records, [held.get(p, {}).get("hash") for p in points])
        batch = _payloads(index, records, None, batch)
        check_room(index.folder.path, batch.size, f"{len(records)} records")
        for point, payload in zip(points, batch.payloads, strict=True):
            shard.overwrite_payload(point, {**held[point], **payload})
        index.ids.added(record.id for record in records)
        index.written(batch.size, shard)


def delete(index: OpenIndex, ids: Sequence[str] | None, where: Filter | None) -> int:
    """Delete records; see `Store.delete`."""
    if (ids is None) == (where is None):
        raise InputError("delete needs ids or where, exactly one of them")
    with index.changing() as shard:
        chosen = id_list(ids) if ids is not None else index.filters.ids(where, shard)
        known = shard.payloads([point_id(key) for key in set(chosen)], [])
        size = _DELETION * len(known)
        check_room(index.folder.path, size, f"deleting {len(known)} records")
        shard.delete(list(known))
        index.ids.deleted(key for key in chosen if point_id(key) in known)
        index.written(size, shard)
    return len(known)


def set_filter_fields(
    index: OpenIndex, fields: tuple[str, ...] | None, tell: Callable[[str], None]
) -> None:
    """Filter by other metadata paths from now on; see `EdgeStore.set_filter_fields`."""
    with index.changing() as shard:
        old, manifest = index.manifest.fields, replace(index.manifest, filter_fields=fields)
        new = manifest.fields
        if old is not None and (new is None or not new <= old):
            # of both: searches go by the old ones meanwhile
            rewrite_payloads(shard, None if new is None else old | new, tell)
        index.filter_by(manifest, shard)
        shard.outlast_users()  # they go by the old fields: no write may come before they end
    tell("done")


def rewrite_payloads(
    shard: CheckedShard, fields: frozenset[str] | None, tell: Callable[[str], None]
) -> None:
    """Replace the payload of every record; text, metadata and vectors stay.

    Nobody else writes to the shard. Its payloads are then found by `fields`; None is all. It raises
    `StoreError` where the disk has no room; replaced payloads are as good as others.
    """
    total, done, in_log = shard.count(None), 0, 0
    for page in shard.pages(None, ["name", "body", *_KEPT]):
        tell(f"rewriting {done:,} of {total:,} records")
        batch = PayloadBatch.from_records([record_of(held) for _, held in page], None, fields)
        check_room(shard.path, batch.size, "new filter fields")
        shard.index_numbers(batch.numbers, named=fields is not None)
        for (point, held), payload in zip(page, batch.payloads, strict=True):
            shard.overwrite_payload(point, {**payload, **{name: held[name] for name in _KEPT}})
        done, in_log = done + len(page), in_log + len(page)
        if in_log >= _RECORDS_IN_LOG:
            shard.flush()
            in_log = 0
    shard.flush()


def _payloads(
    index: OpenIndex,
    records: Sequence[Record],
    embeddings: EmbeddingBatch | None = None,
    before: PayloadBatch | None = None,
) -> PayloadBatch:
    """Build a batch by the filter fields of now, which the disk has room for.

    Built `before` the write has the lock, it is that one still, unless the fields changed while the
    write waited.
    """
    fields = index.manifest.fields
    if before is not None and before.fields == fields:
        return before
    batch = PayloadBatch.from_records(records, embeddings, fields)
    check_room(index.folder.path, batch.size, f"{len(records)} records")
    return batch
