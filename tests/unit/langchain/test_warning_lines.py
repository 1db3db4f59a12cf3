"""Warnings of threads and tasks point to the user's line that started them, once for a call."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from langchain_core.documents import Document

from bge_m3_integrations import BGEM3, FilterWarning, TruncationWarning
from bge_m3_integrations.langchain import BGEM3Reranker, BGEM3Retriever, BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder

LONG = "fox " * 9000
MISSING = {"no such key": 1}


@pytest.fixture
def store() -> BGEM3VectorStore:
    engine = BGEM3(FakeEncoder(max_length=64))
    return BGEM3VectorStore.from_texts(["tea is a leaf", "coffee is a bean"], engine)


def told(call: Callable[[], Any]) -> list[tuple[type[Warning], str, int]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [(w.category, w.filename, w.lineno) for w in caught]


def line_of(function: Callable[..., Any]) -> int:
    return inspect.getsourcelines(function)[1] + 1


@pytest.mark.parametrize("kind", ["store's retriever", "retriever", "reranker"])
def test_a_batch_warns_once_at_the_users_line(store: BGEM3VectorStore, kind: str) -> None:
    documents = [Document(page_content="tea")]
    pairs: list[Any] = [{"query": query, "documents": documents} for query in (LONG, "tea", LONG)]
    over, inputs = {
        "store's retriever": (store.as_retriever(), [LONG, "tea", LONG + "x"]),
        "retriever": (BGEM3Retriever(store), [LONG, "tea", LONG + "x"]),
        "reranker": (BGEM3Reranker(store.engine), pairs),
    }[kind]
    run: Any = over

    def batch() -> None:
        run.batch(inputs)

    def abatch() -> None:
        asyncio.run(run.abatch(inputs))

    for call in (batch, abatch):
        assert told(call) == [(TruncationWarning, __file__, line_of(call))]


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.adelete(filter=MISSING),
        lambda store: store.asimilarity_search("tea", filter=MISSING),
        lambda store: store.asimilarity_search_by_vector([1.0] * 32, filter=MISSING),
        lambda store: store.amax_marginal_relevance_search("tea", filter=MISSING),
        lambda store: BGEM3Retriever(store).ainvoke("tea", filter=MISSING),
        lambda store: BGEM3Retriever(store).abatch(["tea", "fox"], filter=MISSING),
        lambda store: store.as_retriever().abatch(["tea", "fox"], filter=MISSING),
    ],
)
def test_a_filter_that_matches_nothing_is_told_at_the_line_that_awaits(
    store: BGEM3VectorStore, call: Callable[[BGEM3VectorStore], Awaitable[Any]]
) -> None:
    async def user() -> None:
        await call(store)

    [(category, filename, line)] = told(lambda: asyncio.run(user()))
    assert (category, filename, line) == (FilterWarning, __file__, line_of(user))


@pytest.mark.parametrize("kind", ["store's", "own"])
def test_threads_of_a_batch_tell_of_a_filter_at_its_line(
    store: BGEM3VectorStore, kind: str
) -> None:
    run: Any = store.as_retriever() if kind == "store's" else BGEM3Retriever(store)

    def batch() -> None:
        run.batch(["tea", "fox"], filter=MISSING)

    assert told(batch) == [(FilterWarning, __file__, line_of(batch))]


async def test_a_stop_iteration_in_a_thread_ends_the_call_that_waits_for_it(
    store: BGEM3VectorStore,
) -> None:
    def progress(done: int, total: int | None) -> None:
        raise StopIteration

    adding = store.aadd_texts(["tea"], progress=progress)
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        await asyncio.wait_for(adding, 10)
