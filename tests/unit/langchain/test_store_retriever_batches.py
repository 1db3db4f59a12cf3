"""A batch of a store's retriever gives what single calls give, whatever the search type."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from bge_m3_integrations import BGEM3, InputError
from bge_m3_integrations.langchain import BGEM3VectorStore
from bge_m3_integrations.langchain.vectorstore_retriever import BGEM3VectorStoreRetriever
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.animals import DOCUMENTS, ids

QUERIES = ["red fox", "honey", "sky", "night"]


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def store(encoder: FakeEncoder) -> BGEM3VectorStore:
    return BGEM3VectorStore.from_documents(DOCUMENTS, BGEM3(encoder))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("search_type", "options"),
    [
        ("similarity", {"k": 2}),
        ("hybrid", {"k": 2, "weights": (1, 0, 1)}),
        ("dense", {"k": 2, "filter": {"year": {"$gte": 2021}}}),
        ("sparse", {}),
        ("colbert", {"k": 1}),
        ("mmr", {"k": 2, "fetch_k": 4}),
        ("similarity_score_threshold", {"score_threshold": 0.1}),
    ],
    ids=str,
)
async def test_a_batch_encodes_each_query_once_and_gives_what_single_calls_give(
    *,
    store: BGEM3VectorStore,
    encoder: FakeEncoder,
    search_type: str,
    options: Any,
    asynchronous: bool,
) -> None:
    retriever = store.as_retriever(search_type=search_type, search_kwargs=options)
    before = len(encoder.calls)
    batched = await retriever.abatch(QUERIES) if asynchronous else retriever.batch(QUERIES)
    encoded = [text for call in encoder.calls[before:] for text in call.texts]
    assert sorted(encoded) == sorted(QUERIES)
    assert batched == [retriever.invoke(query) for query in QUERIES]


async def test_one_bad_query_of_a_batch_fails_alone_when_asked_so(store: BGEM3VectorStore) -> None:
    retriever = store.as_retriever(search_kwargs={"k": 1})
    queries: list[Any] = ["honey", 7, "bad \ud800 surrogate"]
    for found in (
        retriever.batch(queries, return_exceptions=True),
        await retriever.abatch(queries, return_exceptions=True),
    ):
        assert ids(found[0]) == ["bee"]
        assert isinstance(found[1], InputError)
        assert isinstance(found[2], InputError)
    with pytest.raises(InputError, match="unknown keyword 'top'"):
        retriever.batch(["honey", "night"], top=3)


def test_over_another_store_a_batch_says_nothing_that_it_would_not_know() -> None:
    class Strict(InMemoryVectorStore):
        def similarity_search(self, query: str, k: int = 4) -> Any:  # type: ignore[override]
            return super().similarity_search(query, k)

        def search(self, query: str, search_type: str, **kwargs: Any) -> Any:
            return self.similarity_search(query, **kwargs)

    other = Strict.from_documents(DOCUMENTS, DeterministicFakeEmbedding(size=8))
    retriever = BGEM3VectorStoreRetriever(vectorstore=other, search_kwargs={"k": 1})
    assert [len(found) for found in retriever.batch(QUERIES)] == [1, 1, 1, 1]
