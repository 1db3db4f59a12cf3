"""Exact search over packed arrays that nobody changes, as `MemoryStore` searches them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    FloatArray,
    IntArray,
    Mode,
    SparseRows,
    offsets_of,
)
from bge_m3_integrations.core.filters import PREDICATE, Filter, Ids, matcher, operators
from bge_m3_integrations.core.records import Candidate
from bge_m3_integrations.core.scores import Components
from bge_m3_integrations.stores.memory.frozen import PackedMetadata, PackedRecord, metadata_view

_WIDENED_ROWS = 4096
"""Rows that are in memory in float64 at a time."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """All records at one moment, a row each, in ascending order of id.

    Attributes:
        ids: Their ids; a tuple of texts or bytes is nothing that Python's collector walks.
        records: The records, at rest.
        metadata: Their metadata as filters see it.
    """

    ids: tuple[str, ...]
    records: tuple[PackedRecord, ...]
    metadata: Sequence[PackedMetadata]

    def passing(self, where: Filter | None, start: int = 0) -> Iterator[int]:
        """The rows of the records that pass a filter, from one row on."""
        if where is None:
            yield from range(start, len(self.ids))
            return
        whole, passes = PREDICATE in operators(where), matcher(where)
        for row in range(start, len(self.ids)):
            metadata = metadata_view(self.metadata[row], whole=whole)
            if passes(metadata, self.ids[row], None):
                yield row


@dataclass(frozen=True)
class Snapshot:
    """All records with their embeddings at one moment.

    Attributes:
        records: In ascending order of id, so that equal scores in row order are in order of id.
        rows: Each id's row.
        embeddings: One row per record.
    """

    records: Ordered
    rows: Mapping[str, int]
    embeddings: EmbeddingBatch

    @cached_property
    def postings(self) -> SparseRows:
        """The lexical weights turned round: row `i` has the documents that hold `tokens[i]`."""
        held = self.embeddings.sparse
        owner = np.repeat(np.arange(len(held), dtype=np.int32), np.diff(held.indptr))
        order = np.argsort(held.token_ids, kind="stable")
        _, counts = np.unique(held.token_ids, return_counts=True)
        return SparseRows(offsets_of(counts), owner[order], held.weights[order])

    @cached_property
    def tokens(self) -> NDArray[np.int32]:
        """The distinct token ids of all documents, ascending."""
        return np.unique(self.embeddings.sparse.token_ids)

    @cached_property
    def dense_slack(self) -> float:
        """The largest error of a float32 dense score, per unit of query norm: a generous bound."""
        held = self.embeddings.dense
        largest = float(np.linalg.norm(held, axis=1).max(initial=0.0))
        return float(2 * held.shape[1] * np.finfo(np.float32).eps * largest)

    def passing(self, where: Filter | None) -> IntArray:
        """The ascending rows of the records that pass a filter."""
        if where is None:
            return np.arange(len(self.records.ids))
        if isinstance(where, Ids):
            held = sorted(self.rows[key] for key in where.ids if key in self.rows)
            return np.array(held, np.int64)
        return np.fromiter(self.records.passing(where), np.int64)

    def find(
        self, queries: EmbeddingBatch, mode: Mode, *, limit: int, where: Filter | None
    ) -> list[list[Candidate]]:
        """See `Store.find`; the queries hold the mode and fit in width."""
        rows = self.passing(where)
        if not len(rows):
            return [[] for _ in range(len(queries))]
        if mode == "dense":
            found = self._find_dense(queries, rows, limit)
        elif mode == "sparse":
            found = self._find_sparse(queries, rows)
        else:
            found = self._find_colbert(queries, rows)
        return [self._candidates(*hits, limit) for hits in found]

    def score(self, query: EmbeddingBatch, ids: Sequence[str]) -> Components:
        """Scores of the given ids in every mode of a batch of one query; NaN for an unknown id."""
        known = np.array([key in self.rows for key in ids], bool)
        rows = np.array([self.rows[key] for key in ids if key in self.rows], np.int64)
        scores: dict[str, FloatArray] = {}
        for mode in query.modes:
            scores[mode] = np.full(len(ids), np.nan, np.float32)
            if len(rows):
                scores[mode][known] = self._scores(query.only([mode]), rows)
        return Components(**scores)

    def _scores(self, query: EmbeddingBatch, rows: IntArray) -> FloatArray:
        """The scores of the given rows in the query's one mode."""
        if query.dense is not None:
            return _exact_dots(query.dense[0], self.embeddings.dense[rows])
        if query.sparse is not None:
            scores = scoring.lexical(query.sparse, self.embeddings.sparse.take(rows))
        else:
            scores = scoring.maxsim(query.colbert, self.embeddings.colbert.take(rows))
        return np.asarray(scores[0])

    def _find_dense(
        self, queries: EmbeddingBatch, rows: IntArray, limit: int
    ) -> list[tuple[IntArray, FloatArray]]:
        """Rows with scores: those that a fast product cannot rule out, scored exactly.

        A matrix product rounds a row by its place in the matrix. Equal vectors would then get
        unequal scores, and a score of `find` would differ from that of `score`.
        """
        held = self.embeddings.dense
        pool = held if len(rows) == len(held) else held[rows]
        found = []
        for query, rough in zip(queries.dense, scoring.dense(queries.dense, pool), strict=True):
            slack = self.dense_slack * float(np.linalg.norm(query))
            near = np.flatnonzero(rough >= _kth_best(rough, limit) - slack)
            found.append((rows[near], _exact_dots(query, pool[near])))
        return found

    def _find_sparse(
        self, queries: EmbeddingBatch, rows: IntArray
    ) -> list[tuple[IntArray, FloatArray]]:
        """Rows that share a token with the query, with scores."""
        allowed = np.zeros(len(self.records.ids), bool)
        allowed[rows] = True
        found = []
        for i in range(len(queries)):
            owners, products = self._products(*queries.sparse.row(i))
            shared = np.unique(owners)
            sums = np.bincount(owners, weights=products, minlength=len(self.records.ids))
            hits = shared[allowed[shared]].astype(np.int64)
            scores = sums[hits].astype(np.float32)
            found.append((hits[scores > 0], scores[scores > 0]))
        return found

    def _products(
        self, tokens: NDArray[np.int32], weights: FloatArray
    ) -> tuple[NDArray[np.int32], FloatArray]:
        """For each token shared by the query and a document: that document, and the product."""
        _, mine, theirs = np.intersect1d(tokens, self.tokens, True, return_indices=True)
        shared = self.postings.take(theirs)
        factors = np.repeat(weights[mine], np.diff(shared.indptr))
        return shared.token_ids, shared.weights * factors

    def _find_colbert(
        self, queries: EmbeddingBatch, rows: IntArray
    ) -> list[tuple[IntArray, FloatArray]]:
        """All rows, with scores."""
        held = self.embeddings.colbert
        pool = held if len(rows) == len(held) else held.take(rows)
        return [(rows, scores) for scores in scoring.maxsim(queries.colbert, pool)]

    def _candidates(self, rows: IntArray, scores: FloatArray, limit: int) -> list[Candidate]:
        """The best of ascending rows; the stable sort leaves ties in order of id."""
        kept = np.flatnonzero(scores >= _kth_best(scores, limit))
        best = kept[np.argsort(-scores[kept], kind="stable")][:limit]
        return [Candidate(self.records.ids[int(rows[i])], float(scores[i])) for i in best]


def _kth_best(scores: FloatArray, k: int) -> float:
    """The `k`-th largest score, or minus infinity where there are not more than `k`."""
    if len(scores) <= k:
        return -np.inf
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])


def _exact_dots(query: FloatArray, rows: FloatArray) -> FloatArray:
    """Dot products whose last bit does not depend on a row's place: no BLAS, float64 sums."""
    wide, dots = query.astype(np.float64), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _WIDENED_ROWS):
        part = rows[start : start + _WIDENED_ROWS].astype(np.float64)
        dots[start : start + _WIDENED_ROWS] = np.einsum("nd,d->n", part, wide)
    return dots
