"""The durable store gives what the exact one in memory gives, under any filter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import HybridIndex
from bge_m3_integrations.core.embeddings import ALL_MODES, MODES, EmbeddingBatch, Mode
from bge_m3_integrations.core.filters import COMPARISONS, And, Compare, Filter, Not, Or
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig, search
from bge_m3_integrations.stores.edge.shard import schema
from bge_m3_integrations.stores.memory.store import MemoryStore
from bge_m3_integrations.testing import FakeEncoder

ENCODER = FakeEncoder()
WORDS = ["fox", "dog", "bridge", "river", "sparse", "dense", "token", "query", "bread", "检索"]
VALUES: list[Any] = [True, False, 0, 1, 2, 1.0, 1.5, -3, 2**53 + 1, "", "a", "ab", "模型", None]
LISTS: list[Any] = [[], ["a"], ["a", 1], [True], [None, "ab"]]
PATHS = ["flag", "n", "word", "tags", "who.name", "who.age", "dotted.key", "never"]
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "turbo8": 5e-3}


def text(draw: np.random.Generator) -> str:
    return " ".join(draw.choice(WORDS, int(draw.integers(1, 9))))


def pick(draw: np.random.Generator, choices: list[Any]) -> Any:
    return choices[int(draw.integers(len(choices)))]


def metadata(draw: np.random.Generator) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for path in ("flag", "n", "word", "dotted.key"):
        if draw.random() < 0.8:
            held[path] = pick(draw, VALUES)
    if draw.random() < 0.7:
        held["tags"] = pick(draw, LISTS)
    if draw.random() < 0.6:
        held["who"] = {"name": pick(draw, VALUES), "age": int(draw.integers(5))}
    return held


def condition(draw: np.random.Generator, depth: int = 0) -> Filter:
    if depth < 2 and draw.random() < 0.4:
        parts = [condition(draw, depth + 1) for _ in range(int(draw.integers(1, 4)))]
        return pick(draw, [And(parts), Or(parts), Not(parts[0])])
    op = pick(draw, sorted(COMPARISONS))
    value = pick(draw, VALUES)
    if op in {"$in", "$nin"}:
        value = [pick(draw, VALUES + LISTS) for _ in range(3)]
    elif op == "$exists":
        value = bool(draw.integers(2))
    elif op in {"$eq", "$ne"}:
        value = pick(draw, VALUES + LISTS)
    return Compare(pick(draw, PATHS), op, value)


DRAW = np.random.default_rng(7)
RECORDS = [Record(f"{i:03}", text(DRAW), metadata(DRAW)) for i in range(200)]
EMBEDDINGS = ENCODER.encode([r.text for r in RECORDS], kind="document", modes=ALL_MODES)


@pytest.fixture(scope="module")
def memory() -> MemoryStore:
    store = MemoryStore()
    store.upsert(RECORDS, EMBEDDINGS)
    return store


@pytest.fixture(scope="module", params=list(TOLERANCE))
def edge(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[EdgeStore]:
    path: Path = tmp_path_factory.mktemp("edge") / "index"
    store = EdgeStore.open(
        path, FolderConfig(dim=ENCODER.dim, colbert_dim=ENCODER.colbert_dim, colbert=request.param)
    )
    store.upsert(RECORDS, EMBEDDINGS)
    yield store
    store.close()


def same(memory: MemoryStore, edge: EdgeStore, queries: EmbeddingBatch, where: Filter) -> None:
    ids = list(memory.ids(where))
    assert list(edge.ids(where)) == ids, where
    assert edge.count(where) == len(ids), where
    for mode in MODES:
        atol = TOLERANCE[str(edge.manifest.colbert)] if mode == "colbert" else 1e-5
        ours = edge.find(queries, mode, limit=7, where=where)[0]
        theirs = memory.find(queries, mode, limit=7, where=where)[0]
        assert [c.score for c in ours] == pytest.approx([c.score for c in theirs], abs=atol)
        for parts, others in zip(
            edge.score(queries, [ids], [mode]), memory.score(queries, [ids], [mode]), strict=True
        ):
            np.testing.assert_allclose(parts.items()[0][1], others.items()[0][1], rtol=0, atol=atol)


def test_random_searches_agree_in_every_mode(memory: MemoryStore, edge: EdgeStore) -> None:
    draw = np.random.default_rng(int(edge.manifest.colbert == "turbo8"))
    found = 0
    for _ in range(170):
        where = condition(draw)
        queries = ENCODER.encode([text(draw)], kind="query", modes=ALL_MODES)
        same(memory, edge, queries, where)
        found += memory.count(where)
    assert found > 170 * 5, "the filters must leave something to compare"


def clustered(n: int, draw: np.random.Generator, *, dim: int = 64) -> EmbeddingBatch:
    centres = draw.standard_normal((n // 50, dim))
    rows = centres[draw.integers(len(centres), size=n)] + 0.9 * draw.standard_normal((n, dim))
    dense = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    zeros = np.zeros(n, np.int64)
    return EmbeddingBatch(dense, None, None, zeros, zeros)


def recall(edge: EdgeStore, memory: MemoryStore, queries: EmbeddingBatch, where: Any) -> float:
    mode: Mode = "dense"
    ours = edge.find(queries, mode, limit=100, where=where)
    theirs = memory.find(queries, mode, limit=10, where=where)
    kept = [
        len({c.id for c in mine[:10]} & {c.id for c in its}) / len(its)
        for mine, its in zip(ours, theirs, strict=True)
    ]
    return float(np.mean(kept))


@pytest.mark.parametrize("exact_up_to", [0, 500, 10**9])
def test_recall_holds_at_every_selectivity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact_up_to: int
) -> None:
    """With a graph for all, for what more than 500 documents match, for none."""
    monkeypatch.setattr(search, "_EXACT_UP_TO", exact_up_to)
    monkeypatch.setattr(schema, "_INDEXED_FROM_KIB", 1)
    draw = np.random.default_rng(3)
    documents, queries = clustered(4000, draw), clustered(100, draw).take(range(30))
    records = [Record(f"{i:04}", "", {"mod": [i % 2, i % 10 + 10]}) for i in range(4000)]
    memory = MemoryStore()
    memory.upsert(records, documents)
    edge = EdgeStore.open(tmp_path / "index", FolderConfig(modes=["dense"], dim=64))
    try:
        edge.upsert(records, documents)
        edge.optimize()
        for where in (None, Compare("mod", "$contains", 1), Compare("mod", "$contains", 13)):
            assert recall(edge, memory, queries, where) >= 0.98, where
    finally:
        edge.close()


def test_hits_of_an_index_agree(memory: MemoryStore, edge: EdgeStore) -> None:
    ours, theirs = HybridIndex(BGEM3(ENCODER), edge), HybridIndex(BGEM3(ENCODER), memory)
    atol = TOLERANCE[str(edge.manifest.colbert)]
    for where in (None, {"n": {"$gte": 1}}, {"tags": {"$contains": "a"}}):
        for query in ("fox on the bridge", "检索 dense"):
            mine = ours.search(query, limit=5, where=where)
            its = theirs.search(query, limit=5, where=where)
            assert [h.score for h in mine] == pytest.approx([h.score for h in its], abs=atol)
