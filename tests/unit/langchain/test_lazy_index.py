from __future__ import annotations

import shutil
import threading
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from bge_m3_integrations import (
    BGEM3,
    HybridIndex,
    InputError,
    MemoryStore,
    Record,
    StoreError,
)
from bge_m3_integrations.langchain import BGEM3Embeddings, BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.stored import DOCUMENTS, filled, ids

# construction ------------------------------------------------------------------------------------


def test_our_embeddings_are_taken_for_their_engine() -> None:
    encoder = FakeEncoder()
    embeddings = BGEM3Embeddings(engine=BGEM3(encoder))
    store = BGEM3VectorStore.from_documents(DOCUMENTS, embeddings)
    assert store.index.engine is embeddings.engine
    assert store.embeddings is embeddings
    assert encoder.calls[0].modes == {"dense", "sparse", "colbert"}
    store.similarity_search("fox")
    embeddings.embed_query("fox")
    assert encoder.forwards["fox"] == 1


def test_the_embeddings_are_dense_vectors_of_the_same_engine() -> None:
    _, store = filled()
    assert isinstance(store.embeddings, BGEM3Embeddings)
    assert store.embeddings is store.embeddings
    assert store.embeddings.engine is store.index.engine


def test_an_index_that_is_held_is_used_and_stays_open() -> None:
    encoder = FakeEncoder()
    index = HybridIndex(BGEM3(encoder))
    index.add([Record("a", "a red fox"), Record("b", "a lazy dog")])
    with BGEM3VectorStore(index=index) as store:
        assert store.index is index
        assert store.engine is index.engine
        assert ids(store.similarity_search("fox", k=1)) == ["a"]
    assert index.count() == 2
    BGEM3VectorStore(index.engine, index=index).add_texts(["more"])
    assert index.count() == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "there"}, r"an index brings its own engine and store, but \['path'\]"),
        ({"store": MemoryStore()}, r"but \['store'\]"),
        ({"modes": ["dense"], "pooling": 2}, r"but \['modes', 'pooling'\]"),
        ({"embedding": BGEM3(FakeEncoder())}, r"but \['another engine'\]"),
    ],
)
def test_options_that_an_index_would_ignore_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        BGEM3VectorStore(index=HybridIndex(BGEM3(FakeEncoder())), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give an embedding"),
        (
            {"embedding": "BAAI/bge-m3"},
            "embedding must be a BGEM3, or an index or .*, not str",
        ),
        (
            {
                "embedding": HybridIndex(BGEM3(FakeEncoder())),
                "index": HybridIndex(BGEM3(FakeEncoder())),
            },
            "two different things",
        ),
        (
            {"embedding": BGEM3(FakeEncoder()), "engine": BGEM3(FakeEncoder())},
            "two different things",
        ),
        ({"index": BGEM3(FakeEncoder())}, "index must be a HybridIndex, not BGEM3"),
        ({"embedding": BGEM3(FakeEncoder()), "colbert": "float32"}, r"\['colbert'\].*give path="),
        ({"embedding": BGEM3(FakeEncoder()), "path": "a", "store": MemoryStore()}, "two places"),
        (
            {"embedding": DeterministicFakeEmbedding(size=4)},
            "embedding must be a BGEM3 .*DeterministicFakeEmbedding gives dense.*own stores",
        ),
        ({"embedding": BGEM3(FakeEncoder()), "weights": "best"}, "unknown weights 'best'"),
        ({"embedding": BGEM3(FakeEncoder()), "fusion": "rrf"}, "fusion 'rrf'"),
    ],
)
def test_arguments_that_make_no_store_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BGEM3VectorStore(**options)
    with pytest.raises(TypeError, match="collection"):
        BGEM3VectorStore.from_texts(["a"], BGEM3(FakeEncoder()), collection="b")


class _Shy(FakeEncoder):
    """Fails at the first look."""

    @property
    def modes(self) -> Any:
        raise AssertionError("looked at")

    @modes.setter
    def modes(self, value: Any) -> None: ...


def test_nothing_is_read_or_written_before_the_first_use(tmp_path: Path) -> None:
    path = tmp_path / "index"
    store = BGEM3VectorStore(BGEM3(_Shy()), path=path)
    store.as_retriever(search_type="sparse")
    assert not path.exists()
    store.close()
    with pytest.raises(StoreError, match="this vector store is closed"):
        store.similarity_search("fox")
    assert not path.exists()


def test_a_folder_keeps_documents_and_says_which_choices_it_was_made_by(tmp_path: Path) -> None:
    choices: dict[str, Any] = {"colbert": "float32", "pooling": 2, "filter_fields": ["year"]}
    with BGEM3VectorStore.from_documents(
        DOCUMENTS, BGEM3(FakeEncoder()), path=tmp_path, **choices
    ) as store:
        found = store.similarity_search("the lazy dog")
        manifest = store.index.store.manifest  # type: ignore[attr-defined]
        assert (manifest.colbert, manifest.pooling) == ("float32", 2)
        assert manifest.filter_fields == ("year",)
    encoder = FakeEncoder()
    with BGEM3VectorStore(BGEM3(encoder), path=tmp_path) as store:
        assert store.get_by_ids(["fox"]) == [DOCUMENTS[0]]
        assert store.similarity_search("the lazy dog") == found
        assert not encoder.forwards.keys() & {d.page_content for d in DOCUMENTS}
    with pytest.raises(StoreError, match="colbert 'float32', but 'turbo8'"):
        BGEM3VectorStore(BGEM3(FakeEncoder()), path=tmp_path, colbert="turbo8")


def test_a_failed_from_documents_gives_its_folder_back(tmp_path: Path) -> None:
    bad = [Document(id="a", page_content="\ud800")]
    with pytest.raises(InputError, match="surrogate"):
        BGEM3VectorStore.from_documents(bad, BGEM3(FakeEncoder()), path=tmp_path / "a")
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
    other = FakeEncoder(dim=8)  # would be refused by a handle that is still open
    with BGEM3VectorStore.from_documents(DOCUMENTS, BGEM3(other), path=tmp_path / "a") as store:
        assert store.index.count() == 5


def test_the_index_is_opened_once_by_many_threads(tmp_path: Path) -> None:
    store = BGEM3VectorStore(BGEM3(FakeEncoder()), path=tmp_path)
    held: list[HybridIndex] = []
    threads = [threading.Thread(target=lambda: held.append(store.index)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 8
    assert len(set(map(id, held))) == 1
    store.close()
    with pytest.raises(StoreError, match="closed"):
        held[0].count()


def test_a_copy_is_the_same_handle() -> None:
    _, store = filled()
    assert deepcopy(store) is store
    assert deepcopy({"chain": store.as_retriever()})["chain"].vectorstore is store
