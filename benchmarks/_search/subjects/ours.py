"""This package: `HybridIndex` over a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import _workloads
from benchmarks._search.corpus import FIELDS, Block, value_name
from benchmarks._search.lexical import Lexical
from benchmarks._search.results import Timing
from benchmarks._search.subjects.base import Kind, Setup, Tokens
from benchmarks._search.tasks import LIMIT, TASKS, WEIGHTS, Task
from benchmarks._shape import Shape

if TYPE_CHECKING:
    from bge_m3_integrations.core.embeddings import EmbeddingBatch
    from bge_m3_integrations.index.index import HybridIndex

TEXT_PASSES = 3


class Ours:
    """An index; documents go to its store, as their embeddings are there already.

    Args:
        setup: What to fill it with.
        store: Its name.
    """

    def __init__(self, setup: Setup, *, store: str) -> None:
        self.setup = setup
        self.store = store
        self.durable = self.optimizes = store != "memory"
        modes = ("dense", "sparse", *(["colbert"] if setup.colbert else []))
        self.tasks = frozenset(t.name for t in TASKS.values() if set(t.modes) <= set(modes))
        self.modes = modes
        tokens = setup.corpus.query_tokens(setup.queries) if setup.colbert else None
        queries = batch_of(setup.queries, tokens)
        self.queries = [queries.take([i]) for i in range(len(queries))]
        self.open = _OPENERS[store]
        self.index = self._index()

    def add(self, block: Block, texts: Sequence[str], tokens: Tokens | None) -> None:
        """One upsert."""
        from bge_m3_integrations.core.records import Record

        rows = zip(block.ids, texts, strict=True)
        records = [Record(key, text, block.metadata(i)) for i, (key, text) in enumerate(rows)]
        self.index.store.upsert(records, batch_of(block, tokens))

    def flush(self) -> None:
        """The store's."""
        self.index.flush()

    def search(self, task: str, query: int) -> list[str]:
        """A find of one mode, or a whole search."""
        wanted, queries = TASKS[task], self.queries[query]
        if len(wanted.modes) == 1:
            mode = wanted.modes[0]
            found = self.index.store.find(queries, mode, limit=wanted.candidates)[0]
            return [candidate.id for candidate in found]
        hits = self.index.search_embedded(queries, **options(wanted, self.setup.queries, query))[0]
        return [hit.id for hit in hits]

    def optimize(self) -> None:
        """The store's."""
        self.index.optimize()

    def close(self) -> None:
        """The store's."""
        self.index.close()

    def reopen(self) -> None:
        """Open the same files."""
        self.index = self._index()

    def by_text(self, setup: Setup) -> tuple[Timing, ...]:
        """Queries of 12 tokens with the full-size checkpoint in bfloat16: alone, and searched."""
        from bge_m3_integrations import BGEM3, HybridIndex

        if setup.checkpoint is None:
            return ()
        engine = BGEM3(setup.checkpoint, device="cpu", dtype="bfloat16", memo_bytes=0)
        index = HybridIndex(engine, self.index.store, modes=self.modes)
        texts = _workloads.workload("query").texts(Shape.of(setup.checkpoint)) * TEXT_PASSES
        index.search(texts[0])
        encode = partial(engine.encode_queries, modes=self.modes)
        timings = [_timing("text: encoding alone", lambda text: encode([text]), texts)]
        for task in TASKS.values():
            if task.name in self.tasks and len(task.modes) > 1 and task.field is None:
                asked = options(task, setup.queries, 0)
                search: Callable[[str], Any] = partial(index.search, **asked)
                timings.append(_timing(f"text: {task.name}", search, texts))
        return tuple(timings)

    def _index(self) -> HybridIndex:
        from bge_m3_integrations import BGEM3, HybridIndex
        from bge_m3_integrations.testing import FakeEncoder

        dim = self.setup.corpus.dim
        engine = BGEM3(FakeEncoder(dim=dim, colbert_dim=dim))
        return HybridIndex(engine, self.open(self.setup, self.modes), modes=self.modes)


def options(task: Task, queries: Block, query: int) -> dict[str, Any]:
    """A search's options; a filter asks for the value of the query's own document."""
    weights = {mode: WEIGHTS[mode] if mode in task.modes else 0.0 for mode in WEIGHTS}
    asked: dict[str, Any] = {"limit": LIMIT, "weights": weights}
    asked["candidates"] = dict.fromkeys(task.lookups, task.candidates)
    if task.field is not None:
        value = queries.fields[query, list(FIELDS).index(task.field)]
        asked["where"] = {task.field: value_name(int(value))}
    return asked


def batch_of(block: Block, tokens: Tokens | None) -> EmbeddingBatch:
    """The same arrays as our embeddings."""
    from bge_m3_integrations.core.embeddings import EmbeddingBatch, TokenVectors

    lengths = np.diff(block.lexical.indptr) if tokens is None else np.diff(tokens[1])
    return EmbeddingBatch(
        dense=block.dense,
        sparse=_sparse_rows(block.lexical),
        colbert=None if tokens is None else TokenVectors(*tokens),
        tokens=lengths.astype(np.int64),
        truncated=np.zeros(len(block), np.int64),
    )


def _sparse_rows(lexical: Lexical) -> Any:
    from bge_m3_integrations.core.embeddings import SparseRows

    return SparseRows(lexical.indptr, lexical.token_ids, lexical.weights)


def _timing(name: str, call: Callable[[str], object], texts: Sequence[str]) -> Timing:
    seconds = []
    for text in texts:
        start = time.perf_counter()
        call(text)
        seconds.append(time.perf_counter() - start)
    return Timing(name, tuple(seconds))


def _memory(setup: Setup, modes: Sequence[str]) -> Any:
    from bge_m3_integrations.stores.memory.store import MemoryStore

    return MemoryStore(modes=modes)


def _edge(setup: Setup, modes: Sequence[str]) -> Any:
    from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig

    return EdgeStore.open(
        setup.folder / "index",
        FolderConfig(
            modes=modes,
            dim=setup.corpus.dim,
            colbert_dim=setup.corpus.dim if setup.colbert else None,
            colbert=setup.storage if setup.colbert else None,
            filter_fields=None,
        ),
    )


_OPENERS: dict[str, Callable[[Setup, Sequence[str]], Any]] = {"edge": _edge, "memory": _memory}


def _kind(store: str, modules: tuple[str, ...], note: str, most: int) -> Kind:
    return Kind(
        f"ours-{store}",
        modules=modules,
        distributions=("bge-m3-integrations", "qdrant-edge-py", "numpy"),
        open=partial(Ours, store=store),
        most=most,
        note=note,
        store=store,
    )


OURS = (
    _kind("edge", ("qdrant_edge", "bge_m3_integrations.stores.edge"), "", 10_000_000),
    _kind("memory", (), "exact, in memory only: the reference store", 100_000),
)
