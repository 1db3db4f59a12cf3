"""Results that are relevant and unlike each other."""

from __future__ import annotations

import numpy as np

from bge_m3_integrations.core.embeddings import FloatArray
from bge_m3_integrations.core.validation import check_fraction, check_int
from bge_m3_integrations.errors import InputError


def mmr(relevance: FloatArray, vectors: FloatArray, *, limit: int, mmr_lambda: float) -> list[int]:
    """Pick documents one after the other by maximal marginal relevance.

    Each pick has the highest `share * relevance - (1 - share) * cosine` among those left, where
    cosine is that to the most similar document picked before (Carbonell and Goldstein 1998, "The
    Use of MMR, Diversity-Based Reranking"). The first pick is the most relevant document.

    Relevance and cosine are subtracted from each other, so `mmr_lambda` means what it says
    only where both are on comparable scales. Dense and ColBERT scores are: they are cosines and
    means of cosines. A hybrid score holds the raw lexical score, which grows with the query's
    length: at several units it outweighs every cosine, and little diversity is left; reciprocal
    ranks are below 0.1, and the cosines outweigh them. `Hit.relevance` has both in [0, 1].

    Args:
        relevance: `(n,)`, higher is better.
        vectors: `(n, dim)` dense vectors of norm 1.
        limit: Most picks.
        mmr_lambda: From 0, as unlike as can be, to 1, the order by relevance: the direction
            of LangChain's `lambda_mult`.

    Returns:
        Positions in the order picked, `min(limit, n)` of them; ties by position.

    Raises:
        InputError: The shapes do not fit, a number is not finite or out of range.
    """
    limit, relevant = (
        check_int("limit", limit),
        np.float32(check_fraction("mmr_lambda", mmr_lambda)),
    )
    relevance = _finite("relevance", relevance, axes=1)
    vectors = _finite("vectors", vectors, axes=2)
    if len(relevance) != len(vectors):
        raise InputError(
            f"relevance has {len(relevance)} values, but there are {len(vectors)} vectors"
        )
    picked: list[int] = []
    left = np.ones(len(relevance), bool)
    closest = np.full(len(relevance), -1, np.float32)
    value = relevance
    for _ in range(min(limit, len(relevance))):
        best = int(np.argmax(np.where(left, value, -np.inf)))
        picked.append(best)
        left[best] = False
        closest = np.maximum(closest, vectors @ vectors[best])
        value = relevant * relevance - (1 - relevant) * closest
    return picked


def _finite(name: str, array: FloatArray, *, axes: int) -> FloatArray:
    """The array as float32 of the expected number of axes."""
    array = np.asarray(array, np.float32)
    if array.ndim != axes:
        raise InputError(f"{name} must have {axes} axes, not the shape {array.shape}")
    if not (good := np.isfinite(array)).all():
        place = np.argwhere(~good)[0].tolist()
        raise InputError(f"{name} must be finite, not {array[tuple(place)]} at {place}")
    return array
