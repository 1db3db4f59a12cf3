from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document

from bge_m3_integrations import (
    BGEM3,
    FilterError,
    HybridIndex,
    InputError,
    Weights,
)
from bge_m3_integrations.langchain import BGEM3Retriever
from bge_m3_integrations.langchain.documents import document_filter
from bge_m3_integrations.langchain.search_options import candidates_among
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.animals import DOCUMENTS, made, ranked

CALLS: list[dict[str, Any]] = [
    {"k": 1},
    {"filter": {"year": 2023}},
    {"filter": lambda document: "sleeps" in document.page_content},
    {"weights": (0, 1, 0)},
    {"modes": ["dense", "sparse"]},
    {"score_threshold": 0.5},
]


@pytest.mark.parametrize("options", CALLS, ids=lambda options: next(iter(options)))
async def test_options_of_one_call_stand_in_place_of_the_fields(options: dict[str, Any]) -> None:
    _, retriever = made(k=4, filter={"year": {"$lt": 2024}}, include_scores=True)
    asked = {"k": 4, "filter": {"year": {"$lt": 2024}}, **options}
    asked["limit"], asked["where"] = asked.pop("k"), document_filter(asked.pop("filter"))
    if modes := asked.pop("modes", None):
        asked["weights"] = Weights().restricted(modes)
    expected = [(hit.id, hit.score) for hit in retriever.index.search("the cat sleeps", **asked)]
    assert ranked(retriever.invoke("the cat sleeps", **options)) == expected
    assert ranked(await retriever.ainvoke("the cat sleeps", **options)) == expected
    assert ranked(retriever.batch(["the cat sleeps"] * 2, **options)[1]) == expected
    assert ranked((await retriever.abatch(["the cat sleeps"] * 2, **options))[1]) == expected


def test_a_function_as_filter_sees_the_document_and_cannot_change_it() -> None:
    seen: list[Document] = []

    def owls(document: Document) -> bool:
        seen.append(document)
        document.metadata["year"] = "changed"
        return document.id == "owl"

    _, retriever = made(filter=owls)
    assert retriever.invoke("honey") == [DOCUMENTS[3]]
    assert {d.page_content for d in seen} == {d.page_content for d in DOCUMENTS}


def test_modes_of_a_call_are_the_only_ones_looked_up_and_scored() -> None:
    encoder, retriever = made(include_scores=True)
    scores = retriever.invoke("cat", modes="sparse")[0].metadata["bge_m3_scores"]
    assert scores.keys() == {"score", "fusion", "hybrid", "weighting", "weights", "sparse"}
    assert scores["weights"] == {"dense": 0, "sparse": 0.2, "colbert": 0}
    assert encoder.calls[-1].modes == {"sparse"}
    assert retriever._options({"modes": "sparse"}).get("candidates") == {"sparse": 100}


def test_token_vectors_alone_rank_what_the_usual_lookups_find() -> None:
    _, retriever = made(include_scores=True)
    found = retriever.invoke("cat", modes=["colbert"])
    expected = retriever.index.search("cat", limit=4, weights=(0, 0, 1))
    assert ranked(found) == [(hit.id, hit.score) for hit in expected]


def test_token_vectors_alone_rank_what_the_retrievers_own_lookups_find() -> None:
    _, retriever = made(k=2, candidates={"dense": 2})
    found = [document.id for document in retriever.invoke("cat", modes="colbert")]
    dense = retriever.index.search("cat", limit=2, weights=(1, 0, 0))
    assert set(found) == {hit.id for hit in dense}
    assert candidates_among("colbert", {"dense": 7}) == {"dense": 7}
    assert candidates_among("colbert", None) is None


async def test_modes_and_weights_of_a_call_that_contradict_each_other_are_refused() -> None:
    _, retriever = made()
    message = r"modes=\['dense'\] and weights=.*sparse=0.5.* contradict"
    with pytest.raises(InputError, match=message):
        retriever.invoke("cat", modes=["dense"], weights=(0.5, 0.5, 0))
    with pytest.raises(InputError, match=message):
        await retriever.ainvoke("cat", modes=["dense"], weights=(0.5, 0.5, 0))
    assert retriever.invoke("cat", modes=["dense"], weights=(1, 0, 0))


def test_modes_of_a_call_restrict_the_fields_weights_and_candidates() -> None:
    _, retriever = made(weights=(1, 3, 0), candidates={"dense": 7, "sparse": 9})
    options = retriever._options({"modes": ["sparse", "colbert"]})
    assert options.get("weights") == Weights(0, 3, 0)
    assert options.get("candidates") == {"sparse": 9}
    with pytest.raises(InputError, match="leave nothing to score by"):
        retriever.invoke("cat", modes=["colbert"])


def test_a_mode_that_the_index_lacks_is_refused_by_name() -> None:
    index = HybridIndex(BGEM3(FakeEncoder()), modes=["dense", "sparse"])
    with pytest.raises(InputError, match=r"count \['colbert'\], which this index lacks"):
        BGEM3Retriever(index=index).invoke("cat", modes=["colbert"])


def test_an_empty_filter_lifts_the_fields_filter_for_one_call() -> None:
    _, retriever = made(filter={"year": 2023})
    assert len(retriever.invoke("sleeps")) == 1
    assert len(retriever.invoke("sleeps", filter={})) == 4


async def test_an_unknown_option_of_a_call_is_refused() -> None:
    _, retriever = made()
    with pytest.raises(TypeError, match="top_k"):
        retriever.invoke("cat", top_k=2)
    with pytest.raises(TypeError, match="top_k"):
        await retriever.ainvoke("cat", top_k=2)
    with pytest.raises(TypeError, match="top_k"):
        retriever.batch(["cat", "dog"], top_k=2)


async def test_a_mistyped_filter_operator_of_a_call_is_refused() -> None:
    _, retriever = made()
    with pytest.raises(FilterError, match=r"unknown filter operator '\$gtee'.*\$gte"):
        retriever.invoke("cat", filter={"year": {"$gtee": 2021}})
    with pytest.raises(FilterError, match=r"unknown filter operator '\$gtee'.*\$gte"):
        await retriever.ainvoke("cat", filter={"year": {"$gtee": 2021}})
