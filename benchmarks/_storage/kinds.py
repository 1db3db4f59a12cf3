"""The ways of keeping token vectors, and what each makes of a document's vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bge_m3_integrations.core.embeddings import TokenVectors
from bge_m3_integrations.core.pooling import pooled
from bge_m3_integrations.stores.edge.shard.schema import COLBERT_TYPES

REFERENCE, REENCODE, SIGNS = "float32", "reencode", "sign bits"


@dataclass(frozen=True, slots=True)
class Kind:
    """A way of keeping token vectors.

    Attributes:
        colbert: A type that the engine keeps, "reencode", or "sign bits" (no store keeps these
            yet).
        pooling: How many token vectors share one that is kept.
    """

    colbert: str
    pooling: int = 1

    @property
    def name(self) -> str:
        """As the table has it."""
        return self.colbert if self.pooling == 1 else f"pooling {self.pooling}, {self.colbert}"

    @property
    def in_engine(self) -> bool:
        """Whether a store keeps it, and scores it, today."""
        return self.colbert in COLBERT_TYPES

    @property
    def is_choice(self) -> bool:
        """Whether it may become the default: kept, and all vectors of it."""
        return self.in_engine and self.pooling == 1


KINDS = (
    Kind(REFERENCE),
    Kind("float16"),
    Kind("turbo8"),
    *(Kind(REFERENCE, factor) for factor in (2, 3, 4)),
    *(Kind("turbo8", factor) for factor in (2, 3, 4)),
    Kind(REENCODE),
    Kind(SIGNS),
    Kind(SIGNS, 3),
)


def merged(documents: TokenVectors, factor: int) -> TokenVectors:
    """Documents as an index with that pooling gives them to its store."""
    return documents if factor == 1 else pooled(documents, factor)


def signs(vectors: TokenVectors) -> TokenVectors:
    """The sign bits of vectors as unit vectors, `sign(d) / sqrt(dim)`, with sign(0) = 1.

    So MaxSim over them is what the bits would give: mean over query vectors of the max over
    document vectors of `<q, sign(d)> / sqrt(dim)`.
    """
    held = vectors.vectors
    size = np.float32(1 / np.sqrt(held.shape[1]))
    return TokenVectors(np.where(held >= 0, size, -size), vectors.offsets)


def sign_bytes(kept: TokenVectors) -> int:
    """Bytes of the sign bits, each vector's filled up to whole bytes."""
    rows, width = kept.vectors.shape
    return int(rows * ((width + 7) // 8))
