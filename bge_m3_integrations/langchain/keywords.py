"""The keywords of constructors and calls: for type checkers, and for the refusal of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypedDict

from langchain_core.documents import Document
from pydantic.json_schema import SkipJsonSchema

from bge_m3_integrations._internal.progress import ProgressLike
from bge_m3_integrations.core.embeddings import MODES, Mode, Modes
from bge_m3_integrations.core.filters import Filter
from bge_m3_integrations.core.fusion import Fusion
from bge_m3_integrations.core.thresholds import Threshold
from bge_m3_integrations.core.weighting import WeightsLike
from bge_m3_integrations.encoders.placement import TorchDevice, TorchDtype
from bge_m3_integrations.index.arguments import EngineLike, IndexLike
from bge_m3_integrations.index.config import IndexOptions
from bge_m3_integrations.stores.base import Store

# JSON schemas, as servers of chains make them, show the forms that JSON has
DocumentFilter: TypeAlias = (
    SkipJsonSchema[Filter] | Mapping[str, Any] | SkipJsonSchema[Callable[[Document], bool]]
)
FusionLike: TypeAlias = SkipJsonSchema[Fusion] | str | Mapping[str, Any]

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
    score_threshold: Threshold | None
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


class RankingOptions(TypedDict, total=False):
    """Options of a search's ranking; see `HybridIndex.search`."""

    weights: WeightsLike | None
    candidates: Mapping[Mode, int] | None
    fusion: FusionLike | None


class StoreOptions(RankingOptions, IndexOptions, total=False):
    """Arguments of `BGEM3VectorStore` besides the embedding; see there."""

    engine: EngineLike | None
    index: IndexLike | None
    path: str | Path | None
    store: Store | None


class WriteOptions(TypedDict, total=False):
    """Options of adding documents; see `BGEM3VectorStore.add_documents`."""

    ids: Iterable[str | None] | None
    batch_size: int
    progress: ProgressLike


class AddOptions(WriteOptions, total=False):
    """Arguments of `BGEM3VectorStore.add_documents` besides documents."""

    current_time: object


class NewStoreOptions(StoreOptions, WriteOptions, total=False):
    """Arguments of `BGEM3VectorStore.from_documents` besides documents and embedding."""


class NewRetrieverOptions(RetrieverOptions, WriteOptions, total=False):
    """Arguments of `BGEM3Retriever.from_documents` besides documents and engine."""

    store: Store | None


class VectorKeywords(TypedDict, total=False):
    """Arguments of a search by a dense vector; None is the store's own value."""

    filter: DocumentFilter | None
    score_threshold: Threshold | None
    include_scores: bool


class SearchKeywords(VectorKeywords, RankingOptions, total=False):
    """Arguments of every search by text; None is the store's own value."""


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
    score_threshold: Threshold | None
