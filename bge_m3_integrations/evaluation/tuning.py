"""Tuning: weights from judged queries, and whether they are better than what is in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations._internal.progress import ProgressLike, reporter
from bge_m3_integrations.core.embeddings import MODES, Mode, ordered_modes
from bge_m3_integrations.core.fusion import Fusion, ScaledSum
from bge_m3_integrations.core.learned import LearnedWeights
from bge_m3_integrations.core.profile_file import save_profile
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.core.weighting import MeasuredOn, WeightProfile
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.evaluation.candidates import CandidateScores, score_candidates
from bge_m3_integrations.evaluation.comparison import Comparison, compare_values
from bge_m3_integrations.evaluation.datasets import Dataset
from bge_m3_integrations.evaluation.files import write_file
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.learning.curve import STEPS, simplex

LEAST_QUERIES: Final = 10
_PRIOR_QUERIES: Final = 50
"""The learned curve counts as much as so many judged queries."""
_SHARPNESS: Final = 120.0
_FINE: Final = 4
"""Steps of refinement between two points of the grid."""
Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tuning:
    """Tuned weights, and what they are worth on queries that they were not chosen on.

    Attributes:
        name: Of the dataset.
        metric: What was tuned.
        weights: Of sum 1, chosen on all queries.
        fusion: What they are for; None is the raw weighted mean.
        against_default: The default weights beside the tuned ones, cross-validated: each query is
            ranked by weights that were chosen without it.
        against_learned: The learned weights beside the tuned ones; None where none were learned.
        folds: The weights of each fold: their spread says how sure they are.
        points: `(w, 3)`, unscaled weights of sum 1 that were tried.
        surface: `(w,)`, the metric of each point on all queries.
        measured_on: The model and the index.
        learned: The weights that the index had learned.
    """

    name: str
    metric: str
    weights: Weights
    fusion: Fusion | None
    against_default: Comparison
    against_learned: Comparison | None
    folds: Sequence[Weights]
    points: Matrix = field(repr=False)
    surface: Matrix = field(repr=False)
    measured_on: MeasuredOn = field(repr=False)
    learned: Weights | None = None

    @property
    def worth_it(self) -> bool:
        """Whether the tuned weights beat those in use by more than chance, on held-out queries."""
        used = self.against_learned or self.against_default
        return used.significant and used.difference.mean > 0

    def __str__(self) -> str:
        used = self.against_learned or self.against_default
        numbers = "/".join(f"{self.weights.of(mode):.3g}" for mode in MODES)
        fusion = "weighted_sum" if self.fusion is None else self.fusion.name
        lines = [f"{self.name}: tuned {numbers} ({fusion}) on {used.queries} queries"]
        lines.append(f"  {self.against_default}")
        if self.against_learned is not None:
            lines.append(f"  {self.against_learned}")
        spread = ", ".join(
            f"{mode} {min(w.of(mode) for w in self.folds):.2f} to "
            f"{max(w.of(mode) for w in self.folds):.2f}"
            for mode in MODES
            if self.weights.of(mode)
        )
        lines.append(f"  weights of the folds: {spread}")
        keep = "the learned weights" if self.against_learned is not None else "the default"
        lines.append(
            "  Take the tuned weights."
            if self.worth_it
            else f"  Keep {keep}: on queries that were not used for tuning, the gain is within "
            "chance. More judged queries would tell."
        )
        return "\n".join(lines)

    def profile(self, name: str) -> WeightProfile:
        """The tuned weights as a profile, which says on what they were measured."""
        used = self.against_default
        evidence = (
            f"{used.queries} judged queries: {self.metric} {used.mean_b:.3f} cross-validated, "
            f"default {used.mean_a:.3f}"
        )
        measured = replace(self.measured_on, collection=self.name, evidence=evidence)
        return WeightProfile(name, self.weights, self.fusion, measured)

    def save(self, path: str | Path, name: str) -> WeightProfile:
        """Write the profile into a file of profiles; see `save_profile`.

        Args:
            path: A TOML file.
            name: Of the profile.

        Returns:
            The profile.
        """
        made = self.profile(name)
        save_profile(made, path)
        return made

    def to_dict(self) -> dict[str, Any]:
        """The result as plain Python, which `json.dumps` takes."""
        return {
            "dataset": self.name,
            "metric": self.metric,
            "weights": {mode: self.weights.of(mode) for mode in MODES},
            "fusion": "weighted_sum" if self.fusion is None else self.fusion.name,
            "worth_it": self.worth_it,
            "against_default": self.against_default.to_dict(),
            "against_learned": self.against_learned and self.against_learned.to_dict(),
            "folds": [{mode: held.of(mode) for mode in MODES} for held in self.folds],
        }

    def _marks(self) -> dict[str, Weights]:
        """The weights to name in the map: those that rank by the same fusion."""
        marks = {"tuned": self.weights}
        if self.fusion is None:
            marks["default"] = Weights()
        elif self.learned is not None:
            marks["learned"] = self.learned
        return marks

    def save_report(self, path: str | Path) -> None:
        """Write one HTML file: the verdict, the map of all weights, the folds."""
        from bge_m3_integrations.evaluation.tuning_report import tuning_report

        text = tuning_report(
            str(self).splitlines(),
            self.metric,
            points=self.points,
            surface=self.surface,
            marks=self._marks(),
            folds=self.folds,
            comparisons=[c for c in (self.against_default, self.against_learned) if c is not None],
            title=f"Weights tuned on {self.name}",
        )
        write_file(path, text)


@dataclass(frozen=True, eq=False)
class _Space:
    """Candidates with a fusion, and the grid of weights over them.

    Attributes:
        scores: Of every query's candidates.
        modes: That are weighted.
        fusion: None is the raw weighted mean.
        scale: `(m,)`, what the scores are divided by.
        prior: `(w,)`, a curve that counts as 50 queries; None is none.
        metric: To tune.
    """

    scores: CandidateScores
    modes: Sequence[Mode]
    fusion: Fusion | None
    scale: Matrix
    prior: Matrix | None
    metric: str

    def unscaled(self, points: Matrix) -> Matrix:
        """Weights of sum 1 of unscaled scores, `(w, 3)`, of points of the simplex."""
        raw = points / self.scale
        out = np.zeros((len(points), len(MODES)))
        out[:, [MODES.index(mode) for mode in self.modes]] = raw / raw.sum(axis=1, keepdims=True)
        return out

    def weights(self, point: Matrix) -> Weights:
        """One point as weights."""
        return Weights(*self.unscaled(point[None])[0].tolist())

    def table(self, points: Matrix) -> Matrix:
        """The metric of each point and query, `(w, q)`."""
        weightings = self.unscaled(points)
        scaled = isinstance(self.fusion, ScaledSum)
        return self.scores.measure(weightings, self.metric, scaled=scaled)

    def fit(self, grid: Matrix, table: Matrix, rows: NDArray[np.int64]) -> Matrix:
        """The soft maximum on some queries, `(m,)`, refined between the points of the grid."""
        point = _soft_maximum(grid, self._value(table[:, rows].mean(axis=1), len(rows)))
        fine = _around(point)
        values = self.table(fine)[:, rows].mean(axis=1)
        return _soft_maximum(fine, values)

    def _value(self, mean: Matrix, queries: int) -> Matrix:
        if self.prior is None:
            return mean
        return (queries * mean + _PRIOR_QUERIES * self.prior) / (queries + _PRIOR_QUERIES)


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """A point of a space, with the values of queries by points that were chosen without them."""

    space: _Space
    grid: Matrix
    surface: Matrix
    point: Matrix
    held_out: Matrix
    folds: Sequence[Weights]


def tune(
    index: HybridIndex,
    dataset: Dataset,
    *,
    metric: str = "ndcg@10",
    prior: LearnedWeights | Literal[False] | None = None,
    candidates: Mapping[Mode, int] | None = None,
    exact: bool = False,
    folds: int = 5,
    seed: int = 0,
    progress: ProgressLike = None,
) -> Tuning:
    """Tune weights on judged queries.

    Queries are encoded once. The weights are a soft maximum of the metric over the simplex, and
    what they are worth is measured on queries that they were not chosen on. With learned weights
    as a prior, 10 judged queries are worth about 20 without.

    Args:
        index: Holds the documents.
        dataset: Judged queries, at least 10.
        metric: "ndcg@k", "recall@k", "mrr@k" or "hit@k".
        prior: Learned weights; None is those that the index has learned, if it has. False tunes
            from the judgements alone.
        candidates: How many documents each mode looks up; see `HybridIndex.search`.
        exact: Score every document instead.
        folds: Of the cross-validation.
        seed: Of the folds and of resampling.
        progress: See `HybridIndex.add`.

    Returns:
        The weights and the verdict; `print` shows both.

    Raises:
        InputError: Fewer than 10 judged queries, one mode only, an unknown metric, or a prior of
            another index.
    """
    modes, count = _checked(index, dataset), len(dataset.judged)
    how: Any = {"candidates": candidates, "exact": exact}
    learned = index.learned_weights if prior is None else (prior or None)
    with reporter(progress, label="tuning", total=count) as tell:
        scores = score_candidates(index, dataset, tell=tell, **how)
    spaces = _spaces(scores, modes, metric)
    if learned is not None:
        spaces = [_learned_space(index, dataset, learned, metric, how)]
    chosen = _chosen(spaces, count, folds=folds, seed=seed)
    space = chosen.space

    def against(name: str, used: Weights, held: CandidateScores) -> Comparison:
        values = held.measure(np.array([[used.of(mode) for mode in MODES]]), metric)[0]
        return compare_values(name, values, "tuned", chosen.held_out, metric, seed=seed)

    return Tuning(
        dataset.name,
        metric,
        space.weights(chosen.point),
        space.fusion,
        against("default", Weights().restricted(modes), scores),
        None if learned is None else against("learned", learned.weights, spaces[0].scores),
        chosen.folds,
        space.unscaled(chosen.grid),
        chosen.surface,
        index.measured_on(),
        None if learned is None else learned.weights,
    )


def _checked(index: HybridIndex, dataset: Dataset) -> list[Mode]:
    modes = ordered_modes(index.modes)
    if len(modes) < 2:
        raise InputError(f"there are no weights to tune: this index keeps {modes} alone")
    count = len(dataset.judged)
    if count < LEAST_QUERIES:
        raise InputError(
            f"weights are tuned on at least {LEAST_QUERIES} judged queries, and {dataset.name} has "
            f"{count}; judge more, or call index.learn_weights(), which needs none"
        )
    return modes


def _best(tables: Sequence[Matrix]) -> int:
    return int(np.argmax([float(table.mean(axis=1).max()) for table in tables]))


def _chosen(spaces: Sequence[_Space], count: int, *, folds: int, seed: int) -> _Choice:
    """The best space and point on all queries, and what such choices are worth on held-out ones."""
    folded = np.random.default_rng(seed).permutation(count) % min(folds, count)
    grid = simplex(len(spaces[0].modes))
    tables = [space.table(grid) for space in spaces]
    held_out, found = np.zeros(count), []
    for fold in range(folded.max() + 1):
        train, test = np.flatnonzero(folded != fold), np.flatnonzero(folded == fold)
        # the fusion is chosen on the training queries too, or the folds would know the others
        inner = _best([table[:, train] for table in tables])
        space = spaces[inner]
        point = space.fit(grid, tables[inner], train)
        held_out[test] = space.table(point[None])[0, test]
        found.append(space.weights(point))
    best = _best(tables)
    point = spaces[best].fit(grid, tables[best], np.arange(count))
    return _Choice(spaces[best], grid, tables[best].mean(axis=1), point, held_out, found)


def _learned_space(
    index: HybridIndex,
    dataset: Dataset,
    prior: LearnedWeights,
    metric: str,
    how: Mapping[str, Any],
) -> _Space:
    """The learned fusion, with its curve as a prior."""
    index.weighting(prior)  # refuses that of another index
    modes = ordered_modes(index.modes)
    if prior.curve is None or len(prior.scale) != len(modes):
        raise InputError("this prior has no curve; take what index.learn_weights() returned")
    scores = score_candidates(index, dataset, weights=prior, **how)
    curve = np.asarray(prior.curve, np.float64)
    return _Space(scores, modes, prior.fusion, np.array(prior.scale), curve, metric)


def _spaces(scores: CandidateScores, modes: Sequence[Mode], metric: str) -> list[_Space]:
    """The raw and the scaled sum."""
    columns = [MODES.index(mode) for mode in modes]
    out = []
    for fusion in (None, ScaledSum()):
        tables = scores.tensor(scaled=fusion is not None)
        spread = np.mean([table.var(axis=0) for table in tables if len(table)], axis=0)[columns]
        out.append(_Space(scores, modes, fusion, np.sqrt(spread) + 1e-9, None, metric))
    return out if "sparse" in modes else out[:1]


def _soft_maximum(points: Matrix, values: Matrix) -> Matrix:
    heavy = np.exp(_SHARPNESS * (values - values.max()))
    found: Matrix = (heavy / heavy.sum()) @ points
    return found


def _around(point: Matrix) -> Matrix:
    """Points of sum 1 within one step of the grid, a quarter of a step apart."""
    steps = np.arange(-_FINE, _FINE + 1) / (_FINE * STEPS)
    shifts = np.stack(np.meshgrid(*[steps] * (len(point) - 1), indexing="ij"), axis=-1)
    first = point[:-1] + shifts.reshape(-1, len(point) - 1)
    points = np.concatenate([first, 1 - first.sum(axis=1, keepdims=True)], axis=1)
    inside: Matrix = points[(points >= 0).all(axis=1)]
    return inside
