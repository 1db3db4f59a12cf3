from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError

from bge_m3_integrations import (
    BGEM3,
    HybridIndex,
    InputError,
    MemoryStore,
    Record,
    ScaledSum,
)
from bge_m3_integrations.langchain import BGEM3Retriever
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.animals import DOCUMENTS, ids, made


def test_it_finds_what_the_index_finds_as_equal_documents() -> None:
    _, retriever = made(k=2)
    expected = [hit.id for hit in retriever.index.search("lazy dog", limit=2)]
    found = retriever.invoke("lazy dog")
    assert ids(found) == expected
    assert found[0] == DOCUMENTS[1]


def test_a_query_is_one_forward_and_a_document_one() -> None:
    encoder, retriever = made()
    retriever.invoke("lazy dog")
    assert encoder.forwards["lazy dog"] == 1
    assert all(encoder.forwards[d.page_content] == 1 for d in DOCUMENTS)


def test_neither_the_inputs_nor_the_stored_documents_can_be_changed_through_the_results() -> None:
    before = deepcopy(DOCUMENTS)
    _, retriever = made(include_scores=True)
    retriever.invoke("lazy dog")[0].metadata["year"] = "changed"
    assert before == DOCUMENTS
    assert retriever.invoke("lazy dog")[0].metadata["year"] == 2021


def test_documents_carry_scores_only_when_asked() -> None:
    _, plain = made()
    _, told = made(include_scores=True, weights=(1, 1, 0), fusion=ScaledSum())
    assert plain.invoke("lazy dog")[0].metadata == {"year": 2021}
    scores = told.invoke("lazy dog")[0].metadata["bge_m3_scores"]
    assert scores.keys() == {"score", "fusion", "hybrid", "weighting", "weights", "dense", "sparse"}
    assert scores["fusion"] == "scaled_sum"
    assert scores["weights"] == {"dense": 1, "sparse": 1, "colbert": 0}
    numbers = (v for name, v in scores.items() if name not in {"fusion", "weighting", "weights"})
    assert all(type(value) is float for value in numbers)
    assert scores["hybrid"] == pytest.approx((scores["dense"] + scores["sparse"]) / 2)


def test_the_fields_are_what_the_index_is_asked() -> None:
    _, retriever = made(k=5, filter={"year": {"$gte": 2022}}, weights="keyword")
    expected = retriever.index.search(
        "sleeps", limit=5, where={"year": {"$gte": 2022}}, weights="keyword"
    )
    assert ids(retriever.invoke("sleeps")) == [hit.id for hit in expected]
    _, strict = made(k=5, score_threshold=expected[0].score, weights="keyword")
    assert all(d.id in {"cat", "dog"} for d in strict.invoke("sleeps"))


def test_candidates_say_which_modes_are_looked_up() -> None:
    encoder, retriever = made(candidates={"colbert": 5}, weights=(1, 0, 0))
    retriever.invoke("sleeps")
    assert encoder.calls[-1].modes == {"dense", "colbert"}


def test_documents_go_to_the_store_that_was_given() -> None:
    store = MemoryStore()
    _, retriever = made(store=store)
    assert retriever.index.store is store
    assert store.count() == len(DOCUMENTS)


def test_it_can_be_shown_and_dumped_without_its_index() -> None:
    _, retriever = made(filter={"year": 2023}, weights="keyword")
    assert "index" not in retriever.model_dump()
    assert "HybridIndex" not in repr(retriever)


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": 2},
        {"k": 0},
        {"weights": "no such preset"},
        {"weights": (0, 0, 0)},
        {"filter": {"year": {"$gtr": 1}}},
        {"candidates": {"dens": 10}},
        {"fusion": "rrf"},
    ],
)
def test_wrong_constructor_keywords_are_refused_at_once(wrong: dict[str, Any]) -> None:
    index = HybridIndex(BGEM3(FakeEncoder()))
    with pytest.raises(ValidationError):
        BGEM3Retriever(index=index, **wrong)


