"""LlamaIndex adapters over one engine; names load when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bge_m3_integrations._internal.extras import check
from bge_m3_integrations._internal.lazy import lazy_names

# every import of a module below comes by here first, so all of them give the pip line
check("llama_index.core", extra="llama-index")

if TYPE_CHECKING:
    from bge_m3_integrations.llama_index.embedding import BGEM3Embedding
    from bge_m3_integrations.llama_index.filters import to_filter
    from bge_m3_integrations.llama_index.index import BGEM3Index
    from bge_m3_integrations.llama_index.nodes import node_to_record, record_to_node
    from bge_m3_integrations.llama_index.reranker import BGEM3Reranker
    from bge_m3_integrations.llama_index.retriever import BGEM3Retriever
    from bge_m3_integrations.llama_index.sparse_embedding import BGEM3SparseEmbedding
    from bge_m3_integrations.llama_index.vector_store import BGEM3VectorStore

_HOME_OF = {
    "BGEM3Embedding": "embedding",
    "BGEM3Index": "index",
    "BGEM3Reranker": "reranker",
    "BGEM3Retriever": "retriever",
    "BGEM3SparseEmbedding": "sparse_embedding",
    "BGEM3VectorStore": "vector_store",
    "node_to_record": "nodes",
    "record_to_node": "nodes",
    "to_filter": "filters",
}

__all__ = [
    "BGEM3Embedding",
    "BGEM3Index",
    "BGEM3Reranker",
    "BGEM3Retriever",
    "BGEM3SparseEmbedding",
    "BGEM3VectorStore",
    "node_to_record",
    "record_to_node",
    "to_filter",
]


if not TYPE_CHECKING:  # a checker would take every misspelt name for one of ours
    __getattr__, __dir__ = lazy_names(__name__, _HOME_OF)
