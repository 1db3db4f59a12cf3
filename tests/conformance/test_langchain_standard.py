"""LangChain's own suites, without one expected failure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    ToolsIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests, ToolsUnitTests

from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.langchain import BGEM3Embeddings, BGEM3Retriever, retriever_tool
from bge_m3_integrations.testing import FakeEncoder

TEXTS = ["BGE-M3 makes dense vectors", "and lexical weights", "and token vectors", "all at once"]
RECORDS = [Record(id=str(i), text=text) for i, text in enumerate(TEXTS)]


class _WithEngine:
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return BGEM3Embeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"engine": BGEM3(FakeEncoder())}


class TestEmbeddingsUnit(_WithEngine, EmbeddingsUnitTests): ...


class TestEmbeddingsIntegration(_WithEngine, EmbeddingsIntegrationTests): ...


class _WithCheckpoint:
    @pytest.fixture(autouse=True)
    def _checkpoint(self, xlm_roberta: Path) -> None:
        self.folder = xlm_roberta

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return BGEM3Embeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": str(self.folder), "device": "cpu", "dtype": "float32"}


class TestEmbeddingsOfACheckpointUnit(_WithCheckpoint, EmbeddingsUnitTests): ...


class TestEmbeddingsOfACheckpointIntegration(_WithCheckpoint, EmbeddingsIntegrationTests): ...


class _Retriever(RetrieversIntegrationTests):
    index: HybridIndex

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return BGEM3Retriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"index": self.index}

    @property
    def retriever_query_example(self) -> str:
        return "what is bge-m3?"


class TestRetrieverOnMemory(_Retriever):
    @pytest.fixture(autouse=True)
    def _filled(self) -> None:
        self.index = HybridIndex(BGEM3(FakeEncoder()))
        self.index.add(RECORDS)


class TestRetrieverOnEdge(_Retriever):
    @pytest.fixture(autouse=True)
    def _filled(self, tmp_path: Path) -> Iterator[None]:
        with HybridIndex.open(tmp_path / "index", BGEM3(FakeEncoder())) as self.index:
            self.index.add(RECORDS)
            yield


class _Tool:
    @property
    def tool_constructor(self) -> BaseTool:
        index = HybridIndex(BGEM3(FakeEncoder()))
        index.add(RECORDS)
        return retriever_tool(BGEM3Retriever(index=index), "handbook", "Search the handbook.")

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"query": "token vectors"}


class TestRetrieverToolUnit(_Tool, ToolsUnitTests): ...


class TestRetrieverToolIntegration(_Tool, ToolsIntegrationTests): ...
