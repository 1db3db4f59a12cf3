"""BGEM3VectorStore under LlamaIndex's StorageContext."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.core.vector_stores.types import VectorStoreQuery

from bge_m3_integrations import BGEM3, HybridIndex, InputError, Weights
from bge_m3_integrations.core.embeddings import ALL_MODES
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.llama_index import BGEM3Embedding
from bge_m3_integrations.llama_index import storage as module
from bge_m3_integrations.llama_index.vector_store import BGEM3VectorStore
from bge_m3_integrations.stores.edge import EdgeStore
from bge_m3_integrations.stores.memory.store import MemoryStore
from bge_m3_integrations.testing import FakeEncoder

QUERY = "the cat barks"
FILE = "default__vector_store.json"


def memory_store(engine: BGEM3, nodes: list[TextNode], **options: Any) -> BGEM3VectorStore:
    store = BGEM3VectorStore(HybridIndex(engine), **options)
    store.add(nodes)
    return store


def ranking(store: BGEM3VectorStore) -> dict[str, float]:
    result = store.query(VectorStoreQuery(query_str=QUERY, similarity_top_k=9))
    return dict(zip(result.ids or [], result.similarities or [], strict=True))


def embedding(engine: BGEM3) -> BGEM3Embedding:
    return BGEM3Embedding(engine=engine)


def reloaded(folder: Path, engine: BGEM3) -> tuple[BGEM3VectorStore, VectorStoreIndex]:
    store = BGEM3VectorStore.from_persist_dir(folder, engine=engine)
    context = StorageContext.from_defaults(vector_store=store, persist_dir=str(folder))
    index = load_index_from_storage(context, embed_model=embedding(engine))
    assert isinstance(index, VectorStoreIndex)
    return store, index


@pytest.mark.parametrize("place", ["memory", "inside", "outside"])
def test_a_persisted_index_is_loaded_searched_and_written_to(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode], tmp_path: Path, place: str
) -> None:
    folder = tmp_path / "storage"
    homes = {"inside": folder / "mine", "outside": tmp_path / "elsewhere"}
    with (
        HybridIndex.open(homes[place], engine, colbert="float32")
        if place in homes
        else HybridIndex(engine)
    ) as held:
        store = BGEM3VectorStore(held)
        context = StorageContext.from_defaults(vector_store=store)
        over = VectorStoreIndex(nodes, storage_context=context, embed_model=embedding(engine))
        expected = ranking(store)
        over.storage_context.persist(folder)
    assert set(encoder.forwards.values()) == {1}
    again, index = reloaded(folder, engine)
    with again.index:
        assert ranking(again) == pytest.approx(expected, abs=1e-5)
        assert list(ranking(again)) == list(expected)
        found = index.as_retriever(similarity_top_k=2).retrieve(QUERY)
        assert [result.node.node_id for result in found] == list(expected)[:2]
        index.insert_nodes([TextNode(id_="new", text=QUERY)])
        assert next(iter(ranking(again))) == "new"
    assert encoder.forwards.pop(QUERY) <= 2  # as a query and as the new node
    assert set(encoder.forwards.values()) == {1}


def test_a_copied_index_keeps_every_number_and_record(
    engine: BGEM3, nodes: list[TextNode], tmp_path: Path
) -> None:
    many = [*nodes, *(TextNode(id_=f"n{i:03}", text=f"text {i}") for i in range(150))]
    store = memory_store(engine, many)
    store.persist(str(tmp_path / FILE))
    again = BGEM3VectorStore.from_persist_dir(tmp_path, engine=engine)
    with again.index:
        ids = list(store.index.store.ids())
        assert list(again.index.store.ids()) == ids
        assert again.index.get(ids) == store.index.get(ids)
        before = store.index.store.vectors(ids, ALL_MODES)
        after = again.index.store.vectors(ids, ALL_MODES)
        assert before.dense is not None
        assert after.dense is not None
        assert before.colbert is not None
        assert after.colbert is not None
        np.testing.assert_allclose(after.dense, before.dense, atol=1e-6)
        np.testing.assert_allclose(after.colbert.vectors, before.colbert.vectors, atol=1e-6)
        assert [e.sparse for e in after] == [e.sparse for e in before]


@pytest.mark.parametrize(
    "options",
    [{"modes": ["dense"]}, {"modes": ["sparse", "colbert"]}, {"pooling": 2}, {"reencode": True}],
    ids=str,
)
def test_an_index_of_another_kind_is_copied_as_what_it_is(
    engine: BGEM3, nodes: list[TextNode], tmp_path: Path, options: dict[str, Any]
) -> None:
    keeping = MemoryStore(modes={"dense", "sparse"}) if "reencode" in options else None
    store = BGEM3VectorStore(HybridIndex(engine, keeping, **options))
    store.add(nodes)
    store.persist(str(tmp_path / FILE))
    again = BGEM3VectorStore.from_persist_dir(tmp_path, engine=engine)
    with again.index:
        assert again.index.modes == store.index.modes
        assert ranking(again) == pytest.approx(ranking(store), abs=1e-5)


def test_an_empty_index_is_persisted_too(engine: BGEM3, tmp_path: Path) -> None:
    BGEM3VectorStore(HybridIndex(engine)).persist(str(tmp_path / "deep" / FILE))
    again = BGEM3VectorStore.from_persist_dir(tmp_path / "deep", engine=engine)
    with again.index:
        assert ranking(again) == {}


def test_options_come_back(engine: BGEM3, nodes: list[TextNode], tmp_path: Path) -> None:
    store = memory_store(
        engine, nodes, weights=(1, 2, 3), candidates={"sparse": 5}, is_embedding_query=False
    )
    store.persist(str(tmp_path / FILE))
    again = BGEM3VectorStore.from_persist_path(tmp_path / FILE, engine=engine)
    with again.index:
        assert again.weights == Weights(1, 2, 3)
        assert again.candidates == {"sparse": 5}
        assert not again.is_embedding_query


def test_persisting_again_names_a_new_copy_and_leaves_the_old_one(
    engine: BGEM3, nodes: list[TextNode], tmp_path: Path
) -> None:
    store = memory_store(engine, nodes[:2])
    store.persist(str(tmp_path / FILE))
    old = module.Pointer.read(tmp_path / FILE).folder
    reader = BGEM3VectorStore.from_persist_dir(tmp_path, engine=engine)
    store.add(nodes)
    store.persist(str(tmp_path / FILE))
    again = BGEM3VectorStore.from_persist_dir(tmp_path, engine=engine)
    with reader.index, again.index:
        assert (reader.index.count(), again.index.count()) == (2, 4)
    assert old.is_dir()
    assert module.Pointer.read(tmp_path / FILE).folder != old


def test_persisting_a_reloaded_store_copies_nothing(
    engine: BGEM3, nodes: list[TextNode], tmp_path: Path
) -> None:
    memory_store(engine, nodes).persist(str(tmp_path / FILE))
    before = sorted(path.name for path in tmp_path.iterdir())
    again = BGEM3VectorStore.from_persist_dir(tmp_path, engine=engine)
    with again.index:
        again.delete("cat")
        again.persist(str(tmp_path / FILE))
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    again = BGEM3VectorStore.from_persist_dir(tmp_path, engine=engine)
    with again.index:
        assert again.index.count() == 3


def test_a_failed_copy_leaves_the_persisted_index_in_force(
    engine: BGEM3, nodes: list[TextNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = memory_store(engine, nodes[:2])
    store.persist(str(tmp_path / FILE))
    text = (tmp_path / FILE).read_text(encoding="utf-8")

    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(store.index.store, "vectors", broken)
    with pytest.raises(StoreError, match="no space"):
        store.persist(str(tmp_path / FILE))
    assert (tmp_path / FILE).read_text(encoding="utf-8") == text
    again = BGEM3VectorStore.from_persist_dir(tmp_path, engine=engine)
    with again.index:
        assert again.index.count() == 2


@pytest.mark.parametrize("place", ["memory", "folder"])
def test_the_index_is_on_disk_before_the_file_names_it(
    engine: BGEM3,
    nodes: list[TextNode],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    folder = place == "folder"
    with HybridIndex.open(tmp_path / "index", engine) if folder else HybridIndex(engine) as index:
        store = BGEM3VectorStore(index)
        store.add(nodes)
        steps: list[str] = []
        flush, write = EdgeStore.flush, module.Pointer.write
        monkeypatch.setattr(EdgeStore, "flush", lambda s: (steps.append("flush"), flush(s)))
        monkeypatch.setattr(
            module.Pointer, "write", lambda p, path: (steps.append("write"), write(p, path))
        )
        store.persist(str(tmp_path / FILE))
    assert steps[:2] == ["flush", "write"]


def test_other_files_in_the_folder_stay(
    engine: BGEM3, nodes: list[TextNode], tmp_path: Path
) -> None:
    mine = [tmp_path / "notes.txt", tmp_path / "default__vector_store-0001" / "mine.txt"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    store = memory_store(engine, nodes)
    for _ in range(2):
        store.persist(str(tmp_path / FILE))
    assert [path.read_text() for path in mine] == ["mine", "mine"]


def test_a_storage_folder_can_be_moved_with_the_index_inside(
    engine: BGEM3, nodes: list[TextNode], tmp_path: Path
) -> None:
    memory_store(engine, nodes).persist(str(tmp_path / "old" / FILE))
    shutil.move(tmp_path / "old", tmp_path / "new")
    again = BGEM3VectorStore.from_persist_dir(tmp_path / "new", engine=engine)
    with again.index:
        assert again.index.count() == 4


def test_loading_without_the_store_fails_with_the_way_to_do_it(
    engine: BGEM3, nodes: list[TextNode], tmp_path: Path
) -> None:
    store = memory_store(engine, nodes)
    StorageContext.from_defaults(vector_store=store).persist(tmp_path)
    with pytest.raises(ValueError, match=r"BGEM3VectorStore\.from_persist_dir"):
        StorageContext.from_defaults(persist_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"BGEM3VectorStore\.from_persist_dir"):
        SimpleVectorStore.from_persist_dir(str(tmp_path))


def test_a_file_that_is_not_ours_is_refused(engine: BGEM3, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="default__vector_store"):
        BGEM3VectorStore.from_persist_dir(tmp_path, engine=engine)
    SimpleVectorStore().persist(str(tmp_path / FILE))
    with pytest.raises(StoreError, match="not written by a BGEM3VectorStore"):
        BGEM3VectorStore.from_persist_dir(tmp_path, engine=engine)
    (tmp_path / FILE).write_text("[]")
    with pytest.raises(StoreError, match="not written by a BGEM3VectorStore"):
        BGEM3VectorStore.from_persist_dir(tmp_path, engine=engine)


def test_a_later_format_and_a_lost_folder_are_named(
    engine: BGEM3, nodes: list[TextNode], tmp_path: Path
) -> None:
    memory_store(engine, nodes).persist(str(tmp_path / FILE))
    data = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**data, "format": 7}))
    with pytest.raises(StoreError, match=r"format 7.*reads 1"):
        BGEM3VectorStore.from_persist_dir(tmp_path, engine=engine)
    (tmp_path / FILE).write_text(json.dumps({**data, "index": "gone"}))
    with pytest.raises(StoreError, match=r"gone.*not there"):
        BGEM3VectorStore.from_persist_dir(tmp_path, engine=engine)
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("key", ["format", "index", "options"])
@pytest.mark.parametrize("value", [None, True, [1], ""], ids=repr)
def test_a_damaged_file_is_named_with_what_is_wrong_in_it(
    engine: BGEM3, nodes: list[TextNode], tmp_path: Path, key: str, value: object
) -> None:
    memory_store(engine, nodes).persist(str(tmp_path / FILE))
    data = json.loads((tmp_path / FILE).read_text())
    damaged = {**data, key: value}
    if value is None:
        del damaged[key]
    (tmp_path / FILE).write_text(json.dumps(damaged))
    with pytest.raises(StoreError, match=f"{FILE}.*({key}|reads 1)"):
        BGEM3VectorStore.from_persist_dir(tmp_path, engine=engine)


def test_another_engine_is_refused_when_it_opens(
    engine: BGEM3, nodes: list[TextNode], tmp_path: Path
) -> None:
    memory_store(engine, nodes).persist(str(tmp_path / FILE))
    with pytest.raises(StoreError, match=r"fingerprint|model"):
        BGEM3VectorStore.from_persist_dir(tmp_path, engine=BGEM3(FakeEncoder(dim=8)))


def test_only_the_local_file_system_will_do(
    engine: BGEM3, nodes: list[TextNode], tmp_path: Path
) -> None:
    store = memory_store(engine, nodes)
    with pytest.raises(InputError, match="memory"):
        store.persist("/somewhere/x.json", fs=fsspec.filesystem("memory"))
    local = fsspec.filesystem("file")
    StorageContext.from_defaults(vector_store=store).persist(str(tmp_path), fs=local)
    again = BGEM3VectorStore.from_persist_dir(tmp_path, fs=local, engine=engine)
    with again.index:
        assert again.index.count() == 4
