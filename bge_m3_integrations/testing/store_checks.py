"""Shared steps of the store tests: filling, references and comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    FloatArray,
    Kind,
    Mode,
    Modes,
    SparseRows,
    ordered_modes,
)
from bge_m3_integrations.core.filters import Filter, operators
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.stores.base import Page, Store
from bge_m3_integrations.testing.fake import FakeEncoder
from bge_m3_integrations.testing.store_conformance_data import FILTERS, QUERIES, RECORDS


class StoreChecks:
    """Steps and comparisons over a store."""

    atol: float = 1e-5

    encoder: FakeEncoder = FakeEncoder()

    def reopen(self, store: Store) -> Store:
        """Close a durable store and open the same data again; a subclass writes it."""
        raise NotImplementedError(f"{type(self).__name__} needs reopen() for a durable store")

    def _encode(self, store: Store, texts: Sequence[str], kind: Kind) -> EmbeddingBatch:
        modes: Modes = store.capabilities.score | store.capabilities.find
        return self.encoder.encode(list(texts), kind=kind, modes=modes)

    def _documents(self, store: Store, texts: Sequence[str]) -> EmbeddingBatch:
        return self._encode(store, texts, "document")

    def _queries(self, store: Store, texts: Sequence[str]) -> EmbeddingBatch:
        return self._encode(store, texts, "query")

    def _fill(self, store: Store, records: Sequence[Record] = RECORDS) -> None:
        store.upsert(records, self._documents(store, [record.text for record in records]))

    def _ids(self, store: Store, where: Filter | None = None, *, limit: int = 3) -> list[str]:
        ids: list[str] = []
        page = store.scroll(where, limit=limit)
        while True:
            assert len(page.records) <= limit
            ids += [record.id for record in page.records]
            if page.after is None:
                return ids
            page = store.scroll(where, after=page.after, limit=limit)

    def _runnable(self, store: Store) -> list[Filter]:
        return [where for where in FILTERS if operators(where) <= store.capabilities.operators]

    def _pairs(self, queries: EmbeddingBatch, held: Sequence[Record], mode: Mode) -> Any:
        """The reference scores, `(queries, records)`."""
        documents = self.encoder.encode([r.text for r in held], kind="document", modes=[mode])
        return dict(scoring.components(queries, documents, [mode]).items())[mode]

    def _reference(
        self, queries: EmbeddingBatch, held: Sequence[Record], mode: Mode
    ) -> list[dict[str, float]]:
        scores = self._pairs(queries, held, mode)
        return [
            {r.id: float(s) for r, s in zip(held, row, strict=True) if mode != "sparse" or s > 0}
            for row in scores
        ]

    def _check_found(
        self, found: Sequence[Any], expected: dict[str, float], mode: Mode, limit: int
    ) -> None:
        """Hits against the reference; which of two scores within `atol` comes first is open."""
        assert len(found) == min(limit, len(expected)), mode
        assert len({candidate.id for candidate in found}) == len(found)
        best = sorted(expected.values(), reverse=True)[:limit]
        for candidate, score in zip(found, best, strict=True):
            assert abs(candidate.score - expected[candidate.id]) <= self.atol, mode
            assert abs(candidate.score - score) <= self.atol, mode

    def _check_scores(self, store: Store, held: Sequence[Record]) -> None:
        queries = self._queries(store, QUERIES)
        ids = [[record.id for record in held]] * len(QUERIES)
        scored = store.score(queries, ids, store.capabilities.score)
        for mode in ordered_modes(store.capabilities.score):
            expected = self._pairs(queries, held, mode)
            for parts, row in zip(scored, expected, strict=True):
                self._close(dict(parts.items())[mode], row)

    def _close(self, given: Any, expected: Any) -> None:
        assert given.dtype == np.float32
        np.testing.assert_allclose(given, expected, rtol=0, atol=self.atol)

    def _same(self, given: EmbeddingBatch, expected: EmbeddingBatch) -> None:
        assert given.modes == expected.modes
        if given.dense is not None and expected.dense is not None:
            self._close(given.dense, expected.dense)
        if given.sparse is not None and expected.sparse is not None:
            assert given.sparse.indptr.tolist() == expected.sparse.indptr.tolist()
            assert given.sparse.token_ids.tolist() == expected.sparse.token_ids.tolist()
            self._close(given.sparse.weights, expected.sparse.weights)
        if given.colbert is not None and expected.colbert is not None:
            assert given.colbert.offsets.tolist() == expected.colbert.offsets.tolist()
            self._close(given.colbert.vectors.astype(np.float32), expected.colbert.vectors)

    def _misfits(self, store: Store) -> Iterator[tuple[str, list[Record], EmbeddingBatch]]:
        """Batches of two records, the first sound, that must be refused."""
        records = [Record("a", "new"), Record("new", "also new")]
        sound = self._documents(store, ["new words", "also new"])
        yield "rows", records, sound.take([0])
        yield "id twice", [records[0], records[0]], sound
        if len(sound.modes) > 1:
            yield "modes", records, sound.only(ordered_modes(sound.modes)[:1])
        if sound.dense is not None:
            wide = np.zeros((2, self.encoder.dim + 1), np.float32)
            yield "width", records, replace(sound, dense=wide)
            bad = sound.dense.copy()
            bad[1, 0] = np.nan
            yield "finite", records, replace(sound, dense=bad)
        if sound.sparse is not None:
            turned = SparseRows(
                sound.sparse.indptr, sound.sparse.token_ids[::-1].copy(), sound.sparse.weights
            )
            yield "token order", records, replace(sound, sparse=turned)
            infinite = replace(sound.sparse, weights=sound.sparse.weights * np.float32(np.inf))
            yield "infinite weight", records, replace(sound, sparse=infinite)


def _arrays(batch: EmbeddingBatch) -> list[FloatArray]:
    """The numbers of a batch, to write over."""
    parts = (
        batch.dense,
        None if batch.sparse is None else batch.sparse.weights,
        None if batch.colbert is None else batch.colbert.vectors,
    )
    return [part for part in parts if part is not None]


def _sorted(records: Sequence[Record]) -> list[str]:
    return sorted(record.id for record in records)


def _listed(page: Page) -> tuple[list[Record], str | None]:
    return list(page.records), page.after


@contextmanager
def _raises(error: type[Exception], about: str) -> Iterator[None]:
    """Do as `pytest.raises`: users import this module where pytest is not installed."""
    try:
        yield
    except error:
        return
    raise AssertionError(f"no {error.__name__}: {about}")
