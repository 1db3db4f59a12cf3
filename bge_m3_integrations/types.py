"""The frozen values that pass between encoder, store, index and adapter."""

from __future__ import annotations

from bge_m3_integrations._embeddings import (
    ALL_MODES,
    MODES,
    Embedding,
    EmbeddingBatch,
    FloatArray,
    IntArray,
    Kind,
    Mode,
    Modes,
    SparseRows,
    TokenBatch,
    TokenVectors,
    as_modes,
    offsets_of,
    ordered_modes,
)
from bge_m3_integrations._records import (
    Candidate,
    Hit,
    Hits,
    Record,
    relevance,
    text_hash,
)
from bge_m3_integrations._scores import (
    PRESETS,
    Components,
    Ranked,
    Scores,
    Weights,
    WeightsLike,
)

__all__ = [
    "ALL_MODES",
    "MODES",
    "PRESETS",
    "Candidate",
    "Components",
    "Embedding",
    "EmbeddingBatch",
    "FloatArray",
    "Hit",
    "Hits",
    "IntArray",
    "Kind",
    "Mode",
    "Modes",
    "Ranked",
    "Record",
    "Scores",
    "SparseRows",
    "TokenBatch",
    "TokenVectors",
    "Weights",
    "WeightsLike",
    "as_modes",
    "offsets_of",
    "ordered_modes",
    "relevance",
    "text_hash",
]
