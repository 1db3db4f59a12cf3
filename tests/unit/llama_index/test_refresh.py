"""A refresh goes by what the records remember: cut-off insertions, own sources, transformations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import (
    BaseNode,
    Document,
    IndexNode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
    TransformComponent,
)
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from bge_m3_integrations import BGEM3, HybridIndex, InputError
from bge_m3_integrations.llama_index import BGEM3Index, BGEM3VectorStore

SPLIT = SentenceSplitter(chunk_size=12, chunk_overlap=0)
LONG = " ".join(f"Sentence number {n} has some few words here." for n in range(300))


class Tagged(TransformComponent):
    """Writes into what it is given, as many extractors do."""

    def __call__(self, nodes: Sequence[BaseNode], **_: Any) -> Sequence[BaseNode]:
        for node in nodes:
            node.metadata["tag"] = "t"
            node.set_content(node.get_content().replace("bad", "good"))
        return nodes


class Dropped(TransformComponent):
    """Leaves nothing of short texts."""

    def __call__(self, nodes: Sequence[BaseNode], **_: Any) -> Sequence[BaseNode]:
        return [node for node in nodes if len(node.get_content()) > 5]


@pytest.fixture
def texts() -> list[Document]:
    return [
        Document(
            id_="a", text="A bad one. It has two sentences of many words, of which few count."
        ),
        Document(id_="b", text="A short one."),
    ]


def contents(index: BGEM3Index) -> list[str]:
    return sorted(node.get_content() for node in index.vector_store.get_nodes())


def fails_after(monkeypatch: pytest.MonkeyPatch, index: BGEM3Index, batches: int) -> None:
    """The vector store takes that many batches."""
    left, add = [batches], index.vector_store.add

    def limited(nodes: Sequence[BaseNode], **options: Any) -> list[str]:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("no space left")
        return add(nodes, **options)

    monkeypatch.setattr(BGEM3VectorStore, "add", lambda _, nodes, **more: limited(nodes, **more))


@pytest.mark.parametrize("way", ["insert", "update_ref_doc", "refresh_ref_docs"])
def test_a_document_whose_insertion_was_cut_off_is_whole_after_a_refresh(
    engine: BGEM3, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    long = Document(id_="long", text=LONG)
    index = BGEM3Index(engine=engine, transformations=[SPLIT], insert_batch_size=50)
    if way == "update_ref_doc":
        index.insert(Document(id_="long", text="It was short once."))
    with monkeypatch.context() as patched:
        fails_after(patched, index, 2)
        with pytest.raises(OSError, match="no space"):
            getattr(index, way)([long] if way == "refresh_ref_docs" else long)
    assert index.vector_store.index.count() == 100
    assert index.refresh_ref_docs([long]) == [True]
    assert contents(index) == sorted(node.get_content() for node in SPLIT([long]))
    assert index.refresh_ref_docs([long]) == [False]


def test_a_cut_off_insertion_is_seen_by_the_next_process(
    tmp_path: Path, engine: BGEM3, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Document(id_="long", text=LONG)

    def opened() -> BGEM3Index:
        store = BGEM3VectorStore(HybridIndex.open(tmp_path / "index", engine))
        return BGEM3Index(vector_store=store, transformations=[SPLIT], insert_batch_size=50)

    index = opened()
    with monkeypatch.context() as patched:
        fails_after(patched, index, 2)
        with pytest.raises(OSError, match="no space"):
            index.insert(long)
    index.close()  # nothing knows of the document but its records
    index = opened()
    assert index.refresh_ref_docs([long]) == [True]
    assert contents(index) == sorted(node.get_content() for node in SPLIT([long]))
    index.close()


def test_an_unpersisted_insertion_that_was_whole_is_not_encoded_again(
    tmp_path: Path, engine: BGEM3, texts: list[Document]
) -> None:
    store = BGEM3VectorStore(HybridIndex.open(tmp_path / "index", engine))
    index = BGEM3Index.from_documents(
        texts, vector_store=store, transformations=[Tagged(), SPLIT], use_async=True
    )
    index.close()
    store = BGEM3VectorStore(HybridIndex.open(tmp_path / "index", engine))
    index = BGEM3Index(vector_store=store, transformations=[Tagged(), SPLIT])
    assert index.refresh_ref_docs(texts) == [False, False]
    index.close()


@pytest.mark.parametrize("begin", ["from_documents", "insert", "ainsert"])
async def test_transformations_that_rewrite_make_no_document_a_changed_one(
    engine: BGEM3, texts: list[Document], begin: str
) -> None:
    steps = [Tagged(), SPLIT]
    given = texts if begin == "from_documents" else []
    index = BGEM3Index.from_documents(given, engine=engine, transformations=steps)
    for document in texts if begin != "from_documents" else []:
        if begin == "insert":
            index.insert(document)
        else:
            await index.ainsert(document)
    assert "bad" in texts[0].text
    assert texts[0].metadata == {}
    assert not any("bad" in text for text in contents(index))
    assert index.refresh_ref_docs(texts) == [False, False]
    assert await index.arefresh_ref_docs(texts) == [False, False]
    index.update_ref_doc(texts[0])
    assert "bad" in texts[0].text
    assert index.refresh_ref_docs(texts) == [False, False]


def test_documents_without_nodes_are_new_once(engine: BGEM3) -> None:
    documents = [Document(id_="none", text="tiny"), Document(id_="some", text="longer")]
    index = BGEM3Index.from_documents(documents, engine=engine, transformations=[Dropped()])
    assert contents(index) == ["longer"]
    assert index.refresh_ref_docs(documents) == [False, False]
    index.vector_store.delete("some")
    assert index.refresh_ref_docs(documents) == [False, True]
    assert contents(index) == ["longer"]


def test_nodes_without_text_are_left_out_aloud(engine: BGEM3) -> None:
    empty = [Document(id_="empty", text="")]
    index = BGEM3Index(engine=engine, transformations=[SPLIT])
    with pytest.warns(UserWarning, match="1 of 1 nodes have no text"):
        index.insert(empty[0])
    assert contents(index) == []
    with pytest.warns(UserWarning, match="no text"):
        assert index.refresh_ref_docs(empty) == [False]


def test_pages_that_name_their_file_as_source_are_not_doubled(engine: BGEM3) -> None:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="file")}
    pages = [Document(id_=f"page {n}", text=f"Page {n}.", relationships=source) for n in range(2)]
    index = BGEM3Index.from_documents(pages, engine=engine, transformations=[SPLIT])
    assert {node.ref_doc_id for node in index.vector_store.get_nodes()} == {"file"}
    assert index.refresh_ref_docs(pages) == [False, False]
    assert len(contents(index)) == 2


def test_two_insertions_under_one_id_become_the_one_that_is_refreshed(engine: BGEM3) -> None:
    index = BGEM3Index(engine=engine, transformations=[SPLIT])
    for text in ("First.", "Second.", "Second."):
        index.insert(Document(id_="a", text=text))
    assert index.refresh_ref_docs([Document(id_="a", text="Second.")]) == [True]
    assert contents(index) == ["Second."]


def test_nodes_that_were_added_or_edited_by_hand_stay(engine: BGEM3, texts: list[Document]) -> None:
    index = BGEM3Index.from_documents(texts, engine=engine, transformations=[SPLIT])
    edited = index.vector_store.get_nodes()[0]
    edited.set_content("edited")
    added = TextNode(text="added", relationships=edited.relationships)
    index.insert_nodes([edited, added])
    before = contents(index)
    assert {"edited", "added"} < {*before}
    assert index.refresh_ref_docs(texts) == [False, False]
    assert contents(index) == before


def test_what_an_index_node_leads_to_stays_with_it(engine: BGEM3) -> None:
    leads = IndexNode(text="It leads on.", index_id="on", obj=TextNode(text="on"))
    BGEM3Index(objects=[leads], engine=engine)
    assert leads.obj is not None


def test_a_threshold_is_refused_under_its_own_name(engine: BGEM3) -> None:
    store = BGEM3VectorStore(HybridIndex(engine))
    query = VectorStoreQuery(query_str="x", mode=VectorStoreQueryMode.MMR, mmr_threshold=2)
    with pytest.raises(InputError, match="mmr_threshold must be a number from 0 to 1, not 2"):
        store.query(query)
