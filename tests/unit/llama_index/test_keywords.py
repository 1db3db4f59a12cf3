"""Constructors follow one rule, and say which keyword was meant."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import Document, NodeWithScore, TextNode
from pydantic import ValidationError

from bge_m3_integrations import BGEM3, HybridIndex, InputError, KeywordError, StoreError
from bge_m3_integrations.index.config import IndexOptions
from bge_m3_integrations.llama_index import (
    BGEM3Embedding,
    BGEM3Index,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3SparseEmbedding,
    BGEM3VectorStore,
    keywords,
)
from bge_m3_integrations.testing import FakeEncoder

ALL: list[Any] = [
    BGEM3Embedding,
    BGEM3SparseEmbedding,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3VectorStore,
    BGEM3Index,
]
OVER_AN_INDEX = [BGEM3Reranker, BGEM3Retriever, BGEM3VectorStore, BGEM3Index]


def engine_in(made: Any) -> BGEM3:
    return made.index.engine if isinstance(made, BGEM3Retriever) else made.engine


def index_in(made: Any) -> HybridIndex:
    return made.vector_store.index if isinstance(made, BGEM3Index) else made.index


@pytest.mark.parametrize("cls", ALL)
def test_an_engine_comes_first_or_by_its_name(cls: Any, engine: BGEM3) -> None:
    assert engine_in(cls(engine)) is engine
    assert engine_in(cls(engine=engine)) is engine
    assert engine_in(cls(BGEM3Embedding(engine))) is engine


@pytest.mark.parametrize("cls", ALL)
def test_an_index_or_an_adapter_over_one_comes_first(cls: Any, engine: BGEM3) -> None:
    index = HybridIndex(engine)
    store = BGEM3VectorStore(index)
    for given in (index, store, BGEM3Index(vector_store=store)):
        assert engine_in(cls(given)) is engine
        if cls in OVER_AN_INDEX:
            assert index_in(cls(given)) is index


@pytest.mark.parametrize("cls", [BGEM3Reranker, BGEM3Retriever, BGEM3VectorStore])
def test_an_index_goes_by_its_name_too(cls: Any, engine: BGEM3) -> None:
    index = HybridIndex(engine)
    assert cls(index=index).index is index
    assert cls(index=BGEM3VectorStore(index)).index is index


@pytest.mark.parametrize("cls", ALL)
def test_what_is_neither_engine_nor_index_is_named(cls: Any) -> None:
    if cls is BGEM3Index:
        return
    with pytest.raises(InputError, match=r"not str 'BAAI/bge-m3'; a model goes by BGEM3\('BAAI"):
        cls("BAAI/bge-m3")


def test_things_that_contradict_each_other_are_refused(engine: BGEM3) -> None:
    index, other = HybridIndex(engine), BGEM3(FakeEncoder())
    for cls in (BGEM3Retriever, BGEM3VectorStore):
        with pytest.raises(InputError, match="give the index alone"):
            cls(index, engine=other)
        with pytest.raises(InputError, match="two different things"):
            cls(engine, engine=other)
    with pytest.raises(InputError, match="two different things"):
        BGEM3Reranker(index, index=HybridIndex(engine))
    with pytest.raises(InputError, match="two different things"):
        BGEM3Index(engine, engine=other)
    with pytest.raises(InputError, match=r"\['path'\] came with it"):
        BGEM3VectorStore(index, path="x")
    with pytest.raises(InputError, match=r"\['colbert'\] are for an index in a folder"):
        BGEM3VectorStore(engine, colbert="float32")
    with pytest.raises(InputError, match="give an engine"):
        BGEM3Retriever()


def test_a_store_is_kept_in_a_folder(engine: BGEM3, nodes: list[TextNode], tmp_path: Path) -> None:
    path = tmp_path / "index"
    with BGEM3VectorStore(engine, path=path, colbert="float32") as store:
        assert not path.exists()
        VectorStoreIndex(nodes, storage_context=_context(store), embed_model=BGEM3Embedding(engine))
    with BGEM3VectorStore(engine, path=str(path)) as store:
        assert store.index.count() == len(nodes)
        assert store.to_dict()["path"] == str(path)
    with pytest.raises(StoreError, match="no index in"):
        BGEM3VectorStore(engine, path=tmp_path / "typo", create=False)
    held = HybridIndex(engine)
    with BGEM3VectorStore(held):
        pass
    assert held.count() == 0  # whoever opened it closes it


def test_a_store_brings_its_weights_to_a_retriever(engine: BGEM3, nodes: list[TextNode]) -> None:
    store = BGEM3VectorStore(engine, weights=(0, 1, 0), candidates={"sparse": 5})
    store.add(nodes)
    for retriever in (BGEM3Retriever(store), BGEM3Retriever.from_vector_store(store)):
        assert retriever.retrieve("cat")[0].score == pytest.approx(
            store.index.search("cat", weights=(0, 1, 0))[0].score
        )


def _context(store: BGEM3VectorStore) -> Any:
    from llama_index.core import StorageContext

    return StorageContext.from_defaults(vector_store=store)


PYDANTIC: list[tuple[Any, dict[str, Any], str]] = [
    (BGEM3Embedding, {"model_name_or_path": "x"}, "did you mean model_name?"),
    (BGEM3Embedding, {"use_fp16": True}, "did you mean dtype?"),
    (BGEM3Embedding, {"max_seq_length": 8}, "did you mean max_length?"),
    (BGEM3Embedding, {"batch_size": 8}, "did you mean embed_batch_size?"),
    (BGEM3Embedding, {"normalize": True}, "norm 1"),
    (BGEM3SparseEmbedding, {"devices": [0]}, "did you mean device?"),
    (BGEM3Reranker, {"top_k": 3}, "did you mean top_n?"),
    (BGEM3Reranker, {"weights_for_different_modes": [1]}, "did you mean weights?"),
    (BGEM3VectorStore, {"persist_dir": "x"}, "did you mean path?"),
    (BGEM3VectorStore, {"collection_name": "x"}, "path="),
    (BGEM3VectorStore, {"client": 1}, "no server"),
    (BGEM3VectorStore, {"embed_model": 1}, "did you mean engine?"),
    (BGEM3VectorStore, {"wieghts": (1, 0, 0)}, "did you mean weights?"),
]


@pytest.mark.parametrize(("cls", "wrong", "said"), PYDANTIC)
def test_a_pydantic_class_says_which_field_was_meant(
    engine: BGEM3, cls: Any, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=f"unknown keyword '{next(iter(wrong))}'; ") as caught:
        cls(engine, **wrong)
    assert said in str(caught.value)


PLAIN: list[tuple[Any, dict[str, Any], str]] = [
    (BGEM3Retriever, {"top_k": 3}, "did you mean similarity_top_k?"),
    (BGEM3Retriever, {"filter": {}}, "did you mean filters?"),
    (BGEM3Retriever, {"with_scores": True}, "did you mean include_scores?"),
    (BGEM3Index, {"embed_model": 1}, "did you mean engine?"),
    (BGEM3Index, {"persist_dir": "x"}, "BGEM3VectorStore(engine, path=...)"),
    (BGEM3Index, {"path": "x"}, "BGEM3VectorStore(engine, path=...)"),
    (BGEM3Index, {"weights_for_different_modes": [1]}, "weights= of a vector store"),
]


@pytest.mark.parametrize(("cls", "wrong", "said"), PLAIN)
def test_a_plain_class_says_which_keyword_was_meant(
    engine: BGEM3, cls: Any, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(TypeError, match=f"unknown keyword '{next(iter(wrong))}'; ") as caught:
        cls(engine, **wrong)
    assert said in str(caught.value)


def test_calls_say_which_keyword_was_meant(engine: BGEM3) -> None:
    store = BGEM3VectorStore(engine)
    with pytest.raises(TypeError, match=r"'top_k'; did you mean similarity_top_k\?"):
        BGEM3Index(vector_store=store).as_retriever(top_k=3)
    with pytest.raises(TypeError, match=r"'embedding'; did you mean engine\?"):
        BGEM3Retriever.from_nodes([], embedding=engine)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unknown keyword 'batch'; there are none"):
        store.add([], batch=3)


@pytest.mark.parametrize("cls", ALL)
def test_a_constructor_shows_what_it_takes_and_no_catch_all(cls: Any) -> None:
    parameters = inspect.signature(cls).parameters
    assert next(iter(parameters)) in {"engine", "index", "nodes"}
    assert not {"options", "fields", "kwargs"} & set(parameters)
    assert len(parameters) > 5


def test_the_typed_keywords_are_those_that_there_are() -> None:
    given = set(IndexOptions.__annotations__)
    fields = set(BGEM3VectorStore.model_fields) | given
    assert set(keywords.StoreFields.__annotations__) == fields
    typed = {
        BGEM3Embedding: keywords.EmbeddingFields,
        BGEM3SparseEmbedding: keywords.SparseEmbeddingFields,
        BGEM3Reranker: keywords.RerankerFields,
    }
    for cls, options in typed.items():
        assert set(options.__annotations__) == set(cls.model_fields), cls


def test_a_reranker_writes_the_scores_where_asked(engine: BGEM3, nodes: list[TextNode]) -> None:
    index = HybridIndex(engine)
    BGEM3VectorStore(index).add(nodes)
    given = [NodeWithScore(node=node) for node in nodes]
    for reranker in (
        BGEM3Reranker(engine, include_scores=True),
        BGEM3Reranker(index, include_scores=True),
    ):
        first, *_ = reranker.postprocess_nodes(given, query_str="the cat")
        told = first.node.metadata["bge_m3_scores"]
        assert told["score"] == first.score
        assert told.keys() == index.search("the cat")[0].score_details.keys()
        assert "bge_m3_scores" in first.node.excluded_llm_metadata_keys
        assert BGEM3Reranker.from_dict(reranker.to_dict(), engine=engine).include_scores
    assert all("bge_m3_scores" not in node.metadata for node in nodes)
    plain = BGEM3Reranker(engine).postprocess_nodes(given, query_str="the cat")
    assert all("bge_m3_scores" not in found.node.metadata for found in plain)


def test_the_index_shows_its_keywords_and_refuses_others_before_it_splits(engine: BGEM3) -> None:
    def split(nodes: Any, **_: Any) -> Any:
        raise AssertionError("an unknown keyword is found before any work")

    for make in (BGEM3Index.from_documents, BGEM3Index.from_vector_store):
        shown = inspect.signature(make).parameters
        assert {"store_nodes_override", "insert_batch_size", "objects"} <= set(shown)
        assert all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in shown.values())
    own = set(inspect.signature(BGEM3Index).parameters) - {"nodes", "vector_store"}
    assert own == set(keywords.NewIndexOptions.__annotations__)
    steps: Any = [split]
    with pytest.raises(KeywordError, match="did you mean insert_batch_size"):
        BGEM3Index.from_documents(
            [Document(text="tea")],
            engine=engine,
            transformations=steps,
            batch_size=3,  # type: ignore[call-arg]
        )
