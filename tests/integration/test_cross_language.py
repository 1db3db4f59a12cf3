"""Questions in English over documents in Chinese, which share no word: the demo checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from llama_index.core.llms import MockLLM
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import QueryBundle

from bge_m3_integrations import BGEM3, HybridIndex, Weights, langchain, llama_index
from bge_m3_integrations.demo import checkpoint_path, load_corpus

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from langchain_classic.retrievers import EnsembleRetriever

QUESTION = "garden"
LEXICAL = {"weights": Weights.only("sparse"), "candidates": {"sparse": 100}}
DENSE = {"weights": Weights.only("dense"), "candidates": {"dense": 100}}


@pytest.fixture(scope="module", params=["memory", "folder", "isolated"])
def index(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HybridIndex]:
    engine = BGEM3(checkpoint_path(), device="cpu", dtype="float32")
    path: Path = tmp_path_factory.mktemp("chinese") / "index"
    made = (
        HybridIndex(engine)
        if request.param == "memory"
        else HybridIndex.open(path, engine, isolated=request.param == "isolated")
    )
    with made as index:
        index.add(record for record in load_corpus() if record.metadata["lang"] == "zh")
        yield index


def test_nothing_is_found_by_words_that_no_document_has(index: HybridIndex) -> None:
    assert index.count() > 5
    assert index.search(QUESTION, weights=Weights.only("sparse")) == []
    assert index.search(QUESTION, candidates={"sparse": 100}) == []
    ranked = index.search(QUESTION, weights=Weights.only("sparse"), exact=True, limit=3)
    assert [hit.score for hit in ranked] == [0, 0, 0]
    hybrid = index.search(QUESTION, limit=3)
    assert [hit.components["sparse"] for hit in hybrid] == [0, 0, 0]
    store = langchain.BGEM3VectorStore(index=index)
    assert store.search(QUESTION, "sparse") == []
    assert langchain.BGEM3Retriever(index=index).invoke(QUESTION, modes="sparse") == []


def test_what_no_word_found_outranks_no_right_hit_in_langchains_ensemble(
    index: HybridIndex,
) -> None:
    lexical = langchain.BGEM3Retriever(index=index, **LEXICAL)
    dense = langchain.BGEM3Retriever(index=index, **DENSE)
    parts: list[BaseRetriever] = [lexical, dense]
    fused = EnsembleRetriever(retrievers=parts, weights=[0.5, 0.5], id_key="source")
    expected: list[Document] = dense.invoke(QUESTION)
    assert [document.id for document in fused.invoke(QUESTION)] == [d.id for d in expected]


def test_what_no_word_found_outranks_no_right_hit_in_llama_indexs_fusion(
    index: HybridIndex,
) -> None:
    lexical = llama_index.BGEM3Retriever(index=index, similarity_top_k=4, **LEXICAL)
    dense = llama_index.BGEM3Retriever(index=index, similarity_top_k=4, **DENSE)
    fused = QueryFusionRetriever(
        [lexical, dense], llm=MockLLM(), num_queries=1, similarity_top_k=4, use_async=False
    )
    found = fused.retrieve(QueryBundle(QUESTION))
    assert [n.node.node_id for n in found] == [
        n.node.node_id for n in dense.retrieve(QueryBundle(QUESTION))
    ]
