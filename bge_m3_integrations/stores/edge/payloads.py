"""Records as payloads by the filter fields of one moment: others may hold when they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.stores.edge.points import numbers_of, payload_of, text_bytes


@dataclass(frozen=True, slots=True)
class Filed:
    """The payloads of a batch.

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
    def of(
        cls,
        records: Sequence[Record],
        embeddings: EmbeddingBatch | None,
        fields: frozenset[str] | None,
    ) -> Self:
        """File records.

        Args:
            records: Any.
            embeddings: What is written with them.
            fields: See `Filed`.

        Returns:
            Their payloads.

        Raises:
            InputError: See `payload_of`.
        """
        payloads = [payload_of(record, fields) for record in records]
        numbers = set().union(*map(numbers_of, payloads))
        return cls(fields, payloads, numbers, text_bytes(payloads) + _bytes_of(embeddings))


def _bytes_of(embeddings: EmbeddingBatch | None) -> int:
    if embeddings is None:
        return 0
    numbers = 0
    if embeddings.dense is not None:
        numbers += embeddings.dense.size
    if embeddings.colbert is not None:
        numbers += embeddings.colbert.vectors.size
    if embeddings.sparse is not None:
        numbers += 4 * len(embeddings.sparse.token_ids)
    return 9 * numbers
