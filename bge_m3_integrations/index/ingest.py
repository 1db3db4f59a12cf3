"""Adding records to a store: encoded in stretches that fit in memory, committed in steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from bge_m3_integrations.core.embeddings import EmbeddingBatch, Modes
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.core.validation import check_int, check_text, chunks
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.engine.truncation import Cuts
from bge_m3_integrations.errors import EncodingError, InputError
from bge_m3_integrations.index.record_inputs import Numbered, RecordLike, as_records
from bge_m3_integrations.stores.base import ChecksRecords, Store

COMMIT_EVERY = 4096
"""Records between two flushes; a power cut costs at most the work since the last one."""

Tell = Callable[[int, int | None], None]
Check = Callable[[Sequence[Record], EmbeddingBatch], None]


@dataclass(frozen=True, slots=True)
class Ingested:
    """The result of an ingestion, in records.

    Attributes:
        encoded: New, or of another text than before.
        rewritten: Of the text that was kept, with other metadata, content or payload: their
            numbers were taken over.
        unchanged: Kept already, as they are.
    """

    encoded: int = 0
    rewritten: int = 0
    unchanged: int = 0

    @property
    def records(self) -> int:
        """All of them."""
        return self.encoded + self.rewritten + self.unchanged

    def __add__(self, other: Ingested) -> Ingested:
        return Ingested(
            self.encoded + other.encoded,
            self.rewritten + other.rewritten,
            self.unchanged + other.unchanged,
        )


@dataclass(frozen=True, slots=True)
class Writer:
    """Encodes records for one store.

    Attributes:
        engine: Encodes.
        store: Keeps.
        modes: What documents are encoded by.
        pooling: How many token vectors share one that is kept.
        check: Is shown each batch with its embeddings before it is written, and may raise.
        cuts: Entered by the caller; is told which records were longer than the limit.
    """

    engine: BGEM3
    store: Store
    modes: Modes
    pooling: int = 1
    check: Check | None = None
    cuts: Cuts = field(default_factory=Cuts)

    def add(self, records: Iterable[RecordLike], *, batch_size: int, tell: Tell) -> list[str]:
        """Encode all records and keep them; see `HybridIndex.add`."""
        numbered = list(as_records(records))
        taken = self._distinct(_without_copies(numbered))
        since = 0
        for piece in self._pieces(taken, batch_size):
            batch = taken[piece]
            embeddings = self._encoded(batch)
            if self.check is not None:
                self.check(batch, embeddings)
            self.store.upsert(batch, embeddings)
            since = self._committed(since + len(batch))
            tell(piece.stop, len(taken))
        self.store.flush()
        return [held.record.id for held in numbered]

    def ingest(self, records: Iterable[RecordLike], *, batch_size: int, tell: Tell) -> Ingested:
        """Bring a stream of records up to date; see `HybridIndex.ingest`."""
        stream = (held.record for held in as_records(records))
        done, read, since = Ingested(), 0, 0
        total = len(records) if isinstance(records, Sequence) else None
        size = check_int("batch_size", batch_size)
        while batch := list(islice(stream, size)):
            done += self._update(self._distinct(_latest(batch)), size)
            read += len(batch)
            since = self._committed(since + len(batch))
            tell(read, total)
        self.store.flush()
        return done

    def _update(self, batch: Sequence[Record], size: int) -> Ingested:
        hashes = self.store.text_hashes([record.id for record in batch])
        known = [r for r, held in zip(batch, hashes, strict=True) if r.text_hash == held]
        fresh = [r for r, held in zip(batch, hashes, strict=True) if r.text_hash != held]
        present = self.store.get([record.id for record in known])
        changed = [r for r, held in zip(known, present, strict=True) if r != held]
        if changed:
            self.store.rewrite(changed)
        for piece in self._pieces(fresh, size):
            self.store.upsert(fresh[piece], self._encoded(fresh[piece]))
        return Ingested(len(fresh), len(changed), len(known) - len(changed))

    def _committed(self, since: int) -> int:
        """Flush if there are enough new records; return the number still not flushed."""
        if since < COMMIT_EVERY:
            return since
        self.store.flush()
        return 0

    def _pieces(self, records: Sequence[Record], batch_size: int) -> Iterator[slice]:
        return chunks([record.text for record in records], most=check_int("batch_size", batch_size))

    def _encoded(self, records: Sequence[Record]) -> EmbeddingBatch:
        try:
            batch = self.engine.encode_documents([r.text for r in records], modes=self.modes)
        except EncodingError as error:
            name = f"record {records[error.position].id!r}"
            raise EncodingError(error.reason, error.position, name) from error
        self.cuts.note_ids([record.id for record in records], batch)
        if self.pooling == 1 or batch.colbert is None:
            return batch
        from bge_m3_integrations.core.pooling import pooled

        return replace(batch, colbert=pooled(batch.colbert, self.pooling))

    def _distinct(self, taken: list[Record]) -> list[Record]:
        surrogates = bool(self.engine.options["clean"])
        seen: set[str] = set()
        for record in taken:
            if record.id in seen:
                raise InputError(f"id {record.id!r} comes twice in one add; keep one record of it")
            check_text(record.text, name=f"the text of record {record.id!r}", surrogates=surrogates)
            seen.add(record.id)
        checked = list(map(replace, taken))  # their metadata may have been changed since
        if isinstance(self.store, ChecksRecords):
            self.store.check_records(checked)
        return checked


def _without_copies(numbered: Sequence[Numbered]) -> list[Record]:
    """The records, those whose id was made of their content once each."""
    made: set[str] = set()
    kept: list[Record] = []
    for held in numbered:
        if not held.id_was_made or held.record.id not in made:
            kept.append(held.record)
        if held.id_was_made:
            made.add(held.record.id)
    return kept


def _latest(records: Sequence[Record]) -> list[Record]:
    """The last record of each id."""
    return list({record.id: record for record in records}.values())
