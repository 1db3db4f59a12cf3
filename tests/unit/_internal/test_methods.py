"""Methods that other libraries have: what to call instead is said, and nothing else changes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from bge_m3_integrations import BGEM3, HybridIndex, InputError
from bge_m3_integrations import langchain as lc
from bge_m3_integrations import llama_index as li
from bge_m3_integrations.testing import FakeEncoder

ENGINE = BGEM3(FakeEncoder())
MADE = {
    "engine": ENGINE,
    "index": HybridIndex(ENGINE),
    "store": lc.BGEM3VectorStore(ENGINE),
    "store class": lc.BGEM3VectorStore,
    "retriever": lc.BGEM3Retriever(lc.BGEM3VectorStore(ENGINE)),
    "store's retriever": lc.BGEM3VectorStore(ENGINE).as_retriever(),
    "embeddings": lc.BGEM3Embeddings(ENGINE),
    "reranker": lc.BGEM3Reranker(ENGINE),
    "nodes": li.BGEM3VectorStore(ENGINE),
    "node retriever": li.BGEM3Retriever(ENGINE),
    "document index": li.BGEM3Index([], engine=ENGINE),
}


@pytest.mark.parametrize(
    ("owner", "name", "hint"),
    [
        ("store", "persist", "is saved by each call that adds"),
        ("store", "save_local", "is saved by each call that adds"),
        ("store", "get", "did you mean get_by_ids?"),
        ("store", "delete_collection", "delete_all=True"),
        ("store", "add_embeddings", "add_texts"),
        ("store", "upsert", "did you mean add_documents?"),
        ("store", "update_documents", "replaces it"),
        ("store", "count", "len(index)"),
        ("store class", "load_local", "opened by its folder"),
        ("store class", "from_existing_collection", "opened by its folder"),
        ("store class", "from_embeddings", "from_texts"),
        ("retriever", "get_relevant_documents", "did you mean invoke?"),
        ("store's retriever", "get_relevant_documents", "did you mean invoke?"),
        ("embeddings", "encode", "did you mean embed_documents?"),
        ("reranker", "predict", "did you mean score?"),
        ("reranker", "rank", "did you mean rerank?"),
        ("engine", "compute_score", "did you mean score_pairs?"),
        ("engine", "encode_query", "did you mean encode_queries?"),
        ("index", "query", "did you mean search?"),
        ("index", "similarity_search", "did you mean search?"),
        ("nodes", "add_documents", "did you mean add?"),
        ("node retriever", "invoke", "did you mean retrieve?"),
        ("document index", "query", "did you mean as_query_engine?"),
        ("document index", "save_to_disk", "did you mean persist?"),
        ("nodes", "similarity_search", "did you mean query?"),
    ],
)
def test_a_method_that_other_libraries_have_is_answered_with_ours(
    owner: str, name: str, hint: str
) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(MADE[owner], name)
    assert hint in str(caught.value)
    assert f"has no attribute {name!r}" in str(caught.value)
    assert not hasattr(MADE[owner], name)
    assert name not in dir(MADE[owner])


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_any_other_name_is_missing_as_ever(made: object) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        made.no_such_name  # type: ignore[attr-defined]  # noqa: B018
    assert type(copy.copy(made)) is type(made)


def test_an_error_inside_a_property_is_not_taken_for_a_missing_name() -> None:
    class Broken(lc.BGEM3VectorStore):
        @property
        def count(self) -> Any:
            raise AttributeError("the real reason")

    with pytest.raises(AttributeError, match="the real reason"):
        Broken(ENGINE).count  # noqa: B018


@pytest.mark.parametrize("name", ["index", "node retriever"])
def test_an_index_says_that_it_cannot_be_pickled(name: str) -> None:
    with pytest.raises(InputError, match="one process at a time holds an index; open its folder"):
        pickle.dumps(MADE[name])


@pytest.mark.parametrize("name", ["engine", "index", "store"])
def test_a_copy_is_the_same_handle(name: str) -> None:
    assert copy.copy(MADE[name]) is MADE[name]
