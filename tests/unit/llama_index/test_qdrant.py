"""LlamaIndex's own Qdrant store over the engine, in Qdrant's local mode."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid5

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.core.vector_stores.types import (
    ExactMatchFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from bge_m3_integrations import BGEM3, InputError, Weights
from bge_m3_integrations.core.embeddings import Mode
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.llama_index import BGEM3Embedding
from bge_m3_integrations.llama_index.sparse_handover import ready
from bge_m3_integrations.testing import FakeEncoder

pytest.importorskip("llama_index.vector_stores.qdrant")
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.models import Distance

from bge_m3_integrations.llama_index.qdrant import hybrid_qdrant, weighted_fusion

QUERY = "the cat barks"
MODES = ["default", "sparse", "hybrid"]


def uid(name: str) -> str:
    return str(uuid5(UUID(int=0), name))


@pytest.fixture
def nodes(nodes: list[TextNode]) -> list[TextNode]:
    """The shared nodes under ids that Qdrant takes; their metadata is part of what is embedded."""
    return [
        TextNode(id_=uid(node.node_id), text=node.text, metadata={"name": node.node_id})
        for node in nodes
    ]


def embedded(nodes: list[TextNode]) -> list[str]:
    return [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]


def expected(engine: BGEM3, nodes: list[TextNode], query: str, mode: Mode) -> dict[str, float]:
    """The engine's own scores by node id."""
    scores = engine.score([query], embedded(nodes), weights=Weights.only(mode))
    values = getattr(scores, mode)
    return {node.node_id: float(v) for node, v in zip(nodes, values[0], strict=True)}


def found(results: list[NodeWithScore]) -> dict[str, float]:
    return {result.node.node_id: result.score or 0.0 for result in results}


def built(engine: BGEM3, nodes: list[TextNode], **options: Any) -> VectorStoreIndex:
    store = hybrid_qdrant(engine, "texts", client=QdrantClient(":memory:"), **options)
    embedding = BGEM3Embedding(engine=engine)
    index = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
    index.insert_nodes(nodes)
    return index


@pytest.fixture
async def awaited(engine: BGEM3, nodes: list[TextNode]) -> VectorStoreIndex:
    store = hybrid_qdrant(engine, "texts", aclient=AsyncQdrantClient(":memory:"))
    index = VectorStoreIndex.from_vector_store(
        store, embed_model=BGEM3Embedding(engine=engine), use_async=True
    )
    await index.ainsert_nodes(nodes)
    return index


def test_building_an_index_costs_one_forward_per_text(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode]
) -> None:
    built(engine, nodes)
    assert encoder.forwards == dict.fromkeys(embedded(nodes), 1)


@pytest.mark.parametrize("mode", MODES)
def test_a_query_costs_one_forward_in_every_mode(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode], mode: str
) -> None:
    index = built(engine, nodes)
    encoder.forwards.clear()
    results = index.as_retriever(vector_store_query_mode=mode, similarity_top_k=3).retrieve(QUERY)
    assert results
    assert encoder.forwards == {QUERY: 1}


@pytest.mark.parametrize("mode", MODES)
async def test_awaited_work_costs_one_forward_per_text_too(
    encoder: FakeEncoder, awaited: VectorStoreIndex, nodes: list[TextNode], mode: str
) -> None:
    retriever = awaited.as_retriever(vector_store_query_mode=mode, similarity_top_k=3)
    assert await retriever.aretrieve(QUERY)
    assert encoder.forwards == dict.fromkeys([*embedded(nodes), QUERY], 1)


@pytest.mark.parametrize(("mode", "component"), [("default", "dense"), ("sparse", "sparse")])
async def test_scores_are_the_engines_own(
    engine: BGEM3, nodes: list[TextNode], awaited: VectorStoreIndex, mode: str, component: Mode
) -> None:
    truth = expected(engine, nodes, QUERY, component)
    options = {"vector_store_query_mode": mode, "similarity_top_k": 4}
    results = found(built(engine, nodes).as_retriever(**options).retrieve(QUERY))
    assert results == pytest.approx({key: truth[key] for key in results}, abs=1e-5)
    assert results.keys() >= {key for key, score in truth.items() if score > 0}
    again = found(await awaited.as_retriever(**options).aretrieve(QUERY))
    assert again == pytest.approx(results, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 2 / 3, 1.0])
async def test_weighted_fusion_weighs_the_engines_scores(
    engine: BGEM3, nodes: list[TextNode], alpha: float
) -> None:
    index = built(engine, nodes, hybrid_fusion_fn=weighted_fusion)
    options = {"vector_store_query_mode": "hybrid", "similarity_top_k": 4, "alpha": alpha}
    results = found(index.as_retriever(**options).retrieve(QUERY))
    dense = expected(engine, nodes, QUERY, "dense")
    sparse = expected(engine, nodes, QUERY, "sparse")
    truth = {key: alpha * dense[key] + (1 - alpha) * sparse[key] for key in dense}
    assert results == pytest.approx(truth, abs=1e-5)
    assert list(results.values()) == sorted(results.values(), reverse=True)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
async def test_an_alpha_of_the_ends_means_the_same_awaited(
    engine: BGEM3, nodes: list[TextNode], awaited: VectorStoreIndex, alpha: float
) -> None:
    options = {"vector_store_query_mode": "hybrid", "similarity_top_k": 4, "alpha": alpha}
    blocking = found(built(engine, nodes).as_retriever(**options).retrieve(QUERY))
    waited = found(await awaited.as_retriever(**options).aretrieve(QUERY))
    assert waited == pytest.approx(blocking, abs=1e-5)


