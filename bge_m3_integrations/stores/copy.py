"""A store's records and numbers in another store; nothing is encoded."""

from __future__ import annotations

from collections.abc import Sequence

from bge_m3_integrations.core.embeddings import EmbeddingBatch, Modes
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.base import Store

_COPIED_AT_ONCE = 64


def copy_records(source: Store, target: Store, modes: Modes) -> None:
    """Copy all records with their numbers in these modes, and flush the target, which is empty.

    The source may be written to meanwhile.
    """
    after = None
    while True:
        page = source.scroll(after=after, limit=_COPIED_AT_ONCE)
        found = _with_numbers(source, page.records, modes)
        if found is not None:
            target.upsert(*found)
        if page.after is None:
            break
        after = page.after
    target.flush()


def _with_numbers(
    source: Store, records: Sequence[Record], modes: Modes
) -> tuple[Sequence[Record], EmbeddingBatch] | None:
    """Records and the numbers of their own texts, whatever is written meanwhile.

    None where all of them were deleted.
    """
    while records:
        ids = [record.id for record in records]
        try:
            numbers = source.vectors(ids, modes)
        except StoreError:
            if None not in source.text_hashes(ids):
                raise
        else:
            if source.text_hashes(ids) == [record.text_hash for record in records]:
                return records, numbers
        records = [record for record in source.get(ids) if record is not None]
    return None
