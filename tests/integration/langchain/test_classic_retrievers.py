"""Retrievers of `langchain_classic` over our store."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from langchain_core.documents import Document

from bge_m3_integrations import BGEM3
from bge_m3_integrations.langchain import BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from langchain_classic.retrievers import TimeWeightedVectorStoreRetriever


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BGEM3VectorStore]:
    path = tmp_path / "index" if request.param == "folder" else None
    with BGEM3VectorStore(BGEM3(FakeEncoder()), path=path) as made:
        yield made


async def test_the_time_weighted_retriever_prefers_what_was_asked_for_of_late(
    store: BGEM3VectorStore,
) -> None:
    retriever = TimeWeightedVectorStoreRetriever(vectorstore=store, decay_rate=0.5, k=1)
    last_week = datetime.now() - timedelta(days=7)
    old = Document(id="old", page_content="the fox", metadata={"last_accessed_at": last_week})
    retriever.add_documents([old, Document(id="new", page_content="a fox")])
    assert [document.id for document in retriever.invoke("the fox")] == ["new"]
    assert [document.id for document in await retriever.ainvoke("the fox")] == ["new"]
    kept = store.get_by_ids(["old"])[0].metadata
    assert kept["last_accessed_at"] == last_week
    assert isinstance(kept["created_at"], datetime)
