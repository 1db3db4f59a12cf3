"""LangChain's own vector store suite, without one expected failure, over every kind of index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from bge_m3_integrations import BGEM3
from bge_m3_integrations.langchain import BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder


class TestVectorStoreMemoryHybrid(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> Iterator[VectorStore]:
        with BGEM3VectorStore(BGEM3(FakeEncoder())) as store:
            yield store


class TestVectorStoreEdgeHybrid(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[VectorStore]:
        engine = BGEM3(FakeEncoder())
        with BGEM3VectorStore(
            engine, path=tmp_path, create=True, modes=["dense", "sparse"]
        ) as store:
            yield store


class TestVectorStoreEdgeColbert(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[VectorStore]:
        with BGEM3VectorStore(BGEM3(FakeEncoder()), path=tmp_path, create=True) as store:
            yield store


class TestVectorStoreEdgeIsolated(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[VectorStore]:
        engine = BGEM3(FakeEncoder())
        with BGEM3VectorStore(engine, path=tmp_path, create=True, isolated=True) as store:
            yield store
