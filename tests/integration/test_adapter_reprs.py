"""Adapters are shown in a line, and nothing is opened or loaded for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.compat import BGEM3EmbeddingFunction, BGEM3FlagModel
from bge_m3_integrations.testing import FakeEncoder

ENGINE = "BGEM3(over FakeEncoder)"
HELD = "in memory, 1 document, dense + sparse + colbert"
INDEX = f"HybridIndex({HELD})"


@pytest.fixture
def index() -> HybridIndex:
    index = HybridIndex(BGEM3(FakeEncoder()))
    index.add(["a"])
    return index


def test_langchains_are_shown_with_their_engine_or_index(
    index: HybridIndex, tmp_path: Path
) -> None:
    pytest.importorskip("langchain_core")
    from bge_m3_integrations.langchain import (
        BGEM3Embeddings,
        BGEM3Reranker,
        BGEM3Retriever,
        BGEM3VectorStore,
    )

    shown = {
        repr(BGEM3Embeddings(engine=index.engine)): f"BGEM3Embeddings({ENGINE})",
        repr(BGEM3Retriever(index=index)): f"BGEM3Retriever({HELD})",
        repr(BGEM3Retriever(index=index, k=9)): f"BGEM3Retriever({HELD}, k=9)",
        repr(BGEM3Reranker(engine=index.engine)): f"BGEM3Reranker({ENGINE})",
        repr(BGEM3Reranker(index=index, top_n=2)): f"BGEM3Reranker({INDEX}, top_n=2)",
        repr(BGEM3VectorStore(index=index)): f"BGEM3VectorStore({INDEX})",
        repr(BGEM3VectorStore(index.engine)): f"BGEM3VectorStore(in memory, not opened, {ENGINE})",
    }
    assert list(shown) == list(shown.values())
    folder = tmp_path / "kept"
    store = BGEM3VectorStore(index.engine, path=folder)
    assert repr(store) == f"BGEM3VectorStore({str(folder)!r}, not opened, {ENGINE})"
    assert not folder.exists()
    assert repr(store) in repr(store.as_retriever())
    over = BGEM3VectorStore(index.engine)
    assert repr(BGEM3Retriever(over)) == f"BGEM3Retriever({over!r})"
    store.close()
    assert "closed" in repr(store)


def test_llama_indexes_are_shown_with_their_engine_or_index(index: HybridIndex) -> None:
    pytest.importorskip("llama_index.core")
    from bge_m3_integrations.llama_index import (
        BGEM3Embedding,
        BGEM3Index,
        BGEM3Reranker,
        BGEM3Retriever,
        BGEM3SparseEmbedding,
        BGEM3VectorStore,
    )

    engine, store = index.engine, BGEM3VectorStore(index)
    shown = {
        repr(BGEM3Embedding(engine=engine)): f"BGEM3Embedding({ENGINE})",
        repr(BGEM3SparseEmbedding(engine=engine)): f"BGEM3SparseEmbedding({ENGINE})",
        repr(BGEM3Reranker(engine=engine, top_n=7)): f"BGEM3Reranker({ENGINE}, top_n=7)",
        repr(BGEM3Reranker(index=index)): f"BGEM3Reranker({INDEX})",
        repr(BGEM3Retriever(index)): f"BGEM3Retriever({INDEX}, similarity_top_k=2)",
        repr(store): f"BGEM3VectorStore({INDEX})",
        repr(BGEM3Index.from_vector_store(store)): f"BGEM3Index(BGEM3VectorStore({INDEX}))",
    }
    assert list(shown) == list(shown.values())


def test_compatible_classes_are_shown_with_their_model() -> None:
    assert repr(BGEM3FlagModel("nowhere")) == "BGEM3FlagModel('nowhere')"
    assert repr(BGEM3EmbeddingFunction("nowhere")) == (
        "BGEM3EmbeddingFunction(BGEM3FlagModel('nowhere'))"
    )


def test_encoders_are_shown_without_an_address(index: HybridIndex) -> None:
    encoder: Any = index.engine.encoder
    assert repr(encoder) == "MemoEncoder(over FakeEncoder(dim=32, colbert_dim=16))"
    assert not re.search(r" at 0x", repr([index, index.store, index.engine, encoder]))
