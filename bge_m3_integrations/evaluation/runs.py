"""Runs: ranked documents for judged queries, their metrics, files, and comparisons."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.evaluation.files import read_lines, write_file
from bge_m3_integrations.evaluation.metrics import measure_of

DEFAULT_METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "map@100", "hit@10")
RESAMPLES = 9_999
_LEVEL = 0.95
_BOOTSTRAPPED = 2_000
"""More values than these have a normal mean: the interval differs by less than 0.001, and BCa's
jackknife would take their square in time."""
NUMBERS = 1 << 20
"""Resampled at once: 8 MiB, of which scipy keeps several copies."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval, see `interval`.

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
    _means: dict[str, Interval] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for query, held in self.rankings.items():
            if len(set(held)) < len(held):
                twice = next(one for one in held if list(held).count(one) > 1)
                raise InputError(f"{self.name} ranks document {twice!r} twice for query {query!r}")
        if self.rankings and not self.rankings.keys() & self.qrels.keys():
            raise InputError(
                f"{self.name} ranks none of the judged queries: its first query is "
                f"{next(iter(self.rankings))!r}, the first judged one "
                f"{next(iter(self.qrels), None)!r}; take the judgements of the same dataset"
            )

    def values(self, metric: str) -> Mapping[str, float]:
        """The metric of each query, by ir-measures; ties are broken by our order.

        Args:
            metric: "ndcg@10", "recall@100", "mrr@10", "map@100", "hit@5" or "precision@5". Gains
                of nDCG are linear, as trec_eval's.

        Returns:
            A value in [0, 1] for each query with a relevant document.

        Raises:
            InputError: The metric is unknown, or no query has a relevant document.
        """
        if metric not in self._values:
            measure = measure_of(metric)
            measures = require("ir_measures", extra="eval")
            asked = [q for q, grades in self.qrels.items() if any(g > 0 for g in grades.values())]
            if not asked:
                raise InputError(f"{self.name}: no query has a relevant document, of a grade > 0")
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
        if metric not in self._means:
            self._means[metric] = interval(list(self.values(metric).values()))
        return self._means[metric]

    def save(self, path: str | Path) -> None:
        """Write a TREC run file: query, Q0, document, rank, score and name, by spaces.

        Scores fall strictly, so that every tool reads the order that is ours.

        Args:
            path: The file; its folder is made.

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
        write_file(path, "".join(lines))

    @classmethod
    def load(cls, path: str | Path, qrels: Mapping[str, Mapping[str, int]]) -> Run:
        """Read a TREC run file, of any tool.

        Args:
            path: The file.
            qrels: The judgements to measure by.

        Returns:
            The run, each query by falling score, equal scores by rank.

        Raises:
            InputError: The file is not there or empty, a line is malformed, a score is no number,
                a document comes twice, or the file ranks none of the judged queries.
        """
        held: dict[str, dict[str, tuple[float, int]]] = {}
        name = Path(path).stem
        for number, line in read_lines(Path(path).expanduser()):
            try:
                query, _, document, rank, score, name = line.split()
                place = -float(score), int(rank)
            except ValueError:
                place = math.nan, 0
            if math.isnan(place[0]):
                raise InputError(
                    f"{path}, line {number}: expected query, Q0, document, rank, score and name, "
                    f"by spaces, not {line.strip()[:80]!r}"
                )
            if held.setdefault(query, {}).setdefault(document, place) is not place:
                raise InputError(
                    f"{path}, line {number}: document {document!r} was there before for query "
                    f"{query!r}; keep one of the lines"
                )
        if not held:
            raise InputError(f"{path} is empty: expected query, Q0, document, rank, score and name")
        rankings = {
            query: sorted(found, key=lambda d: (found[d], d)) for query, found in held.items()
        }
        scores = {q: [-held[q][document][0] for document in found] for q, found in rankings.items()}
        return cls(name, rankings, scores, qrels)

    def to_dict(self) -> dict[str, Any]:
        """The run as plain Python, which `json.dumps` takes."""
        return {
            "name": self.name,
            "rankings": {query: list(held) for query, held in self.rankings.items()},
            "scores": {query: list(map(float, held)) for query, held in self.scores.items()},
        }


def interval(values: Sequence[float] | NDArray[np.floating], *, seed: int = 0) -> Interval:
    """The mean of values and its 95 % interval.

    The interval is the bootstrap's (BCa, Efron 1987), and that of a normal mean where there are
    more than 2,000 values.

    Args:
        values: One per query, at least one.
        seed: Of the resampling.

    Returns:
        The interval; the mean itself where all values are equal.

    Raises:
        InputError: There are no values, or one is not finite.
    """
    array = np.asarray(values, np.float64)
    if not len(array) or not np.isfinite(array).all():
        raise InputError(f"an interval needs finite values, and at least one; there are {array}")
    mean = float(array.mean())
    if len(array) < 2 or np.ptp(array) == 0:
        return Interval(mean, mean, mean)
    stats = require("scipy.stats", extra="eval")
    if len(array) > _BOOTSTRAPPED:
        low, high = stats.norm.interval(_LEVEL, mean, stats.sem(array))
        return Interval(mean, float(low), float(high))
    for method in ("BCa", "percentile"):  # a few values may leave BCa without an answer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            found = stats.bootstrap(
                (array,),
                np.mean,
                n_resamples=RESAMPLES,
                batch=NUMBERS // len(array),
                confidence_level=_LEVEL,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if math.isfinite(found.low) and math.isfinite(found.high):
            break
    return Interval(mean, float(found.low), float(found.high))


def check_metrics(metrics: Sequence[str]) -> None:
    """Refuse unknown metrics before anything is encoded."""
    if isinstance(metrics, str) or not metrics:
        raise InputError(f"metrics must be a list of names such as ['ndcg@10'], not {metrics!r}")
    for metric in metrics:
        measure_of(metric)
