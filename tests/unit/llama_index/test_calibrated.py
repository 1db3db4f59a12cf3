"""Thresholds on the calibrated scale in LlamaIndex's classes, and readings in their metadata."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from bge_m3_integrations import BGEM3, HybridIndex, InputError, Percentile, Probability
from bge_m3_integrations.llama_index import BGEM3Retriever, BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder
from tests.calibrations import calibration

QUERY = "text about ships"
TEXTS = [f"text number {i} about {word}" for i, word in enumerate(["tea", "ships", "stars"] * 20)]
THRESHOLDS = [Probability(0.9), Percentile(70)]


@pytest.fixture
def index() -> HybridIndex:
    made = HybridIndex(BGEM3(FakeEncoder()))
    made.add(TEXTS)
    made.calibration = calibration(made)
    return made


def expected(index: HybridIndex, threshold: Any) -> list[str]:
    name = type(threshold).__name__.lower()
    hits = index.search(QUERY, limit=60)
    kept = [hit.id for hit in hits if getattr(hit, name) >= threshold.value]
    assert 0 < len(kept) < len(hits)
    return kept


@pytest.mark.parametrize("threshold", THRESHOLDS)
async def test_the_retriever_takes_them(index: HybridIndex, threshold: Any) -> None:
    retriever = BGEM3Retriever(index, similarity_top_k=60, score_threshold=threshold)
    for nodes in (
        retriever.retrieve(QUERY),
        await retriever.aretrieve(QUERY),
        retriever.retrieve_batch([QUERY])[0],
    ):
        assert [node.node_id for node in nodes] == expected(index, threshold)


@pytest.mark.parametrize("threshold", THRESHOLDS)
async def test_the_vector_store_takes_them_as_a_keyword(index: HybridIndex, threshold: Any) -> None:
    store = BGEM3VectorStore(index=index)
    query = VectorStoreQuery(query_str=QUERY, similarity_top_k=60)
    assert store.query(query, score_threshold=threshold).ids == expected(index, threshold)
    found = await store.aquery(query, score_threshold=threshold)
    assert found.ids == expected(index, threshold)
    assert store.query(query, score_threshold=0.0).ids == store.query(query).ids


def test_a_search_by_other_weights_needs_its_own_calibration(index: HybridIndex) -> None:
    store = BGEM3VectorStore(index=index)
    sparse = VectorStoreQuery(query_str=QUERY, mode=VectorStoreQueryMode.SPARSE)
    with pytest.raises(InputError, match="needs a calibration of this search"):
        store.query(sparse, score_threshold=Percentile(70))
    index.calibration = None
    with pytest.raises(InputError, match=r"calibrate\("):
        BGEM3Retriever(index, score_threshold=Percentile(70)).retrieve(QUERY)


def test_the_scores_in_metadata_have_the_readings(index: HybridIndex) -> None:
    [node] = BGEM3Retriever(index, similarity_top_k=1, include_scores=True).retrieve(QUERY)
    hit = index.search(QUERY, limit=1)[0]
    assert node.metadata["bge_m3_scores"]["probability"] == hit.probability
