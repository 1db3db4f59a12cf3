"""The parts of a calibration: what values of unrelated pairs are like, and of relevant hits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core.display import Shown
from bge_m3_integrations.core.thresholds import Percentile, Probability, Threshold
from bge_m3_integrations.core.validation import check_fraction
from bge_m3_integrations.errors import InputError

Floats = NDArray[np.float64]

Z_CANDIDATES: Final = 100
"""How many of a query's best values its candidate z is over, so that it is the same whatever the
search looked up beside them. Over all candidates it separates a little better (Cranfield: Brier
ratio 0.77 instead of 0.79)."""
LEAST_CANDIDATES: Final = 20
"""Fewer have no deviation worth the name: the value alone is read then."""
LEAST_KEPT: Final = 10
"""Fewer hits above a threshold say nothing of its precision."""
_BOUND: Final = 1.2815515655446004
"""The 90 % point of the normal distribution."""
_QUANTILES, _TOP, _CURVE = 1000, 100, 500


def candidate_z(values: Floats) -> Floats:
    """The place of each value among the best values of its query, in their deviations.

    `(value - mean) / deviation` over the 100 greatest: usual levels differ between queries, and
    this takes them away.

    Args:
        values: `(n,)`, the ranking values of all candidates of one query.

    Returns:
        `(n,) float64`; NaN where there are fewer than 20 values, or all are equal.
    """
    values = np.asarray(values, np.float64)
    best = np.sort(values[np.isfinite(values)])[-Z_CANDIDATES:]
    deviation = best.std() if best.size >= LEAST_CANDIDATES else 0.0
    if deviation <= 1e-12:
        return np.full(values.shape, np.nan)
    return np.asarray((values - best.mean()) / deviation)


def wilson_bound(right: Any, number: Any) -> Floats:
    """The lower bound of a share, one-sided at 90 % (Wilson 1927).

    Args:
        right: How many of them are right; a number or an array.
        number: How many there are, at least 1.

    Returns:
        Bounds from 0 to 1, float64.
    """
    n = np.asarray(number, np.float64)
    share, z2 = np.asarray(right, np.float64) / n, _BOUND**2
    spread = _BOUND * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return np.asarray((share + z2 / (2 * n) - spread) / (1 + z2 / n))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Unrelated(Shown):
    """The values of unrelated pairs: queries made of documents against random other documents.

    Attributes:
        levels: `(k,) float64`, some of the values, ascending and distinct.
        below: `(k,) int64`, how many values are lower than each of them.
        upto: `(k,) int64`, how many are lower or equal.
        pairs: How many values there are.
        queries: How many queries they come from.
    """

    levels: Floats
    below: NDArray[np.int64]
    upto: NDArray[np.int64]
    pairs: int
    queries: int

    def __post_init__(self) -> None:
        for name, kind in (("levels", np.float64), ("below", np.int64), ("upto", np.int64)):
            _keep_table(self, name, kind, (None,))
        same = self.levels.size == self.below.size == self.upto.size > 0
        if not same or (np.diff(self.levels) <= 0).any() or self.pairs < self.upto[-1]:
            raise InputError("the levels of unrelated pairs must ascend, each with its two counts")

    @classmethod
    def from_values(cls, values: Floats, *, queries: int) -> Self:
        """Keep 1,000 quantiles and the 100 greatest of finite values."""
        held = np.sort(np.asarray(values, np.float64))
        spread = np.linspace(0, held.size - 1, _QUANTILES).round().astype(np.int64)
        top = np.arange(max(0, held.size - _TOP), held.size)
        levels = np.unique(held[np.union1d(spread, top)])
        below, upto = (np.searchsorted(held, levels, side) for side in ("left", "right"))
        return cls(levels, below, upto, int(held.size), queries)

    def percentile(self, values: Floats) -> Floats:
        """The share of unrelated pairs with a lower value, in percent, below 100."""
        values = np.asarray(values, np.float64)
        after = np.searchsorted(self.levels, values, "left")
        hi = np.minimum(after, self.levels.size - 1)
        lo = np.maximum(after - 1, 0)
        width = np.maximum(self.levels[hi] - self.levels[lo], 1e-300)
        part = np.clip((values - self.levels[lo]) / width, 0, 1)
        inner = self.upto[lo] + part * (self.below[hi] - self.upto[lo])
        count = np.where(after == 0, 0, np.where(after == self.levels.size, self.pairs, inner))
        return np.asarray(np.where(np.isnan(values), np.nan, 100 * count / (self.pairs + 1)))

    def value_at(self, percent: float) -> float:
        """The value that so many percent of the unrelated pairs are below; an approximation."""
        i = int(np.searchsorted(self.upto, self.pairs * percent / 100))
        return float(self.levels[min(i, self.levels.size - 1)])

    def _parts(self) -> Iterable[str]:
        yield f"{self.pairs:,} unrelated pairs"


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """The way from a value and its candidate z to a probability.

    `1 / (1 + exp(-(value * v + z * candidate_z + intercept)))` (Platt 1999), and where `steps` are
    there, what they make of it.

    Attributes:
        value: Coefficient of the ranking value.
        z: Coefficient of the candidate z.
        intercept: The constant.
        alone: Coefficient and constant for a value without candidate z.
        steps: `(2, k) float64`: Platt's probability, ascending, and the isotonic one; None for
            Platt alone.
    """

    value: float
    z: float
    intercept: float
    alone: tuple[float, float]
    steps: Floats | None = None

    def __post_init__(self) -> None:
        slope, constant = map(float, self.alone)
        object.__setattr__(self, "alone", (slope, constant))
        numbers = [self.value, self.z, self.intercept, slope, constant]
        if not np.isfinite(numbers).all():
            raise InputError(f"coefficients must be finite, not {numbers}")
        if self.steps is not None:
            _keep_table(self, "steps", np.float64, (2, None))

    def probability(self, values: Floats, z: Floats) -> Floats:
        """The probability of each value; the value alone is read where `z` is NaN."""
        values, z = np.asarray(values, np.float64), np.asarray(z, np.float64)
        slope, constant = self.alone
        odds = np.where(
            np.isnan(z),
            slope * values + constant,
            self.value * values + self.z * np.nan_to_num(z) + self.intercept,
        )
        chance = 0.5 * (1 + np.tanh(odds / 2))
        return np.asarray(chance if self.steps is None else np.interp(chance, *self.steps))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Relevance(Shown):
    """The probability of relevance, learned from judgements, and how well it holds.

    All figures are cross-validated: each query's hits are read by a rule that was learned from
    other queries.

    Attributes:
        rule: Learned from all judged queries.
        queries: How many queries were judged.
        pairs: How many of their hits were read.
        relevant: How many of these are relevant.
        ece: Expected calibration error, ten bins of equal width.
        raw_ece: The same of the ranking value, cut off at 0 and 1, read as a probability.
        brier: Mean squared error of the probability.
        bins: `(10, 3) float64`: mean probability, share of relevant hits and number of hits.
        curve: `(3, k) float64`: probabilities, descending; the hits of at least that one; the
            relevant ones among these.
    """

    rule: Rule
    queries: int
    pairs: int
    relevant: int
    ece: float
    raw_ece: float
    brier: float
    bins: Floats
    curve: Floats

    def __post_init__(self) -> None:
        _keep_table(self, "bins", np.float64, (10, 3))
        _keep_table(self, "curve", np.float64, (3, None))

    def threshold(self, *, precision: float | None, recall: float | None) -> Probability:
        """See `Calibration.threshold`."""
        level, kept, right = self.curve
        name, wanted = ("recall", recall) if precision is None else ("precision", precision)
        wanted = check_fraction(name, wanted)
        bound = wilson_bound(right, kept if name == "precision" else self.relevant)
        enough = kept >= LEAST_KEPT
        good = np.flatnonzero((bound >= wanted) & enough)
        if good.size:
            return Probability(float(level[good[-1 if name == "precision" else 0]]))
        if not enough.any():
            raise InputError(f"{self.pairs:,} judged hits are too few for any threshold")
        best = int(np.argmax(np.where(enough, bound, -1)))
        raise InputError(
            f"no threshold has a {name} of {wanted:g} that these {self.pairs:,} judged hits "
            f"prove: the best lower bound (90 %) is {bound[best]:.3f}, at "
            f"Probability({level[best]:.3f}), which keeps {kept[best]:.0f} hits, "
            f"{right[best]:.0f} of them relevant; ask for at most that, or judge more queries"
        )

    @staticmethod
    def curve_of(probability: Floats, relevant: NDArray[np.bool_]) -> Floats:
        """See `curve`; of at most 500 probabilities."""
        order = np.argsort(-probability, kind="stable")
        level, right = probability[order], np.cumsum(relevant[order])
        last = np.flatnonzero(np.append(level[1:] != level[:-1], True))
        if last.size > _CURVE:
            last = last[np.linspace(0, last.size - 1, _CURVE).round().astype(np.int64)]
        return np.stack([level[last], last + 1.0, right[last].astype(np.float64)])

    def _parts(self) -> Iterable[str]:
        yield f"{self.queries:,} judged queries"
        yield f"{self.pairs:,} hits, {self.relevant:,} relevant"
        yield f"ece={self.ece:.3f}"
        yield f"brier={self.brier:.3f}"


def _keep_table(owner: object, name: str, kind: type, shape: tuple[int | None, ...]) -> None:
    """Turn a field into an array of its own, which is finite and of a shape; None is any size."""
    table: NDArray[Any] = np.array(getattr(owner, name), kind)
    fits = len(shape) == table.ndim and all(
        size in (None, held) for size, held in zip(shape, table.shape, strict=True)
    )
    if not fits or not np.isfinite(table).all():
        raise InputError(f"{name} must be a finite table of shape {shape}, not {table.shape}")
    table.setflags(write=False)
    object.__setattr__(owner, name, table)


@dataclass(frozen=True, slots=True)
class Readings:
    """The calibrated readings of the candidates of one query.

    Attributes:
        percentile: `(n,)`; see `Hit.percentile`.
        probability: `(n,)`; see `Hit.probability`. None without judgements.
    """

    percentile: Floats
    probability: Floats | None

    def passed(self, values: Floats, threshold: Threshold | None) -> NDArray[np.bool_]:
        """Whether each value reaches a threshold, on the threshold's own scale."""
        if isinstance(threshold, Percentile):
            return np.asarray(self.percentile >= threshold.value)
        if isinstance(threshold, Probability):
            held = np.zeros(0) if self.probability is None else self.probability
            return np.asarray(held >= threshold.value)
        return np.asarray(values >= (-math.inf if threshold is None else threshold))

    def of(self, i: int) -> tuple[float | None, float]:
        """Probability and percentile of one candidate."""
        chance = None if self.probability is None else float(self.probability[i])
        return chance, float(self.percentile[i])
