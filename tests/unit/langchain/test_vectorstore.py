from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from bge_m3_integrations import (
    BGEM3,
    FilterError,
    InputError,
)
from bge_m3_integrations.core.filters import Compare
from bge_m3_integrations.core.records import text_hash
from bge_m3_integrations.langchain import BGEM3Embeddings, BGEM3Retriever, BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.stored import DOCUMENTS, Made, filled, hit_ids, ids

# what goes in ------------------------------------------------------------------------------------


def test_a_text_is_one_forward_and_a_hybrid_query_one(made: Made) -> None:
    encoder, store = made
    store.similarity_search("sleeping dogs")
    assert set(encoder.forwards.values()) == {1}
    assert encoder.forwards["sleeping dogs"] == 1
    assert len(encoder.forwards) == len(DOCUMENTS) + 1


def test_documents_come_back_equal_and_inputs_stay_as_they_were(made: Made) -> None:
    _, store = made
    before = deepcopy(DOCUMENTS)
    found = store.get_by_ids([str(d.id) for d in DOCUMENTS])
    assert found == DOCUMENTS
    found[0].metadata["tags"].append("changed")
    store.similarity_search("red fox")[0].metadata["year"] = 0
    assert before == DOCUMENTS
    assert store.get_by_ids(["fox"]) == [DOCUMENTS[0]]


def test_ids_that_are_given_come_before_the_documents_own_and_none_is_no_choice() -> None:
    store = BGEM3VectorStore(BGEM3(FakeEncoder()))
    three = [DOCUMENTS[0], DOCUMENTS[1], Document(page_content="without an id")]
    added = store.add_documents(three, ids=["any string at all/1", None, None])
    assert added[:2] == ["any string at all/1", "dog"]
    assert added[2] == text_hash("without an id")
    assert [d.page_content for d in store.get_by_ids(added)] == [d.page_content for d in three]
    assert store.index.count() == 3


@pytest.mark.parametrize("way", ["from_texts", "from_documents", "add_texts", "add_documents"])
def test_a_program_that_runs_again_doubles_nothing(tmp_path: Path, way: str) -> None:
    texts, about = ["a cat", "a dog", "a cat"], [{"source": "x"}, {}, {"source": "y"}]
    documents = [Document(page_content=t, metadata=m) for t, m in zip(texts, about, strict=True)]
    for _ in range(2):
        engine = BGEM3(FakeEncoder())
        if way.startswith("from"):
            given: Any = (texts, engine, about) if way == "from_texts" else (documents, engine)
            store = getattr(BGEM3VectorStore, way)(*given, path=tmp_path / "index")
        else:
            store = BGEM3VectorStore(engine, path=tmp_path / "index")
            given = (texts, about) if way == "add_texts" else (documents,)
            assert len(set(getattr(store, way)(*given))) == 3
        with store:
            assert store.index.count() == 3


def test_equal_documents_of_one_call_are_one_and_each_is_told_its_id() -> None:
    store = BGEM3VectorStore(BGEM3(FakeEncoder()))
    added = store.add_texts(["a cat", "a dog", "a cat"])
    assert added[0] == added[2] != added[1]
    assert store.index.count() == 2
    assert added == store.index.add(["a cat", "a dog", "a cat"])
    assert store.index.count() == 2


def test_a_known_id_is_replaced(made: Made) -> None:
    _, store = made
    store.add_documents([Document(id="fox", page_content="the grey wolf", metadata={"n": 1})])
    assert store.index.count() == len(DOCUMENTS)
    assert store.get_by_ids(["fox"])[0].page_content == "the grey wolf"
    assert ids(store.similarity_search("grey wolf", k=1)) == ["fox"]


def test_of_an_id_that_comes_twice_the_later_one_holds_as_in_langchains_own_store() -> None:
    twice = [Document(id="a", page_content="first"), Document(id="b", page_content="beside")]
    twice.append(Document(id="a", page_content="second"))
    encoder = FakeEncoder()
    ours = BGEM3VectorStore(BGEM3(encoder))
    theirs = InMemoryVectorStore(BGEM3Embeddings(engine=BGEM3(FakeEncoder())))
    assert ours.add_documents(twice) == theirs.add_documents(twice) == ["a", "b", "a"]
    assert ours.get_by_ids(["a", "b"]) == theirs.get_by_ids(["a", "b"])
    assert encoder.forwards == {"second": 1, "beside": 1}


