"""One kind in a real store: what its folder takes, what it scores, how long and in what memory.

`keep` and `search` are called in a process of their own each, so that memory is the store's alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._storage.kinds import Kind
from benchmarks._storage.memory import Resident, resident
from bge_m3_integrations.core.embeddings import EmbeddingBatch, FloatArray, TokenVectors
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig
from bge_m3_integrations.stores.edge.folder.files import size_on_disk

CANDIDATES = 100
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of a store's folder after `flush` and `optimize`, an empty store's taken away.

    Attributes:
        rest: Without the log: what grows with the documents.
        log: The engine's write-ahead log: a few files that are used again and again.
    """

    rest: int
    log: int


@dataclass(frozen=True, slots=True)
class Searched:
    """A store that was opened and scored.

    Attributes:
        scores: `(q, n) float32`.
        before: In memory before it was opened.
        after: In memory when every document was scored once.
        seconds: Of each call over `CANDIDATES` documents.
    """

    scores: FloatArray
    before: Resident
    after: Resident
    seconds: tuple[float, ...]


def keep(folder: Path, kind: Kind, kept: TokenVectors, *, copies: int = 1) -> Disk:
    """Write a new store and close it; an empty one for comparison is made beside it.

    Args:
        folder: Where; it is made.
        kind: One that the engine keeps.
        kept: Token vectors as the store is to hold them.
        copies: So often each document is kept, under ids of its own: what a document takes shows
            only where there are many.

    Returns:
        What the folder takes.
    """
    empty = _written(folder.with_name(f"{folder.name}-empty"), kind, kept, copies=0)
    whole = _written(folder, kind, kept, copies=copies)
    return Disk(whole.rest - empty.rest, whole.log - empty.log)


def search(folder: Path, queries: TokenVectors, n: int, *, calls: int = 0) -> Searched:
    """Open a written store, score all of it, then time short calls.

    Args:
        folder: Of `keep`.
        queries: Token vectors of the queries.
        n: Documents to score for every query: the first ones.
        calls: So many are timed, over `CANDIDATES` documents drawn anew for each.

    Returns:
        Scores, memory, times.
    """
    batch, before = batch_of(queries), resident(folder)
    store = EdgeStore.open(folder)
    try:
        ids = list(store.ids())  # in the order in which they were written
        _score(store, batch.take([0]), ids)  # so that every page has been read
        after = resident(folder)
        rows = [_score(store, batch.take([i]), ids[:n]) for i in range(len(batch))]
        seconds = _times(store, batch, ids, calls)
    finally:
        store.close()
    return Searched(np.stack(rows), before, after, seconds)


def batch_of(vectors: TokenVectors) -> EmbeddingBatch:
    """Token vectors alone, as a batch."""
    tokens = np.diff(vectors.offsets) + 1  # <s> has no vector
    return EmbeddingBatch(None, None, vectors, tokens, np.zeros_like(tokens))


def _score(store: EdgeStore, query: EmbeddingBatch, ids: Sequence[str]) -> FloatArray:
    found = store.score(query, [ids], ["colbert"])[0].colbert
    assert found is not None  # it was asked for
    return found


def _times(
    store: EdgeStore, queries: EmbeddingBatch, ids: Sequence[str], calls: int
) -> tuple[float, ...]:
    draw, seconds = np.random.default_rng(0), []
    for call in range(calls):
        query = queries.take([call % len(queries)])
        chosen = draw.choice(len(ids), min(CANDIDATES, len(ids)), replace=False)
        wanted = [ids[i] for i in chosen]
        start = time.perf_counter()
        _score(store, query, wanted)
        seconds.append(time.perf_counter() - start)
    return tuple(seconds)


def _written(folder: Path, kind: Kind, kept: TokenVectors, *, copies: int) -> Disk:
    store = EdgeStore.open(
        folder,
        FolderConfig(
            modes=["colbert"],
            colbert_dim=kept.vectors.shape[1],
            colbert=kind.colbert,
            pooling=kind.pooling,
        ),
    )
    try:
        for copy in range(copies):
            _add(store, kept, first=copy * len(kept))
        store.flush()
        store.optimize()
    finally:
        store.close()
    log = sum(size_on_disk(path) for path in folder.rglob("wal"))
    return Disk(size_on_disk(folder) - log, log)


def _add(store: EdgeStore, kept: TokenVectors, *, first: int) -> None:
    """Records without text: bytes are to be the vectors'."""
    for start in range(0, len(kept), _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, len(kept)))
        records = [Record(f"{first + row:07d}", "") for row in rows]
        store.upsert(records, batch_of(kept.take(rows)))