def test_a_copy_with_an_update_searches_by_what_it_says() -> None:
    _, retriever = made(k=2, include_scores=True, tags=["animals"])
    index = HybridIndex(BGEM3(FakeEncoder()))
    index.add([Record("new", "a new text")])
    copied = retriever.model_copy(update={"index": index, "k": 1})
    assert (copied.index, copied.k, copied.tags) == (index, 1, ["animals"])
    assert ids(copied.invoke("honey")) == ["new"]
    assert retriever.index is not index
    assert retriever.model_copy(update={"k": 3}).index is retriever.index
    assert retriever.model_copy(deep=True) == retriever.model_copy() == retriever


@pytest.mark.parametrize("wrong", [{"top_k": 1}, {"k": 0}, {"fusion": "rrf"}, {"index": 3}])
def test_a_copy_refuses_an_update_as_the_constructor_does(wrong: dict[str, Any]) -> None:
    _, retriever = made()
    with pytest.raises(ValidationError):
        retriever.model_copy(update=wrong)


def test_configurable_fields_keep_the_index_and_construct_no_encoder() -> None:
    constructed: list[int] = []

    class Counted(FakeEncoder):
        def __init__(self) -> None:
            super().__init__()
            constructed.append(1)

    encoder = Counted()
    retriever = BGEM3Retriever.from_documents(DOCUMENTS, BGEM3(encoder))
    configurable = retriever.configurable_fields(k=ConfigurableField(id="k"))
    used = [configurable.with_config(configurable={"k": k}) for k in (1, 2, 3)]
    assert [len(one.invoke("honey")) for one in used] == [1, 2, 3]
    for k in (1, 2, 3):
        prepared, _ = configurable.prepare({"configurable": {"k": k}})  # type: ignore[attr-defined]
        assert (prepared.k, prepared.index) == (k, retriever.index)
    assert len(constructed) == 1
    assert encoder.forwards["honey"] == 3
    assert sum(encoder.forwards[d.page_content] for d in DOCUMENTS) == len(DOCUMENTS)


def test_texts_metadatas_and_ids_may_be_generators() -> None:
    retriever = BGEM3Retriever.from_texts(
        (text for text in ["one fox", "two dogs"]),
        BGEM3(FakeEncoder()),
        metadatas=({"n": n} for n in (1, 2)),
        ids=(name for name in "ab"),
        k=1,
    )
    assert retriever.invoke("dogs") == [
        Document(id="b", page_content="two dogs", metadata={"n": 2})
    ]


@pytest.mark.parametrize("short", [{"ids": ["a"]}, {"metadatas": [{}]}])
def test_too_few_ids_or_metadatas_encode_nothing(short: dict[str, Any]) -> None:
    encoder = FakeEncoder()
    with pytest.raises(InputError, match="2 documents, but 1"):
        BGEM3Retriever.from_texts(["one", "two"], BGEM3(encoder), **short)
    assert encoder.calls == []


def test_it_reads_records_that_another_framework_wrote() -> None:
    index = HybridIndex(BGEM3(FakeEncoder()))
    index.add([Record(id="n", text="title\n\nbody", content="body", payload={"class": "TextNode"})])
    expected = [Document(id="n", page_content="body")]
    assert BGEM3Retriever(index=index).invoke("title") == expected


@pytest.mark.parametrize(
    "fusion", [ScaledSum(), "scaled_sum", {"name": "scaled_sum"}], ids=lambda f: type(f).__name__
)
def test_a_fusion_may_be_given_by_name(fusion: Any) -> None:
    _, retriever = made(fusion=fusion, include_scores=True)
    assert retriever.fusion == ScaledSum()
    assert retriever.invoke("cat")[0].metadata["bge_m3_scores"]["fusion"] == "scaled_sum"


@pytest.mark.parametrize("wrong", ["rrf", {"name": "scaled_sum", "k": 3}, {}])
def test_an_unknown_fusion_is_refused_with_the_known_ones(wrong: Any) -> None:
    with pytest.raises(ValidationError, match=r"weighted_sum|it has \[\]"):
        made(fusion=wrong)


def test_making_one_over_an_index_loads_nothing() -> None:
    index = HybridIndex(BGEM3("no/such-model", offline=True))
    assert BGEM3Retriever(index=index, k=2).k == 2
