"""How long the event loop stands still while an adapter is awaited.

A machine that others use too stops any process now and then, so the least of several repetitions
counts, without full garbage collections of all that is imported. The encoder sleeps, which gives
the interpreter free as torch does; what is left is what adapters, index and stores do while they
hold it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Modes
from bge_m3_integrations.llama_index import (
    BGEM3Embedding,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3SparseEmbedding,
    BGEM3VectorStore,
)
from bge_m3_integrations.testing import FakeEncoder
from tests.loop_gaps import Gap, longest_gap, outside

MOST = 0.05
MOST_WHILE_AN_EDGE_STORE_WRITES = 0.25
REPETITIONS = 7


class SlowEncoder(FakeEncoder):
    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        time.sleep(0.1)
        return super().encode(texts, kind=kind, modes=modes, max_length=max_length)


async def measured(work: Awaitable[object]) -> Gap:
    return await longest_gap(work)


async def least_gap(work: Callable[[], Awaitable[object]], *, enough: float = MOST) -> float:
    """Of several repetitions; stops at the first that is short enough."""
    gaps: list[float] = []
    while len(gaps) < REPETITIONS and not (gaps and gaps[-1] <= enough):
        gaps.append((await longest_gap(work())).work)
    return min(gaps)


def made_nodes(count: int, *, words: int = 40, first: int = 0) -> list[TextNode]:
    return [
        TextNode(
            id_=f"node-{n}",
            text=" ".join(f"word{(n * 7 + w * w) % 500}" for w in range(words)),
            metadata={"number": n},
        )
        for n in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def engine() -> BGEM3:
    return BGEM3(SlowEncoder(dim=1024, colbert_dim=256))


@pytest.fixture(scope="module", params=["memory", "edge"])
def store(
    request: pytest.FixtureRequest, engine: BGEM3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BGEM3VectorStore]:
    place: Path = tmp_path_factory.mktemp("index") / "index"
    index = HybridIndex(engine) if request.param == "memory" else HybridIndex.open(place, engine)
    store = BGEM3VectorStore(index)
    store.add(made_nodes(512))
    yield store
    index.close()


def test_the_measure_sees_a_loop_that_stands_still() -> None:
    async def blocking() -> None:
        time.sleep(0.2)  # the point

    gap = asyncio.run(measured(blocking()))
    assert gap.longest >= gap.work >= 0.2


def test_the_measure_tells_the_collectors_share_apart() -> None:
    async def collecting() -> None:
        gc.collect(1)
        gc.collect()

    gap = asyncio.run(measured(collecting()))
    assert 0 < gap.collection <= gap.longest
    assert gap.work <= gap.longest
    assert asyncio.run(measured(asyncio.sleep(0))).collection == 0


def test_pauses_are_taken_out_of_a_stretch_where_they_overlap_it() -> None:
    pauses = [(0.0, 2.0), (4.0, 5.0), (9.0, 12.0), (20.0, 30.0)]
    assert outside(pauses, 1.0, 10.0) == 6.0
    assert outside(pauses, 22.0, 23.0) == 0.0
    assert outside([], 1.0, 3.0) == 2.0


async def test_the_loop_runs_while_texts_are_embedded(engine: BGEM3) -> None:
    texts = [node.text for node in made_nodes(64)]
    dense, sparse = BGEM3Embedding(engine=engine), BGEM3SparseEmbedding(engine=engine)
    assert await least_gap(lambda: dense.aget_text_embedding_batch(texts)) <= MOST
    assert await least_gap(lambda: sparse.aget_text_embedding_batch(texts)) <= MOST
    assert await least_gap(lambda: dense.aget_query_embedding("word1 word2")) <= MOST


async def test_the_loop_runs_while_nodes_are_retrieved(store: BGEM3VectorStore) -> None:
    retriever = BGEM3Retriever.from_vector_store(store, similarity_top_k=20)
    assert await least_gap(lambda: retriever.aretrieve("word1 word2 word3")) <= MOST
    queries = [f"word{i} word{i + 1}" for i in range(16)]
    assert await least_gap(lambda: retriever.aretrieve_batch(queries)) <= MOST
    query = VectorStoreQuery(query_str="word4 word5", similarity_top_k=20)
    assert await least_gap(lambda: store.aquery(query)) <= MOST


async def test_the_loop_runs_while_nodes_are_filtered(store: BGEM3VectorStore) -> None:
    def odd(metadata: object) -> bool:
        return isinstance(metadata, Mapping) and metadata["number"] % 2 == 1

    retriever = BGEM3Retriever(store.index, similarity_top_k=20, filters=odd)
    assert await least_gap(lambda: retriever.aretrieve("word1 word2 word3")) <= MOST


async def test_the_loop_runs_while_nodes_are_reranked(store: BGEM3VectorStore) -> None:
    scored = [NodeWithScore(node=node, score=0.5) for node in made_nodes(64)]
    for reranker in (
        BGEM3Reranker(engine=store.engine, top_n=10),
        BGEM3Reranker(index=store.index, top_n=10),
    ):

        def work(reranker: BGEM3Reranker = reranker) -> Awaitable[object]:
            return reranker.apostprocess_nodes(scored, query_str="word1 word2")

        assert await least_gap(work) <= MOST


async def test_the_loop_runs_while_nodes_are_added(store: BGEM3VectorStore) -> None:
    durable = store.index.store.capabilities.durable
    most = MOST_WHILE_AN_EDGE_STORE_WRITES if durable else MOST
    fresh = iter(range(1000, 10**6, 1000))
    assert (
        await least_gap(lambda: store.async_add(made_nodes(256, first=next(fresh))), enough=most)
        <= most
    )
