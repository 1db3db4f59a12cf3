"""Thresholds on the calibrated scale in LangChain's classes, and readings in their metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.load import dumpd, load
from pydantic import ValidationError

from bge_m3_integrations import BGEM3, HybridIndex, InputError, Percentile, Probability
from bge_m3_integrations.demo import checkpoint_path, load_corpus
from bge_m3_integrations.langchain import BGEM3Reranker, BGEM3Retriever, BGEM3VectorStore
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
    kept = [hit.text for hit in hits if getattr(hit, name) >= threshold.value]
    assert 0 < len(kept) < len(hits)
    return kept


@pytest.mark.parametrize("threshold", THRESHOLDS)
async def test_the_retriever_takes_them_as_field_and_in_a_call(
    index: HybridIndex, threshold: Any
) -> None:
    field = BGEM3Retriever(index=index, k=60, score_threshold=threshold)
    call = BGEM3Retriever(index=index, k=60)
    for found in (
        field.invoke(QUERY),
        await field.ainvoke(QUERY),
        field.batch([QUERY, "tea"])[0],
        call.invoke(QUERY, score_threshold=threshold),
    ):
        assert [document.page_content for document in found] == expected(index, threshold)


@pytest.mark.parametrize("threshold", THRESHOLDS)
async def test_the_vector_store_and_its_retriever_take_them(
    index: HybridIndex, threshold: Any
) -> None:
    store = BGEM3VectorStore(index=index)
    options: dict[str, Any] = {"k": 60, "score_threshold": threshold}
    found = [
        store.similarity_search(QUERY, **options),
        await store.asimilarity_search(QUERY, **options),
        [document for document, _ in store.similarity_search_with_score(QUERY, **options)],
        store.as_retriever(search_kwargs=options).invoke(QUERY),
        store.as_retriever(search_type="similarity_score_threshold", search_kwargs=options).invoke(
            QUERY
        ),
        await store.as_retriever(
            search_type="similarity_score_threshold", search_kwargs=options
        ).ainvoke(QUERY),
    ]
    for documents in found:
        assert [document.page_content for document in documents] == expected(index, threshold)
    scored = store.similarity_search_with_relevance_scores(QUERY, **options)
    hits = index.search(QUERY, limit=len(scored))
    assert [relevance for _, relevance in scored] == [hit.relevance for hit in hits]


def test_the_scores_in_metadata_have_the_readings(index: HybridIndex) -> None:
    [document] = BGEM3Retriever(index=index, k=1, include_scores=True).invoke(QUERY)
    hit = index.search(QUERY, limit=1)[0]
    assert document.metadata["bge_m3_scores"]["probability"] == hit.probability
    assert document.metadata["bge_m3_scores"]["percentile"] == hit.percentile
    index.calibration = None
    [document] = BGEM3Retriever(index=index, k=1, include_scores=True).invoke(QUERY)
    assert not {"probability", "percentile"} & document.metadata["bge_m3_scores"].keys()


def test_without_a_calibration_they_are_errors(index: HybridIndex) -> None:
    index.calibration = None
    store = BGEM3VectorStore(index=index)
    with pytest.raises(InputError, match=r"calibrate\("):
        BGEM3Retriever(index=index, score_threshold=Percentile(99)).invoke(QUERY)
    with pytest.raises(InputError, match=r"calibrate\("):
        store.similarity_search(QUERY, score_threshold=Probability(0.5))
    with pytest.raises(InputError, match=r"calibrate\("):
        store.similarity_search_with_relevance_scores(QUERY, score_threshold=Probability(0.5))


@pytest.mark.parametrize("threshold", [0.3, *THRESHOLDS])
def test_a_retriever_is_written_and_read_with_its_threshold(tmp_path: Path, threshold: Any) -> None:
    with HybridIndex.open(tmp_path, BGEM3(checkpoint_path())) as index:
        index.add(load_corpus()[:5])
        retriever = BGEM3Retriever(index=index, score_threshold=threshold)
        written = dumpd(retriever)
    assert written["type"] == "constructor"
    again = load(
        written, valid_namespaces=["bge_m3_integrations"], allowed_objects=[BGEM3Retriever]
    )
    assert again.score_threshold == threshold


@pytest.mark.parametrize("bad", ["high", float("nan"), {"probability": 2}, {"chance": 1}])
def test_other_things_are_refused_at_once(index: HybridIndex, bad: Any) -> None:
    with pytest.raises(ValidationError, match="score_threshold"):
        BGEM3Retriever(index=index, score_threshold=bad)
    with pytest.raises(ValidationError, match="score_threshold"):
        BGEM3Reranker(engine=index.engine, score_threshold=Probability(0.5))  # type: ignore[call-arg]
