"""BGEM3Index, and beside it each limit of `BGEM3Index` of llama-index-indices-managed-bge-m3.

What that class does was recorded by running its version 0.8.0 with a stand-in for its model, and
stands in a comment of each test that is named after a limit.
"""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.indices.vector_store.retrievers import (
    VectorIndexAutoRetriever,
    VectorIndexRetriever,
)
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, IndexNode, MetadataMode, NodeWithScore, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreInfo

from bge_m3_integrations import BGEM3, HybridIndex, InputError, StoreError
from bge_m3_integrations.llama_index import (
    BGEM3Index,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3VectorStore,
)
from bge_m3_integrations.testing import FakeEncoder

QUERY = "cat on the mat"
WHOLE = SentenceSplitter(chunk_size=200, chunk_overlap=0)


def ids(found: list[NodeWithScore]) -> list[str]:
    return [scored.node.node_id for scored in found]


def sources(found: list[NodeWithScore]) -> set[str | None]:
    return {scored.node.ref_doc_id for scored in found}


def all_of(index: BGEM3Index) -> list[NodeWithScore]:
    return index.as_retriever(similarity_top_k=100).retrieve("the cat")


def documents(*names: str) -> list[Document]:
    return [Document(id_=name, text=f"the {name} eats", metadata={"name": name}) for name in names]


@pytest.fixture
def index(engine: BGEM3) -> BGEM3Index:
    return BGEM3Index.from_documents(
        documents("cat", "dog", "bird"), engine=engine, transformations=[WHOLE]
    )


@pytest.fixture
def folder_index(engine: BGEM3, tmp_path: Path) -> BGEM3Index:
    store = BGEM3VectorStore(HybridIndex.open(tmp_path / "numbers", engine, colbert="turbo8"))
    return BGEM3Index.from_documents(
        documents("cat", "dog", "bird"), vector_store=store, transformations=[WHOLE]
    )


# 1. insert, insert_nodes, delete_nodes, delete_ref_doc, update_ref_doc and refresh_ref_docs of a
# changed document raise NotImplementedError.
def test_limit_01_documents_are_inserted_deleted_updated_and_refreshed(index: BGEM3Index) -> None:
    index.insert(Document(id_="fish", text="the fish eats"))
    assert sources(all_of(index)) == {"cat", "dog", "bird", "fish"}
    index.delete_ref_doc("fish")
    index.update_ref_doc(Document(id_="dog", text="the dog sleeps"))
    assert sources(all_of(index)) == {"cat", "dog", "bird"}
    new = Document(id_="bird", text="the bird sleeps")
    assert index.refresh_ref_docs([*documents("cat"), new, *documents("cow")]) == [
        False,
        True,
        True,
    ]
    texts = {scored.node.get_content() for scored in all_of(index)}
    assert texts == {"the cat eats", "the dog sleeps", "the bird sleeps", "the cow eats"}
    index.delete_nodes(ids(all_of(index))[:3])
    assert len(all_of(index)) == 1


async def test_limit_01_the_async_twins_do_it_too(index: BGEM3Index) -> None:
    await index.ainsert(Document(id_="fish", text="the fish eats"))
    await index.adelete_ref_doc("cat")
    await index.aupdate_ref_doc(Document(id_="dog", text="the dog sleeps"))
    assert await index.arefresh_ref_docs(documents("bird", "cow")) == [False, True]
    assert sources(all_of(index)) == {"fish", "dog", "bird", "cow"}
    await index.adelete_nodes(ids(all_of(index)))
    assert all_of(index) == []


def test_limit_01_a_deleted_document_is_new_to_a_refresh(index: BGEM3Index) -> None:
    for whole in (False, True):
        index.delete_ref_doc("cat", delete_from_docstore=whole)
        assert sources(all_of(index)) == {"dog", "bird"}
        assert index.refresh_ref_docs(documents("cat", "dog")) == [True, False]
        assert sources(all_of(index)) == {"cat", "dog", "bird"}


async def test_limit_01_a_document_deleted_by_awaiting_is_new_to_a_refresh(
    index: BGEM3Index,
) -> None:
    for whole in (False, True):
        await index.adelete_ref_doc("cat", delete_from_docstore=whole)
        assert await index.arefresh_ref_docs(documents("cat", "dog")) == [True, False]


