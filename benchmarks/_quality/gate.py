"""The quality gate: what a dtype costs in nDCG@10, by a paired bootstrap over queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ir_measures
import numpy as np
from ir_measures import Qrel, ScoredDoc, nDCG
from scipy.stats import bootstrap

ALLOWED = -0.01
"""The lower end of the interval must be above this share of float32's mean."""
RESAMPLES = 10_000
_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Change:
    """A dtype's mean nDCG@10 beside float32's, on one collection in one mode.

    Attributes:
        reference: float32's mean.
        value: The dtype's mean.
        low: Lower end of the 95 % interval of (value - reference) / reference.
        high: Its upper end.
        queries: How many queries have judgements.
    """

    reference: float
    value: float
    low: float
    high: float
    queries: int

    @property
    def relative(self) -> float:
        """The change as a share of float32's mean."""
        return (self.value - self.reference) / self.reference

    @property
    def passes(self) -> bool:
        """Whether the loss is surely small enough."""
        return self.low > ALLOWED


def ndcg(
    scores: np.ndarray,
    queries: list[str],
    documents: list[str],
    qrels: Mapping[str, Mapping[str, int]],
) -> np.ndarray:
    """nDCG@10 of each query that has judgements; documents that score 0 or less are not found.

    Args:
        scores: `(q, n)`.
        queries: `q` ids.
        documents: `n` ids.
        qrels: Grades by query id and document id.

    Returns:
        One value per judged query, in the order of `queries`.
    """
    run = [
        ScoredDoc(query, documents[j], float(row[j]))
        for query, row in zip(queries, scores, strict=True)
        for j in np.argsort(-row, kind="stable")[:_DEPTH]
        if row[j] > 0
    ]
    judged = [query for query in queries if qrels.get(query)]
    grades = [Qrel(query, doc, grade) for query in judged for doc, grade in qrels[query].items()]
    found = {part.query_id: part.value for part in ir_measures.iter_calc([nDCG @ 10], grades, run)}
    return np.array([found.get(query, 0.0) for query in judged])


def change(
    reference: np.ndarray, values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Change:
    """The paired bootstrap's percentile interval of the relative change.

    Args:
        reference: float32's value of each query; their mean is above 0.
        values: The dtype's value of the same queries.
        resamples: How many.
        seed: Of the resampling.

    Returns:
        Means and the 95 % interval.
    """
    found = bootstrap(
        (values, reference),
        _relative,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=1_000,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    means = float(reference.mean()), float(values.mean())
    return Change(*means, float(found.low), float(found.high), len(values))


def _relative(values: np.ndarray, reference: np.ndarray, axis: int = -1) -> np.ndarray:
    mean = reference.mean(axis=axis)
    return (values.mean(axis=axis) - mean) / mean
