from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableLambda

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.index.request import Stage
from bge_m3_integrations.langchain import BGEM3Retriever
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.animals import DOCUMENTS, ids, made

NAMES = ["bge_m3.encode", "bge_m3.find", "bge_m3.score", "bge_m3.rank"]


class Handler(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.runs: set[UUID] = set()
        self.retrievers: set[UUID] = set()

    def on_retriever_start(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        self.retrievers.add(run_id)

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.events.append((name, data))
        self.runs.add(run_id)


class Deaf(Handler):
    @property
    def ignore_custom_event(self) -> bool:
        return True


class Watching(HybridIndex):
    observers: list[Callable[[Stage], None] | None]

    def search_batch(self, queries: Any, **options: Any) -> Any:
        self.observers.append(options.get("observe"))
        return super().search_batch(queries, **options)


async def test_each_step_of_a_search_is_an_event_of_the_retrievers_run() -> None:
    _, retriever = made(k=2)
    handlers = Handler(), Handler()
    retriever.invoke("honey", {"callbacks": [handlers[0]]})
    await retriever.ainvoke("honey", {"callbacks": [handlers[1]]})
    for handler in handlers:
        assert [name for name, _ in handler.events] == NAMES
        assert handler.runs == handler.retrievers
        assert all(data["seconds"] >= 0 and data["queries"] == 1 for _, data in handler.events)
        counts = {key: n for _, data in handler.events for key, n in data.items()}
        assert counts["candidates"] == len(DOCUMENTS)
        assert (counts["modes"], counts["hits"]) == (3, 2)


async def test_streamed_events_name_the_retriever_and_its_steps() -> None:
    _, retriever = made(k=1, tags=["handbook"])
    events = [event async for event in retriever.astream_events("honey", version="v2")]
    assert [event["event"] for event in events] == [
        "on_retriever_start",
        *["on_custom_event"] * 4,
        "on_retriever_end",
    ]
    assert [event["name"] for event in events] == ["BGEM3Retriever", *NAMES, "BGEM3Retriever"]
    assert len({event["run_id"] for event in events}) == 1
    assert events[0]["tags"] == ["handbook"]
    assert ids(events[-1]["data"]["output"]) == ["bee"]


async def test_in_a_chain_the_events_have_the_chains_run_above_them() -> None:
    _, retriever = made(k=1)
    chain = retriever | RunnableLambda(lambda documents: documents[0].id)
    events = [event async for event in chain.astream_events("honey", version="v2")]
    custom = [event for event in events if event["event"] == "on_custom_event"]
    started = next(event for event in events if event["event"] == "on_retriever_start")
    assert [event["name"] for event in custom] == NAMES
    assert {event["run_id"] for event in custom} == {started["run_id"]}
    assert all(event["parent_ids"] == started["parent_ids"] for event in custom)


async def test_each_query_of_a_batch_is_told_of_its_own_steps() -> None:
    _, retriever = made(k=1)
    queries = ["honey", "night", "honey"]
    handlers = [Handler() for _ in range(6)]
    retriever.batch(queries, [{"callbacks": [handler]} for handler in handlers[:3]])
    await retriever.abatch(queries, [{"callbacks": [handler]} for handler in handlers[3:]])
    for handler in handlers:
        assert [name for name, _ in handler.events] == NAMES
        assert {data["queries"] for _, data in handler.events} == {1}
    assert handlers[0].runs != handlers[1].runs


@pytest.mark.parametrize("callbacks", [[], [Deaf()]], ids=["nobody", "deaf"])
def test_where_nobody_listens_nothing_is_observed(callbacks: list[Handler]) -> None:
    index = Watching(BGEM3(FakeEncoder()))
    index.observers = []
    retriever = BGEM3Retriever(index=index)
    retriever.invoke("honey", {"callbacks": callbacks})
    assert index.observers == [None]
    assert all(handler.events == [] for handler in callbacks)


def test_a_run_names_the_store_and_the_model() -> None:
    _, retriever = made()
    assert retriever._get_ls_params() == {
        "ls_retriever_name": "bgem3",
        "ls_vector_store_provider": "MemoryStore",
        "ls_embedding_provider": "BGEM3",
        "ls_embedding_model": "FakeEncoder",
    }
