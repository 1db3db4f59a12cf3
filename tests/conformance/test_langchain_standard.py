"""LangChain's own suites, without one expected failure."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool, create_retriever_tool
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    ToolsIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests, ToolsUnitTests

from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.langchain import BGEM3Embeddings, BGEM3Retriever
from bge_m3_integrations.testing import FakeEncoder

TEXTS = ["BGE-M3 makes dense vectors", "and lexical weights", "and token vectors", "all at once"]


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


class TestRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return BGEM3Retriever

    @cached_property
    def index(self) -> HybridIndex:
        index = HybridIndex(BGEM3(FakeEncoder()))
        index.add(Record(id=str(i), text=text) for i, text in enumerate(TEXTS))
        return index

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"index": self.index}

    @property
    def retriever_query_example(self) -> str:
        return "what is bge-m3?"


class _Tool:
    @property
    def tool_constructor(self) -> BaseTool:
        documents = [Document(page_content=text) for text in TEXTS]
        retriever = BGEM3Retriever.from_documents(documents, BGEM3(FakeEncoder()))
        return create_retriever_tool(
            retriever, "handbook", "Search the handbook.", response_format="content_and_artifact"
        )

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"query": "token vectors"}


class TestRetrieverToolUnit(_Tool, ToolsUnitTests): ...


class TestRetrieverToolIntegration(_Tool, ToolsIntegrationTests): ...
