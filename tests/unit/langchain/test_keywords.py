"""What a call takes: completed by an editor, and nothing else taken."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.load import dumpd
from pydantic import ValidationError

from bge_m3_integrations import BGEM3, HybridIndex, InputError
from bge_m3_integrations.langchain import (
    BGEM3Embeddings,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3VectorStore,
    keywords,
)
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.animals import DOCUMENTS, ids

BY_TEXT = ["filter", "weights", "candidates", "fusion", "score_threshold", "include_scores"]
BY_VECTOR = ["filter", "score_threshold", "include_scores"]
SEARCHES = {
    "similarity_search": BY_TEXT,
    "similarity_search_with_score": BY_TEXT,
    "similarity_search_with_relevance_scores": BY_TEXT,
    "max_marginal_relevance_search": BY_TEXT,
    "similarity_search_by_vector": BY_VECTOR,
    "max_marginal_relevance_search_by_vector": BY_VECTOR,
}
ALL_SEARCHES = [a + name for name in SEARCHES for a in ("", "a")]


@pytest.fixture
def store() -> BGEM3VectorStore:
    return BGEM3VectorStore.from_documents(DOCUMENTS, BGEM3(FakeEncoder()))


def asked_by(name: str, store: BGEM3VectorStore) -> Any:
    vector = name.endswith("by_vector")
    return store.embeddings.embed_query("fox") if vector else "fox"


async def called(store: BGEM3VectorStore, name: str, **options: Any) -> Any:
    found = getattr(store, name)(asked_by(name, store), **options)
    return await found if inspect.isawaitable(found) else found


@pytest.mark.parametrize("name", ALL_SEARCHES)
def test_a_search_shows_its_keywords_and_no_catch_all(name: str) -> None:
    parameters = inspect.signature(getattr(BGEM3VectorStore, name)).parameters
    assert set(SEARCHES[name.removeprefix("a")]) <= set(parameters)
    assert not {"kwargs", "options", "unknown"} & set(parameters)
    assert all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values())


@pytest.mark.parametrize("name", ALL_SEARCHES)
async def test_a_search_takes_no_other_keyword(store: BGEM3VectorStore, name: str) -> None:
    with pytest.raises(TypeError, match="unknown keyword 'wrong'; there are "):
        await called(store, name, wrong=3)
    with pytest.raises(TypeError, match=r"unknown keyword 'top_k'; did you mean k\?"):
        await called(store, name, top_k=3)


@pytest.mark.parametrize("name", ALL_SEARCHES)
async def test_a_search_puts_the_scores_into_the_metadata_where_asked(
    store: BGEM3VectorStore, name: str
) -> None:
    plain = await called(store, name, k=3)
    scored = await called(store, name, k=3, include_scores=True)
    for before, after in zip(plain, scored, strict=True):
        old, new = (d if not isinstance(d, tuple) else d[0] for d in (before, after))
        assert "bge_m3_scores" not in old.metadata
        assert new.metadata.pop("bge_m3_scores")["dense"] == pytest.approx(1, abs=1.01)
        assert old == new


@pytest.mark.parametrize("search_type", ["similarity", "mmr", "hybrid", "dense", "colbert"])
async def test_a_stores_retriever_brings_the_scores_along(
    store: BGEM3VectorStore, search_type: Any
) -> None:
    plain = store.as_retriever(search_type=search_type)
    scored = store.as_retriever(search_type=search_type, include_scores=True)
    assert scored.include_scores
    for found in (
        scored.invoke("fox"),
        await scored.ainvoke("fox"),
        scored.batch(["fox"])[0],
        plain.invoke("fox", include_scores=True),
        store.as_retriever(search_type=search_type, search_kwargs={"include_scores": True}).invoke(
            "fox"
        ),
    ):
        assert ids(found) == ids(plain.invoke("fox"))
        assert all("score" in document.metadata["bge_m3_scores"] for document in found)


def test_a_stores_retriever_is_made_with_known_search_kwargs_alone(store: BGEM3VectorStore) -> None:
    wrong: Any = {"top_k": 3}
    with pytest.raises(TypeError, match=r"'top_k'; did you mean k\?"):
        store.as_retriever(search_kwargs=wrong)
    with pytest.raises(ValueError, match=r"'k'; .*search_kwargs"):
        store.as_retriever(k=3)  # type: ignore[call-arg]
    parameters = inspect.signature(BGEM3VectorStore.as_retriever).parameters
    assert {"search_type", "search_kwargs", "include_scores"} <= set(parameters)


CONSTRUCTOR: list[tuple[dict[str, Any], str]] = [
    ({"persist_directory": "x"}, "did you mean path?"),
    ({"persist_dir": "x"}, "did you mean path?"),
    ({"collection_name": "x"}, "path="),
    ({"index_name": "x"}, "path="),
    ({"client": 1}, "no server"),
    ({"host": "x"}, "no server"),
    ({"embedding_function": 1}, "did you mean "),
    ({"embeddings": 1}, "did you mean "),
    ({"model_name": "x"}, "did you mean engine?"),
    ({"use_fp16": True}, "keywords of BGEM3"),
    ({"weights_for_different_modes": [1, 1, 1]}, "did you mean weights?"),
    ({"k": 3}, "search"),
]


@pytest.mark.parametrize(("wrong", "said"), CONSTRUCTOR, ids=str)
def test_what_other_stores_constructors_take_is_answered_by_what_this_one_takes(
    tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    engine = BGEM3(FakeEncoder())
    for make in (
        lambda: BGEM3VectorStore(engine, **wrong),
        lambda: BGEM3VectorStore.from_texts(["a"], engine, **wrong),
        lambda: BGEM3VectorStore.from_documents([], engine, **wrong),
    ):
        with pytest.raises(TypeError, match=f"unknown keyword '{next(iter(wrong))}'") as caught:
            make()
        assert said in str(caught.value)


FIELDS: list[tuple[Any, dict[str, Any], str]] = [
    (BGEM3Embeddings, {"model_kwargs": {}}, "keywords of BGEM3, such as device="),
    (BGEM3Embeddings, {"model_name_or_path": "x"}, "did you mean model?"),
    (BGEM3Embeddings, {"use_fp16": True}, "did you mean dtype?"),
    (BGEM3Embeddings, {"encode_kwargs": {}}, "keywords of BGEM3"),
    (BGEM3Embeddings, {"normalize_embeddings": True}, "norm 1"),
    (BGEM3Embeddings, {"batch_size": 8}, "packed by their lengths"),
    (BGEM3Embeddings, {"embed_model": 1}, "did you mean engine?"),
    (BGEM3Retriever, {"top_k": 3}, "did you mean k?"),
    (BGEM3Retriever, {"similarity_top_k": 3}, "did you mean k?"),
    (BGEM3Retriever, {"filters": {}}, "did you mean filter?"),
    (BGEM3Retriever, {"where": {}}, "did you mean filter?"),
    (BGEM3Retriever, {"vectorstore": 1}, "did you mean index?"),
    (BGEM3Retriever, {"persist_directory": "x"}, "did you mean index?"),
    (BGEM3Retriever, {"search_kwargs": {}}, "as_retriever takes"),
    (BGEM3Retriever, {"search_type": "mmr"}, "as_retriever takes"),
    (BGEM3Retriever, {"weights_for_different_modes": [1, 1, 1]}, "did you mean weights?"),
    (BGEM3Retriever, {"include_score": True}, "did you mean include_scores?"),
    (BGEM3Reranker, {"top_k": 3}, "did you mean top_n?"),
    (BGEM3Reranker, {"model": "x"}, "did you mean engine?"),
    (BGEM3Reranker, {"return_scores": True}, "did you mean include_scores?"),
    (BGEM3Reranker, {"client": True}, "no server"),
    (BGEM3Reranker, {"wrong": True}, "there are engine, index, name, "),
]


@pytest.mark.parametrize(("cls", "wrong", "said"), FIELDS)
def test_a_pydantic_class_says_which_field_was_meant(
    cls: Any, wrong: dict[str, Any], said: str
) -> None:
    engine = BGEM3(FakeEncoder())
    with pytest.raises(ValidationError, match=f"unknown keyword '{next(iter(wrong))}'; ") as caught:
        cls(engine, **wrong)
    assert said in str(caught.value)


def test_a_value_under_an_unknown_keyword_is_not_shown() -> None:
    with pytest.raises(ValidationError) as caught:
        BGEM3Embeddings(hf_token="hf_secret")  # type: ignore[call-arg]
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize("cls", [BGEM3Embeddings, BGEM3Retriever, BGEM3Reranker])
def test_a_pydantic_class_shows_its_fields_and_no_catch_all(cls: Any) -> None:
    parameters = inspect.signature(cls).parameters
    assert next(iter(parameters)) in {"engine", "index"}
    assert {"device", "k", "top_n"} & set(parameters)
    assert not {"options", "kwargs", "source"} & set(parameters)


@pytest.mark.parametrize("in_folder", [False, True])
async def test_a_retriever_over_a_store_finds_what_is_added_to_the_store_later(
    tmp_path: Path, in_folder: bool
) -> None:
    path = tmp_path / "index" if in_folder else None
    with BGEM3VectorStore(BGEM3(FakeEncoder()), path=path) as store:
        retriever = BGEM3Retriever(index=store, k=2)
        assert not (tmp_path / "index").exists()
        store.add_documents(DOCUMENTS)
        assert ids(retriever.invoke("fox")) == ids(await retriever.ainvoke("fox"))
        assert retriever.index is store.index
        assert retriever == BGEM3Retriever(store, k=2)
        if in_folder:
            assert dumpd(retriever)["kwargs"]["index"] == str(path)


def test_a_retriever_over_a_store_ranks_as_the_store_where_it_says_nothing_itself() -> None:
    store = BGEM3VectorStore.from_documents(DOCUMENTS, BGEM3(FakeEncoder()), weights=(0, 1, 0))
    scores = [
        found.metadata["bge_m3_scores"]["score"]
        for found in (
            store.similarity_search("fox", k=1, include_scores=True)[0],
            BGEM3Retriever(store, include_scores=True).invoke("fox", k=1)[0],
            BGEM3Retriever(store, include_scores=True, weights="default").invoke("fox", k=1)[0],
        )
    ]
    assert scores[0] == scores[1] != scores[2]


def test_the_typed_keywords_are_those_that_there_are() -> None:
    def shown(function: Any, *without: str) -> set[str]:
        return set(inspect.signature(function).parameters) - set(without)

    typed = keywords.StoreOptions.__annotations__
    assert set(typed) == shown(BGEM3VectorStore, "embedding")
    assert {"engine", "index", "store", "path"} <= set(typed)
    ranking = {"weights", "candidates", "fusion"}
    folder = set(typed) - ranking - {"engine", "index", "store", "path"}
    assert folder == shown(HybridIndex.open, "path", "engine")
    fields = set(BGEM3Retriever.model_fields) - {"source"}
    assert set(keywords.RetrieverOptions.__annotations__) == fields
    fields = set(BGEM3Reranker.model_fields) - {"engine", "index"}
    assert set(keywords.RerankerOptions.__annotations__) == fields
    fields = set(BGEM3Embeddings.model_fields) - {"engine"} | {"model"}
    assert set(keywords.EmbeddingsOptions.__annotations__) == fields


def test_what_a_retriever_cannot_be_over_is_named() -> None:
    one, other = BGEM3(FakeEncoder()), BGEM3(FakeEncoder())
    for wrong in (3, [one], {"a": 1}):
        with pytest.raises(ValidationError, match="index must be a HybridIndex or the folder"):
            BGEM3Retriever(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="leave engine out"):
        BGEM3Retriever(HybridIndex(one), engine=other)
    with pytest.raises(InputError, match=r"HybridIndex.open\(path, engine\)"):
        BGEM3Retriever("folder", engine=other)
    with pytest.raises(InputError, match="two different things"):
        BGEM3Reranker(HybridIndex(one), index=HybridIndex(one))


async def test_a_reranker_puts_the_scores_into_the_metadata_where_asked() -> None:
    engine = BGEM3(FakeEncoder())
    retriever = BGEM3Retriever.from_documents(DOCUMENTS, engine, include_scores=True)
    found = retriever.invoke("the fox")
    for reranker in (
        BGEM3Reranker(engine, include_scores=True),
        BGEM3Reranker(retriever.index, include_scores=True),
    ):
        bare = [Document(id=d.id, page_content=d.page_content) for d in found]
        for ranked in (
            reranker.compress_documents(bare, "the fox"),
            await reranker.acompress_documents(bare, "the fox"),
        ):
            for document, before in zip(ranked, found, strict=False):
                told = document.metadata["bge_m3_scores"]
                assert told["score"] == document.metadata["relevance_score"]
                assert told.keys() == before.metadata["bge_m3_scores"].keys()
                assert told["weights"] == before.metadata["bge_m3_scores"]["weights"]
                assert told["dense"] == pytest.approx(before.metadata["bge_m3_scores"]["dense"])
        assert all(not d.metadata for d in bare)
    plain = BGEM3Reranker(engine).compress_documents(bare, "the fox")
    assert all(set(d.metadata) == {"relevance_score"} for d in plain)


def test_lengths_for_a_splitter_are_the_models() -> None:
    engine = BGEM3(FakeEncoder())
    length = BGEM3Embeddings(engine).length_function
    assert length("a cat sat") == engine.length_function("a cat sat") > 0


async def test_the_way_in_takes_no_other_keyword_either(store: BGEM3VectorStore) -> None:
    unknown: Any = {"metadata": [{}]}
    with pytest.raises(TypeError, match=r"'metadata'; did you mean metadatas\?"):
        store.add_texts(["a"], **unknown)
    with pytest.raises(TypeError, match=r"'metadata'; did you mean metadatas\?"):
        BGEM3VectorStore.from_texts(["a"], BGEM3(FakeEncoder()), **unknown)
    with pytest.raises(TypeError, match=r"'docs'; did you mean documents\?"):
        await store.aadd_documents([], docs=[])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"'document_ids'; did you mean ids\?"):
        store.delete(document_ids=[])  # type: ignore[call-arg]


@pytest.mark.parametrize("as_index", [False, True])
def test_engine_or_index_comes_first_or_by_its_name(as_index: bool) -> None:
    engine = BGEM3(FakeEncoder())
    index = HybridIndex(engine)
    given: Any = index if as_index else engine
    by_name: Any = {"index": index} if as_index else {"engine": engine}
    for store in (
        BGEM3VectorStore(given),
        BGEM3VectorStore(**by_name),
        BGEM3VectorStore.from_texts(["a"], given),
    ):
        assert store.engine is engine
        assert (store.index is index) == as_index
    assert BGEM3VectorStore(BGEM3VectorStore(index)).index is index
    assert BGEM3VectorStore(index=BGEM3VectorStore(index)).index is index  # type: ignore[arg-type]
    kinds: list[Any] = [BGEM3Embeddings, BGEM3Reranker, BGEM3Retriever]
    for cls in kinds:
        for made in (cls(given), *([cls(**by_name)] if cls is not BGEM3Embeddings else [])):
            over = made if cls is not BGEM3Retriever else made.index
            assert over.engine is engine
            if as_index and cls is not BGEM3Embeddings:
                assert made.index is index
    with pytest.raises(InputError, match="another engine"):
        BGEM3VectorStore(BGEM3(FakeEncoder()), index=index)
