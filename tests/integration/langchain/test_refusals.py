"""What users get wrong, and what they are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError

from bge_m3_integrations import BGEM3, FilterError, HybridIndex, InputError, Record
from bge_m3_integrations.langchain import (
    BGEM3Embeddings,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3VectorStore,
)
from bge_m3_integrations.langchain.cache import BGEM3ByteStore
from bge_m3_integrations.testing import FakeEncoder

TEXTS = ["tea is a leaf", "coffee is a bean"]


@pytest.fixture
def store() -> BGEM3VectorStore:
    return BGEM3VectorStore.from_texts(TEXTS, BGEM3(FakeEncoder()), ids=["tea", "coffee"])


def index_of_another_model() -> HybridIndex:
    index = HybridIndex(BGEM3(FakeEncoder(dim=8)))
    index.add([Record("tea", TEXTS[0])])
    return index


def test_a_reranker_keeps_its_index_and_engine_together(store: BGEM3VectorStore) -> None:
    reranker = BGEM3Reranker(index=store.index)
    with pytest.raises(ValidationError, match="frozen"):
        reranker.index = index_of_another_model()
    assert reranker.index is store.index
    other = index_of_another_model()
    moved = reranker.model_copy(update={"index": other})
    assert moved.engine is other.engine
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        reranker.model_copy(update={"top_n": 0})


def test_a_rerankers_options_are_configurable(store: BGEM3VectorStore) -> None:
    reranker = BGEM3Reranker(index=store.index).configurable_fields(top_n=ConfigurableField(id="n"))
    question = {"query": "tea", "documents": [Document(page_content=text) for text in TEXTS]}
    found = reranker.with_config(configurable={"n": 1}).invoke(question)
    assert len(found) == 1


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_a_threshold_that_nothing_reaches_is_refused(
    store: BGEM3VectorStore, threshold: float
) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        BGEM3Reranker(index=store.index, score_threshold=threshold)
    with pytest.raises(ValidationError, match="finite number"):
        BGEM3Retriever(index=store.index, score_threshold=threshold)


def test_one_string_is_never_taken_for_many(store: BGEM3VectorStore) -> None:
    with pytest.raises(InputError, match="ids must be several"):
        store.add_texts(["x", "y", "z"], ids="abc")
    with pytest.raises(InputError, match="texts must be several"):
        BGEM3Retriever.from_texts("abc", BGEM3(FakeEncoder()))
    with pytest.raises(InputError, match="the documents first"):
        BGEM3Reranker(index=store.index).rerank("what is tea", "tea is a leaf")


def test_a_retriever_takes_metadata_of_some_texts() -> None:
    retriever = BGEM3Retriever.from_texts(TEXTS, BGEM3(FakeEncoder()), metadatas=[None, {"n": 1}])
    assert {str(found.metadata) for found in retriever.invoke("tea")} == {"{}", "{'n': 1}"}


def test_a_filter_that_would_have_to_be_awaited_is_refused(store: BGEM3VectorStore) -> None:
    async def later(document: Document) -> bool:
        return False

    awaited: list[Any] = []

    def hidden(document: Document) -> Any:
        awaited.append(later(document))
        return awaited[-1]

    with pytest.raises(FilterError, match="cannot be awaited"):
        store.similarity_search("tea", filter=later)
    with pytest.raises(FilterError, match="cannot be awaited"):
        store.similarity_search("tea", filter=hidden)
    for coroutine in awaited:
        coroutine.close()


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_failing_filter_fails_a_batch_once(
    store: BGEM3VectorStore, asynchronous: bool
) -> None:
    calls = []

    def failing(document: Document) -> bool:
        calls.append(document.id)
        raise ZeroDivisionError

    retriever = BGEM3Retriever(index=store.index, filter=failing)
    queries = [f"tea {i}" for i in range(20)]
    with pytest.raises(ZeroDivisionError):
        await retriever.abatch(queries) if asynchronous else retriever.batch(queries)
    assert len(calls) == 1


def test_a_byte_store_keeps_bytes_under_texts_alone(tmp_path: Path) -> None:
    held = BGEM3ByteStore(tmp_path)
    with pytest.raises(InputError, match="must be bytes, not str"):
        held.mset([("k", "text")])  # type: ignore[list-item]
    for key in (1, b"k", None, "\ud800"):
        with pytest.raises(InputError, match="a key"):
            held.mget([key])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "field", ["k", "weights", "filter", "score_threshold", "candidates", "fusion", "include_scores"]
)
def test_servers_can_describe_every_option_of_a_retriever(
    store: BGEM3VectorStore, field: str
) -> None:
    retriever = BGEM3Retriever(index=store.index)
    configurable = retriever.configurable_fields(**{field: ConfigurableField(id=field)})
    schema = configurable.config_schema().model_json_schema()
    assert field in schema["$defs"]["Configurable"]["properties"]


@pytest.mark.parametrize("cls", [BGEM3Retriever, BGEM3Reranker, BGEM3Embeddings])
def test_a_class_has_a_json_schema_without_what_no_json_stands_for(cls: Any) -> None:
    properties = cls.model_json_schema()["properties"]
    assert not {"engine", "source"} & properties.keys()
    assert {"k", "top_n", "device"} & properties.keys()
