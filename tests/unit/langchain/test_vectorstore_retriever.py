from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever
from pydantic import ValidationError

from bge_m3_integrations import (
    BGEM3,
    InputError,
    ReciprocalRank,
)
from bge_m3_integrations.langchain import BGEM3VectorStore
from bge_m3_integrations.langchain.vectorstore_retriever import BGEM3VectorStoreRetriever
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.gated import GatedEncoder
from tests.unit.langchain.stored import DOCUMENTS, Made, filled, ids

QUERIES = ["red fox", "honey", "sky", "night"]


# types of search, the retriever ------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["dense", "sparse", "colbert"])
async def test_one_mode_alone_looks_up_and_ranks(made: Made, mode: Any) -> None:
    encoder, store = made
    retriever = store.as_retriever(search_type=mode, search_kwargs={"k": 5})
    found = retriever.invoke("the lazy dog")
    assert encoder.calls[-1].modes == {mode}
    exact = store.index.search("the lazy dog", weights={
        "dense": 0, "sparse": 0, "colbert": 0, mode: 1}, limit=5, exact=True)  # fmt: skip
    assert ids(found) == [hit.id for hit in exact if mode != "sparse" or hit.score > 0]
    assert await retriever.ainvoke("the lazy dog") == found
    assert store.search("the lazy dog", mode, k=5) == found
    assert await store.asearch("the lazy dog", mode, k=5) == found


def test_one_mode_alone_takes_no_weights_and_the_score_is_its_own() -> None:
    _, store = filled(fusion=ReciprocalRank(), weights="keyword")
    with pytest.raises(InputError, match=r'sparse alone takes no weights.*search_type="hybrid"'):
        store.search("fox", "sparse", weights=(1, 1, 1))
    lexical = store.index.search("the fox", weights=(0, 1, 0), limit=2)
    threshold = lexical[0].score
    assert ids(store.search("the fox", "sparse", score_threshold=threshold)) == ["fox"]


def test_hybrid_is_similarity_by_the_stores_weights() -> None:
    encoder, store = filled(weights=(1, 1, 0))
    assert store.search("lazy dog", "hybrid", k=3) == store.similarity_search("lazy dog", k=3)
    assert encoder.calls[-1].modes == {"dense", "sparse"}
    found = store.as_retriever(search_type="hybrid").invoke("dog", weights=(0, 1, 0))
    assert encoder.calls[-1].modes >= {"sparse"}
    assert ids(found)[0] == "dog"


def test_a_mode_that_the_index_lacks_is_an_error() -> None:
    _, store = filled(modes=["dense"])
    with pytest.raises(InputError, match=r"count \['sparse'\], which this index lacks"):
        store.search("fox", "sparse")


def test_token_vectors_that_are_not_kept_score_what_the_others_find(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    store = BGEM3VectorStore.from_documents(
        DOCUMENTS, BGEM3(encoder), path=tmp_path, colbert="reencode"
    )
    with store:
        assert all(call.modes == {"dense", "sparse"} for call in encoder.calls)
        found = store.search("the lazy dog", "colbert", k=1)
        assert ids(found) == ["dog"]


async def test_langchains_types_of_search_are_there_and_others_are_named() -> None:
    _, store = filled()
    assert store.search("fox", "similarity") == store.similarity_search("fox")
    assert store.search("fox", "mmr") == store.max_marginal_relevance_search("fox")
    assert await store.asearch("fox", "mmr") == store.max_marginal_relevance_search("fox")
    with pytest.raises(InputError, match=r"'bm25' is none of .*'similarity'.*'hybrid'.*'colbert'"):
        store.search("fox", "bm25")
    with pytest.raises(InputError, match="'bm25'"):
        await store.asearch("fox", "bm25")
    with pytest.raises(ValidationError, match="bm25"):
        store.as_retriever(search_type="bm25")
    with pytest.raises(ValidationError, match="float"):
        store.as_retriever(search_type="similarity_score_threshold")


def test_a_mistyped_field_of_the_retriever_is_refused() -> None:
    with pytest.raises(ValidationError, match="search_kwrags"):
        filled()[1].as_retriever(search_kwrags={"k": 1})


def test_the_retriever_is_langchains_and_takes_options_for_one_call() -> None:
    _, store = filled()
    retriever = store.as_retriever(search_kwargs={"k": 3})
    assert isinstance(retriever, VectorStoreRetriever)
    assert len(retriever.invoke("fox")) == 3
    assert len(retriever.invoke("fox", k=1)) == 1
    assert retriever.add_documents([Document(id="new", page_content="a new fox")]) == ["new"]
    mmr = store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "lambda_mult": 1.0})
    assert mmr.invoke("new fox") == store.similarity_search("new fox", k=2)


async def test_traces_name_the_store_and_the_model_and_no_second_user_is_declared() -> None:
    encoder, store = filled()
    retriever = store.as_retriever(search_type="sparse", tags=["mine"])
    events = [event async for event in retriever.astream_events("fox", version="v2")]
    about = events[0]["metadata"]
    assert about["ls_vector_store_provider"] == "BGEM3VectorStore"
    assert about["ls_embedding_provider"] == "BGEM3"
    assert about["ls_embedding_model"] == "FakeEncoder"
    assert events[0]["tags"] == ["mine"]
    assert store.as_retriever().tags == ["BGEM3VectorStore", "BGEM3Embeddings"]
    retriever.invoke("fox")
    assert encoder.forwards["fox"] == 2, "the store shares its engine with nobody: no memo"


async def test_queries_that_wait_at_once_share_forwards_and_hold_no_thread() -> None:
    encoder = GatedEncoder()
    encoder.gate.set()
    store = await BGEM3VectorStore.afrom_documents(DOCUMENTS, BGEM3(encoder))
    await store.asimilarity_search("a first query")
    encoder.gate.clear()
    encoder.entered.clear()
    calls, threads = len(encoder.calls), threading.active_count()
    tasks = [asyncio.create_task(store.asimilarity_search(f"query {i}")) for i in range(40)]
    while not encoder.entered.is_set():
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    grown = threading.active_count() - threads
    encoder.gate.set()
    found = await asyncio.gather(*tasks)
    assert all(len(documents) == 4 for documents in found)
    assert len(encoder.calls) - calls <= 3
    assert grown <= 8, "40 waiting queries hold a thread each"
    assert not encoder.expired


async def test_the_event_loop_runs_on_while_a_query_is_encoded() -> None:
    encoder = GatedEncoder()
    encoder.gate.set()
    store = await BGEM3VectorStore.afrom_documents(DOCUMENTS, BGEM3(encoder))
    encoder.gate.clear()
    encoder.entered.clear()
    assert await encoder.runs_beside_the_loop(store.asimilarity_search("fox"))


# batches ---


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
