"""A vector store over a path that holds no index, in both frameworks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from llama_index.core import Document as LlamaDocument
from llama_index.core import StorageContext
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import VectorStoreQuery

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.langchain import BGEM3Retriever, BGEM3VectorStore
from bge_m3_integrations.llama_index import BGEM3Index
from bge_m3_integrations.llama_index import BGEM3VectorStore as LlamaStore
from bge_m3_integrations.testing import FakeEncoder


def fake() -> BGEM3:
    return BGEM3(FakeEncoder())


@pytest.fixture
def typo(tmp_path: Path) -> Path:
    BGEM3VectorStore.from_texts(["a fox"], fake(), path=tmp_path / "my_index").close()
    return tmp_path / "my_indx"


LANGCHAIN: dict[str, Callable[[BGEM3VectorStore], object]] = {
    "similarity_search": lambda store: store.similarity_search("fox"),
    "asimilarity_search": lambda store: asyncio.run(store.asimilarity_search("fox")),
    "by vector": lambda store: store.similarity_search_by_vector([1.0] * 32),
    "mmr": lambda store: store.max_marginal_relevance_search("fox"),
    "one mode": lambda store: store.search("fox", "sparse"),
    "relevance": lambda store: store.similarity_search_with_relevance_scores("fox"),
    "retriever": lambda store: store.as_retriever().invoke("fox"),
    "get_by_ids": lambda store: store.get_by_ids(["a"]),
    "delete": lambda store: store.delete(["a"]),
}


@pytest.mark.parametrize("ask", LANGCHAIN.values(), ids=LANGCHAIN)
def test_langchains_store_over_a_mistyped_path_is_an_error_and_reads_no_model(
    typo: Path, ask: Callable[[BGEM3VectorStore], object]
) -> None:
    with (
        BGEM3VectorStore(BGEM3(typo.parent / "no model"), path=typo) as store,
        pytest.raises(StoreError, match=r"no index in .*did you mean .*/my_index\?"),
    ):
        ask(store)
    assert not typo.exists()


@pytest.mark.parametrize("isolated", [False, True])
def test_langchains_store_begins_with_its_first_text(tmp_path: Path, isolated: bool) -> None:
    with BGEM3VectorStore(fake(), path=tmp_path / "new", isolated=isolated) as store:
        assert store.add_texts([]) == []
        assert not (tmp_path / "new").exists()
        store.add_texts(["a fox", "a bridge"])
        assert [found.page_content for found in store.similarity_search("fox", k=1)] == ["a fox"]
        assert BGEM3Retriever(index=store.index).invoke("fox")


def test_a_store_that_must_be_there_or_may_be_empty_says_so(typo: Path) -> None:
    for refused in (
        lambda: BGEM3VectorStore(fake(), path=typo, create=False),
        lambda: BGEM3VectorStore(path=typo),
        lambda: BGEM3Retriever(index=typo),
        lambda: LlamaStore(fake(), path=typo, create=False),
        lambda: LlamaStore(path=typo),
    ):
        with pytest.raises(StoreError, match="did you mean"):
            refused()
    assert not typo.exists()
    with BGEM3VectorStore(fake(), path=typo, create=True) as store:
        assert store.similarity_search("fox") == []


def test_llama_indexes_store_over_a_mistyped_path_is_an_error_and_reads_no_model(
    typo: Path,
) -> None:
    store = LlamaStore(fake(), path=typo)
    for ask in (
        lambda: store.query(VectorStoreQuery(query_str="fox")),
        lambda: asyncio.run(store.aquery(VectorStoreQuery(query_str="fox"))),
        store.get_nodes,
        lambda: store.delete("a"),
        store.clear,
        lambda: BGEM3Index(vector_store=store).as_retriever().retrieve("fox"),
    ):
        with pytest.raises(StoreError, match=r"no index in .*did you mean .*/my_index\?"):
            ask()
    assert store.engine.stats.texts == 0
    assert not typo.exists()
    store.close()


def test_llama_indexes_store_begins_with_its_first_node(tmp_path: Path) -> None:
    store = LlamaStore(fake(), path=tmp_path / "nodes")
    store.add([TextNode(id_="a", text="a fox")])
    assert store.query(VectorStoreQuery(query_str="fox")).ids == ["a"]
    store.close()
    held = LlamaStore(fake(), path=tmp_path / "documents")
    context = StorageContext.from_defaults(vector_store=held)
    index = BGEM3Index(storage_context=context)
    documents = [LlamaDocument(id_="d", text="a bridge")]
    assert index.refresh_ref_docs(documents) == [True]
    assert index.refresh_ref_docs(documents) == [False]
    assert held.index.count() == 1
    index.close()
    with HybridIndex.open(tmp_path / "documents", fake(), create=False) as again:
        assert again.count() == 1
