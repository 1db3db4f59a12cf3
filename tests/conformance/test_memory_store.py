"""MemoryStore keeps the contract of a store, with all modes and with each alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from bge_m3_integrations.core.embeddings import (
    ALL_MODES,
    EmbeddingBatch,
    Mode,
    SparseRows,
    TokenVectors,
)
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.stores.memory.store import MemoryStore
from bge_m3_integrations.testing import FakeEncoder, StoreConformance


class TestMemoryStore(StoreConformance):
    """All three modes."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


@pytest.mark.parametrize("mode", ["dense", "sparse", "colbert"])
class TestMemoryStoreOfOneMode(StoreConformance):
    """One mode alone."""

    @pytest.fixture
    def store(self, mode: Mode) -> MemoryStore:
        return MemoryStore(modes=[mode])


def records(*ids: str) -> list[Record]:
    return [Record(key, f"text {key}") for key in ids]


def encoded(texts: Sequence[str], **options: int) -> EmbeddingBatch:
    return FakeEncoder(**options).encode(texts, kind="document", modes=ALL_MODES)


def filled(*ids: str) -> MemoryStore:
    store = MemoryStore()
    store.upsert(records(*ids), encoded([record.text for record in records(*ids)]))
    return store


def test_a_batch_of_other_modes_names_both_sides() -> None:
    with pytest.raises(StoreError, match=r"keeps \['dense', 'sparse', 'colbert'\].*\['dense'\]"):
        filled("a").upsert(records("b"), encoded(["b"]).only(["dense"]))
    with pytest.raises(StoreError, match=r"keeps \['dense'\].*\['sparse'\]"):
        MemoryStore(modes=["dense"]).upsert(records("b"), encoded(["b"]).only(["sparse"]))


def test_a_batch_of_another_width_names_both_sides() -> None:
    with pytest.raises(StoreError, match="dense vectors here are 32 wide, the given ones 8"):
        filled("a").upsert(records("b"), encoded(["b"], dim=8))
    with pytest.raises(StoreError, match="colbert vectors here are 16 wide, the given ones 4"):
        filled("a").upsert(records("b"), encoded(["b"], colbert_dim=4))


def test_modes_and_widths_outlive_the_last_document() -> None:
    store = filled("a")
    store.delete(ids=["a"])
    with pytest.raises(StoreError, match="32 wide"):
        store.upsert(records("b"), encoded(["b"], dim=8))
    assert store.vectors([], ALL_MODES).only(["dense"]).dense is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": [-0.5, 1.0]}, "above 0"),
        ({"weights": [np.nan, 1.0]}, "sparse numbers of row 0"),
        ({"token_ids": [3, 3]}, "ascend without repeats"),
        ({"indptr": [0, 1]}, "sparse offsets"),
        ({"indptr": [0, 1, 2]}, "1 records with 2 rows of sparse"),
    ],
)
def test_unsound_lexical_weights_are_refused(change: dict[str, list[float]], words: str) -> None:
    parts: dict[str, list[float]] = {"indptr": [0, 2], "token_ids": [3, 5], "weights": [0.5, 1.0]}
    parts |= change
    sparse = SparseRows(
        np.array(parts["indptr"], np.int64),
        np.array(parts["token_ids"], np.int32),
        np.array(parts["weights"], np.float32),
    )
    with pytest.raises(InputError, match=words):
        MemoryStore().upsert(records("a"), replace(encoded(["a"]), sparse=sparse))


def test_a_document_without_token_vectors_is_refused() -> None:
    colbert = TokenVectors(np.zeros((0, 16), np.float32), np.array([0, 0]))
    with pytest.raises(InputError, match="row 0 of the records has no token vectors"):
        MemoryStore().upsert(records("a"), replace(encoded(["a"]), colbert=colbert))


def test_adding_one_by_one_packs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[int] = []
    concat = EmbeddingBatch.concat

    def counting(parts: Sequence[EmbeddingBatch]) -> EmbeddingBatch:
        packed.append(len(parts))
        return concat(parts)

    monkeypatch.setattr(EmbeddingBatch, "concat", counting)
    store = MemoryStore()
    for i in range(50):
        store.upsert(records(f"{i:02}"), encoded([f"text {i}"]))
        assert store.get([f"{i:02}"]) != [None]
        assert store.count() == i + 1
    store.find(encoded(["text 7"]), "dense", limit=1)
    store.find(encoded(["text 7"]), "sparse", limit=1)
    assert packed == [50]


def test_replacing_one_document_forever_does_not_keep_its_old_numbers() -> None:
    store = MemoryStore()
    batch = encoded(["text"])
    for _ in range(3000):
        store.upsert(records("a"), batch)
    assert store._block_rows < 1100


def test_equal_vectors_get_equal_scores_wherever_they_lie() -> None:
    rng = np.random.default_rng(1)
    n, dim = 137, 1024
    dense = rng.standard_normal((n, dim)).astype(np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    dense[::3] = dense[0]
    zeros = np.zeros(n, np.int64)
    store = MemoryStore()
    store.upsert(
        records(*(f"{i:03}" for i in range(n))), EmbeddingBatch(dense, None, None, zeros, zeros)
    )
    queries = EmbeddingBatch(dense[:2], None, None, zeros[:2], zeros[:2])
    found = store.find(queries, "dense", limit=20)[0]
    assert [candidate.id for candidate in found] == [f"{i:03}" for i in range(0, 60, 3)]
    scored = store.score(queries, [[c.id for c in found], []], ["dense"])[0]
    assert scored.dense is not None
    assert scored.dense.tolist() == [candidate.score for candidate in found]


def test_a_reader_sees_all_of_a_batch_or_nothing_of_it() -> None:
    store = filled("a", "b")
    stop = threading.Event()
    torn: list[set[object]] = []

    def read() -> None:
        while not stop.is_set():
            versions = {record.metadata.get("v") for record in store.scroll().records}
            if len(versions) != 1:
                torn.append(versions)

    reader = threading.Thread(target=read)
    reader.start()
    batch = encoded(["x", "y"])
    for version in range(200):
        store.upsert([Record("a", "x", {"v": version}), Record("b", "y", {"v": version})], batch)
    stop.set()
    reader.join()
    assert torn == []