# 2. insert_nodes raises, and the node is in the document store all the same.
def test_limit_02_a_failed_insert_leaves_nothing_behind(
    index: BGEM3Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(FakeEncoder, "encode", fail)
    with pytest.raises(RuntimeError, match="out of order"):
        index.insert_nodes([TextNode(id_="n9", text="new")])
    with pytest.raises(RuntimeError, match="out of order"):
        index.insert(Document(id_="d9", text="new"))
    monkeypatch.undo()
    assert "n9" not in index.docstore.docs
    assert index.docstore.get_document_hash("d9") is None
    assert sources(all_of(index)) == {"cat", "dog", "bird"}


# 3. ref_doc_info raises NotImplementedError, as VectorStoreIndex's does over stores of texts.
def test_limit_03_ref_doc_info_names_the_nodes_of_each_document(index: BGEM3Index) -> None:
    info = index.ref_doc_info
    assert set(info) == {"cat", "dog", "bird"}
    by_source = {n.node.ref_doc_id: n.node.node_id for n in all_of(index)}
    assert {name: [by_source[name]] for name in info} == {n: i.node_ids for n, i in info.items()}
    assert info["cat"].metadata == {"name": "cat"}


# 4. filters, node_ids and doc_ids are ignored: all three nodes come back for each of them.
def test_limit_04_filters_and_ids_restrict_what_is_found(index: BGEM3Index) -> None:
    nobody = MetadataFilters(filters=[MetadataFilter(key="name", value="nobody")])
    dog = MetadataFilters(filters=[MetadataFilter(key="name", value="dog")])
    [node] = [n for n in ids(all_of(index)) if n in index.ref_doc_info["bird"].node_ids]
    for options, expected in (
        ({"filters": nobody}, set()),
        ({"filters": dog}, {"dog"}),
        ({"node_ids": [node]}, {"bird"}),
        ({"doc_ids": ["cat", "gone"]}, {"cat"}),
        ({"doc_ids": ["cat"], "filters": dog}, set()),
        ({"doc_ids": [], "node_ids": []}, {"cat", "dog", "bird"}),
    ):
        found = index.as_retriever(similarity_top_k=9, **options).retrieve(QUERY)
        assert sources(found) == expected, options


# 5. aretrieve runs on the loop's thread: no tick in the 0.3 s of a query. No rerank events.
async def test_limit_05_awaiting_leaves_the_event_loop_free(
    gated: Any, nodes: list[TextNode], event_names: list[str]
) -> None:
    gated.gate.set()
    index = BGEM3Index(nodes, engine=BGEM3(gated))
    retriever = index.as_retriever(similarity_top_k=4)
    gated.gate.clear()
    gated.opened.clear()
    task = asyncio.create_task(retriever.aretrieve(QUERY))
    await asyncio.sleep(0)
    gated.gate.set()
    found = await task
    BGEM3Reranker(index=index.vector_store.index).postprocess_nodes(found, query_str=QUERY)
    assert gated.opened == [True]
    assert event_names == [
        *("RetrievalStartEvent", "RetrievalEndEvent"),
        *("ReRankStartEvent", "ReRankEndEvent"),
    ]


# 6. persist deletes the folder with all that is in it, mine.txt too, before it writes.
def test_limit_06_persist_deletes_nothing(index: BGEM3Index, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    index.persist(tmp_path)
    index.persist(tmp_path)
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine"
    back = BGEM3Index.from_persist_dir(tmp_path, index.engine)
    assert ids(all_of(back)) == ids(all_of(index))
    expected = [scored.score for scored in all_of(index)]
    assert [scored.score for scored in all_of(back)] == pytest.approx(expected, abs=1e-5)
    back.close()


# 7. load_from_disk unpickles: a pickle that makes a folder made it.
def test_limit_07_no_pickle_is_written_or_read(index: BGEM3Index, tmp_path: Path) -> None:
    index.persist(tmp_path / "ours")
    assert not list((tmp_path / "ours").rglob("*.pkl"))
    ran, old = tmp_path / "ran", tmp_path / "old"
    old.mkdir()
    payload = b"cos\nmkdir\n(V" + str(ran).encode() + b"\ntR."
    (old / "multi_embed_store.pkl").write_bytes(payload)
    for call in (BGEM3Index.from_persist_dir, BGEM3Index.load_from_disk):
        with pytest.raises(StoreError, match=r"CVE-2024-14021.*docs/from-bgem3index\.md"):
            call(old)
    assert not ran.exists()
    pickle.loads(payload)  # what the old class does
    assert ran.exists()


# 8. load_from_disk goes back to cls pooling, 8192 tokens and batches of 32, takes another model
# without a word, and load_index_from_storage gives a VectorStoreIndex with other embeddings.
def test_limit_08_an_index_comes_back_as_it_was_and_only_to_its_model(
    folder_index: BGEM3Index, tmp_path: Path
) -> None:
    folder_index.persist(tmp_path / "persisted")
    found = all_of(folder_index)
    folder_index.close()
    with pytest.raises(StoreError, match=r"fingerprint|model"):
        BGEM3Index.from_persist_dir(tmp_path / "persisted", BGEM3(FakeEncoder(dim=8)))
    encoder = FakeEncoder()
    back = BGEM3Index.from_persist_dir(tmp_path / "persisted", BGEM3(encoder))
    assert all_of(back) == found
    assert back.index_id == folder_index.index_id
    assert set(encoder.forwards) == {"the cat"}
    back.insert(Document(id_="cow", text="the cow eats"))
    assert back.refresh_ref_docs(documents("cat", "dog")) == [False, False]
    back.close()


def test_limit_08_llama_indexs_own_loader_does_not_take_it_for_an_empty_index(
    index: BGEM3Index, tmp_path: Path
) -> None:
    index.persist(tmp_path)
    with pytest.raises(Exception, match="BGEM3VectorStore"):
        StorageContext.from_defaults(persist_dir=str(tmp_path))


# 9. Weights (1, 0, 0) compute all three scores of all nodes; weights of 0 give nan.
def test_limit_09_a_mode_without_weight_is_not_computed_and_candidates_are_scored(
    index: BGEM3Index, encoder: FakeEncoder
) -> None:
    dense = index.as_retriever(weights=(1, 0, 0), candidates={"dense": 2}, similarity_top_k=2)
    assert len(dense.retrieve("unseen words")) == 2
    with pytest.raises(InputError, match="weights"):
        index.as_retriever(weights=(0, 0, 0))
    steps: dict[str, Any] = {}
    found = index.vector_store.index.search(
        QUERY,
        limit=1,
        weights=(1, 0, 0),
        candidates={"dense": 2},
        observe=lambda stage: steps.update({stage.name: stage.counts}),
    )
    assert steps["find"] == {"candidates": 2}
    assert steps["score"] == {"modes": 1}
    assert set(found[0].components) == {"dense"}


# 10. Token vectors are float32 in memory: 4 KiB per token.
def test_limit_10_numbers_live_in_a_folder_in_one_byte_each(folder_index: BGEM3Index) -> None:
    capabilities = folder_index.vector_store.index.store.capabilities
    assert capabilities.durable
    assert capabilities.colbert_kind == "turbo8"


# 11. BGEM3Index(nodes=[]) raises AttributeError.
@pytest.mark.parametrize("nothing", [None, []])
def test_limit_11_an_index_may_be_empty(engine: BGEM3, nothing: list[TextNode] | None) -> None:
    index = BGEM3Index(nothing, engine=engine)
    assert all_of(index) == []
    assert index.ref_doc_info == {}
    index.insert_nodes([TextNode(id_="n", text="a cat")])
    assert ids(all_of(index)) == ["n"]


# 12. "the cat sat on the mat" is encoded, without "name: cat" that EMBED shows.
def test_limit_12_the_text_that_llama_index_embeds_is_encoded(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode]
) -> None:
    BGEM3Index(nodes, engine=engine)
    assert set(encoder.forwards) == {n.get_content(metadata_mode=MetadataMode.EMBED) for n in nodes}


# 13. Two indexes load two models; model= and devices= are taken and go nowhere.
def test_limit_13_indexes_share_an_engine_and_no_keyword_vanishes(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    first, second = BGEM3Index(nodes, engine=engine), BGEM3Index(engine=engine)
    assert first.engine is second.engine is engine
    with pytest.raises(TypeError, match="devices"):
        BGEM3Index(nodes, engine=engine, devices="cuda:7")
    with pytest.raises(TypeError, match="devices"):
        BGEM3Index.from_documents(documents("cat"), engine=engine, devices="cuda:7")
    with pytest.raises(TypeError, match="top_k"):
        first.as_retriever(top_k=3)


# 14. A node that is missing in the document store fails the query: "doc_id dog not found."
def test_limit_14_a_missing_node_fails_no_query(index: BGEM3Index) -> None:
    [node] = index.ref_doc_info["dog"].node_ids
    index.docstore.delete_document("dog", raise_error=False)
    assert "dog" in sources(all_of(index))
    index.vector_store.delete_nodes([node])
    assert sources(all_of(index)) == {"cat", "bird"}


# 15. show_progress shows nothing, index_path is fixed and unused, the documented 120 and 60 tokens
# are 8192.
def test_limit_15_progress_is_shown_and_the_length_is_the_engines(
    capsys: pytest.CaptureFixture[str], nodes: list[TextNode]
) -> None:
    engine = BGEM3(FakeEncoder(max_length=16))
    BGEM3Index(nodes, engine=engine, show_progress=True, insert_batch_size=2)
    assert "Adding nodes: 100%" in capsys.readouterr().err
    long = TextNode(id_="long", text="cat " * 40)
    with pytest.warns(match="16"):
        BGEM3Index([long], engine=engine)


@pytest.mark.parametrize("use_async", [False, True])
def test_each_node_and_each_query_costs_one_forward(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode], *, use_async: bool
) -> None:
    index = BGEM3Index(nodes, engine=engine, use_async=use_async)
    found = index.as_retriever(similarity_top_k=4).retrieve(QUERY)
    BGEM3Reranker(index=index.vector_store.index).postprocess_nodes(found, query_str=QUERY)
    stock = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=4)
    assert ids(stock.retrieve("another query")) != []
    assert set(encoder.forwards.values()) == {1}
    assert len(encoder.forwards) == len(nodes) + 2


