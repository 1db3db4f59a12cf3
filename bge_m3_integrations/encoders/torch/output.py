"""The embeddings of one encode call, filled pass by pass in any order."""

from __future__ import annotations

import threading

import numpy as np

from bge_m3_integrations._internal.passes import listener
from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    FloatArray,
    IntArray,
    Modes,
    SparseRows,
    TokenVectors,
)
from bge_m3_integrations.encoders.torch.tokenizer import PackedIds


class Results:
    """Room for the embeddings of `n` texts, whose lengths become known stretch by stretch.

    Threads may write parts at once; a part that is written again replaces what it wrote.

    Args:
        count: Number of texts.
        modes: What is computed.
        dim: Width of a dense vector.
        colbert_dim: Width of a token vector.
    """

    def __init__(self, count: int, modes: Modes, *, dim: int, colbert_dim: int) -> None:
        self._lengths = np.zeros(count, np.int64)
        self._truncated = np.zeros(count, np.int64)
        self._offsets = np.zeros(count + 1, np.int64)
        self._known = 0
        self._dense = np.empty((count, dim), np.float32) if "dense" in modes else None
        self._sparse: list[tuple[IntArray, SparseRows]] | None = [] if "sparse" in modes else None
        self._vectors = np.empty((0, colbert_dim), np.float32) if "colbert" in modes else None
        self._lock = threading.Lock()
        self._told = listener()

    def extend(self, tokens: PackedIds) -> None:
        """Make room for the next stretch of texts; they come in the caller's order."""
        lengths = np.diff(tokens.offsets)
        start, end = self._known, self._known + len(lengths)
        self._lengths[start:end] = lengths
        self._truncated[start:end] = tokens.truncated
        behind = np.cumsum(lengths - 1)  # no vector for cls
        self._offsets[start + 1 : end + 1] = self._offsets[start] + behind
        self._known = end
        if self._vectors is None:
            return
        shape = (int(self._offsets[end]), self._vectors.shape[1])
        if not len(self._vectors):
            self._vectors = np.empty(shape, np.float32)
            return
        with self._lock:  # nobody writes meanwhile, and no view of the array is ever kept
            # in place: where the allocator moves pages (Linux), a second copy never exists
            self._vectors.resize(shape, refcheck=False)

    def write(
        self,
        rows: IntArray,
        dense: FloatArray | None,
        sparse: SparseRows | None,
        colbert: FloatArray | None,
    ) -> None:
        """Store what a pass gave for the texts at some positions, in their order."""
        with self._lock:
            if self._dense is not None and dense is not None:
                self._dense[rows] = dense
            if self._vectors is not None and colbert is not None:
                first = int(rows[0])  # one text lies in one piece
                own = slice(*self._offsets[first : first + 2])
                places = own if len(rows) == 1 else _places(self._offsets, rows)
                self._vectors[places] = colbert
            if self._sparse is not None and sparse is not None:
                self._sparse.append((rows, sparse))
        if self._told is not None:
            self._told(len(rows))

    def batch(self) -> EmbeddingBatch:
        """The embeddings, once every text was written."""
        colbert = None if self._vectors is None else TokenVectors(self._vectors, self._offsets)
        sparse = None
        if self._sparse is not None:
            rows, part = self._sparse[0]
            # one pass whose texts came in order, as that of a single query does
            whole = len(self._sparse) == 1 and (np.diff(rows) > 0).all()
            sparse = part if whole else _in_order(self._sparse)
        return EmbeddingBatch(self._dense, sparse, colbert, self._lengths, self._truncated)


def _in_order(parts: list[tuple[IntArray, SparseRows]]) -> SparseRows:
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return SparseRows.concat([part for _, part in parts]).take(order)


def _places(offsets: IntArray, rows: IntArray) -> IntArray:
    """Where the packed values of some texts stand among those of all."""
    counts = offsets[rows + 1] - offsets[rows]
    own = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    places: IntArray = np.repeat(offsets[rows], counts) + own
    return places
