from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField, RunnableConfig
from langchain_core.tools import create_retriever_tool
from pydantic import ValidationError

from bge_m3_integrations import (
    BGEM3,
    FilterError,
    HybridIndex,
    InputError,
    MemoryStore,
    Record,
    ScaledSum,
)
from bge_m3_integrations.langchain import BGEM3Retriever
from bge_m3_integrations.testing import FakeEncoder
from bge_m3_integrations.types import EmbeddingBatch, Kind, Modes
from tests.integration.langchain.gated import GatedEncoder

DOCUMENTS = [
    Document(id="fox", page_content="the red fox runs", metadata={"year": 2020}),
    Document(id="dog", page_content="the lazy dog sleeps", metadata={"year": 2021}),
    Document(id="cat", page_content="the cat sleeps too", metadata={"year": 2022}),
    Document(id="owl", page_content="an owl sees at night", metadata={"year": 2023}),
    Document(id="bee", page_content="a bee makes honey", metadata={"year": 2024}),
]


def made(**options: Any) -> tuple[FakeEncoder, BGEM3Retriever]:
    encoder = FakeEncoder()
    return encoder, BGEM3Retriever.from_documents(DOCUMENTS, BGEM3(encoder), **options)


def ids(documents: Sequence[Document]) -> list[str | None]:
    return [document.id for document in documents]


def ranked(documents: Sequence[Document]) -> list[tuple[str | None, float]]:
    return [(d.id, d.metadata["bge_m3_scores"]["score"]) for d in documents]