def test_nothing_is_spilled_for_an_embed_model_that_is_asked_for_no_document() -> None:
    engine = BGEM3(FakeEncoder(), memo_bytes=20_000)
    names = [f"animal{i}" for i in range(50)]
    index = BGEM3Index.from_documents(documents(*names), engine=engine)
    stock = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=9)
    assert len(stock.retrieve(QUERY)) == 9
    assert (engine.stats.forwards, engine.stats.spilled) == (51, 0)


def test_it_is_a_vector_store_index_that_needs_no_embed_model(
    index: BGEM3Index, engine: BGEM3
) -> None:
    assert isinstance(index, VectorStoreIndex)
    assert index.engine is engine
    assert isinstance(index.vector_store, BGEM3VectorStore)


def test_given_documents_and_nodes_are_not_changed(engine: BGEM3, nodes: list[TextNode]) -> None:
    given = documents("cat")
    before = [given[0].model_copy(deep=True), nodes[0].model_copy(deep=True)]
    BGEM3Index.from_documents(given, engine=engine)
    BGEM3Index(nodes, engine=engine)
    assert [given[0], nodes[0]] == before
    assert nodes[0].embedding is None


def test_as_retriever_is_ours_with_the_options_of_the_store(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    store = BGEM3VectorStore(HybridIndex(engine), weights="keyword")
    index = BGEM3Index(nodes, vector_store=store)
    retriever = index.as_retriever(similarity_top_k=3)
    assert isinstance(retriever, BGEM3Retriever)
    hits = store.index.search(QUERY, limit=3, weights="keyword")
    assert [(n.node.node_id, n.score) for n in retriever.retrieve(QUERY)] == [
        (h.id, h.score) for h in hits
    ]


def test_words_of_the_stock_retriever_give_the_stock_retriever(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    pointer = IndexNode(id_="pointer", text="a table", index_id="table")
    index = BGEM3Index([*nodes, pointer], engine=engine)
    lexical = index.as_retriever(vector_store_query_mode="sparse", similarity_top_k=9)
    assert isinstance(lexical, VectorIndexRetriever)
    assert len(lexical.retrieve(QUERY)) == 4  # not the index node alone, to which it is no key
    diverse = index.as_retriever(
        vector_store_query_mode="mmr", vector_store_kwargs={"mmr_threshold": 0.5}
    )
    assert len(diverse.retrieve(QUERY)) == 2
    with pytest.raises(TypeError, match=r"weights.*vector_store_query_mode"):
        index.as_retriever(weights="keyword", vector_store_query_mode="sparse")


def test_an_index_node_leads_to_its_object(engine: BGEM3) -> None:
    target = TextNode(id_="target", text="the whole table")
    pointer = IndexNode(id_="pointer", text="a table of cats", index_id="table", obj=target)
    index = BGEM3Index(objects=[pointer], engine=engine)
    assert ids(index.as_retriever().retrieve("cats")) == ["target"]


def test_query_and_chat_engines_take_their_own_words(index: BGEM3Index) -> None:
    reranker = BGEM3Reranker(index=index.vector_store.index, top_n=1)
    engine = index.as_query_engine(
        llm=MockLLM(),
        similarity_top_k=3,
        doc_ids=["cat", "dog"],
        node_postprocessors=[reranker],
        response_mode="compact",
    )
    answer = engine.query("what does the cat do?")
    assert sources(answer.source_nodes) == {"cat"}
    chat = index.as_chat_engine(
        "context", llm=MockLLM(), similarity_top_k=1, system_prompt="Be kind."
    )
    assert sources(chat.chat("what does the bird do?").source_nodes) == {"bird"}
    with pytest.raises(TypeError, match="top_n"):
        index.as_query_engine(llm=MockLLM(), top_n=3)


def test_a_question_of_filters_alone_needs_no_vector_in_an_auto_retriever(
    index: BGEM3Index,
) -> None:
    dog = MetadataFilters(filters=[MetadataFilter(key="name", value="dog")])
    about = VectorStoreInfo(content_info="animals", metadata_info=[])
    options: dict[str, Any] = {"llm": MockLLM(), "extra_filters": dog}
    auto = VectorIndexAutoRetriever(index, about, **options)
    assert sources(auto.retrieve("")) == {"dog"}
    zeros = [0.0] * index.engine.encoder.dim
    zero = VectorIndexAutoRetriever(index, about, default_empty_query_vector=zeros, **options)
    with pytest.raises(InputError, match=r"norm 0\.0.*give no default_empty_query_vector"):
        zero.retrieve("")


def test_an_index_over_a_store_that_is_there_encodes_nothing(
    encoder: FakeEncoder, index: BGEM3Index
) -> None:
    before = encoder.forwards.total()
    again = BGEM3Index.from_vector_store(index.vector_store)
    assert encoder.forwards.total() == before
    assert ids(all_of(again)) == ids(all_of(index))


def test_a_given_storage_context_keeps_its_other_stores_and_gets_the_vector_store(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    docstore = SimpleDocumentStore()
    context = StorageContext.from_defaults(docstore=docstore)
    index = BGEM3Index(nodes, engine=engine, storage_context=context)
    assert index.storage_context is context
    assert index.docstore is docstore
    assert context.vector_store is index.vector_store


def test_persisting_the_given_storage_context_persists_the_index(
    engine: BGEM3, tmp_path: Path
) -> None:
    context = StorageContext.from_defaults()
    index = BGEM3Index.from_documents(documents("cat", "dog"), context, engine=engine)
    context.persist(str(tmp_path))
    back = BGEM3Index.from_persist_dir(tmp_path, engine)
    assert ids(all_of(back)) == ids(all_of(index))
    assert back.refresh_ref_docs(documents("cat", "dog", "cow")) == [False, False, True]
    back.close()


def test_a_storage_context_is_left_alone_where_the_index_is_refused(engine: BGEM3) -> None:
    context = StorageContext.from_defaults()
    with pytest.raises(InputError, match="not the vector store's"):
        BGEM3Index(
            storage_context=context,
            vector_store=BGEM3VectorStore(HybridIndex(engine)),
            engine=BGEM3(FakeEncoder()),
        )
    assert isinstance(context.vector_store, SimpleVectorStore)


def test_contradictions_are_errors_that_name_both_sides(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    store = BGEM3VectorStore(HybridIndex(engine))
    other = BGEM3VectorStore(HybridIndex(engine))
    held = StorageContext.from_defaults(vector_store=other)
    with pytest.raises(InputError, match="storage context's BGEM3VectorStore"):
        BGEM3Index(nodes, vector_store=store, storage_context=held)
    with pytest.raises(InputError, match=r"engine over .* is not the vector store's"):
        BGEM3Index(nodes, vector_store=store, engine=BGEM3(FakeEncoder()))
    filled = VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=4)).storage_context
    with pytest.raises(InputError, match="SimpleVectorStore"):
        BGEM3Index(storage_context=filled, engine=engine)
    with pytest.raises(InputError, match="SimpleVectorStore"):
        BGEM3Index.from_vector_store(filled.vector_store)


def test_nodes_for_an_index_that_is_loaded_are_refused_and_its_folder_is_free(
    folder_index: BGEM3Index, nodes: list[TextNode], tmp_path: Path
) -> None:
    engine = folder_index.engine
    folder_index.persist(tmp_path / "persisted")
    folder_index.close()
    with pytest.raises(InputError, match=r"4 others; add them with insert_nodes"):
        BGEM3Index.from_persist_dir(tmp_path / "persisted", engine, nodes=nodes)
    back = BGEM3Index.from_persist_dir(tmp_path / "persisted", engine)
    back.insert_nodes(nodes)
    assert sources(all_of(back)) == {"cat", "dog", "bird", None}
    back.close()


def test_one_of_several_indexes_in_a_folder_is_named(index: BGEM3Index, tmp_path: Path) -> None:
    other = BGEM3Index(storage_context=index.storage_context)
    index.persist(tmp_path)
    with pytest.raises(StoreError, match="index_id=None names none"):
        BGEM3Index.from_persist_dir(tmp_path, index.engine)
    back = BGEM3Index.from_persist_dir(tmp_path, index.engine, index_id=other.index_id)
    assert back.index_id == other.index_id
    back.close()
