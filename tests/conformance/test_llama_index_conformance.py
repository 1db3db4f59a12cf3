from __future__ import annotations

from pathlib import Path

import pytest
from llama_index.core.schema import TextNode

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.llama_index import (
    BGEM3Embedding,
    BGEM3Index,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3SparseEmbedding,
    BGEM3VectorStore,
    node_to_record,
)
from bge_m3_integrations.testing import FakeEncoder
from bge_m3_integrations.testing.llama_index import (
    EmbeddingConformance,
    RerankerConformance,
    RetrieverConformance,
    SparseEmbeddingConformance,
)
from bge_m3_integrations.testing.llama_index_store import VectorStoreConformance


class TestLlamaIndexEmbedding(EmbeddingConformance):
    def make(self, engine: BGEM3) -> BGEM3Embedding:
        return BGEM3Embedding(engine=engine)

    def named(self) -> BGEM3Embedding:
        return BGEM3Embedding(model_name="some/model", max_length=99, embed_batch_size=7)


class TestLlamaIndexSparseEmbedding(SparseEmbeddingConformance):
    def make(self, engine: BGEM3) -> BGEM3SparseEmbedding:
        return BGEM3SparseEmbedding(engine=engine)

    def named(self) -> BGEM3SparseEmbedding:
        return BGEM3SparseEmbedding(model_name="some/model", max_length=99, embed_batch_size=7)


class TestLlamaIndexReranker(RerankerConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "index"
        HybridIndex.open(self.folder, BGEM3(FakeEncoder()), create=True).close()

    def make(self, engine: BGEM3) -> BGEM3Reranker:
        return BGEM3Reranker(engine=engine, top_n=2)

    def named(self) -> BGEM3Reranker:
        return BGEM3Reranker(
            model="some/model", weights="keyword", top_n=None, index_path=self.folder
        )


class TestLlamaIndexRerankerOverIndex(TestLlamaIndexReranker):
    def make(self, engine: BGEM3) -> BGEM3Reranker:
        return BGEM3Reranker(index=HybridIndex(engine), top_n=2)


class TestLlamaIndexRetrieverMemory(RetrieverConformance):
    def make(self, engine: BGEM3, nodes: list[TextNode], similarity_top_k: int) -> BGEM3Retriever:
        return BGEM3Retriever.from_nodes(nodes, engine, similarity_top_k=similarity_top_k)


class TestLlamaIndexRetrieverEdge(RetrieverConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "index"

    def make(self, engine: BGEM3, nodes: list[TextNode], similarity_top_k: int) -> BGEM3Retriever:
        index = HybridIndex.open(self.folder, engine)
        index.add(map(node_to_record, nodes))
        return BGEM3Retriever(index, similarity_top_k=similarity_top_k)


class TestLlamaIndexRetrieverOfIndex(RetrieverConformance):
    def make(self, engine: BGEM3, nodes: list[TextNode], similarity_top_k: int) -> BGEM3Retriever:
        retriever = BGEM3Index(nodes, engine=engine).as_retriever(similarity_top_k=similarity_top_k)
        assert isinstance(retriever, BGEM3Retriever)
        return retriever


class TestLlamaIndexVectorStoreMemory(VectorStoreConformance):
    def make(self, engine: BGEM3, folder: Path) -> BGEM3VectorStore:
        return BGEM3VectorStore(HybridIndex(engine))

    def reload(self, engine: BGEM3, persist_dir: Path) -> BGEM3VectorStore:
        return BGEM3VectorStore.from_persist_dir(persist_dir, engine=engine)


class TestLlamaIndexVectorStoreEdge(TestLlamaIndexVectorStoreMemory):
    def make(self, engine: BGEM3, folder: Path) -> BGEM3VectorStore:
        return BGEM3VectorStore(HybridIndex.open(folder, engine))
