from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.runnables import RunnableConfig

from bge_m3_integrations import (
    BGEM3,
    InputError,
)
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Modes
from bge_m3_integrations.langchain import BGEM3Retriever, BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.animals import DOCUMENTS, ids, made
from tests.unit.langchain.gated import GatedEncoder


class Handler(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[tuple[str, object]] = []

    def on_retriever_start(self, serialized: object, query: str, **kwargs: Any) -> None:
        self.seen.append(("start", query))

    def on_retriever_end(self, documents: Sequence[Document], **kwargs: Any) -> None:
        self.seen.append(("end", documents[0].id))

    def on_retriever_error(self, error: BaseException, **kwargs: Any) -> None:
        self.seen.append(("error", type(error)))


def test_a_batch_encodes_each_query_once_and_gives_what_single_calls_give() -> None:
    encoder, retriever = made(k=2)
    queries = ["red fox", "honey", "sky", "night"]
    before = len(encoder.calls)
    batched = retriever.batch(queries)
    encoded = [text for call in encoder.calls[before:] for text in call.texts]
    assert sorted(encoded) == sorted(queries)
    assert batched == [retriever.invoke(query) for query in queries]


async def test_an_async_batch_encodes_its_queries_in_few_calls() -> None:
    encoder, retriever = made(k=2)
    queries = [f"question {i} about a fox" for i in range(20)]
    before = len(encoder.calls)
    batched = await retriever.abatch(queries)
    calls = encoder.calls[before:]
    assert sorted(text for call in calls for text in call.texts) == sorted(queries)
    assert len(calls) <= 4
    assert batched == [retriever.invoke(query) for query in queries]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("concurrency", [1, None])
@pytest.mark.parametrize("over", ["index", "folder", "store"])
async def test_a_query_that_comes_twice_in_a_batch_is_encoded_once(
    tmp_path: Path, over: str, concurrency: int | None, *, asynchronous: bool
) -> None:
    encoder = FakeEncoder()
    path = tmp_path / "index"
    store = BGEM3VectorStore(BGEM3(encoder), path=path if over == "folder" else None)
    store.add_documents(DOCUMENTS)
    store_retriever = store.as_retriever(search_kwargs={"k": 1})
    retriever = BGEM3Retriever(store, k=1) if over != "store" else store_retriever
    queries = ["honey", "night", "fox", "sky"] * 8
    before = len(encoder.calls)
    config: RunnableConfig = {"max_concurrency": concurrency}
    if asynchronous:
        found = await retriever.abatch(queries, config)
    else:
        found = retriever.batch(queries, config)
    texts = [text for call in encoder.calls[before:] for text in call.texts]
    assert sorted(texts) == sorted(set(queries))
    assert [ids(documents) for documents in found[:3]] == [["bee"], ["owl"], ["fox"]]
    store.close()


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


async def test_many_questions_at_once_need_few_encoder_calls() -> None:
    encoder = GatedEncoder()
    encoder.gate.set()
    retriever = BGEM3Retriever.from_documents(DOCUMENTS, BGEM3(encoder), k=1)
    encoder.gate.clear()
    encoder.entered.clear()
    before = len(encoder.calls)
    queries = [f"question {i} about a fox" for i in range(200)]
    work = asyncio.gather(*(retriever.ainvoke(query) for query in queries))
    assert await encoder.runs_beside_the_loop(work)
    assert all(len(documents) == 1 for documents in work.result())
    assert len(encoder.calls) - before <= 20
