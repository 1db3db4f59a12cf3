"""Dense, sparse and ColBERT retrieval with BGE-M3 over one engine; names load when first used."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from bge_m3_integrations._internal.lazy import lazy_names
from bge_m3_integrations._version import __version__ as __version__

if TYPE_CHECKING:
    from bge_m3_integrations.core.calibration import Calibration
    from bge_m3_integrations.core.embeddings import EmbeddingBatch
    from bge_m3_integrations.core.filters import And, Compare, Not, Or
    from bge_m3_integrations.core.fusion import ReciprocalRank, ScaledSum, WeightedSum
    from bge_m3_integrations.core.profile_file import read_profiles, save_profile
    from bge_m3_integrations.core.records import Hit, Record
    from bge_m3_integrations.core.router import QueryRouter
    from bge_m3_integrations.core.scores import PRESETS, Ranked, Scores, Weights
    from bge_m3_integrations.core.thresholds import BANDS, Band, Percentile, Probability, band
    from bge_m3_integrations.core.weighting import MeasuredOn, WeightProfile
    from bge_m3_integrations.engine.cache import CacheWarning, EmbeddingCache
    from bge_m3_integrations.engine.cleaning import clean_text
    from bge_m3_integrations.engine.engine import BGEM3
    from bge_m3_integrations.errors import (
        BGEM3Error,
        CalibrationWarning,
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
    from bge_m3_integrations.index.index import HybridIndex
    from bge_m3_integrations.index.rerank import RerankDocument
    from bge_m3_integrations.stores.memory.store import MemoryStore

_HOMES = {
    "core.calibration": ["Calibration"],
    "core.embeddings": ["EmbeddingBatch"],
    "core.filters": ["And", "Compare", "Not", "Or"],
    "core.fusion": ["ReciprocalRank", "ScaledSum", "WeightedSum"],
    "core.records": ["Hit", "Record"],
    "core.profile_file": ["read_profiles", "save_profile"],
    "core.router": ["QueryRouter"],
    "core.scores": ["PRESETS", "Ranked", "Scores", "Weights"],
    "core.thresholds": ["BANDS", "Band", "Percentile", "Probability", "band"],
    "core.weighting": ["MeasuredOn", "WeightProfile"],
    "engine.cache": ["CacheWarning", "EmbeddingCache"],
    "engine.cleaning": ["clean_text"],
    "engine.engine": ["BGEM3"],
    "errors": [
        "BGEM3Error",
        "CalibrationWarning",
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
    "index.index": ["HybridIndex"],
    "index.rerank": ["RerankDocument"],
    "stores.memory.store": ["MemoryStore"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BANDS",
    "BGEM3",
    "PRESETS",
    "And",
    "BGEM3Error",
    "Band",
    "CacheWarning",
    "Calibration",
    "CalibrationWarning",
    "CheckpointError",
    "Compare",
    "EmbeddingBatch",
    "EmbeddingCache",
    "EncodingError",
    "FilterError",
    "FilterWarning",
    "Hit",
    "HybridIndex",
    "InputError",
    "KeywordError",
    "MeasuredOn",
    "MemoryStore",
    "MissingExtraError",
    "Not",
    "Or",
    "Percentile",
    "PoolingWarning",
    "Probability",
    "QueryRouter",
    "Ranked",
    "ReciprocalRank",
    "Record",
    "RerankDocument",
    "ScaledSum",
    "Scores",
    "StoreError",
    "TruncationWarning",
    "WeightProfile",
    "WeightedSum",
    "Weights",
    "WorkerError",
    "band",
    "clean_text",
    "read_profiles",
    "save_profile",
]


logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent until a program listens

if not TYPE_CHECKING:  # a checker would take every misspelt name for one of ours
    __getattr__, __dir__ = lazy_names(__name__, _HOME_OF)
