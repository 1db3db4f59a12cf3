"""What users get wrong, and what they are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError

from bge_m3_integrations import BGEM3, FilterError, HybridIndex, InputError, Record
from bge_m3_integrations.langchain import (
    BGEM3ByteStore,
    BGEM3Embeddings,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3VectorStore,
)
from bge_m3_integrations.stores.edge import REENCODE
from bge_m3_integrations.stores.edge.shard.schema import COLBERT_TYPES
from bge_m3_integrations.stores.validation import COLBERT_KINDS
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
async def test_a_failing_filter_fails_its_batch(
    store: BGEM3VectorStore, asynchronous: bool
) -> None:
    def failing(document: Document) -> bool:
        raise ZeroDivisionError

    retriever = BGEM3Retriever(index=store.index, filter=failing)
    queries = [f"tea {i}" for i in range(20)]
    with pytest.raises(ZeroDivisionError):
        await retriever.abatch(queries) if asynchronous else retriever.batch(queries)


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


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"k": "3"}, "k must be a whole number"),
        ({"fetch_k": 0}, "fetch_k must be a whole number"),
        ({"lambda_mult": 2}, "lambda_mult must be a number from 0 to 1, not 2"),
        ({"lambda_mult": "0.5"}, "lambda_mult must be a number from 0 to 1, not '0.5'"),
    ],
    ids=str,
)
async def test_a_diverse_search_names_the_users_own_words(
    store: BGEM3VectorStore, options: Any, wrong: str
) -> None:
    with pytest.raises(InputError, match=wrong):
        store.max_marginal_relevance_search("tea", **options)
    with pytest.raises(InputError, match=wrong):
        await store.amax_marginal_relevance_search("tea", **options)
    with pytest.raises(InputError, match=wrong):
        store.max_marginal_relevance_search_by_vector([1.0] * 16, **options)


@pytest.mark.parametrize("k", [0, "3", 1.5, True])
def test_a_wrong_k_is_called_k(store: BGEM3VectorStore, k: Any) -> None:
    for search_type in ("similarity", "dense", "similarity_score_threshold"):
        with pytest.raises(InputError, match=r"^k must be a whole number"):
            store.search("tea", search_type, k=k)
    with pytest.raises(InputError, match=r"^k must be a whole number"):
        store.similarity_search_by_vector([1.0] * 16, k=k)
    with pytest.raises(InputError, match=r"^k must be a whole number"):
        BGEM3Retriever(index=store.index).invoke("tea", k=k)


async def test_a_reranker_takes_no_keywords_for_one_call(store: BGEM3VectorStore) -> None:
    reranker = BGEM3Reranker(index=store.index)
    question = {"query": "tea", "documents": [Document(page_content=text) for text in TEXTS]}
    with pytest.raises(InputError, match=r"no keywords.*top_n.*model_copy"):
        reranker.invoke(question, top_n="x")
    with pytest.raises(InputError, match="no keywords"):
        await reranker.ainvoke(question, top_n=1)
    with pytest.raises(InputError, match="no keywords"):
        reranker.batch([question], top_n=1)
    with pytest.raises(InputError, match="no keywords"):
        await reranker.abatch([question], top_n=1)
    for top_n in ("x", 0):
        with pytest.raises(InputError, match="top_n must be a whole number"):
            reranker.rerank(TEXTS, "tea", top_n=top_n)  # type: ignore[arg-type]
    with pytest.raises(InputError, match='"documents" must be several'):
        reranker.invoke({"query": "tea", "documents": None})


def test_nothing_in_place_of_many_is_refused(store: BGEM3VectorStore) -> None:
    nothing: Any = None
    with pytest.raises(InputError, match="ids must be several, such as a list, not None"):
        store.get_by_ids(nothing)
    with pytest.raises(InputError, match="texts must be several"):
        store.add_texts(nothing)
    with pytest.raises(InputError, match="documents must be several"):
        store.add_documents(nothing)
    with pytest.raises(InputError, match="ids must be several"):
        store.get_by_ids("tea")
    with pytest.raises(InputError, match="ids must be several"):
        store.delete("tea")


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"modes": ["dense", "lexical"]}, "modes must be one or more of"),
        ({"colbert": "float8"}, "colbert='float8' is not one of"),
        ({"pooling": 0}, "pooling must be a whole number"),
        ({"candidates": {"lexical": 5}}, "candidates must map"),
        ({"candidates": {}}, "candidates must map"),
        ({"candidates": {"dense": 0}}, r"candidates\['dense'\] must be a whole number"),
        ({"candidates": 100}, "candidates must map"),
    ],
    ids=str,
)
def test_a_stores_constructor_refuses_what_no_index_takes(
    tmp_path: Path, options: Any, wrong: str
) -> None:
    engine = BGEM3(FakeEncoder())
    with pytest.raises(InputError, match=wrong):
        BGEM3VectorStore(engine, path=tmp_path / "index", **options)
    assert not (tmp_path / "index").exists()
    if "candidates" in options:
        with pytest.raises(ValidationError, match=wrong):
            BGEM3Retriever(index=HybridIndex(engine), **options)


@pytest.mark.parametrize("kind", COLBERT_KINDS)
def test_a_stores_constructor_takes_every_kind_of_token_vectors(tmp_path: Path, kind: str) -> None:
    with BGEM3VectorStore(BGEM3(FakeEncoder()), path=tmp_path / "index", colbert=kind) as store:
        assert store.add_texts(TEXTS, ids=["tea", "coffee"]) == ["tea", "coffee"]
    assert set(COLBERT_KINDS) == {*COLBERT_TYPES, REENCODE}


def test_a_store_keeps_its_candidates_when_the_callers_dict_changes() -> None:
    candidates: dict[Any, Any] = {"dense": 100}
    store = BGEM3VectorStore(BGEM3(FakeEncoder()), candidates=candidates)
    store.add_texts(TEXTS)
    candidates["nonsense"] = -1
    assert len(store.similarity_search("tea")) == 2


def test_one_document_in_place_of_many_is_named(store: BGEM3VectorStore) -> None:
    with pytest.raises(InputError, match="documents must be several, not one Document"):
        store.add_documents(Document(page_content="tea"))  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["my_index", Path("my_index")])
def test_a_name_in_place_of_an_engine_says_where_it_goes(given: Any) -> None:
    for cls in (BGEM3VectorStore, BGEM3Embeddings):
        with pytest.raises(ValueError, match=r"BGEM3\('my_index'\).*by path='my_index'"):
            cls(given)


async def test_another_models_embeddings_are_named_and_sent_to_langchains_own_stores(
    tmp_path: Path,
) -> None:
    other: Any = DeterministicFakeEmbedding(size=8)
    wrong = "DeterministicFakeEmbedding gives dense vectors alone.*LangChain's own stores"
    for cls in (BGEM3Embeddings, BGEM3Reranker):
        with pytest.raises(ValueError, match=wrong):
            cls(engine=other)
    for options in ({}, {"path": tmp_path / "index"}):
        with pytest.raises(InputError, match=wrong):
            BGEM3VectorStore.from_texts(TEXTS, other, **options)
        with pytest.raises(InputError, match=wrong):
            await BGEM3VectorStore.afrom_texts(TEXTS, other, **options)
    with pytest.raises(InputError, match=wrong):
        BGEM3Retriever.from_texts(TEXTS, other)
    assert not (tmp_path / "index").exists()
