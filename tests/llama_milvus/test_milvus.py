"""LlamaIndex's own Milvus store over the engine, in Milvus Lite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import (
    Document,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from llama_index.vector_stores.milvus import MilvusVectorStore
from llama_index.vector_stores.milvus.utils import BaseSparseEmbeddingFunction
from pymilvus import MilvusException

from bge_m3_integrations import BGEM3, Weights
from bge_m3_integrations.core.embeddings import Mode
from bge_m3_integrations.llama_index import BGEM3Embedding
from bge_m3_integrations.llama_index.milvus import (
    SENTINEL_WEIGHT,
    BGEM3MilvusSparse,
    HybridMilvusStore,
    hybrid_milvus,
)
from bge_m3_integrations.testing import FakeEncoder

TEXTS = {
    "cat": "the cat sat on the mat",
    "dog": "the dog barks at the cat",
    "bird": "a bird sings in the tree",
    "fish": "the fish swims in the lake",
}
QUERY = "the cat barks"
MODES = ["default", "sparse", "hybrid"]


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def engine(encoder: FakeEncoder) -> BGEM3:
    return BGEM3(encoder)


@pytest.fixture
def nodes() -> list[TextNode]:
    """Nodes whose metadata is part of what is embedded, each of a document of its own."""
    return [
        TextNode(
            id_=name,
            text=text,
            metadata={"name": name},
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"source of {name}")},
        )
        for name, text in TEXTS.items()
    ]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "milvus.db")


def embedded(nodes: list[TextNode]) -> list[str]:
    return [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]


def built(engine: BGEM3, nodes: list[TextNode], uri: str, **options: Any) -> VectorStoreIndex:
    store = hybrid_milvus(engine, uri, **options)
    embedding = BGEM3Embedding(engine=engine)
    index = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
    index.insert_nodes(nodes)
    return index


def found(results: list[NodeWithScore]) -> dict[str, float]:
    return {result.node.node_id: result.score or 0.0 for result in results}


def expected(engine: BGEM3, nodes: list[TextNode], mode: Mode) -> dict[str, float]:
    scores = engine.score([QUERY], embedded(nodes), weights=Weights.only(mode))
    values = getattr(scores, mode)[0]
    return {node.node_id: float(value) for node, value in zip(nodes, values, strict=True)}


def test_the_classes_have_their_bases() -> None:
    assert issubclass(BGEM3MilvusSparse, BaseSparseEmbeddingFunction)
    assert issubclass(HybridMilvusStore, MilvusVectorStore)
    assert HybridMilvusStore.class_name() == "HybridMilvusStore"


def test_building_an_index_costs_one_forward_per_text_metadata_included(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode], uri: str
) -> None:
    built(engine, nodes, uri)
    assert encoder.forwards == dict.fromkeys(embedded(nodes), 1)


@pytest.mark.parametrize("mode", MODES)
def test_a_query_costs_one_forward_in_every_mode(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode], uri: str, mode: str
) -> None:
    index = built(engine, nodes, uri)
    encoder.forwards.clear()
    results = index.as_retriever(vector_store_query_mode=mode, similarity_top_k=3).retrieve(QUERY)
    assert results
    assert encoder.forwards == {QUERY: 1}


@pytest.mark.parametrize(("mode", "component"), [("default", "dense"), ("sparse", "sparse")])
def test_scores_are_the_engines_own(
    engine: BGEM3, nodes: list[TextNode], uri: str, mode: str, component: Mode
) -> None:
    index = built(engine, nodes, uri)
    truth = expected(engine, nodes, component)
    retriever = index.as_retriever(vector_store_query_mode=mode, similarity_top_k=4)
    results = found(retriever.retrieve(QUERY))
    assert results == pytest.approx({name: truth[name] for name in results}, abs=1e-5)
    assert results.keys() >= {name for name, score in truth.items() if score > 0}


@pytest.mark.parametrize("mode", MODES)
async def test_awaited_work_costs_one_forward_per_text_and_finds_the_same(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode], uri: str, mode: str
) -> None:
    store = hybrid_milvus(engine, uri, use_async_client=True)
    embedding = BGEM3Embedding(engine=engine)
    index = VectorStoreIndex.from_vector_store(store, embed_model=embedding, use_async=True)
    await index.ainsert_nodes(nodes)
    retriever = index.as_retriever(vector_store_query_mode=mode, similarity_top_k=3)
    awaited = await retriever.aretrieve(QUERY)
    assert encoder.forwards == dict.fromkeys([*embedded(nodes), QUERY], 1)
    assert found(awaited) == pytest.approx(found(retriever.retrieve(QUERY)), abs=1e-6)
    await store.aclient.close()


def test_weights_choose_the_side_of_a_hybrid_query(
    engine: BGEM3, nodes: list[TextNode], uri: str
) -> None:
    options: dict[str, Any] = {"vector_store_query_mode": "hybrid", "similarity_top_k": 4}
    for weights, mode in [((1.0, 0.0), "dense"), ((0.0, 1.0), "sparse")]:
        index = built(engine, nodes, uri, weights=weights, overwrite=True)
        (best, *_) = found(index.as_retriever(**options).retrieve(QUERY))
        truth = expected(engine, nodes, mode)
        assert truth[best] == max(truth.values())


def test_texts_without_tokens_get_the_sentinel_and_are_stored(engine: BGEM3, uri: str) -> None:
    function = BGEM3MilvusSparse(engine)
    sentinel = {engine.encoder.pad_token_id: SENTINEL_WEIGHT}
    assert function.encode_documents(["", "x"])[0] == sentinel
    assert function.encode_queries([""]) == [sentinel]
    index = built(engine, [TextNode(id_="e", text=""), TextNode(id_="x", text="x")], uri)
    options: dict[str, Any] = {"vector_store_query_mode": "sparse", "similarity_top_k": 2}
    assert list(found(index.as_retriever(**options).retrieve("x"))) == ["x"]
    query = VectorStoreQuery(query_str="", mode=VectorStoreQueryMode.SPARSE, similarity_top_k=2)
    assert max(index.vector_store.query(query).similarities or [0.0]) < 1e-9


def test_an_empty_sparse_vector_is_what_milvus_refuses(
    engine: BGEM3, nodes: list[TextNode], uri: str
) -> None:
    store = built(engine, nodes, uri).vector_store
    row = {"id": "e", "doc_id": "", "text": "", "embedding": [0.0] * 32, "sparse_embedding": {}}
    with pytest.raises(MilvusException, match="at least one nonzero"):
        store.client.insert(store.collection_name, [row])


def test_the_stores_own_sparse_query_fails_on_milvus_lite_and_ours_is_why_not(
    engine: BGEM3, nodes: list[TextNode], uri: str
) -> None:
    store = built(engine, nodes, uri).vector_store
    query = VectorStoreQuery(query_str=QUERY, mode=VectorStoreQueryMode.SPARSE, similarity_top_k=2)
    with pytest.raises(MilvusException, match="drop_ratio_search=0"):
        MilvusVectorStore._sparse_search(store, query, "", ["*"])
    assert len(store.query(query).ids or []) == 2


def test_equal_texts_with_other_metadata_keep_their_own_weights(
    encoder: FakeEncoder, engine: BGEM3, uri: str
) -> None:
    nodes = [TextNode(id_=name, text="same", metadata={"name": name}) for name in ("a", "b")]
    index = built(engine, nodes, uri)
    retriever = index.as_retriever(vector_store_query_mode="sparse", similarity_top_k=1)
    assert list(found(retriever.retrieve("b"))) == ["b"]
    assert set(encoder.forwards.values()) == {1}


def test_a_node_of_the_same_id_replaces_and_a_deleted_document_is_gone(
    engine: BGEM3, nodes: list[TextNode], uri: str
) -> None:
    index = built(engine, nodes, uri)
    index.insert_nodes([TextNode(id_="bird", text="something new")])
    everything = index.as_retriever(similarity_top_k=9).retrieve(QUERY)
    assert sorted(hit.node.node_id for hit in everything) == sorted(TEXTS)
    lexical = index.as_retriever(vector_store_query_mode="sparse", similarity_top_k=9)
    assert "bird" not in found(lexical.retrieve("sings"))
    index.delete_ref_doc("source of cat")
    assert "cat" not in found(index.as_retriever(similarity_top_k=9).retrieve(QUERY))


def test_documents_are_split_and_found(engine: BGEM3, uri: str) -> None:
    index = built(engine, [], uri)
    index.insert(Document(text="a whale sings in the sea", id_="whale"))
    retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=1)
    (hit,) = retriever.retrieve("whale")
    assert hit.node.ref_doc_id == "whale"


async def test_encoding_leaves_the_event_loop(engine: BGEM3) -> None:
    function = BGEM3MilvusSparse(engine)
    assert await function.async_encode_queries(["x"]) == function.encode_queries(["x"])
    assert await function.async_encode_documents(["x"]) == function.encode_documents(["x"])