def test_fusion_of_lists_that_differ_takes_the_lowest_dense_score_and_no_lexical_one() -> None:
    one, two, three = (TextNode(id_=name, text=name) for name in "abc")
    dense = VectorStoreQueryResult(nodes=[one, two], similarities=[0.9, 0.5], ids=["a", "b"])
    sparse = VectorStoreQueryResult(nodes=[three, two], similarities=[3.0, 1.0], ids=["c", "b"])
    result = weighted_fusion(dense, sparse, alpha=0.5, top_k=3)
    assert result.ids == ["c", "b", "a"]
    assert result.similarities == [1.75, 0.75, 0.45]
    assert result.nodes == [three, two, one]
    none = VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
    assert weighted_fusion(none, sparse, alpha=0.5, top_k=1).ids == ["c"]
    assert weighted_fusion(none, none).ids == []


def test_a_filter_holds_for_both_lookups(engine: BGEM3, nodes: list[TextNode]) -> None:
    filters = MetadataFilters(filters=[ExactMatchFilter(key="name", value="dog")])
    for mode in MODES:
        retriever = built(engine, nodes).as_retriever(vector_store_query_mode=mode, filters=filters)
        assert list(found(retriever.retrieve(QUERY))) == [uid("dog")]


def test_texts_without_tokens_are_stored_and_asked_for(engine: BGEM3) -> None:
    index = built(engine, [TextNode(id_=uid("empty"), text=""), TextNode(id_=uid("x"), text="x")])
    store = index.vector_store
    query = VectorStoreQuery(query_str="", mode=VectorStoreQueryMode.SPARSE, similarity_top_k=2)
    assert not any(store.query(query).similarities or [])
    hits = index.as_retriever(similarity_top_k=2).retrieve("x")
    assert {hit.node.node_id for hit in hits} == {uid("empty"), uid("x")}


def test_the_collection_holds_unit_vectors_by_dot_product_and_plain_weights(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    client = built(engine, nodes).vector_store.client
    params = client.get_collection("texts").config.params
    (dense,) = params.vectors.values()
    (sparse,) = params.sparse_vectors.values()
    assert (dense.size, dense.distance) == (engine.encoder.dim, Distance.DOT)
    assert sparse.modifier is None


async def test_a_sparse_query_leaves_the_event_loop_free(gated: Any) -> None:
    engine = BGEM3(gated)
    store = hybrid_qdrant(engine, "texts", aclient=AsyncQdrantClient(":memory:"))
    node = TextNode(id_=uid("a"), text="a", embedding=[1.0] + [0.0] * (gated.dim - 1))
    query = VectorStoreQuery(query_str="a", mode=VectorStoreQueryMode.SPARSE)

    async def add_and_ask() -> None:
        await store.async_add([node])
        gated.gate.clear()
        asyncio.get_running_loop().call_soon(gated.gate.set)
        assert (await store.aquery(query)).ids == [uid("a")]

    task = asyncio.create_task(add_and_ask())
    await asyncio.sleep(0)
    gated.gate.set()
    await task
    assert gated.opened == [True] * 2


def test_a_deleted_document_is_found_no_more(engine: BGEM3, nodes: list[TextNode]) -> None:
    index = built(engine, nodes)
    index.delete_nodes([uid("cat")])
    for mode in MODES:
        hits = index.as_retriever(vector_store_query_mode=mode, similarity_top_k=4).retrieve(QUERY)
        assert uid("cat") not in found(hits)


async def test_text_search_ranks_by_lexical_weights(
    engine: BGEM3, nodes: list[TextNode], awaited: VectorStoreIndex
) -> None:
    options = {"vector_store_query_mode": "text_search", "similarity_top_k": 4}
    truth = expected(engine, nodes, QUERY, "sparse")
    for results in (
        built(engine, nodes).as_retriever(**options).retrieve(QUERY),
        await awaited.as_retriever(**options).aretrieve(QUERY),
    ):
        assert found(results) == pytest.approx({n: s for n, s in truth.items() if s > 0}, abs=1e-5)


@pytest.mark.parametrize(
    ("mode", "text", "message"),
    [
        ("mmr", QUERY, r"mode 'mmr' is not supported; there are \['default', 'sparse'"),
        ("semantic_hybrid", QUERY, "mode 'semantic_hybrid' is not supported"),
        ("sparse", None, "mode 'sparse' needs query_str"),
    ],
)
async def test_what_qdrant_would_take_for_a_dense_query_is_refused(
    engine: BGEM3, awaited: VectorStoreIndex, mode: str, text: str | None, message: str
) -> None:
    vector = BGEM3Embedding(engine=engine).get_query_embedding(QUERY)
    query = VectorStoreQuery(vector, query_str=text, mode=VectorStoreQueryMode(mode))
    with pytest.raises(InputError, match=message):
        built(engine, []).vector_store.query(query)
    with pytest.raises(InputError, match=message):
        await awaited.vector_store.aquery(query)


def test_a_store_without_a_client_is_refused(engine: BGEM3) -> None:
    with pytest.raises(InputError, match=r"client=None and aclient=None: give client="):
        hybrid_qdrant(engine, "texts")


def test_a_store_that_asks_for_other_texts_than_expected_is_an_error(engine: BGEM3) -> None:
    from bge_m3_integrations.llama_index import BGEM3SparseEmbedding

    sparse = BGEM3SparseEmbedding(engine=engine)
    with ready(sparse, ["a"], [{7: 1.0}]):
        assert sparse.sparse_doc_fn(["a"]) == ([[7]], [[1.0]])
        with pytest.raises(StoreError, match="'b' where nothing was expected"):
            sparse.sparse_doc_fn(["b"])
    assert sparse.sparse_doc_fn(["b"]) != ([[7]], [[1.0]])
