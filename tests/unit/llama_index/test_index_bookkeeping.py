"""What LlamaIndex notes beside the vector store stays true: hashes, index nodes, source ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, IndexNode, NodeWithScore, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)

from bge_m3_integrations import BGEM3, HybridIndex, InputError
from bge_m3_integrations.llama_index import (
    BGEM3Embedding,
    BGEM3Index,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3VectorStore,
)

# small enough that each document is several nodes, whose ids are new at every split
SPLIT = SentenceSplitter(chunk_size=12, chunk_overlap=0)
TEXTS = {name: f"The {name} eats. The {name} sleeps here. The {name} runs away." for name in "abc"}


def documents(**changed: str) -> list[Document]:
    return [Document(id_=name, text=text) for name, text in {**TEXTS, **changed}.items()]


def opened(folder: Path, engine: BGEM3) -> BGEM3Index:
    store = BGEM3VectorStore(HybridIndex.open(folder, engine))
    return BGEM3Index.from_vector_store(store, transformations=[SPLIT])


@pytest.mark.parametrize("way", ["plain", "awaited"])
async def test_documents_of_a_process_that_did_not_persist_are_replaced_and_not_doubled(
    tmp_path: Path, engine: BGEM3, way: str
) -> None:
    index = opened(tmp_path / "index", engine)
    for document in documents():
        index.insert(document)
    count = index.vector_store.index.count()
    assert count > len(TEXTS)
    index.close()  # without persist: the hashes are gone, the nodes are there

    index = opened(tmp_path / "index", engine)
    if way == "plain":
        index.refresh_ref_docs(documents())
    else:
        await index.arefresh_ref_docs(documents())
    assert index.vector_store.index.count() == count
    assert index.refresh_ref_docs(documents()) == [False] * 3
    assert index.refresh_ref_docs(documents(b="New text.")) == [False, True, False]
    texts = [node.get_content() for node in index.vector_store.get_nodes()]
    assert texts.count("New text.") == 1
    assert not any(" b " in text for text in texts)
    index.close()


async def test_what_a_process_changed_without_persisting_is_seen_by_the_next_refresh(
    tmp_path: Path, engine: BGEM3
) -> None:
    index = opened(tmp_path / "index", engine)
    index.refresh_ref_docs(documents())
    index.persist(tmp_path / "kept")
    index.close()

    index = BGEM3Index.from_persist_dir(tmp_path / "kept", engine, transformations=[SPLIT])
    assert index.refresh_ref_docs(documents()) == [False] * 3
    index.delete_ref_doc("a", delete_from_docstore=True)
    index.update_ref_doc(Document(id_="b", text="Another text of b."))
    index.close()  # without persist: the hashes in the folder are those of before

    index = BGEM3Index.from_persist_dir(tmp_path / "kept", engine, transformations=[SPLIT])
    assert await index.arefresh_ref_docs(documents()) == [True, True, False]
    texts = [node.get_content() for node in index.vector_store.get_nodes()]
    assert "Another text of b." not in texts
    assert {node.ref_doc_id for node in index.vector_store.get_nodes()} == set(TEXTS)
    assert index.refresh_ref_docs(documents()) == [False] * 3
    index.close()


def index_nodes(engine: BGEM3) -> BGEM3Index:
    index = BGEM3Index(engine=engine, transformations=[SPLIT])
    index.insert_nodes([TextNode(id_="plain", text="a plain node")])
    index.insert_nodes([IndexNode(id_="leads", text="it leads to more", index_id="more")])
    assert set(index.index_struct.nodes_dict) == {"leads"}
    return index


@pytest.mark.parametrize("way", ["nodes", "awaited nodes", "document", "awaited document"])
async def test_a_deleted_index_node_is_listed_nowhere(engine: BGEM3, way: str) -> None:
    index = index_nodes(engine)
    if way == "nodes":
        index.delete_nodes(["leads", "unknown"], delete_from_docstore=True)
    elif way == "awaited nodes":
        await index.adelete_nodes(["leads", "unknown"], delete_from_docstore=True)
    elif way == "document":
        index.delete_ref_doc("leads", delete_from_docstore=True)
    else:
        await index.adelete_ref_doc("leads", delete_from_docstore=True)
    assert index.index_struct.nodes_dict == {}
    assert index.docstore.get_document("leads", raise_error=False) is None
    assert [node.node_id for node in index.vector_store.get_nodes()] == ["plain"]


def test_the_document_store_keeps_what_it_is_not_told_to_delete(engine: BGEM3) -> None:
    index = index_nodes(engine)
    index.delete_nodes(["leads"])
    assert index.index_struct.nodes_dict == {}
    assert index.docstore.get_document("leads", raise_error=False) is not None


def by(key: str, value: object, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])


@pytest.fixture
def store(engine: BGEM3) -> BGEM3VectorStore:
    index = BGEM3Index.from_documents(
        documents(), engine=engine, transformations=[SentenceSplitter(chunk_size=200)]
    )
    index.insert_nodes(
        [TextNode(id_="own", text="it has a key of its own", metadata={"doc_id": 7})]
    )
    return index.vector_store


def found(store: BGEM3VectorStore, filters: MetadataFilters) -> list[str]:
    return sorted(node.ref_doc_id or node.node_id for node in store.get_nodes(filters=filters))


@pytest.mark.parametrize("key", ["ref_doc_id", "doc_id", "document_id"])
def test_the_names_of_a_source_document_can_be_filtered_by(
    store: BGEM3VectorStore, key: str
) -> None:
    assert found(store, by(key, "a")) == ["a"]
    assert found(store, by(key, ["a", "c"], FilterOperator.IN)) == ["a", "c"]
    assert set(found(store, by(key, "a", FilterOperator.NE))) == {"b", "c", "own"}


def test_a_key_of_the_metadata_comes_first(store: BGEM3VectorStore) -> None:
    assert found(store, by("doc_id", 7)) == ["own"]


NOTHING = MetadataFilters(filters=[])


@pytest.mark.parametrize(
    "filters",
    [
        None,
        NOTHING,
        MetadataFilters(filters=[NOTHING, NOTHING]),
        MetadataFilters(filters=[NOTHING], condition=FilterCondition.NOT),
    ],
    ids=["none", "empty", "nested", "not"],
)
def test_filters_without_a_condition_empty_no_store(
    store: BGEM3VectorStore, filters: MetadataFilters | None
) -> None:
    before = store.index.count()
    with pytest.raises(InputError, match="clear"):
        store.delete_nodes(filters=filters)
    assert store.index.count() == before


def test_nodes_may_come_as_a_stream(store: BGEM3VectorStore) -> None:
    stream = (TextNode(id_=name, text=name) for name in ("x", "y"))
    assert store.add(stream) == ["x", "y"]  # type: ignore[arg-type]  # the point
    assert len(store.get_nodes(["x", "y"])) == 2


def test_an_embedding_of_the_text_without_its_metadata_is_of_the_same_model(
    store: BGEM3VectorStore,
) -> None:
    node = TextNode(id_="block", text="a message", metadata={"session": "some session of a user"})
    embedding = BGEM3Embedding(engine=store.engine)
    node.embedding = embedding.get_text_embedding("a message")
    store.add([node])
    node.embedding = embedding.get_text_embedding("quite another message of somebody else")
    with pytest.raises(InputError, match="cosine"):
        store.add([node])


def test_a_query_by_another_text_is_told_of_the_retriever_that_takes_it(
    store: BGEM3VectorStore,
) -> None:
    vector = BGEM3Embedding(engine=store.engine).get_query_embedding("a made-up answer to it")
    with pytest.raises(InputError, match="HyDE"):
        store.query(VectorStoreQuery(query_str="what is it", query_embedding=vector))


def test_an_object_that_is_no_data_is_refused_with_the_nodes_name(store: BGEM3VectorStore) -> None:
    node = IndexNode(id_="leads", text="text", index_id="x", obj=object())
    with pytest.raises(InputError, match="'leads' cannot be kept as JSON"):
        store.add([node])


@pytest.mark.parametrize("keep", [False, True])
def test_reranked_nodes_belong_to_the_caller(store: BGEM3VectorStore, keep: bool) -> None:
    reranker = BGEM3Reranker(engine=store.engine, keep_retrieval_score=keep)
    given = NodeWithScore(node=TextNode(text="some text", metadata={"tags": ["x"]}), score=0.5)
    once = reranker.postprocess_nodes([given], query_str="text")
    once[0].node.metadata["tags"].append("y")
    assert given.node.metadata == {"tags": ["x"]}
    twice = reranker.postprocess_nodes(once, query_str="text")
    assert twice[0].node.excluded_embed_metadata_keys == ["retrieval_score"] * keep


def test_a_retriever_over_something_else_says_what_it_takes() -> None:
    with pytest.raises(InputError, match="must be a BGEM3, or an index or adapter over one, not"):
        BGEM3Retriever(7)  # type: ignore[arg-type]  # the point
