"""Runs: ranked documents for judged queries, their metrics, files, and comparisons."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations.errors import InputError

DEFAULT_METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "map@100", "hit@10")
_METRICS = {
    "ndcg": "nDCG",
    "recall": "R",
    "mrr": "RR",
    "map": "AP",
    "hit": "Success",
    "precision": "P",
}
_RESAMPLES = 9_999
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % bootstrap interval (BCa, Efron 1987).

    Attributes:
        mean: Over queries.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Ranked documents for judged queries.

    Attributes:
        name: For tables; a single word in TREC's files.
        rankings: For each query id the document ids, best first. A query that is missing counts 0.
        scores: Of the ranked documents, in the same order.
        qrels: Grades by query and document; queries without a relevant document are left out of
            every mean.
    """

    name: str
    rankings: Mapping[str, Sequence[str]]
    scores: Mapping[str, Sequence[float]] = field(repr=False)
    qrels: Mapping[str, Mapping[str, int]] = field(repr=False)
    _values: dict[str, dict[str, float]] = field(default_factory=dict, init=False, repr=False)

    def values(self, metric: str) -> Mapping[str, float]:
        """The metric of each query, by ir-measures; ties are broken by our order.

        Args:
            metric: "ndcg@10", "recall@100", "mrr@10", "map@100", "hit@5" or "precision@5". Gains
                of nDCG are linear, as trec_eval's.

        Returns:
            A value in [0, 1] for each query with a relevant document.

        Raises:
            InputError: The metric is unknown.
        """
        if metric not in self._values:
            measure = _measure(metric)
            measures = require("ir_measures", extra="eval")
            asked = [q for q, grades in self.qrels.items() if any(g > 0 for g in grades.values())]
            qrels = {query: dict(self.qrels[query]) for query in asked}
            # by rank and not by score, so that equal scores cannot be sorted another way
            ranked = {
                query: {document: -float(rank) for rank, document in enumerate(held)}
                for query, held in self.rankings.items()
                if query in qrels
            }
            found = {m.query_id: m.value for m in measures.iter_calc([measure], qrels, ranked)}
            self._values[metric] = {query: float(found.get(query, 0.0)) for query in asked}
        return self._values[metric]

    def measure(self, metric: str) -> Interval:
        """The mean over queries, with its interval; see `values` for metrics."""
        return interval(list(self.values(metric).values()))

    def save(self, path: str | Path) -> None:
        """Write a TREC run file: query, Q0, document, rank, score and name, by spaces.

        Scores fall strictly, so that every tool reads the order that is ours.

        Args:
            path: The file.

        Raises:
            InputError: An id has a space, which the format cannot hold.
        """
        lines = []
        for query, held in self.rankings.items():
            for rank, document in enumerate(held, 1):
                if re.search(r"\s", f"{query}{document}") or not query or not document:
                    raise InputError(
                        f"a TREC file has no place for the spaces in query {query!r} and document "
                        f"{document!r}; keep such runs as JSON"
                    )
                name = re.sub(r"\s+", "-", self.name) or "run"
                lines.append(f"{query} Q0 {document} {rank} {len(held) - rank + 1} {name}\n")
        Path(path).expanduser().write_text("".join(lines), "utf-8")

    @classmethod
    def load(cls, path: str | Path, qrels: Mapping[str, Mapping[str, int]]) -> Run:
        """Read a TREC run file, of any tool.

        Args:
            path: The file.
            qrels: The judgements to measure by.

        Returns:
            The run, each query by falling score, equal scores by rank.

        Raises:
            InputError: A line is malformed.
        """
        held: dict[str, list[tuple[float, int, str]]] = {}
        name = Path(path).stem
        for number, line in enumerate(
            Path(path).expanduser().read_text("utf-8-sig").splitlines(), 1
        ):
            cells = line.split()
            if not cells:
                continue
            try:
                query, _, document, rank, score, name = cells
                held.setdefault(query, []).append((-float(score), int(rank), document))
            except ValueError as error:
                raise InputError(
                    f"{path}, line {number}: expected query, Q0, document, rank, score and name, "
                    f"not {line[:80]!r}"
                ) from error
        rows = {query: sorted(found) for query, found in held.items()}
        return cls(
            name,
            {query: [document for *_, document in found] for query, found in rows.items()},
            {query: [-score for score, *_ in found] for query, found in rows.items()},
            qrels,
        )

    def to_dict(self) -> dict[str, Any]:
        """The run as plain Python, which `json.dumps` takes."""
        return {
            "name": self.name,
            "rankings": {query: list(held) for query, held in self.rankings.items()},
            "scores": {query: list(map(float, held)) for query, held in self.scores.items()},
        }


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
        low, high = sorted((abs(self.difference.low), abs(self.difference.high)))
        size = f"{abs(self.difference.mean):.3f}"
        if self.significant:
            better, worse = (self.b, self.a) if self.difference.mean > 0 else (self.a, self.b)
            return (
                f"{better} is better than {worse} by {size} {self.metric}, interval {low:.3f} to "
                f"{high:.3f} ({self.queries} queries, p = {self.p_value:.4f})"
            )
        inside = self.difference.low <= 0 <= self.difference.high
        verdict = "is within chance" if inside else "may be chance"
        return (
            f"The difference of {size} {self.metric} between {self.a} and {self.b} {verdict}: "
            f"interval {_signed(self.difference.low)} to {_signed(self.difference.high)} "
            f"({self.queries} queries, p = {self.p_value:.3f})"
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
        InputError: The runs were judged on different queries.
    """
    left, right = a.values(metric), b.values(metric)
    if left.keys() != right.keys():
        raise InputError(
            f"{a.name} was judged on {len(left)} queries and {b.name} on {len(right)}, "
            f"{len(left.keys() & right.keys())} of them the same; compare runs of one dataset"
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


def interval(values: Sequence[float] | NDArray[np.floating], *, seed: int = 0) -> Interval:
    """The mean of values and its 95 % bootstrap interval (BCa).

    Args:
        values: One per query, at least one.
        seed: Of the resampling.

    Returns:
        The interval; the mean itself where all values are equal.
    """
    array = np.asarray(values, np.float64)
    mean = float(array.mean())
    if len(array) < 2 or np.ptp(array) == 0:
        return Interval(mean, mean, mean)
    stats = require("scipy.stats", extra="eval")
    for method in ("BCa", "percentile"):  # a few values may leave BCa without an answer
        found = stats.bootstrap(
            (array,),
            np.mean,
            n_resamples=_RESAMPLES,
            confidence_level=_LEVEL,
            method=method,
            rng=np.random.default_rng(seed),
        ).confidence_interval
        if math.isfinite(found.low) and math.isfinite(found.high):
            break
    return Interval(mean, float(found.low), float(found.high))


def _permutation(change: NDArray[np.floating], seed: int) -> float:
    """The two-sided p value of the mean of paired differences, by flips of their signs."""
    if not np.any(change):
        return 1.0
    stats = require("scipy.stats", extra="eval")
    found = stats.permutation_test(
        (change,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def check_metrics(metrics: Sequence[str]) -> None:
    """Refuse unknown metrics before anything is encoded."""
    if isinstance(metrics, str) or not metrics:
        raise InputError(f"metrics must be a list of names such as ['ndcg@10'], not {metrics!r}")
    for metric in metrics:
        _measure(metric)


def _measure(metric: str) -> Any:
    name, _, depth = metric.strip().lower().partition("@")
    if name not in _METRICS or (depth and not (depth.isdigit() and int(depth) > 0)):
        raise InputError(
            f"unknown metric {metric!r}; there are {sorted(_METRICS)}, each with @ and a depth, "
            'such as "ndcg@10"'
        )
    measure = getattr(require("ir_measures", extra="eval"), _METRICS[name])
    if not depth and name in ("recall", "hit", "precision"):
        raise InputError(f"{metric!r} needs a depth, such as {metric}@10")
    return measure @ int(depth) if depth else measure
