"""LangChain's `index()` does on ours what it does on its own store: results and contents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import IndexingResult, InMemoryRecordManager, aindex, index
from langchain_core.vectorstores import InMemoryVectorStore

from bge_m3_integrations import BGEM3
from bge_m3_integrations.langchain import BGEM3Embeddings, BGEM3Retriever, BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder

Step = tuple[list[Document], dict[str, Any]]
Seen = tuple[IndexingResult, list[tuple[str, str, str]]]
Store = BGEM3VectorStore | InMemoryVectorStore


def pages(source: str, *texts: str) -> list[Document]:
    return [Document(page_content=text, metadata={"source": source}) for text in texts]


FIRST = pages("a", "one", "two", "three") + pages("b", "four", "five")
CHANGED = pages("a", "one", "two again", "two again")
MODES: list[dict[str, Any]] = [
    {"cleanup": None},
    {"cleanup": "incremental", "source_id_key": "source"},
    {"cleanup": "full"},
    {"cleanup": "full", "source_id_key": "source"},
    {"cleanup": "scoped_full", "source_id_key": "source"},
]


def steps(mode: dict[str, Any]) -> list[Step]:
    return [
        (FIRST, mode),
        (FIRST, mode),
        (CHANGED, mode),
        (CHANGED, {**mode, "force_update": True}),
        (FIRST + FIRST, {**mode, "batch_size": 2}),
        (pages("b", "four"), {**mode, "cleanup_batch_size": 1}),
        ([], mode),
    ]


class Manager(InMemoryRecordManager):
    """Its time moves on at every look, so that a fast run deletes what a slow one does."""

    def __init__(self) -> None:
        super().__init__("test")
        self.now = 0.0

    def get_time(self) -> float:
        self.now += 1
        return self.now

    async def aget_time(self) -> float:
        return self.get_time()


def contents(store: Store) -> list[tuple[str, str, str]]:
    if isinstance(store, BGEM3VectorStore):
        held = [(r.id, r.text, r.metadata["source"]) for r in store.index.scroll().records]
    else:
        held = [(d["id"], d["text"], d["metadata"]["source"]) for d in store.store.values()]
    return sorted(held)


def own() -> InMemoryVectorStore:
    return InMemoryVectorStore(BGEM3Embeddings(engine=BGEM3(FakeEncoder())))


def run(store: Store, scenario: Sequence[Step]) -> list[Seen]:
    manager, seen = Manager(), []
    for documents, options in scenario:
        result = index(documents, manager, store, key_encoder="sha256", **options)
        seen.append((result, contents(store)))
    return seen


async def arun(store: Store, scenario: Sequence[Step]) -> list[Seen]:
    manager, seen = Manager(), []
    for documents, options in scenario:
        result = await aindex(documents, manager, store, key_encoder="sha256", **options)
        seen.append((result, contents(store)))
    return seen


@pytest.fixture(params=["memory", "edge"])
def ours(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BGEM3VectorStore]:
    path = tmp_path / "index" if request.param == "edge" else None
    with BGEM3VectorStore(BGEM3(FakeEncoder()), path=path) as store:
        yield store


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_index_gives_the_results_and_contents_of_langchains_own_store(
    ours: BGEM3VectorStore, mode: dict[str, Any]
) -> None:
    seen = run(ours, steps(mode))
    assert seen == run(own(), steps(mode))
    assert seen[0][0]["num_added"] == 5
    assert seen[1][0]["num_skipped"] == 5
    assert seen[3][0]["num_updated"] == 2
    deleted = sum(result["num_deleted"] for result, _ in seen)
    assert (deleted > 0) is (mode["cleanup"] is not None)


@pytest.mark.parametrize("mode", MODES, ids=str)
async def test_aindex_does_too(ours: BGEM3VectorStore, mode: dict[str, Any]) -> None:
    assert await arun(ours, steps(mode)) == await arun(own(), steps(mode))


async def test_documents_may_come_from_an_async_generator(ours: BGEM3VectorStore) -> None:
    async def stream() -> AsyncIterator[Document]:
        for document in FIRST:
            yield document

    result = await aindex(stream(), Manager(), ours, key_encoder="sha256", cleanup="full")
    assert result["num_added"] == len(contents(ours)) == 5


def test_ids_are_hashes_of_any_form_and_what_is_unchanged_is_not_encoded_again() -> None:
    encoder, manager = FakeEncoder(), Manager()
    store = BGEM3VectorStore(BGEM3(encoder))
    for _ in range(2):
        index(FIRST, manager, store, key_encoder="sha512", cleanup="full")
    assert {len(key) for key, _, _ in contents(store)} == {128}
    assert set(encoder.forwards.values()) == {1}
    index(FIRST, manager, store, key_encoder="sha512", cleanup="full", force_update=True)
    assert set(encoder.forwards.values()) == {2}


def test_keywords_for_adding_are_handed_on_and_unknown_ones_refused() -> None:
    store = BGEM3VectorStore(BGEM3(FakeEncoder()))
    with pytest.raises(ValueError, match="unknown keyword 'vector_field'"):
        index(FIRST, Manager(), store, key_encoder="sha256", upsert_kwargs={"vector_field": "v"})
    seen: list[int] = []
    progress = {"progress": lambda done, total: seen.append(done)}
    index(FIRST, Manager(), store, key_encoder="sha256", upsert_kwargs=progress)
    assert seen[-1] == 5


@pytest.mark.parametrize("cls", [BGEM3VectorStore, BGEM3Retriever])
def test_documents_of_one_id_are_an_upsert_in_whatever_is_made_of_them(cls: Any) -> None:
    documents = [Document(id="a", page_content=text) for text in ("old tea", "new tea")]
    made = cls.from_documents(documents, BGEM3(FakeEncoder()))
    assert [record.text for record in made.index.scroll().records] == ["new tea"]


@pytest.mark.parametrize("cls", [BGEM3VectorStore, BGEM3Retriever])
async def test_whatever_is_made_of_texts_is_written_in_batches_that_are_told_of(cls: Any) -> None:
    texts = [f"text {i}" for i in range(5)]
    told: list[tuple[int, int | None]] = []
    for made in (cls.from_texts, getattr(cls, "afrom_texts", None)):
        if made is None:
            continue
        told.clear()
        options = {"batch_size": 2, "progress": lambda *step: told.append(step)}
        held = made(texts, BGEM3(FakeEncoder()), **options)
        held = await held if asyncio.iscoroutine(held) else held
        assert held.index.count() == 5
        assert told == [(2, 5), (4, 5), (5, 5)]