def test_texts_metadatas_and_ids_may_come_from_generators(made: Made) -> None:
    _, store = made
    added = store.add_texts(
        (f"text {i}" for i in range(3)), ({"i": i} for i in range(3)), ids=(f"t{i}" for i in "012")
    )
    assert added == ["t0", "t1", "t2"]
    assert store.get_by_ids(added)[2] == Document(id="t2", page_content="text 2", metadata={"i": 2})
    assert store.add_documents(d for d in DOCUMENTS[:2]) == ["fox", "dog"]


async def test_generators_reach_the_async_twins_whole() -> None:
    store = await BGEM3VectorStore.afrom_texts((t for t in ["one", "two"]), BGEM3(FakeEncoder()))
    assert len(await store.aadd_texts(t for t in ["three", "four"])) == 2
    assert len(await store.aadd_documents(d for d in DOCUMENTS)) == 5
    other = await BGEM3VectorStore.afrom_documents((d for d in DOCUMENTS), BGEM3(FakeEncoder()))
    assert (store.index.count(), other.index.count()) == (9, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ids": ["a"]},
        {"ids": []},
        {"metadatas": [{}]},
        {"metadatas": []},
        {"metadatas": [{}, {}, {}], "ids": ["a", "b"]},
    ],
)
def test_lists_of_other_lengths_are_refused_and_nothing_is_added(wrong: dict[str, Any]) -> None:
    encoder = FakeEncoder()
    store = BGEM3VectorStore(BGEM3(encoder))
    with pytest.raises(InputError, match=r"2 documents, but [013]"):
        store.add_texts(["one", "two"], **wrong)
    assert store.index.count() == 0
    assert not encoder.forwards


def test_a_string_is_not_read_letter_by_letter() -> None:
    store = BGEM3VectorStore(BGEM3(FakeEncoder()))
    with pytest.raises(InputError, match="not the one string 'one text'"):
        store.add_texts("one text")
    with pytest.raises(InputError, match="not the one string 'fox'"):
        store.delete("fox")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not the one string 'fox'"):
        store.get_by_ids("fox")


def test_what_index_passes_is_accepted_and_other_keywords_are_refused_by_name(made: Made) -> None:
    encoder, store = made
    store.add_texts(["a b", "c d", "e f"], batch_size=2)
    assert [len(c.texts) for c in encoder.calls][-2:] == [2, 1]
    with pytest.raises(InputError, match=r"'bulk_size'; did you mean batch_size\?"):
        store.add_documents([], bulk_size=3)
    with pytest.raises(InputError, match="batch_size must be a whole number of at least 1, not 0"):
        store.add_texts(["g"], batch_size=0)


