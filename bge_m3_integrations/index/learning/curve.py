"""From scores of one right document and its rivals to weights: a soft maximum over the simplex."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core.embeddings import MODES, Mode, Modes, ordered_modes
from bge_m3_integrations.core.scores import Weights

Matrix = NDArray[np.float64]
STEPS = 20
"""The simplex has points 0.05 apart."""
_SHARPNESS = 120.0
_DEPTH = 10
_CONSTANT = 1e-12
"""The variance of scores that differ by rounding only."""


@dataclass(frozen=True, slots=True, eq=False)
class Contest:
    """One question: the scores of its own document's rest, and of other documents.

    Attributes:
        kind: What was taken out; kinds count equally.
        scores: `(1 + r, m)`, the rest first, a column per mode in the order of `MODES`.
    """

    kind: str
    scores: Matrix


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """The DCG@10 of every point of the simplex.

    Attributes:
        modes: Of the columns.
        scale: `(m,)`, deviation of each mode's scores within a question.
        gains: `(w,)`, mean DCG@10 of each point of `simplex(m)`, in scaled units.
    """

    modes: Sequence[Mode]
    scale: Matrix
    gains: Matrix

    @property
    def best(self) -> Matrix:
        """The soft maximum, `(m,)` in scaled units: the mean of all points, good ones heavy."""
        heavy = np.exp(_SHARPNESS * (self.gains - self.gains.max()))
        found: Matrix = (heavy / heavy.sum()) @ simplex(len(self.modes))
        return found

    def weights(self, point: Matrix) -> Weights:
        """A point of the simplex as weights of unscaled scores, of sum 1."""
        raw = point / self.scale
        values = dict(zip(self.modes, (raw / raw.sum()).tolist(), strict=True))
        return Weights(**{mode: values.get(mode, 0.0) for mode in MODES})


def simplex(modes: int) -> Matrix:
    """All weights of sum 1 in steps of 0.05, `(w, modes)`; 231 for three modes."""
    counts = itertools.product(range(STEPS + 1), repeat=modes)
    return np.array([row for row in counts if sum(row) == STEPS]) / STEPS


def curve_of(contests: Sequence[Contest], modes: Modes) -> Curve:
    """Rank each question's own document by every point of the simplex.

    Args:
        contests: At least one.
        modes: Of the columns.

    Returns:
        The curve.
    """
    spread = np.mean([contest.scores.var(axis=0) for contest in contests], axis=0)
    # a mode that scores all alike, as a lexical one without a token in common, is left as it is
    scale = np.where(spread > _CONSTANT, np.sqrt(spread), 1.0)
    grid = simplex(len(scale))
    by_kind: dict[str, list[Matrix]] = {}
    for contest in contests:
        by_kind.setdefault(contest.kind, []).append(_gain(contest.scores / scale, grid))
    gains = np.mean([np.mean(found, axis=0) for found in by_kind.values()], axis=0)
    return Curve(ordered_modes(modes), scale, gains)


def gain_of(contests: Sequence[Contest], modes: Sequence[Mode], weights: Weights) -> float:
    """The mean DCG@10 of weights of unscaled scores; kinds count equally."""
    point = np.array([[weights.of(mode) for mode in modes]])
    by_kind: dict[str, list[float]] = {}
    for contest in contests:
        by_kind.setdefault(contest.kind, []).append(float(_gain(contest.scores, point)[0]))
    return float(np.mean([np.mean(found) for found in by_kind.values()]))


def _gain(scores: Matrix, grid: Matrix) -> Matrix:
    """The DCG@10 of the first row among all, for each point; ties count half."""
    values = scores @ grid.T
    rank = 1 + (values[1:] > values[:1]).sum(0) + 0.5 * (values[1:] == values[:1]).sum(0)
    found: Matrix = np.where(rank <= _DEPTH, 1 / np.log2(1 + rank), 0.0)
    return found


def imputation(lists: Sequence[Matrix], modes: Sequence[Mode]) -> tuple[float, float, float]:
    """Least squares of the lexical value on the other scores of rivals of the same script.

    Args:
        lists: `(r, m)` scores.
        modes: Of the columns, the lexical one among them.

    Returns:
        Intercept, factor of the dense score, factor of the ColBERT score; 0 for a missing mode.
    """
    table = np.concatenate(lists)
    at: Mapping[Mode, int] = {mode: i for i, mode in enumerate(modes)}
    others = [mode for mode in modes if mode != "sparse"]
    columns = [np.ones(len(table)), *(table[:, at[mode]] for mode in others)]
    found, *_ = np.linalg.lstsq(np.stack(columns, axis=1), table[:, at["sparse"]], rcond=None)
    factor = dict(zip(others, found[1:].tolist(), strict=True))
    return float(found[0]), factor.get("dense", 0.0), factor.get("colbert", 0.0)
