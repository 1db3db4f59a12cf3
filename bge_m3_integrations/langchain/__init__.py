"""LangChain's classes over one engine and its cache: stores, retrievers, embeddings, and more.

Extra "langchain".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bge_m3_integrations._internal.extras import check
from bge_m3_integrations._internal.lazy import lazy_names

# every import of a module below comes by here first, so all of them give the pip line
check("langchain_core", extra="langchain")

if TYPE_CHECKING:
    from bge_m3_integrations.langchain.byte_store import BGEM3ByteStore
    from bge_m3_integrations.langchain.documents import to_document, to_record
    from bge_m3_integrations.langchain.embeddings import BGEM3Embeddings
    from bge_m3_integrations.langchain.reranker import BGEM3Reranker
    from bge_m3_integrations.langchain.retriever import BGEM3Retriever
    from bge_m3_integrations.langchain.self_query import BGEM3Translator
    from bge_m3_integrations.langchain.tool import retriever_tool
    from bge_m3_integrations.langchain.vectorstore import BGEM3VectorStore

_HOME_OF = {
    "BGEM3ByteStore": "byte_store",
    "BGEM3Embeddings": "embeddings",
    "BGEM3Reranker": "reranker",
    "BGEM3Retriever": "retriever",
    "BGEM3Translator": "self_query",
    "BGEM3VectorStore": "vectorstore",
    "retriever_tool": "tool",
    "to_document": "documents",
    "to_record": "documents",
}

__all__ = [
    "BGEM3ByteStore",
    "BGEM3Embeddings",
    "BGEM3Reranker",
    "BGEM3Retriever",
    "BGEM3Translator",
    "BGEM3VectorStore",
    "retriever_tool",
    "to_document",
    "to_record",
]


if not TYPE_CHECKING:  # a checker would take every misspelt name for one of ours
    __getattr__, __dir__ = lazy_names(__name__, _HOME_OF)