class Handler(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[tuple[str, object]] = []

    def on_retriever_start(self, serialized: object, query: str, **kwargs: Any) -> None:
        self.seen.append(("start", query))

    def on_retriever_end(self, documents: Sequence[Document], **kwargs: Any) -> None:
        self.seen.append(("end", documents[0].id))

    def on_retriever_error(self, error: BaseException, **kwargs: Any) -> None:
        self.seen.append(("error", type(error)))


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
    assert scores.keys() == {"score", "fusion", "hybrid", "dense", "sparse"}
    assert scores["fusion"] == "scaled_sum"
    assert all(type(value) is float for name, value in scores.items() if name != "fusion")
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


CALLS: list[dict[str, Any]] = [
    {"k": 1},
    {"filter": {"year": 2023}},
    {"filter": lambda metadata: metadata["year"] > 2022},
    {"weights": (0, 1, 0)},
    {"score_threshold": 0.5},
]


@pytest.mark.parametrize("options", CALLS, ids=lambda options: next(iter(options)))
async def test_options_of_one_call_stand_in_place_of_the_fields(options: dict[str, Any]) -> None:
    _, retriever = made(k=4, filter={"year": {"$lt": 2024}}, include_scores=True)
    asked = {"k": 4, "filter": {"year": {"$lt": 2024}}, **options}
    asked["limit"], asked["where"] = asked.pop("k"), asked.pop("filter")
    expected = [(hit.id, hit.score) for hit in retriever.index.search("the cat sleeps", **asked)]
    assert ranked(retriever.invoke("the cat sleeps", **options)) == expected
    assert ranked(await retriever.ainvoke("the cat sleeps", **options)) == expected
    assert ranked(retriever.batch(["the cat sleeps"] * 2, **options)[1]) == expected
    assert ranked((await retriever.abatch(["the cat sleeps"] * 2, **options))[1]) == expected


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


async def test_a_mistyped_filter_operator_of_a_call_is_refused() -> None:
    _, retriever = made()
    with pytest.raises(FilterError, match=r"did you mean \$gte\?"):
        retriever.invoke("cat", filter={"year": {"$gtee": 2021}})
    with pytest.raises(FilterError, match=r"did you mean \$gte\?"):
        await retriever.ainvoke("cat", filter={"year": {"$gtee": 2021}})


def test_a_batch_is_one_encoding_and_gives_what_single_calls_give() -> None:
    encoder, retriever = made(k=2)
    queries = ["red fox", "honey", "red fox", "night"]
    before = len(encoder.calls)
    batched = retriever.batch(queries)
    assert [call.texts for call in encoder.calls[before:]] == [("red fox", "honey", "night")]
    assert batched == [retriever.invoke(query) for query in queries]


async def test_an_async_batch_is_one_encoding_too() -> None:
    encoder, retriever = made(k=2)
    queries = [f"question {i} about a fox" for i in range(20)]
    before = len(encoder.calls)
    batched = await retriever.abatch(queries, {"max_concurrency": 3})
    assert [call.texts for call in encoder.calls[before:]] == [tuple(queries)]
    assert batched == [retriever.invoke(query) for query in queries]


def test_equal_queries_of_a_batch_share_no_documents() -> None:
    _, retriever = made(k=1)
    first, second = retriever.batch(["honey", "honey"])
    first[0].metadata["year"] = "changed"
    assert second[0].metadata == {"year": 2024}


async def test_one_bad_query_of_a_batch_fails_alone_when_asked_so() -> None:
    _, retriever = made(k=1)
    queries: list[Any] = ["honey", 7, "bad \ud800 surrogate"]
    for found in (
        retriever.batch(queries, return_exceptions=True),
        await retriever.abatch(queries, return_exceptions=True),
    ):
        assert ids(found[0]) == ["bee"]
        assert isinstance(found[1], InputError)
    with pytest.raises(InputError):
        retriever.batch(queries[:2])


def test_an_encoding_that_fails_for_one_text_leaves_the_others_of_a_batch_their_answers() -> None:
    class Picky(FakeEncoder):
        def encode(
            self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
        ) -> EmbeddingBatch:
            if "poison" in texts:
                raise InputError("a text cannot be encoded")
            return super().encode(texts, kind=kind, modes=modes, max_length=max_length)

    retriever = BGEM3Retriever.from_documents(DOCUMENTS, BGEM3(Picky()), k=1)
    handler = Handler()
    queries = ["honey", "poison", "night"]
    config: RunnableConfig = {"callbacks": [handler], "max_concurrency": 1}
    found = retriever.batch(queries, config, return_exceptions=True)
    assert [ids(found[0]), ids(found[2])] == [["bee"], ["owl"]]
    assert isinstance(found[1], InputError)
    assert ("error", InputError) in handler.seen


def test_an_empty_batch_is_empty() -> None:
    _, retriever = made()
    assert retriever.batch([]) == []


def test_each_query_of_a_batch_has_its_own_config_and_callbacks() -> None:
    _, retriever = made(k=1)
    first, second = Handler(), Handler()
    retriever.batch(["honey", "night"], [{"callbacks": [first]}, {"callbacks": [second]}])
    assert first.seen == [("start", "honey"), ("end", "bee")]
    assert second.seen == [("start", "night"), ("end", "owl")]


async def test_events_name_the_retriever_the_store_and_the_model() -> None:
    _, retriever = made(k=1, tags=["handbook"])
    events = [event async for event in retriever.astream_events("honey", version="v2")]
    assert [event["event"] for event in events] == ["on_retriever_start", "on_retriever_end"]
    assert ids(events[1]["data"]["output"]) == ["bee"]
    assert events[0]["name"] == "BGEM3Retriever"
    assert events[0]["tags"] == ["handbook"]
    params = retriever._get_ls_params()
    assert params == {
        "ls_retriever_name": "bgem3",
        "ls_vector_store_provider": "MemoryStore",
        "ls_embedding_provider": "BGEM3",
        "ls_embedding_model": "FakeEncoder",
    }


@pytest.mark.parametrize("count", [1, 100])
async def test_the_event_loop_and_its_threads_stay_free_while_queries_are_encoded(
    count: int,
) -> None:
    encoder = GatedEncoder()
    encoder.gate.set()
    retriever = BGEM3Retriever.from_documents(DOCUMENTS, BGEM3(encoder), k=1)
    encoder.gate.clear()
    encoder.entered.clear()
    queries = [f"question {i}" for i in range(count)]
    work = retriever.ainvoke(queries[0]) if count == 1 else retriever.abatch(queries)
    assert await encoder.runs_beside_the_loop(work)


def test_configurable_fields_keep_the_index_and_its_engine() -> None:
    encoder, retriever = made()
    configurable = retriever.configurable_fields(k=ConfigurableField(id="k"))
    sizes = [len(configurable.invoke("honey", {"configurable": {"k": k}})) for k in (1, 2, 3)]
    assert sizes == [1, 2, 3]
    assert sum(encoder.forwards[d.page_content] for d in DOCUMENTS) == len(DOCUMENTS)


async def test_an_agent_can_have_it_as_a_tool() -> None:
    _, retriever = made(k=1)
    tool = create_retriever_tool(retriever, "handbook", "Search the handbook.")
    assert tool.invoke({"query": "honey"}) == "a bee makes honey"
    assert await tool.ainvoke({"query": "honey"}) == "a bee makes honey"


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


def test_making_one_over_an_index_loads_nothing() -> None:
    index = HybridIndex(BGEM3("no/such-model", offline=True))
    assert BGEM3Retriever(index=index, k=2).k == 2
