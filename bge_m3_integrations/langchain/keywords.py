"""The keywords that constructors and calls take, for type checkers and for what refuses others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypedDict

from bge_m3_integrations._internal.progress import ProgressLike
from bge_m3_integrations.core.embeddings import MODES, Mode, Modes
from bge_m3_integrations.core.scores import WeightsLike
from bge_m3_integrations.encoders.placement import TorchDevice, TorchDtype
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.langchain.options import DocumentFilter, FusionLike
from bge_m3_integrations.stores.base import Store

SearchType: TypeAlias = Literal["similarity", "similarity_score_threshold", "mmr", "hybrid"] | Mode
SEARCH_TYPES: Final[tuple[SearchType, ...]] = (
    "similarity",
    "similarity_score_threshold",
    "mmr",
    "hybrid",
    *MODES,
)


class RetrieverOptions(TypedDict, total=False):
    """The fields of `BGEM3Retriever` besides the index."""

    k: int
    weights: WeightsLike | None
    filter: DocumentFilter | None
    score_threshold: float | None
    candidates: Mapping[Mode, int] | None
    fusion: FusionLike | None
    include_scores: bool
    name: str | None
    tags: list[str] | None
    metadata: dict[str, Any] | None


class EmbeddingsOptions(TypedDict, total=False):
    """The fields of `BGEM3Embeddings` besides the engine; see there."""

    model: str | Path
    model_name: str | Path
    device: str | TorchDevice
    dtype: str | TorchDtype
    max_length: int | None
    query_instruction: str | None
    document_instruction: str | None
    revision: str | None
    cache_dir: str | Path | None
    offline: bool


class RerankerOptions(TypedDict, total=False):
    """The fields of `BGEM3Reranker` besides engine and index; see there."""

    top_n: int | None
    weights: WeightsLike | None
    score_threshold: float | None
    include_scores: bool
    name: str | None


class StoreOptions(TypedDict, total=False):
    """Arguments of `BGEM3VectorStore` besides the embedding; see there."""

    engine: BGEM3 | None
    index: HybridIndex | None
    path: str | Path | None
    store: Store | None
    modes: Modes | None
    colbert: str | None
    pooling: int | None
    filter_fields: Sequence[str] | None
    allow_dtype_mismatch: bool
    isolated: bool
    create: bool | None
    read_only: bool
    weights: WeightsLike | None
    candidates: Mapping[Mode, int] | None
    fusion: FusionLike | None


class AddOptions(TypedDict, total=False):
    """Arguments for adding to a vector store, besides documents and ids."""

    batch_size: int
    progress: ProgressLike
    current_time: object


class VectorKeywords(TypedDict, total=False):
    """Arguments of a search by a dense vector; None is the store's own value."""

    filter: DocumentFilter | None
    score_threshold: float | None
    include_scores: bool


class SearchKeywords(VectorKeywords, total=False):
    """Arguments of every search by text; None is the store's own value."""

    weights: WeightsLike | None
    candidates: Mapping[Mode, int] | None
    fusion: FusionLike | None


class AnySearch(SearchKeywords, total=False):
    """Arguments of all searches of a vector store together: `search_kwargs`."""

    k: int
    fetch_k: int
    lambda_mult: float


class StoreRetrieverOptions(TypedDict, total=False):
    """Arguments of `BGEM3VectorStore.as_retriever`."""

    search_type: SearchType
    search_kwargs: AnySearch
    include_scores: bool
    name: str | None
    tags: list[str] | None
    metadata: dict[str, Any] | None


class CallOptions(TypedDict, total=False):
    """Arguments of `BGEM3Retriever.invoke` and similar calls; None is the field's value."""

    k: int | None
    filter: DocumentFilter | None
    weights: WeightsLike | None
    modes: Modes | Mode | None
    score_threshold: float | None
