"""The docstore beside our vector store: for whatever of LlamaIndex looks nodes up there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.node_parser import HierarchicalNodeParser, TokenTextSplitter, get_leaf_nodes
from llama_index.core.postprocessor import PrevNextNodePostprocessor
from llama_index.core.retrievers import AutoMergingRetriever
from llama_index.core.schema import BaseNode, MetadataMode, TextNode

from bge_m3_integrations import BGEM3, HybridIndex, InputError
from bge_m3_integrations.llama_index import BGEM3Embedding, BGEM3Index, BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder

TEXT = " ".join(
    f"Sentence number {i} is about the {animal}." for i in range(9) for animal in ("cat", "dog")
)


def splitter(size: int) -> TokenTextSplitter:
    return TokenTextSplitter(chunk_size=size, chunk_overlap=0, tokenizer=str.split)


SMALL = splitter(16)


def documents() -> list[Document]:
    return [Document(id_="animals", text=TEXT)]


def made(kind: str, nodes: list[BaseNode], store: BGEM3VectorStore, **options: Any) -> Any:
    context = StorageContext.from_defaults(vector_store=store)
    if kind == "ours":
        return BGEM3Index(nodes, storage_context=context, **options)
    embed = BGEM3Embedding(store.engine)
    return VectorStoreIndex(nodes, storage_context=context, embed_model=embed, **options)


KINDS = pytest.mark.parametrize("kind", ["stock", "ours"])


@pytest.fixture
def nodes() -> list[BaseNode]:
    return list(SMALL.get_nodes_from_documents(documents()))


@KINDS
@pytest.mark.parametrize("use_async", [False, True])
def test_asked_for_it_an_index_keeps_its_nodes_in_the_docstore_too(
    engine: BGEM3, nodes: list[BaseNode], kind: str, use_async: bool
) -> None:
    plain = made(kind, nodes, BGEM3VectorStore(engine), use_async=use_async)
    assert not plain.docstore.docs
    index = made(
        kind, nodes, BGEM3VectorStore(engine), use_async=use_async, store_nodes_override=True
    )
    assert set(index.docstore.docs) == {node.node_id for node in nodes}
    assert {held.get_content() for held in index.docstore.docs.values()} == {
        node.get_content() for node in nodes
    }  # what BM25Retriever.from_defaults(docstore=...) reads
    assert all(node.embedding is None for node in index.docstore.docs.values())


@KINDS
def test_prev_next_finds_the_neighbours(engine: BGEM3, nodes: list[BaseNode], kind: str) -> None:
    index = made(kind, nodes, BGEM3VectorStore(engine), store_nodes_override=True)
    found = index.as_retriever(similarity_top_k=1).retrieve("number 4 is about the cat")
    more = PrevNextNodePostprocessor(docstore=index.docstore, num_nodes=1, mode="both")
    ids = [node.node_id for node in nodes]
    place = ids.index(found[0].node_id)
    assert [n.node_id for n in more.postprocess_nodes(found)] == ids[max(0, place - 1) : place + 2]


@KINDS
def test_auto_merging_finds_the_parents(engine: BGEM3, kind: str) -> None:
    parser = HierarchicalNodeParser(
        node_parser_ids=["large", "small"],
        node_parser_map={"large": splitter(64), "small": SMALL},
    )
    nodes = parser.get_nodes_from_documents(documents())
    leaves = get_leaf_nodes(nodes)
    index = made(kind, leaves, BGEM3VectorStore(engine), store_nodes_override=True)
    index.docstore.add_documents(nodes)  # the parents are not searched
    retriever = AutoMergingRetriever(
        index.as_retriever(similarity_top_k=len(leaves)), index.storage_context
    )
    parents = {node.node_id for node in nodes} - {leaf.node_id for leaf in leaves}
    assert {found.node_id for found in retriever.retrieve("the cat")} == parents


@KINDS
def test_what_was_persisted_is_there_again_and_goes_on(
    engine: BGEM3, nodes: list[BaseNode], kind: str, tmp_path: Path
) -> None:
    index = made(kind, nodes, BGEM3VectorStore(engine), store_nodes_override=True)
    index.storage_context.persist(str(tmp_path))
    if kind == "ours":
        again: Any = BGEM3Index.from_persist_dir(tmp_path, engine)
    else:
        store = BGEM3VectorStore.from_persist_dir(tmp_path, engine=engine)
        context = StorageContext.from_defaults(persist_dir=str(tmp_path), vector_store=store)
        again = load_index_from_storage(
            context, embed_model=BGEM3Embedding(engine), store_nodes_override=True
        )
    assert set(again.docstore.docs) == {node.node_id for node in nodes}
    again.insert_nodes([TextNode(id_="late", text="a late node")])
    assert "late" in again.docstore.docs
    found = again.as_retriever(similarity_top_k=1).retrieve("a late node")
    assert [node.node_id for node in found] == ["late"]
    again.delete_ref_doc("animals", delete_from_docstore=True)
    assert set(again.docstore.docs) == {"late"}
    again.vector_store.close()


def test_an_index_that_was_loaded_keeps_none_where_it_kept_none(
    engine: BGEM3, nodes: list[BaseNode], tmp_path: Path
) -> None:
    BGEM3Index(nodes, engine=engine).persist(tmp_path)
    again = BGEM3Index.from_persist_dir(tmp_path, engine)
    again.insert_nodes([TextNode(id_="late", text="a late node")])
    assert not again.docstore.docs
    again.close()


def test_the_docstore_is_filled_with_what_the_vector_store_holds_already(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[BaseNode]
) -> None:
    store = BGEM3VectorStore(HybridIndex(engine))
    BGEM3Index(nodes, vector_store=store)
    before = encoder.forwards.total()
    index = BGEM3Index.from_vector_store(store, store_nodes_override=True)
    assert set(index.docstore.docs) == {node.node_id for node in nodes}
    assert index.docstore.get_node(nodes[1].node_id).prev_node == nodes[1].prev_node
    assert encoder.forwards.total() == before


def test_documents_fill_it_too_and_a_changed_one_replaces_its_nodes(engine: BGEM3) -> None:
    index = BGEM3Index.from_documents(
        documents(), transformations=[SMALL], engine=engine, store_nodes_override=True
    )
    assert len(index.docstore.docs) == index.vector_store.index.count() > 3
    changed = [Document(id_="animals", text="Short now.")]
    assert index.refresh_ref_docs(changed) == [True]
    assert index.refresh_ref_docs(changed) == [False]
    assert index.vector_store.index.count() == 1
    assert [node.get_content() for node in index.docstore.docs.values()] == ["Short now."]


@pytest.mark.parametrize("way", list(MetadataMode))
def test_a_node_that_was_embedded_by_any_of_its_texts_is_accepted(
    engine: BGEM3, way: MetadataMode
) -> None:
    node = TextNode(
        text="the cat sat",
        metadata={"file": "animals", "page": "7", "author": "somebody else"},
        excluded_embed_metadata_keys=["page"],
        excluded_llm_metadata_keys=["author"],
    )
    text = node.get_content(metadata_mode=way)
    dense = engine.encode_documents([text]).dense
    assert dense is not None
    node.embedding = dense[0].tolist()
    store = BGEM3VectorStore(engine)
    store.add([node])
    assert store.get_nodes()[0].get_content() == "the cat sat"
    node.embedding = [-x for x in node.embedding]
    with pytest.raises(InputError, match=r"MetadataMode\.EMBED"):
        store.add([node])
