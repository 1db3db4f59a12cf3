"""An index over a store that tells how it was asked, and the scores by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode, Modes
from bge_m3_integrations.core.filters import Filter, operators
from bge_m3_integrations.core.records import Candidate, Record
from bge_m3_integrations.core.scores import Components, Weights
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.stores.base import Capabilities, Page
from bge_m3_integrations.stores.memory.store import MemoryStore
from bge_m3_integrations.testing.fake import FakeEncoder

WORDS = ["fox", "dog", "bridge", "river", "sparse", "dense", "token", "query", "model", "bread"]
WORDS += ["cheese", "garden"]
RECORDS = [
    Record(
        f"{i:02}",
        " ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 5)),
        {"n": i, "even": i % 2 == 0, "lang": "en" if i % 3 else "de"},
        content=f"shown {i}",
    )
    for i in range(30)
]
QUERIES = ["fox on the bridge", "sparse token weights", "bread"]


class SpyStore(MemoryStore):
    """Counts what is asked of it, and runs only some operators."""

    def __init__(self, *, runs: frozenset[str] | None = None) -> None:
        super().__init__()
        self.runs = runs
        self.finds: list[tuple[Mode, int, Filter | None]] = []
        self.scored: list[tuple[frozenset[Mode], list[list[str]]]] = []
        self.scrolled: list[Filter | None] = []

    @property
    def capabilities(self) -> Capabilities:
        held = super().capabilities
        return held if self.runs is None else replace(held, operators=self.runs)

    def find(
        self, queries: EmbeddingBatch, mode: Mode, *, limit: int, where: Filter | None = None
    ) -> list[list[Candidate]]:
        self._refuse(where)
        self.finds.append((mode, limit, where))
        return super().find(queries, mode, limit=limit, where=where)

    def score(
        self, queries: EmbeddingBatch, ids: Sequence[Sequence[str]], modes: Modes
    ) -> list[Components]:
        self.scored.append((frozenset(modes), [list(row) for row in ids]))
        return super().score(queries, ids, modes)

    def scroll(
        self, where: Filter | None = None, *, after: str | None = None, limit: int = 1000
    ) -> Page:
        self._refuse(where)
        self.scrolled.append(where)
        return super().scroll(where, after=after, limit=min(limit, 7))

    def delete(self, *, ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        self._refuse(where)
        return super().delete(ids=ids, where=where)

    def count(self, where: Filter | None = None) -> int:
        self._refuse(where)
        return super().count(where)

    def _refuse(self, where: Filter | None) -> None:
        if where is not None and self.runs is not None:
            assert operators(where) <= self.runs


def make(
    store: MemoryStore | None = None,
    *,
    modes: Modes | None = None,
    records: Sequence[Record] = RECORDS,
    **encoder: Any,
) -> tuple[HybridIndex, FakeEncoder]:
    fake = FakeEncoder(**encoder)
    index = HybridIndex(BGEM3(fake, memo_bytes=0), store, modes=modes)
    index.add(records)
    fake.calls.clear()
    fake.forwards.clear()
    return index, fake


def by_hand(query: str, weights: Weights, records: Sequence[Record]) -> list[tuple[str, float]]:
    fake = FakeEncoder()
    left = fake.encode([query], kind="query", modes=weights.modes)
    right = fake.encode([r.text for r in records], kind="document", modes=weights.modes)
    hybrid = scoring.hybrid(scoring.components(left, right, weights.modes), weights).hybrid[0]
    pairs = [(r.id, float(s)) for r, s in zip(records, hybrid, strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
