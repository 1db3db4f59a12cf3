"""A small collection in a vector store, and looks at what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document

from bge_m3_integrations import (
    BGEM3,
)
from bge_m3_integrations.langchain import BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder

DOCUMENTS = [
    Document(id="fox", page_content="the red fox runs", metadata={"year": 2020, "tags": ["a"]}),
    Document(id="dog", page_content="the lazy dog sleeps", metadata={"year": 2021, "tags": []}),
    Document(id="cat", page_content="the cat sleeps too", metadata={"year": 2022}),
    Document(id="owl", page_content="an owl sees at night", metadata={"year": 2023}),
    Document(id="bee", page_content="a bee makes honey", metadata={"year": 2024}),
]
Made = tuple[FakeEncoder, BGEM3VectorStore]


def filled(**options: Any) -> Made:
    encoder = FakeEncoder()
    return encoder, BGEM3VectorStore.from_documents(DOCUMENTS, BGEM3(encoder), **options)


def ids(documents: Sequence[Document]) -> list[str | None]:
    return [document.id for document in documents]


def hit_ids(store: BGEM3VectorStore, query: str, **options: Any) -> list[str]:
    return [hit.id for hit in store.index.search(query, **options)]