def test_progress_is_told() -> None:
    seen: list[tuple[int, int | None]] = []
    store = BGEM3VectorStore(BGEM3(FakeEncoder()))
    store.add_texts("abc"[i] for i in range(0))
    store.add_texts(
        ["a", "b", "c"], batch_size=2, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (3, 3)


# what goes out -----------------------------------------------------------------------------------


def test_unknown_and_no_ids_delete_nothing_and_known_ones_do(made: Made) -> None:
    _, store = made
    assert store.delete([]) is True
    assert store.delete(["nobody"]) is True
    assert store.index.count() == 5
    assert store.delete(["fox", "dog", "nobody"]) is True
    assert ids(store.get_by_ids(["fox", "cat", "dog"])) == ["cat"]


def test_everything_is_deleted_only_when_that_is_said(made: Made) -> None:
    _, store = made
    for call in [{}, {"ids": None}, {"ids": ["fox"], "delete_all": True}, {"delete_all": False}]:
        with pytest.raises(InputError, match="delete_all=True for all documents"):
            store.delete(**call)
    with pytest.raises(InputError, match=r"'where'; did you mean filter\?"):
        store.delete(where={"year": 2020})  # type: ignore[call-arg]
    with pytest.raises(InputError, match="an empty filter"):
        store.delete(filter={})
    with pytest.raises(FilterError, match="gtee"):
        store.delete(filter={"year": {"$gtee": 1}})
    assert store.index.count() == 5
    assert store.delete(delete_all=True) is True
    assert store.index.count() == 0
    assert store.similarity_search("fox") == []


@pytest.mark.parametrize(
    "chosen",
    [
        {"year": {"$gte": 2022}},
        Compare("year", "$gte", 2022),
        lambda document: document.metadata["year"] >= 2022,
    ],
    ids=["dict", "tree", "function"],
)
async def test_a_filter_deletes_what_a_search_with_it_finds(made: Made, chosen: Any) -> None:
    _, store = made
    for both in ({"ids": ["fox"]}, {"delete_all": True}):
        with pytest.raises(InputError, match="delete_all=True for all documents"):
            store.delete(filter=chosen, **both)
    assert store.index.count() == 5
    assert store.delete(filter=chosen) is True
    assert sorted(hit_ids(store, "fox")) == ["dog", "fox"]
    assert await store.adelete(filter={"year": 2020}) is True
    assert hit_ids(store, "fox") == ["dog"]


async def test_the_async_twins_of_deleting_and_getting_do_the_same(made: Made) -> None:
    _, store = made
    assert await store.adelete(["fox"]) is True
    assert ids(await store.aget_by_ids(["bee", "fox", "dog"])) == ["bee", "dog"]
    with pytest.raises(InputError, match="delete_all=True"):
        await store.adelete()
    assert await store.adelete(delete_all=True) is True
    assert store.index.count() == 0


def test_documents_come_by_id_in_order_also_twice_and_unknown_ids_are_left_out(made: Made) -> None:
    _, store = made
    assert ids(store.get_by_ids(["owl", "nobody", "fox", "owl"])) == ["owl", "fox", "owl"]
    assert store.get_by_ids([]) == []


# with others -------------------------------------------------------------------------------------


def test_a_retriever_over_the_same_index_costs_no_second_forward() -> None:
    encoder, store = filled(weights=(1, 0, 0), candidates={"dense": 5})
    retriever = BGEM3Retriever(index=store.index, weights=(0, 0, 1))
    retriever.invoke("warm both up")
    store.similarity_search("lazy dog")
    retriever.invoke("lazy dog")
    assert encoder.forwards["lazy dog"] == 1


def test_documents_that_llama_index_wrote_come_back_as_documents(made: Made) -> None:
    llama = pytest.importorskip("bge_m3_integrations.llama_index.nodes")
    schema = pytest.importorskip("llama_index.core.schema")
    _, store = made
    node = schema.TextNode(id_="node", text="a green parrot", metadata={"year": 1999})
    store.index.add([llama.node_to_record(node)])
    expected = Document(id="node", page_content="a green parrot", metadata={"year": 1999})
    assert store.similarity_search("green parrot", k=1) == [expected]
    assert store.similarity_search("parrot", filter={"year": 1999}) == [expected]
    read = llama.record_to_node(store.index.get(["fox"])[0])
    assert (read.node_id, read.text, read.metadata) == (
        "fox",
        DOCUMENTS[0].page_content,
        DOCUMENTS[0].metadata,
    )


@pytest.mark.parametrize("folder", [False, True])
def test_a_real_checkpoint_makes_the_round_trip(
    xlm_roberta: Path, tmp_path: Path, folder: bool
) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    path = tmp_path / "index" if folder else None
    with BGEM3VectorStore.from_documents(DOCUMENTS, engine, path=path) as store:
        found = store.similarity_search_with_score("the lazy dog sleeps", k=5)
        assert store.embeddings.embed_query("x")
    assert {d.id for d, _ in found} == {d.id for d in DOCUMENTS}
    assert found[0][0] == DOCUMENTS[1]
    assert engine.stats.truncated_texts == 0
    if folder:
        with BGEM3VectorStore(path=path) as store:
            assert store.engine is None
            again = store.similarity_search_with_score("the lazy dog sleeps", k=5)
            assert store.engine is not None
            assert store.engine.name == str(xlm_roberta)
        assert [d.id for d, _ in again] == [d.id for d, _ in found]
        assert [s for _, s in again] == pytest.approx([s for _, s in found], abs=1e-5)
