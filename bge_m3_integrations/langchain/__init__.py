"""LangChain's classes over one engine: embeddings, retriever, reranker; extra "langchain"."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from bge_m3_integrations._optional import require

# every import of a module below comes by here first, so all of them give the pip line
require("langchain_core", extra="langchain")

if TYPE_CHECKING:
    from bge_m3_integrations.langchain.compressor import BGEM3Reranker
    from bge_m3_integrations.langchain.documents import to_document, to_record
    from bge_m3_integrations.langchain.embeddings import BGEM3Embeddings
    from bge_m3_integrations.langchain.retriever import BGEM3Retriever

_HOME_OF = {
    "BGEM3Embeddings": "embeddings",
    "BGEM3Reranker": "compressor",
    "BGEM3Retriever": "retriever",
    "to_document": "documents",
    "to_record": "documents",
}

__all__ = ["BGEM3Embeddings", "BGEM3Reranker", "BGEM3Retriever", "to_document", "to_record"]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
