"""How far a dtype's vectors and scores are from float32's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import ALL_MODES, EmbeddingBatch, SparseRows
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.encoders.torch.maxsim import maxsim

HYBRID = Weights(0.4, 0.2, 0.4)
Scores = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class VectorErrors:
    """Differences of two encodings of the same texts.

    Attributes:
        dense_min: Least cosine of a text's two dense vectors.
        dense_mean: Mean cosine of them.
        centred_min: Least cosine after float32's mean vector is taken from both: random weights
            give all texts nearly one direction, so this says more.
        centred_mean: Mean of the same.
        colbert_min: Least cosine of a token's two vectors.
        colbert_mean: Mean cosine of them.
        sparse_max: Greatest difference of a lexical weight; an absent one is 0.
        token_sets: Share of texts whose sets of weighted tokens differ.
    """

    dense_min: float
    dense_mean: float
    centred_min: float
    centred_mean: float
    colbert_min: float
    colbert_mean: float
    sparse_max: float
    token_sets: float


@dataclass(frozen=True, slots=True)
class ScoreErrors:
    """Differences of a mode's scores over all pairs.

    Attributes:
        greatest: Greatest absolute difference.
        mean: Mean absolute difference.
        spread: Standard deviation of float32's own scores, to hold the differences against.
    """

    greatest: float
    mean: float
    spread: float


def all_scores(queries: EmbeddingBatch, documents: EmbeddingBatch) -> Scores:
    """`(q, n)` scores of all pairs in every mode, and their weighted mean as "hybrid"."""
    parts = scoring.components(queries, documents, ALL_MODES, maxsim=maxsim)
    return {**dict(parts.items()), "hybrid": scoring.hybrid(parts, HYBRID).hybrid}


def vector_errors(reference: EmbeddingBatch, other: EmbeddingBatch) -> VectorErrors:
    """Compare encodings that hold every mode.

    Args:
        reference: In float32.
        other: The same texts in another dtype.

    Returns:
        The differences.
    """
    mean = reference.dense.mean(axis=0)
    dense = cosines(reference.dense, other.dense)
    centred = cosines(reference.dense - mean, other.dense - mean)
    colbert = cosines(reference.colbert.vectors, other.colbert.vectors)
    weights, sets = _sparse(reference.sparse, other.sparse)
    return VectorErrors(
        *_least_and_mean(dense), *_least_and_mean(centred), *_least_and_mean(colbert), weights, sets
    )


def score_errors(reference: Mapping[str, np.ndarray], other: Scores) -> dict[str, ScoreErrors]:
    """Compare scores of the same pairs, mode by mode."""
    return {mode: _score_errors(scores, other[mode]) for mode, scores in reference.items()}


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine of each row with its counterpart, summed in float64.

    Args:
        left: `(n, dim)`.
        right: `(n, dim)`.

    Returns:
        `(n,) float64`.
    """

    def dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("ij,ij->i", a, b, dtype=np.float64)

    return dots(left, right) / np.sqrt(dots(left, left) * dots(right, right))


def _least_and_mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.mean())


def _score_errors(reference: np.ndarray, other: np.ndarray) -> ScoreErrors:
    difference = np.abs(reference.astype(np.float64) - other)
    return ScoreErrors(float(difference.max()), float(difference.mean()), float(reference.std()))


def _sparse(reference: SparseRows, other: SparseRows) -> tuple[float, float]:
    """The greatest difference of a weight, and the share of texts with other tokens."""
    greatest, differing = 0.0, 0
    for i in range(len(reference)):
        a, b = reference.as_dict(i), other.as_dict(i)
        differing += a.keys() != b.keys()
        worst = max((abs(a.get(t, 0.0) - b.get(t, 0.0)) for t in a.keys() | b.keys()), default=0.0)
        greatest = max(greatest, worst)
    return greatest, differing / max(1, len(reference))
