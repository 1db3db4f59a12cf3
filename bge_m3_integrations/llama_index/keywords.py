"""The keywords that constructors take, for type checkers and for what refuses others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from llama_index.core import StorageContext
from llama_index.core.callbacks import CallbackManager
from llama_index.core.data_structs import IndexDict
from llama_index.core.schema import IndexNode, TransformComponent

from bge_m3_integrations.core.embeddings import Mode
from bge_m3_integrations.core.weighting import WeightsLike
from bge_m3_integrations.index.arguments import EngineLike
from bge_m3_integrations.index.config import IndexOptions


class EngineFields(TypedDict, total=False):
    """The fields that an adapter's own engine is made from; see `EngineOptions`."""

    device: str | Sequence[str]
    dtype: str
    pooling: str
    max_length: int | None
    query_instruction: str
    document_instruction: str
    revision: str | None
    cache_dir: str | Path | None
    offline: bool
    trust_remote_code: bool
    clean: bool
    engine_fingerprint: str | None


class SparseEmbeddingFields(EngineFields, total=False):
    """The fields of `BGEM3SparseEmbedding`."""

    model_name: str | Path
    embed_batch_size: int
    num_workers: int | None


class EmbeddingFields(SparseEmbeddingFields, total=False):
    """The fields of `BGEM3Embedding`."""

    callback_manager: CallbackManager
    embeddings_cache: Any
    rate_limiter: Any


class RerankerFields(EngineFields, total=False):
    """The fields of `BGEM3Reranker`."""

    model: str | Path
    top_n: int | None
    weights: WeightsLike | None
    score_threshold: float | None
    keep_retrieval_score: bool
    include_scores: bool
    index_path: str | Path | None
    callback_manager: CallbackManager


class DocumentsOptions(TypedDict, total=False):
    """Arguments of `BGEM3Index` besides what `from_documents` names itself; see there."""

    objects: Sequence[IndexNode] | None
    use_async: bool
    insert_batch_size: int
    store_nodes_override: bool | None


class LoadedOptions(DocumentsOptions, total=False):
    """Arguments of `BGEM3Index` for an index that is loaded."""

    callback_manager: CallbackManager | None
    transformations: list[TransformComponent] | None
    show_progress: bool


class NewIndexOptions(LoadedOptions, total=False):
    """Arguments of `BGEM3Index` besides nodes and vector store."""

    engine: EngineLike | None
    storage_context: StorageContext | None
    index_struct: IndexDict | None


class StoreFields(IndexOptions, total=False):
    """Arguments of `BGEM3VectorStore` besides index, engine and path."""

    stores_text: bool
    is_embedding_query: bool
    weights: WeightsLike | None
    candidates: Mapping[Mode, int] | None
