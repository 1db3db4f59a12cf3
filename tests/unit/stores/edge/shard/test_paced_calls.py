"""How the engine is asked: in calls of a size that follows what calls take."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations.core.embeddings import EmbeddingBatch, SparseRows, TokenVectors, offsets_of
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig, search
from bge_m3_integrations.stores.edge.points import point_id
from bge_m3_integrations.stores.edge.shard import shard as shard_module
from bge_m3_integrations.stores.edge.shard import token_scores
from bge_m3_integrations.stores.edge.shard.prefetch import Prefetcher

COUNT = 400
IDS = [f"{i:04d}" for i in range(COUNT)]
DIM, TOKENS = 8, 2


class Engine:
    """The engine, on a clock by which its calls take what they are told to.

    Args:
        held: The real one.
        takes: Seconds of a call, in turn.
    """

    def __init__(self, held: Any, takes: Sequence[float]) -> None:
        self._held, self._takes = held, takes
        self.now = 0.0
        self.turns: list[tuple[float, bool]] = []
        self.sizes: dict[str, list[int]] = {"query": [], "retrieve": [], "scroll": []}

    def query(self, request: Any) -> Any:
        self._note("query", len(request.filter.must[0].point_ids))
        return self._held.query(request)

    def retrieve(self, points: Sequence[Any], *given: Any) -> Any:
        self._note("retrieve", len(points))
        return self._held.retrieve(points, *given)

    def scroll(self, request: Any) -> Any:
        self._note("scroll", request.limit)
        return self._held.scroll(request)

    def _note(self, name: str, size: int) -> None:
        sizes = self.sizes[name]
        self.now += self._takes[len(sizes) % len(self._takes)]
        sizes.append(size)


def texts(count: int, rows: np.ndarray) -> EmbeddingBatch:
    """Texts of two token vectors each."""
    counts = np.full(count, TOKENS, np.int64)
    vectors = TokenVectors(rows, offsets_of(counts.tolist()))
    weights = SparseRows.from_dicts([{1: 1.0}] * count)
    return EmbeddingBatch(np.ones((count, DIM), np.float32), weights, vectors, counts, counts * 0)


def query(tokens: int) -> EmbeddingBatch:
    rows = np.random.default_rng(1).normal(size=(tokens, DIM))
    return query_of(rows.astype(np.float32))


def query_of(rows: np.ndarray) -> EmbeddingBatch:
    count = np.array([len(rows)])
    vectors = TokenVectors(rows, offsets_of(count.tolist()))
    return EmbeddingBatch(None, None, vectors, count, count * 0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EdgeStore]:
    """A store whose scorings begin with 10 token vectors, five documents."""
    monkeypatch.setattr(shard_module, "_COLD_BYTES", 10 * 2 * DIM)
    opened = EdgeStore.open(
        tmp_path / "index", FolderConfig(dim=DIM, colbert_dim=DIM, colbert="float16")
    )
    rows = np.random.default_rng(0).integers(-2, 3, size=(TOKENS * COUNT, DIM))
    opened.upsert([Record(key, "text") for key in IDS], texts(COUNT, rows.astype(np.float32)))
    yield opened
    opened.close()


def asked(store: EdgeStore, monkeypatch: pytest.MonkeyPatch, *takes: float) -> Engine:
    engine = Engine(store._shard._held, takes)
    monkeypatch.setattr(store._shard, "_held", engine)
    owned = store._shard._lock._is_owned  # type: ignore[attr-defined]

    def sleep(seconds: float) -> None:
        assert seconds == 0
        engine.turns.append((engine.now, owned()))

    clock = SimpleNamespace(perf_counter=lambda: engine.now, sleep=sleep)
    monkeypatch.setattr(shard_module, "time", clock)
    store._shard._gave_way = 0.0
    return engine


def warm(monkeypatch: pytest.MonkeyPatch, *, done: bool) -> None:
    monkeypatch.setattr(Prefetcher, "done", property(lambda _: done))


def test_scoring_begins_small_and_grows_with_fast_calls_and_remembers(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm(monkeypatch, done=True)
    engine = asked(store, monkeypatch, 0.001)
    store.score(query(3), [IDS[:200]], ["colbert"])
    assert engine.sizes["query"] == [5, 10, 20, 40, 80, 45]
    store.score(query(3), [IDS[200:300]], ["colbert"])
    assert engine.sizes["query"][6:] == [100]
    monkeypatch.undo()


def test_scoring_stays_small_while_token_vectors_are_not_all_in_memory(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm(monkeypatch, done=False)
    engine = asked(store, monkeypatch, 0.001)
    store.score(query(3), [IDS[:50]], ["colbert"])
    assert engine.sizes["query"] == [5] * 10
    monkeypatch.undo()


def test_slow_calls_become_smaller(store: EdgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    warm(monkeypatch, done=False)
    engine = asked(store, monkeypatch, 0.1)
    store.score(query(3), [IDS[:20]], ["colbert"])
    # in the end there is room for one vector: a document comes alone
    assert engine.sizes["query"] == [5, 2, *[1] * 13]
    monkeypatch.undo()


def test_the_slowest_piece_of_a_query_decides(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm(monkeypatch, done=True)
    engine = asked(store, monkeypatch, 0.015, 0.001)  # the disk, and what is in memory then
    store.score(query(64), [IDS[:20]], ["colbert"])
    assert engine.sizes["query"] == [5] * 8
    monkeypatch.undo()


def test_payloads_and_vectors_are_read_in_calls_that_begin_small(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = asked(store, monkeypatch, 0.001)
    store.get(IDS)
    assert engine.sizes["retrieve"] == [64, 128, 208]
    store.vectors(IDS[:50], ["dense", "colbert"])
    assert engine.sizes["retrieve"][3:] == [8, 16, 26]
    assert len(list(store.ids())) == COUNT
    assert engine.sizes["scroll"] == [64, 128, 256]
    monkeypatch.undo()


def test_no_call_is_larger_than_a_page(store: EdgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "_PAGE", 100)
    monkeypatch.setattr(token_scores, "_POINTS_AT_ONCE", 100)
    warm(monkeypatch, done=True)
    engine = asked(store, monkeypatch, 0.0)
    store.get(IDS)
    assert engine.sizes["retrieve"] == [64, 100, 100, 100, 36]
    assert len(list(store.ids())) == COUNT
    assert engine.sizes["scroll"] == [64, 100, 100, 100, 100]
    store.score(query(3), [IDS], ["colbert"])
    assert max(engine.sizes["query"]) == 100
    monkeypatch.undo()


def test_slow_reads_become_smaller(store: EdgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = asked(store, monkeypatch, 0.1)
    store.get(IDS[:120])
    assert engine.sizes["retrieve"] == [64, 32, 16, 8]
    assert sorted(store.ids()) == IDS
    assert engine.sizes["scroll"][:8] == [64, 32, 16, 8, 4, 2, 1, 1]
    monkeypatch.undo()


@pytest.mark.parametrize("takes", [(0.0001,), (0.015,), (0.1,), (0.5, 0.0001, 0.012)])
def test_results_are_the_same_at_any_pace(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch, takes: tuple[float, ...]
) -> None:
    expected = store.score(query(40), [IDS], ["colbert"])[0].colbert
    best = store.find(query(40), "colbert", limit=30)
    warm(monkeypatch, done=True)
    asked(store, monkeypatch, *takes)
    found = store.score(query(40), [IDS], ["colbert"])[0].colbert
    assert store.find(query(40), "colbert", limit=30) == best
    monkeypatch.undo()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("at_once", [7, 1000])
def test_finding_by_token_vectors_takes_the_best_and_of_equals_the_first_ids(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    rows = np.zeros((TOKENS * COUNT, DIM), np.float32)
    rows[:, 0] = np.repeat(random.Random(0).choices([1, 2, 4], k=COUNT), TOKENS)
    store.upsert([Record(key, "text") for key in IDS], texts(COUNT, rows))
    along = query_of(np.eye(1, DIM, dtype=np.float32))
    monkeypatch.setattr(search, "_SCORED_AT_ONCE", at_once)
    scored = token_scores.token_scores  # in whatever order they come
    monkeypatch.setattr(
        search, "token_scores", lambda *given: dict(reversed(scored(*given).items()))
    )
    scores = rows[::TOKENS, 0].tolist()
    ordered = sorted(zip(IDS, scores, strict=True), key=lambda pair: (-pair[1], pair[0]))
    for limit in (1, 8, 100, COUNT - 1, COUNT, COUNT + 1):
        found = [(hit.id, hit.score) for hit in store.find(along, "colbert", limit=limit)[0]]
        assert found == ordered[:limit]


def test_ids_stay_in_order_through_writes(store: EdgeStore) -> None:
    assert list(store.ids()) == IDS
    rows = np.ones((TOKENS * 3, DIM), np.float32)
    store.upsert([Record(key, "text") for key in ("zz", "0000", "0100b")], texts(3, rows))
    store.delete(ids=["0007", "0399"])
    expected = sorted({*IDS, "zz", "0100b"} - {"0007", "0399"})
    assert list(store.ids()) == expected
    store.delete(ids=["zz"])
    store.upsert([Record("0007", "text")], texts(1, rows[:TOKENS]))
    assert list(store.ids()) == sorted({*expected, "0007"} - {"zz"})


def test_between_short_calls_other_threads_have_a_turn_every_five_milliseconds(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = asked(store, monkeypatch, 2**-9)  # a little under 2 ms
    store._shard.payloads([point_id(key) for key in IDS[:64]] * 9)
    monkeypatch.undo()
    assert engine.sizes["retrieve"] == [64, 128, 256, 128]
    assert engine.turns == [(3 * 2**-9, False)]
