"""A store in memory, exact, in plain numpy: the oracle for every other store."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeAlias

import numpy as np

from bge_m3_integrations.core.display import called
from bge_m3_integrations.core.embeddings import ALL_MODES, EmbeddingBatch, Mode, Modes, as_modes
from bge_m3_integrations.core.filters import OPERATORS, Filter
from bge_m3_integrations.core.records import Candidate, Record
from bge_m3_integrations.core.scores import Components
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.stores.base import Capabilities, Page
from bge_m3_integrations.stores.display import parts_of
from bge_m3_integrations.stores.memory.frozen import (
    PackedMetadata,
    PackedRecord,
    pack_metadata,
    pack_record,
    unpack_record,
)
from bge_m3_integrations.stores.memory.snapshot import Ordered, Snapshot
from bge_m3_integrations.stores.validation import (
    check_after,
    check_batch,
    check_fits,
    check_holds,
    check_same_texts,
    checked_queries,
    id_list,
    widths_of,
)

_SLACK_ROWS = 1024
"""Replaced and deleted rows that may lie around before they are packed away."""

_AtRest: TypeAlias = tuple[str, PackedRecord, PackedMetadata]


class MemoryStore:
    """A store in memory that compares with every document; nothing survives the process.

    Thread-safe: a search works on a snapshot, so it sees all of a write or nothing of it.

    Args:
        modes: The modes to keep; None takes those of the first batch.
    """

    def __init__(self, *, modes: Modes | None = None) -> None:
        self._modes = None if modes is None else as_modes(modes)
        self._widths: dict[Mode, int] = {}
        self._records: dict[str, PackedRecord] = {}
        self._metadata: dict[str, PackedMetadata] = {}
        self._rows: dict[str, int] = {}
        self._blocks: list[EmbeddingBatch] = []
        self._block_rows = 0
        self._ordered: Ordered | None = None
        self._snapshot: Snapshot | None = None
        self._closed = False
        self._lock = threading.RLock()

    @property
    def capabilities(self) -> Capabilities:
        """Everything, in the modes it keeps; before the first batch these may be all."""
        modes = ALL_MODES if self._modes is None else self._modes
        return Capabilities(modes, modes, modes, OPERATORS, durable=False)

    def upsert(self, records: Sequence[Record], embeddings: EmbeddingBatch) -> None:
        """See `Store.upsert`; nothing is changed unless all of the batch is sound.

        Args:
            records: Records of distinct ids; their contents are copied.
            embeddings: One row per record, in the modes and widths that the store keeps; copied.

        Raises:
            InputError: The batch contradicts itself, holds numbers that are not finite, or values
                that JSON would change.
            StoreError: The batch has other modes or widths than the store; the store is closed.
        """
        check_batch(records, embeddings)
        held = _at_rest(records)
        block = embeddings.take(np.arange(len(records)))
        with self._lock:
            self._check_open()
            if records:
                check_fits(embeddings, self._modes or embeddings.modes, self._widths)
                self._keep(held, block)

    def rewrite(self, records: Sequence[Record]) -> None:
        """See `Store.rewrite`; nothing is changed unless all of the records are known."""
        held = _at_rest(records)
        with self._lock:
            check_same_texts(records, self.text_hashes([record.id for record in records]))
            self._take(held)
            self._changed()

    def text_hashes(self, ids: Sequence[str]) -> list[str | None]:
        """See `Store.text_hashes`."""
        with self._lock:
            self._check_open()
            held = [self._records.get(record_id) for record_id in id_list(ids)]
        return [None if record is None else unpack_record(record).text_hash for record in held]

    def delete(self, *, ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """See `Store.delete`."""
        if (ids is None) == (where is None):
            raise InputError("delete needs ids or where, exactly one of them")
        with self._lock:
            if where is not None:
                ids = list(self.ids(where))
            self._check_open()
            gone = set(id_list([] if ids is None else ids)) & self._records.keys()
            for record_id in gone:
                del self._records[record_id], self._metadata[record_id], self._rows[record_id]
            self._changed()
        return len(gone)

    def get(self, ids: Sequence[str]) -> list[Record | None]:
        """See `Store.get`; the records are copies."""
        with self._lock:
            self._check_open()
            held = [self._records.get(record_id) for record_id in id_list(ids)]
        return [None if record is None else unpack_record(record) for record in held]

    def scroll(
        self, where: Filter | None = None, *, after: str | None = None, limit: int = 1000
    ) -> Page:
        """See `Store.scroll`; the records are copies."""
        check_int("limit", limit)
        check_after(after)
        held = self._in_order()
        limit = min(limit, len(held.ids))
        start = 0 if after is None else bisect_right(held.ids, after)
        found = list(islice(held.passing(where, start), limit + 1))
        page = [unpack_record(held.records[row]) for row in found[:limit]]
        return Page(page, page[-1].id if len(found) > limit else None)

    def ids(self, where: Filter | None = None) -> Iterator[str]:
        """See `Store.ids`; of the moment of the call."""
        held = self._in_order()
        return (held.ids[row] for row in held.passing(where))

    def find(
        self, queries: EmbeddingBatch, mode: Mode, *, limit: int, where: Filter | None = None
    ) -> list[list[Candidate]]:
        """See `Store.find`."""
        check_int("limit", limit)
        snapshot = self._read()
        checked = self._check_queries(queries, [mode])
        return snapshot.find(checked, mode, limit=limit, where=where)

    def score(
        self, queries: EmbeddingBatch, ids: Sequence[Sequence[str]], modes: Modes
    ) -> list[Components]:
        """See `Store.score`."""
        if len(ids) != len(queries):
            raise InputError(f"{len(ids)} lists of ids for {len(queries)} queries")
        snapshot = self._read()
        queries = self._check_queries(queries, modes)
        return [snapshot.score(queries.take([i]), id_list(wanted)) for i, wanted in enumerate(ids)]

    def vectors(self, ids: Sequence[str], modes: Modes) -> EmbeddingBatch:
        """See `Store.vectors`; a copy."""
        snapshot = self._read()
        check_holds(as_modes(modes), self._modes or ALL_MODES)
        ids = id_list(ids)
        if unknown := [record_id for record_id in ids if record_id not in snapshot.rows]:
            raise StoreError(f"no vectors for unknown ids {unknown[:5]}; ask get() which are there")
        rows = [snapshot.rows[record_id] for record_id in ids]
        if self._modes is None:
            return EmbeddingBatch.empty(modes, dim=0, colbert_dim=0)
        return snapshot.embeddings.only(modes).take(rows)

    def count(self, where: Filter | None = None) -> int:
        """See `Store.count`."""
        return sum(1 for _ in self._in_order().passing(where))

    def count_now(self) -> int | None:
        """See `stores.display.CountsNow`."""
        return None if self._closed else len(self._records)

    def __repr__(self) -> str:
        return called(self, lambda: parts_of(self, closed=self._closed))

    def flush(self) -> None:
        """See `Store.flush`: there is nothing to write."""
        with self._lock:
            self._check_open()

    def optimize(
        self, *, isolated: bool = False, progress: Callable[[str], None] | None = None
    ) -> None:
        """See `Store.optimize`: packs what the next search would pack, here and in no time."""
        del isolated, progress
        self._read()

    def close(self) -> None:
        """See `Store.close`; closing twice is fine."""
        with self._lock:
            self._closed = True
            self._records, self._metadata, self._rows, self._blocks = {}, {}, {}, []
            self._changed()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("this MemoryStore is closed; what it held is gone: make a new one")

    def _check_queries(self, queries: EmbeddingBatch, modes: Modes) -> EmbeddingBatch:
        return checked_queries(queries, modes, self._modes or ALL_MODES, self._widths)

    def _keep(self, records: Sequence[_AtRest], block: EmbeddingBatch) -> None:
        """Take over a checked batch. Called under the lock."""
        self._modes = block.modes
        self._widths.update(widths_of(block))
        self._blocks.append(block)
        self._take(records)
        self._rows.update((held[0], self._block_rows + row) for row, held in enumerate(records))
        self._block_rows += len(block)
        self._changed()

    def _take(self, records: Sequence[_AtRest]) -> None:
        for record_id, record, metadata in records:
            self._records[record_id], self._metadata[record_id] = record, metadata

    def _changed(self) -> None:
        """Forget what was derived; pack when most rows are dead. Called under the lock."""
        self._ordered = self._snapshot = None
        if self._block_rows > 2 * len(self._rows) + _SLACK_ROWS:
            self._pack()

    def _in_order(self) -> Ordered:
        """All records in ascending order of id; never changed afterwards."""
        with self._lock:
            self._check_open()
            if self._ordered is None:
                ids = tuple(sorted(self._records))
                records = tuple(self._records[key] for key in ids)
                self._ordered = Ordered(ids, records, [self._metadata[key] for key in ids])
            return self._ordered

    def _read(self) -> Snapshot:
        """The present snapshot, made on the first read after a write."""
        with self._lock:
            self._check_open()
            if self._snapshot is None:
                packed = self._pack()
                self._snapshot = Snapshot(self._in_order(), dict(self._rows), packed)
            return self._snapshot

    def _pack(self) -> EmbeddingBatch:
        """One block in ascending order of id takes the place of all. Called under the lock."""
        keys = sorted(self._rows)
        if keys:
            rows = [self._rows[key] for key in keys]
            packed = EmbeddingBatch.concat(self._blocks)
            if rows != list(range(len(packed))):
                packed = packed.take(rows)
        else:
            widths = {mode: self._widths.get(mode, 0) for mode in ALL_MODES}
            packed = EmbeddingBatch.empty(
                self._modes or ALL_MODES, dim=widths["dense"], colbert_dim=widths["colbert"]
            )
        self._blocks, self._block_rows = ([packed] if keys else []), len(keys)
        self._rows = {key: row for row, key in enumerate(keys)}
        return packed


def _at_rest(records: Sequence[Record]) -> list[_AtRest]:
    # checked again: their metadata may have been changed since they were made
    checked = map(replace, records)
    return [(record.id, pack_record(record), pack_metadata(record.metadata)) for record in checked]
