"""Dense, sparse and ColBERT retrieval with BGE-M3 over one engine; names load when first used."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from bge_m3_integrations._lazy import lazy_names

if TYPE_CHECKING:
    from bge_m3_integrations.caching import CacheWarning, EmbeddingCache
    from bge_m3_integrations.cleaning import clean_text
    from bge_m3_integrations.engine import BGEM3
    from bge_m3_integrations.errors import (
        BGEM3Error,
        CheckpointError,
        EncodingError,
        FilterError,
        FilterWarning,
        InputError,
        KeywordError,
        MissingExtraError,
        PoolingWarning,
        StoreError,
        TruncationWarning,
        WorkerError,
    )
    from bge_m3_integrations.fusion import ReciprocalRank, ScaledSum, WeightedSum
    from bge_m3_integrations.index import HybridIndex
    from bge_m3_integrations.reranking import Given
    from bge_m3_integrations.stores.memory import MemoryStore
    from bge_m3_integrations.types import (
        PRESETS,
        EmbeddingBatch,
        Hit,
        Ranked,
        Record,
        Scores,
        Weights,
    )

__version__ = "0.1.0"

_HOMES = {
    "caching": ["CacheWarning", "EmbeddingCache"],
    "cleaning": ["clean_text"],
    "engine": ["BGEM3"],
    "errors": [
        "BGEM3Error",
        "CheckpointError",
        "EncodingError",
        "FilterError",
        "FilterWarning",
        "InputError",
        "KeywordError",
        "MissingExtraError",
        "PoolingWarning",
        "StoreError",
        "TruncationWarning",
        "WorkerError",
    ],
    "fusion": ["ReciprocalRank", "ScaledSum", "WeightedSum"],
    "index": ["HybridIndex"],
    "reranking": ["Given"],
    "stores.memory": ["MemoryStore"],
    "types": ["PRESETS", "EmbeddingBatch", "Hit", "Ranked", "Record", "Scores", "Weights"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BGEM3",
    "PRESETS",
    "BGEM3Error",
    "CacheWarning",
    "CheckpointError",
    "EmbeddingBatch",
    "EmbeddingCache",
    "EncodingError",
    "FilterError",
    "FilterWarning",
    "Given",
    "Hit",
    "HybridIndex",
    "InputError",
    "KeywordError",
    "MemoryStore",
    "MissingExtraError",
    "PoolingWarning",
    "Ranked",
    "ReciprocalRank",
    "Record",
    "ScaledSum",
    "Scores",
    "StoreError",
    "TruncationWarning",
    "WeightedSum",
    "Weights",
    "WorkerError",
    "clean_text",
]


logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent until a program listens

if not TYPE_CHECKING:  # a checker would take every misspelt name for one of ours
    __getattr__, __dir__ = lazy_names(__name__, _HOME_OF)
