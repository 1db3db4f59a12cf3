"""What an index and the calls of an adapter leave to Python's garbage collector.

A full collection visits every container that is alive and holds the event loop meanwhile, so what
counts is how many of them there are: they are counted here, and no clock is looked at.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from llama_index.core.schema import NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.llama_index import (
    BGEM3Embedding,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3VectorStore,
)
from bge_m3_integrations.testing import FakeEncoder

ALLOWED = 40
"""Containers that come and go with threads and caches, whatever is in the index."""


def tracked(encoder: FakeEncoder) -> int:
    encoder.calls.clear()  # the fake's own notes
    gc.collect()
    return len(gc.get_objects())


def made_nodes(first: int, count: int) -> list[TextNode]:
    return [
        TextNode(
            id_=f"node-{n}",
            text=f"word{n} word{n % 7} word{n % 11}",
            metadata={"number": n, "tags": ["one", "two"], "place": {"page": n}},
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"document-{n // 9}")},
        )
        for n in range(first, first + count)
    ]


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture(params=["memory", "edge"])
def store(
    request: pytest.FixtureRequest, encoder: FakeEncoder, tmp_path: Path
) -> Iterator[BGEM3VectorStore]:
    engine = BGEM3(encoder, memo_bytes=0, spill_bytes=0)  # the memo keeps objects, within its bytes
    memory = request.param == "memory"
    with HybridIndex(engine) if memory else HybridIndex.open(tmp_path / "i", engine) as index:
        store = BGEM3VectorStore(index)
        store.add(made_nodes(0, 64))
        yield store


def test_a_node_in_an_index_costs_the_collector_nothing(
    store: BGEM3VectorStore, encoder: FakeEncoder
) -> None:
    retriever = BGEM3Retriever.from_vector_store(store, similarity_top_k=3)
    retriever.retrieve("word1 word2")
    before = tracked(encoder)
    store.add(made_nodes(64, 1000))
    retriever.retrieve("word1 word2")
    store.get_nodes(["node-1", "node-900"])
    assert store.index.count({"tags": {"$contains": "two"}, "number": {"$gte": 64}}) == 1000
    assert tracked(encoder) - before <= ALLOWED


def test_awaited_calls_leave_nothing_to_the_collector(
    store: BGEM3VectorStore, encoder: FakeEncoder
) -> None:
    index, engine = store.index, store.engine
    retriever = BGEM3Retriever.from_vector_store(store, similarity_top_k=20)
    scored = [NodeWithScore(node=node, score=0.5) for node in made_nodes(0, 32)]
    embedding = BGEM3Embedding(engine=engine)
    texts = [node.text for node in made_nodes(0, 32)]
    rerankers = [BGEM3Reranker(engine=engine, top_n=5), BGEM3Reranker(index=index, top_n=5)]
    works: list[Callable[[], Awaitable[object]]] = [
        lambda: embedding.aget_text_embedding_batch(texts),
        lambda: retriever.aretrieve("word1 word2"),
        lambda: retriever.aretrieve_batch([f"word{n}" for n in range(8)]),
        lambda: rerankers[0].apostprocess_nodes(scored, query_str="word1 word2"),
        lambda: rerankers[1].apostprocess_nodes(scored, query_str="word1 word2"),
        lambda: store.async_add(made_nodes(0, 32)),
    ]

    async def rounds(count: int) -> None:
        for _ in range(count):
            for work in works:
                await work()

    asyncio.run(rounds(2))
    before = tracked(encoder)
    asyncio.run(rounds(10))
    assert tracked(encoder) - before <= ALLOWED
