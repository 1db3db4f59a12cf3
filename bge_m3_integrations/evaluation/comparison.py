"""Comparisons of two runs on the same queries: paired, with an interval, in a plain sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.evaluation.runs import NUMBERS, RESAMPLES, Interval, Run, interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs on the same queries: the difference, its interval, and whether it may be chance.

    Attributes:
        a: Name of the first run.
        b: Name of the second run.
        metric: What was compared.
        mean_a: Of the first.
        mean_b: Of the second.
        difference: Mean of b minus a over queries, with its 95 % interval.
        p_value: Of a paired permutation test of 9,999 sign flips, two-sided.
        queries: How many were compared.
        wins: Queries on which b is better.
        losses: Queries on which a is better.
    """

    a: str
    b: str
    metric: str
    mean_a: float
    mean_b: float
    difference: Interval
    p_value: float
    queries: int
    wins: int
    losses: int

    @property
    def significant(self) -> bool:
        """Whether chance alone is an unlikely reason: p below 0.05 and 0 outside the interval."""
        return self.p_value < 0.05 and not self.difference.low <= 0 <= self.difference.high

    def __str__(self) -> str:
        first, second = self.a, self.b
        if first == second:
            first, second = f"the first {first}", f"the second {second}"
        asked = "1 query" if self.queries == 1 else f"{self.queries:,} queries"
        low, high = sorted((abs(self.difference.low), abs(self.difference.high)))
        size = f"{abs(self.difference.mean):.3f}"
        if self.significant:
            better, worse = (second, first) if self.difference.mean > 0 else (first, second)
            return (
                f"{better} is better than {worse} by {size} {self.metric}, interval {low:.3f} to "
                f"{high:.3f} ({asked}, p = {self.p_value:.4f})"
            )
        inside = self.difference.low <= 0 <= self.difference.high
        verdict = "is within chance" if inside else "may be chance"
        return (
            f"The difference of {size} {self.metric} between {first} and {second} {verdict}: "
            f"interval {_signed(self.difference.low)} to {_signed(self.difference.high)} "
            f"({asked}, p = {self.p_value:.3f})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain Python, with its sentence."""
        return {
            "a": self.a,
            "b": self.b,
            "metric": self.metric,
            "mean_a": self.mean_a,
            "mean_b": self.mean_b,
            "difference": self.difference.mean,
            "interval": [self.difference.low, self.difference.high],
            "p_value": self.p_value,
            "queries": self.queries,
            "wins": self.wins,
            "losses": self.losses,
            "significant": self.significant,
            "sentence": str(self),
        }


def _signed(value: float) -> str:
    """With three places; with four where three would hide the sign."""
    return f"{value:+.3f}" if abs(value) >= 0.0005 else f"{value:+.4f}"


def compare(a: Run, b: Run, *, metric: str = "ndcg@10", seed: int = 0) -> Comparison:
    """Compare two runs on the same queries.

    Args:
        a: A run, usually the one in use.
        b: Another run.
        metric: See `Run.values`.
        seed: Of the resampling.

    Returns:
        The comparison; `str` of it is a plain sentence.

    Raises:
        InputError: The runs were judged on different queries or by different judgements.
    """
    if not isinstance(a, Run) or not isinstance(b, Run):
        raise InputError(
            f"compare takes two runs, such as result['default'], not {type(a).__name__} and "
            f"{type(b).__name__}"
        )
    left, right = a.values(metric), b.values(metric)
    if left.keys() != right.keys():
        raise InputError(
            f"{a.name} was judged on {len(left)} queries and {b.name} on {len(right)}, "
            f"{len(left.keys() & right.keys())} of them the same; compare runs of one dataset"
        )
    for query in left:
        if a.qrels[query] != b.qrels[query]:
            raise InputError(
                f"{a.name} and {b.name} have different judgements of query {query!r}, so their "
                "numbers cannot be compared; take runs of one dataset"
            )
    first = np.array([left[query] for query in left])
    second = np.array([right[query] for query in left])
    return compare_values(a.name, first, b.name, second, metric, seed=seed)


def compare_values(
    a: str,
    first: NDArray[np.float64],
    b: str,
    second: NDArray[np.float64],
    metric: str,
    *,
    seed: int = 0,
) -> Comparison:
    """Compare the values that two systems have on the same queries; see `compare`.

    Args:
        a: Name of the first system.
        first: `(q,)`.
        b: Name of the second system.
        second: `(q,)`.
        metric: Name of the values.
        seed: Of the resampling.

    Returns:
        The comparison.
    """
    change = second - first
    return Comparison(
        a,
        b,
        metric,
        float(first.mean()),
        float(second.mean()),
        interval(change, seed=seed),
        _permutation(change, seed),
        len(change),
        int((change > 0).sum()),
        int((change < 0).sum()),
    )


def _permutation(change: NDArray[np.floating], seed: int) -> float:
    """The two-sided p value of the mean of paired differences, by flips of their signs."""
    if len(change) < 2 or not np.any(change):
        return 1.0
    stats = require("scipy.stats", extra="eval")
    found = stats.permutation_test(
        (change,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, NUMBERS // len(change)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
