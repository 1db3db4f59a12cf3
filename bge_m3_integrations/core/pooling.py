"""Fewer token vectors per document: similar ones merged into their mean.

Clavié, Chaffin and Adams, "Reducing the Footprint of Multi-Vector Retrieval with Minimal
Performance Impact via Token Pooling" (2024), hierarchical pooling with Ward's method. Ward needs
Euclidean distances; between unit vectors they are sqrt(2 - 2 cos), in the order of the cosines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations.core.embeddings import IntArray, TokenVectors
from bge_m3_integrations.core.validation import check_int

# Clustering holds n(n - 1) / 2 distances in float64: 17 MB for 2,048 tokens, 268 MB for 8,191.
_STRETCH = 2048
# Below this length a mean of unit vectors is what rounding left of opposite ones.
_NO_DIRECTION = 1e-6


def pooled(vectors: TokenVectors, factor: int) -> TokenVectors:
    """Merge each document's token vectors down to one in `factor`, rounded up.

    A document longer than about 2,048 tokens is pooled in consecutive stretches of at most so
    many, which bounds the memory. Where vectors are equal there may be fewer left than asked for.

    Args:
        vectors: Unit token vectors of `n` documents.
        factor: Tokens per vector that is kept, at least 1; 1 gives back the input itself.

    Returns:
        For every document the normalized means of its clusters, in the order of each cluster's
        first token: float16 if the input is, else float32. A cluster whose vectors cancel out has
        no direction: its first token's vector stands for it.

    Raises:
        InputError: The factor is no whole number of at least 1.
        MissingExtraError: scipy is not installed.
    """
    factor = check_int("factor", factor)
    if factor == 1:
        return vectors
    dtype = np.float16 if vectors.vectors.dtype == np.float16 else np.float32
    width = vectors.vectors.shape[1]
    parts = [_document(vectors.row(i), factor).astype(dtype) for i in range(len(vectors))]
    none = np.zeros((0, width), dtype)
    lengths = np.array([0, *(len(part) for part in parts)], np.int64)
    return TokenVectors(np.concatenate([none, *parts]), np.cumsum(lengths))


def _document(rows: NDArray[np.floating], factor: int) -> NDArray[np.float64]:
    """One document's pooled vectors."""
    # a multiple of the factor, so that stretches together keep what the document would
    size = max(1, _STRETCH // factor) * factor
    parts = [_stretch(rows[i : i + size], factor) for i in range(0, len(rows), size)]
    return np.concatenate([np.zeros((0, rows.shape[1])), *parts])


def _stretch(rows: NDArray[np.floating], factor: int) -> NDArray[np.float64]:
    exact = rows.astype(np.float64)
    return _means(exact, _clusters(exact, -(-len(rows) // factor)))


def _clusters(rows: NDArray[np.float64], most: int) -> IntArray:
    """The cluster of each row, numbered by first row: at most so many."""
    if most == 1:
        return np.zeros(len(rows), np.int64)
    hierarchy = require("scipy.cluster.hierarchy", extra="pooling")
    tree = hierarchy.linkage(rows, method="ward")
    labels = hierarchy.fcluster(tree, most, criterion="maxclust")
    _, first, cluster = np.unique(labels, return_index=True, return_inverse=True)
    place: IntArray = np.argsort(np.argsort(first))
    return place[cluster]


def _means(rows: NDArray[np.float64], cluster: IntArray) -> NDArray[np.float64]:
    """Each cluster's normalized mean."""
    _, first, sizes = np.unique(cluster, return_index=True, return_counts=True)
    order = np.argsort(cluster, kind="stable")
    starts = np.cumsum(sizes) - sizes
    means: NDArray[np.float64] = np.add.reduceat(rows[order], starts) / sizes[:, None]
    lost = np.linalg.norm(means, axis=1) < _NO_DIRECTION
    means[lost] = rows[first[lost]]
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return means
