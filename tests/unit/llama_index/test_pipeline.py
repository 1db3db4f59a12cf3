"""BGEM3VectorStore behind LlamaIndex's ingestion: strategies, and one forward per text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.types import VectorStoreQuery

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.llama_index import BGEM3Embedding
from bge_m3_integrations.llama_index.vector_store import BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder

MEMO = 16 << 20
Open = Callable[[BGEM3], HybridIndex]


@pytest.fixture(params=["memory", "edge"])
def store(
    request: pytest.FixtureRequest, engine: BGEM3, tmp_path: Path
) -> Iterator[BGEM3VectorStore]:
    place = tmp_path / "index"
    memory = request.param == "memory"
    with HybridIndex(engine) if memory else HybridIndex.open(place, engine) as index:
        yield BGEM3VectorStore(index)


def pipeline(store: BGEM3VectorStore, strategy: DocstoreStrategy) -> IngestionPipeline:
    splitter = SentenceSplitter(chunk_size=20, chunk_overlap=0)
    return IngestionPipeline(
        transformations=[splitter, BGEM3Embedding(engine=store.engine)],
        vector_store=store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=strategy,
        disable_cache=True,
    )


def sentences(name: str, count: int = 4) -> Document:
    text = " ".join(f"{name} says sentence number {i} about all things." for i in range(count))
    return Document(id_=name, text=text)


def kept(store: BGEM3VectorStore) -> dict[str, int]:
    """How many nodes each document has in the store."""
    sources = [node.ref_doc_id or node.node_id for node in store.get_nodes()]
    return {source: sources.count(source) for source in sources}


@pytest.mark.parametrize(
    ("strategy", "gone"),
    [(DocstoreStrategy.UPSERTS, False), (DocstoreStrategy.UPSERTS_AND_DELETE, True)],
)
async def test_changed_documents_are_replaced_and_unchanged_ones_not_encoded(
    store: BGEM3VectorStore, encoder: FakeEncoder, strategy: DocstoreStrategy, gone: bool
) -> None:
    run = pipeline(store, strategy)
    run.run(documents=[sentences("ann"), sentences("bob"), sentences("cid")])
    before = kept(store)
    assert set(before) == {"ann", "bob", "cid"}
    assert set(encoder.forwards.values()) == {1}
    encoder.forwards.clear()
    run.run(documents=[sentences("ann"), Document(id_="bob", text="bob is brief now.")])
    assert encoder.forwards == {"bob is brief now.": 1}
    assert kept(store) == {"ann": before["ann"], "bob": 1} | (
        {} if gone else {"cid": before["cid"]}
    )
    await run.arun(documents=[sentences("ann", 1), Document(id_="bob", text="bob is brief now.")])
    assert kept(store) == {"ann": 1, "bob": 1} | ({} if gone else {"cid": before["cid"]})


def test_duplicates_only_adds_what_is_new_and_leaves_the_rest(
    store: BGEM3VectorStore, encoder: FakeEncoder
) -> None:
    run = pipeline(store, DocstoreStrategy.DUPLICATES_ONLY)
    run.run(documents=[sentences("ann"), sentences("bob")])
    count = store.index.count()
    encoder.forwards.clear()
    run.run(documents=[sentences("ann"), sentences("bob"), Document(id_="cid", text="a new one.")])
    assert encoder.forwards == {"a new one.": 1}
    assert store.index.count() == count + 1


def test_documents_that_are_not_split_are_replaced_and_deleted_too(
    store: BGEM3VectorStore,
) -> None:
    run = pipeline(store, DocstoreStrategy.UPSERTS_AND_DELETE)
    run.transformations = run.transformations[1:]
    run.run(documents=[Document(id_="a", text="one"), Document(id_="b", text="two")])
    run.run(documents=[Document(id_="b", text="two again")])
    assert [node.get_content() for node in store.get_nodes()] == ["two again"]


def long_nodes(count: int) -> list[TextNode]:
    """Some 120 tokens each: with token vectors far more than the memo holds."""
    return [
        TextNode(id_=f"n{i}", text=" ".join(f"word{i} piece{j}" for j in range(60)))
        for i in range(count)
    ]


async def test_documents_are_kept_for_the_store_once_an_embedding_was_asked_for_one() -> None:
    engine = BGEM3(FakeEncoder(), memo_bytes=20_000)
    store, embedding = BGEM3VectorStore(HybridIndex(engine)), BGEM3Embedding(engine=engine)
    store.add(long_nodes(20))
    assert engine.stats.spilled == 0
    more = [
        TextNode(id_=f"m{i}", text=f"more{i} {node.text}") for i, node in enumerate(long_nodes(20))
    ]
    await embedding.aget_text_embedding_batch([node.text for node in more])
    store.add(more)
    assert engine.stats.spilled > 0
    assert engine.stats.forwards == 40


def test_a_batch_that_the_memo_holds_costs_one_forward_per_text(engine: BGEM3) -> None:
    encoder = FakeEncoder()
    shared = BGEM3(encoder, memo_bytes=MEMO)
    store = BGEM3VectorStore(HybridIndex(shared))
    VectorStoreIndex.from_vector_store(
        store, embed_model=BGEM3Embedding(engine=shared), insert_batch_size=128
    ).insert_nodes(long_nodes(1000))
    assert encoder.forwards == dict.fromkeys([node.text for node in long_nodes(1000)], 1)
    assert shared.stats.evicted_forwards == 0


def test_a_batch_that_the_memo_cannot_hold_nor_spill_is_counted() -> None:
    encoder = FakeEncoder()
    shared = BGEM3(encoder, memo_bytes=MEMO // 16, spill_bytes=0)
    store = BGEM3VectorStore(HybridIndex(shared))
    VectorStoreIndex.from_vector_store(
        store, embed_model=BGEM3Embedding(engine=shared)
    ).insert_nodes(long_nodes(1000))
    twice = sum(encoder.forwards.values()) - 1000
    assert 0 < twice <= 1000
    assert shared.stats.evicted_forwards == twice


@pytest.mark.parametrize("way", ["index", "pipeline"])
@pytest.mark.parametrize("where", ["spilled", "cached"])
def test_five_thousand_nodes_are_five_thousand_forwards(
    tmp_path: Path, way: str, where: str
) -> None:
    encoder = FakeEncoder()
    cache = tmp_path / "cache" if where == "cached" else None
    engine = BGEM3(encoder, memo_bytes=MEMO, cache=cache)
    nodes = long_nodes(5000)
    embed = BGEM3Embedding(engine=engine)
    store = BGEM3VectorStore(HybridIndex(engine))
    if way == "index":
        VectorStoreIndex.from_vector_store(store, embed_model=embed).insert_nodes(nodes)
    else:
        IngestionPipeline(transformations=[embed], vector_store=store, disable_cache=True).run(
            nodes=nodes
        )
    assert store.index.count() == 5000
    assert encoder.forwards == dict.fromkeys([node.text for node in nodes], 1)
    assert engine.stats.forwards == 5000
    assert (engine.stats.spilled > 0) == (where == "spilled")
    assert (engine.stats.cache_hits > 0) == (where == "cached")
    store.query(VectorStoreQuery(query_str="word7 piece3"))
    assert engine.stats.forwards == 5001
