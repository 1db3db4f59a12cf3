"""BGE-M3's three scores as pure numpy: the reference that every kernel and store must match.

Formulas: Chen et al. 2024, "BGE M3-Embedding", section 3.2. Half-precision inputs are read as
float32; sums are in float32, those of the lexical score in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    FloatArray,
    IntArray,
    Modes,
    SparseRows,
    TokenVectors,
)
from bge_m3_integrations.core.scores import Components, Scores, Weights
from bge_m3_integrations.errors import InputError

MAXSIM_ELEMENTS = 4 * 1024 * 1024
"""Largest number of float32 elements that MaxSim holds at once: 16 MiB."""

Maxsim: TypeAlias = Callable[[TokenVectors, TokenVectors], FloatArray]
"""Computes what `maxsim` computes: queries, documents, `(q, n)` scores."""


def dense(queries: FloatArray, documents: FloatArray) -> FloatArray:
    """Dense scores, `s = <q, d>`.

    Args:
        queries: `(q, dim)` unit rows.
        documents: `(n, dim)` unit rows.

    Returns:
        `(q, n) float32` in [-1, 1].

    Raises:
        InputError: The widths differ.
    """
    _same_width(queries, documents)
    return queries.astype(np.float32, copy=False) @ documents.astype(np.float32, copy=False).T


def lexical(queries: SparseRows, documents: SparseRows) -> FloatArray:
    """Lexical scores, `s = sum over shared token ids of w_q * w_d`: never cosine.

    Args:
        queries: Lexical weights of `q` texts.
        documents: Lexical weights of `n` texts.

    Returns:
        `(q, n) float32`, 0 where no token is shared, unbounded above.
    """
    scores = np.zeros((len(queries), len(documents)), np.float32)
    owner = np.repeat(np.arange(len(documents)), np.diff(documents.indptr))
    for i in range(len(queries)):
        ids, weights = queries.row(i)
        shared, query_weights = _lookup(ids, weights, documents.token_ids)
        products = documents.weights[shared] * query_weights
        scores[i] = np.bincount(owner[shared], weights=products, minlength=len(documents))
    return scores


def maxsim(
    queries: TokenVectors, documents: TokenVectors, *, max_elements: int = MAXSIM_ELEMENTS
) -> FloatArray:
    """ColBERT scores, `s = 1/|q| * sum over query vectors of max over document vectors`.

    Document vectors are multiplied in blocks and maximised per document, so a text scores in any
    batch as it does alone. (Zero padding, as FlagEmbedding's `compute_score` does it, would floor
    every maximum at 0.)

    Args:
        queries: Token vectors of `q` texts, each of at least one vector.
        documents: Token vectors of `n` texts, each of at least one vector.
        max_elements: Most similarities, and most elements of document vectors widened to float32,
            held at once; one query against one document may exceed it.

    Returns:
        `(q, n) float32` in [-1, 1].

    Raises:
        InputError: The widths differ, or a text has no vector.
    """
    check_token_vectors(queries, documents)
    scores = np.empty((len(queries), len(documents)), np.float32)
    for i in range(len(queries)):
        query = queries.row(i).astype(np.float32, copy=False)
        rows = max_elements // _elements_per_row(query, documents)
        for start, end in _blocks(documents.offsets, max(1, rows)):
            scores[i, start:end] = _best_per_document(query, documents, start, end).mean(axis=0)
    return scores


def components(
    queries: EmbeddingBatch,
    documents: EmbeddingBatch,
    modes: Modes,
    *,
    maxsim: Maxsim = maxsim,
) -> Components:
    """All pairs' scores in the given modes.

    Args:
        queries: `q` texts that hold the modes.
        documents: `n` texts that hold the modes.
        modes: The modes to score by.
        maxsim: Computes ColBERT scores: this module's function, or an encoder's kernel.

    Returns:
        Arrays of shape `(q, n)`.

    Raises:
        InputError: A side lacks a mode.
    """
    left, right = queries.only(modes), documents.only(modes)
    return Components(
        dense=None if left.dense is None or right.dense is None else dense(left.dense, right.dense),
        sparse=None
        if left.sparse is None or right.sparse is None
        else lexical(left.sparse, right.sparse),
        colbert=None
        if left.colbert is None or right.colbert is None
        else maxsim(left.colbert, right.colbert),
    )


class PackedRows(Protocol):
    """Token vectors of several texts, end to end, in the arrays of any library."""

    @property
    def vectors(self) -> Any:
        """`(t, dim)`."""
        ...

    @property
    def offsets(self) -> IntArray:
        """`(n + 1,) int64`."""
        ...


def check_token_vectors(queries: PackedRows, documents: PackedRows) -> None:
    """Check that MaxSim is defined for all pairs.

    Args:
        queries: Token vectors of any number of texts.
        documents: Token vectors of any number of texts.

    Raises:
        InputError: The widths differ, or a text has no vector.
    """
    _same_width(queries.vectors, documents.vectors)
    for name, side in (("query", queries), ("document", documents)):
        if (np.diff(side.offsets) < 1).any():
            raise InputError(f"a {name} without token vectors has no ColBERT score")


def hybrid(parts: Components, weights: Weights) -> Scores:
    """The raw weighted mean, `(wd*dense + ws*sparse + wc*colbert) / (wd + ws + wc)`.

    Args:
        parts: Component scores that hold every mode with a positive weight.
        weights: The weights.

    Returns:
        The components with their weighted mean.

    Raises:
        InputError: A weighted mode was not scored.
    """
    if missing := weights.modes - parts.modes:
        raise InputError(f"weights {weights} need {sorted(missing)}, which were not scored")
    total = float(weights.dense + weights.sparse + weights.colbert)
    mean = np.zeros(parts.shape, np.float32)
    for mode, scores in parts.items():
        weight = float(getattr(weights, mode))
        if weight > 0:
            mean += np.float32(weight / total) * scores
    return Scores(parts, mean, weights)


def _lookup(
    ids: NDArray[np.int32], weights: FloatArray, tokens: NDArray[np.int32]
) -> tuple[IntArray, FloatArray]:
    """Positions in `tokens` whose id is among the sorted `ids`, and the weight of each."""
    if not len(ids):
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    slot = np.minimum(np.searchsorted(ids, tokens), len(ids) - 1)
    shared = np.flatnonzero(ids[slot] == tokens)
    return shared, weights[slot[shared]]


def _blocks(offsets: IntArray, rows: int) -> Iterator[tuple[int, int]]:
    """Consecutive documents whose vectors number at most `rows` (a larger one comes alone)."""
    start = 0
    while start < len(offsets) - 1:
        end = int(np.searchsorted(offsets, offsets[start] + rows, side="right")) - 1
        end = max(end, start + 1)
        yield start, end
        start = end


def _elements_per_row(query: FloatArray, documents: TokenVectors) -> int:
    """The elements that a document vector costs: its similarities, its copy if not float32."""
    widened = 0 if documents.vectors.dtype == np.float32 else documents.vectors.shape[1]
    return max(len(query), widened)


def _best_per_document(
    query: FloatArray, documents: TokenVectors, start: int, end: int
) -> FloatArray:
    """Each query vector's best similarity in each document: `(query vectors, end - start)`."""
    first, last = int(documents.offsets[start]), int(documents.offsets[end])
    block = documents.vectors[first:last].astype(np.float32, copy=False)
    starts = documents.offsets[start:end] - first
    best: FloatArray = np.maximum.reduceat(query @ block.T, starts, axis=1)
    return best


def _same_width(queries: Any, documents: Any) -> None:
    if queries.shape[1] != documents.shape[1]:
        raise InputError(
            f"queries are {queries.shape[1]} wide and documents {documents.shape[1]}: "
            "they come from different models"
        )
