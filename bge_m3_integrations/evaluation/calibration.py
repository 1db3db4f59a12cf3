"""Calibrate the searches of an index: percentiles from itself, probabilities from judgements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations._internal.keywords import public_function
from bge_m3_integrations._internal.progress import ProgressLike, Report, reporter
from bge_m3_integrations._internal.warn import warn_user
from bge_m3_integrations.core.calibration import Calibration, Measured
from bge_m3_integrations.core.calibration_parts import (
    Z_CANDIDATES,
    Floats,
    Relevance,
    Rule,
    candidate_z,
)
from bge_m3_integrations.core.fusion import Fusion, WeightedSum
from bge_m3_integrations.core.validation import check_finite, check_int
from bge_m3_integrations.core.weighting import WeightProfile, WeightsLike
from bge_m3_integrations.errors import CalibrationWarning, InputError
from bge_m3_integrations.evaluation.datasets import Dataset, LabelledPairs, load_dataset
from bge_m3_integrations.evaluation.unrelated import unrelated_pairs
from bge_m3_integrations.index.calibrated import index_key
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.request import SearchOptions

LEAST_QUERIES: Final = 20
"""Fewer judged queries are refused: the calibration error was 0.05 to 0.12 with 10 to 20."""
FEW_QUERIES: Final = 50
"""Fewer are warned of; with 50 the error was 0.02 to 0.03."""
ISOTONIC_QUERIES: Final = 200
"""From so many on, isotonic steps may stand in for Platt's curve."""
_DEPTH: Final = 10
"""Hits of a query that are read as relevant or not."""
_FOLDS: Final = 5
_BINS: Final = 10
_BATCH: Final = 256

Method: TypeAlias = Literal["auto", "platt", "isotonic"]
Bools: TypeAlias = NDArray[np.bool_]


@public_function
def calibrate(
    index: HybridIndex,
    dataset: Dataset | str | Path | None = None,
    *,
    weights: WeightsLike | None = None,
    fusion: Fusion | None = None,
    method: Method = "auto",
    min_grade: int = 1,
    collection: str | None = None,
    seed: int = 0,
    progress: ProgressLike = None,
) -> Calibration:
    """Measure what the scores of an index's searches mean; `index.calibration = ...` keeps it.

    Without judgements, hits get a percentile: the share of unrelated pairs of the same index with
    a lower score. Up to 1,000 sentences of documents are paired with random other documents of
    their script. That is no probability: how many hits are relevant cannot be known from texts
    alone.

    With a dataset of judged queries, hits get a probability too: Platt's curve over the score and
    its candidate z (see `candidate_z`), by scikit-learn (l2, C = 1, standardised). Each query is
    searched for, and its first ten hits are relevant or not; one that was not judged is not. Five
    folds over the queries give the calibration error, the Brier score and the hits that
    `Calibration.threshold` chooses by.

    Args:
        index: At least 40 documents. The calibration belongs to its model and its storage.
        dataset: At least 20 judged queries, also as a path that `load_dataset` reads; under 50
            there is a warning. Its documents are those of the index. None leaves probabilities out.
        weights: Those of the searches to come, as `HybridIndex.search` takes them.
        fusion: That of the searches to come.
        method: "platt"; "isotonic", steps over Platt's curve; "auto" takes these where there are
            200 judged queries or more and their Brier score is better.
        min_grade: The least grade that counts as relevant.
        collection: A name for the collection; None is that of the dataset or of the folder.
        seed: The same one gives the same calibration.
        progress: See `HybridIndex.add`.

    Returns:
        The calibration, which is not yet the index's.

    Raises:
        InputError: There are too few documents or judged queries, the hits are all relevant or
            all not, a judged document is not in the index (with file and line), weights are a
            function of the query, or the fusion's values have no level, as those of ranks.
        MissingExtraError: Judgements need scikit-learn: the extra "eval".
    """
    if not isinstance(index, HybridIndex):
        raise InputError(f"calibrate() needs a HybridIndex, not {type(index).__name__}")
    if callable(weights) and not isinstance(weights, WeightProfile):
        raise InputError(
            "a calibration belongs to one weighting: give the weights that the function returns, "
            "and calibrate each of them that needs one"
        )
    if method not in ("auto", "platt", "isotonic"):
        raise InputError(f'method must be "auto", "platt" or "isotonic", not {method!r}')
    check_int("seed", seed, least=0)
    check_int("min_grade", min_grade)
    judged = None if dataset is None else _judged_queries(dataset, index)
    profile = index.weighting(weights)
    chosen = fusion or profile.fusion or WeightedSum()
    options = SearchOptions(weights=profile, fusion=fusion)
    with reporter(progress, label="calibrating") as tell:
        relevance = None
        if judged is not None:
            hits = _read(index, _relevant(judged, min_grade), options, tell)
            relevance = _relevance(hits, method, name=judged.name, seed=seed)
        unrelated = unrelated_pairs(index, options, seed=seed, tell=tell)
    name = collection or (None if judged is None else judged.name)
    measured = _measured(index, profile, chosen, name)
    return Calibration(measured, unrelated, relevance)


def _measured(
    index: HybridIndex, profile: WeightProfile, fusion: Fusion, collection: str | None
) -> Measured:
    most = fusion.max_score(profile.weights)
    path = index.path
    key = index_key(index.engine, index.store, index._searcher.colbert_kind)
    return Measured(
        **key,
        model=index.engine.name,
        weights=profile.weights,
        fusion=fusion.name,
        max_score=most if math.isfinite(most) else None,
        documents=len(index),
        collection=collection or (path.name if path is not None else "an index in memory"),
        date=datetime.now(UTC).date().isoformat(),
    )


def _judged_queries(dataset: Dataset | str | Path, index: HybridIndex) -> Dataset:
    """The data set, if there are enough judged queries, all of documents of the index."""
    held = load_dataset(dataset) if isinstance(dataset, str | Path) else dataset
    if not isinstance(held, Dataset):
        given = held.name if isinstance(held, LabelledPairs) else type(held).__name__
        raise InputError(
            f"{given}: calibration needs queries, and judged documents by their ids in the index, "
            "as a folder in BEIR's layout or a Dataset; labelled pairs of texts do not tell what a "
            "search would find"
        )
    if len(held.qrels) < LEAST_QUERIES:
        raise InputError(
            f"{held.name}: {len(held.qrels)} judged queries are too few for probabilities; "
            f"{LEAST_QUERIES} are needed, better {FEW_QUERIES}. Without a dataset, "
            "calibrate(index) gives percentiles"
        )
    ids = list(dict.fromkeys(document for grades in held.qrels.values() for document in grades))
    there = zip(ids, index.get(ids), strict=True)
    held.check_documents({document for document, record in there if record is not None})
    return held


def _relevant(dataset: Dataset, min_grade: int) -> dict[str, dict[str, bool]]:
    """For each query's text, whether each judged document is relevant.

    Equal texts are one query, or it would be in several folds.
    """
    found: dict[str, dict[str, bool]] = {}
    for query, grades in dataset.qrels.items():
        held = found.setdefault(dataset.queries[query], {})
        for document, grade in grades.items():
            name = f"{dataset.name}: the grade of {document!r} for query {query!r}"
            held[document] = held.get(document, False) or check_finite(name, grade) >= min_grade
    return found


@dataclass(frozen=True, slots=True)
class _Hits:
    """The first hits of all judged queries.

    Attributes:
        values: `(n,)` ranking values.
        z: `(n,)` candidate z.
        relevant: `(n,)`.
        query: `(n,)`, the number of each one's query.
        queries: How many were judged.
    """

    values: Floats
    z: Floats
    relevant: Bools
    query: NDArray[np.int64]
    queries: int

    def take(self, rows: Any) -> _Hits:
        """Some of them."""
        held = (self.values[rows], self.z[rows], self.relevant[rows], self.query[rows])
        return _Hits(*held, self.queries)


def _read(
    index: HybridIndex,
    judged: Mapping[str, Mapping[str, bool]],
    options: SearchOptions,
    tell: Report,
) -> _Hits:
    """Search for every judged query."""
    texts = list(judged)
    if len(texts) < FEW_QUERIES:
        warn_user(
            f"{len(texts)} judged queries make a rough calibration: its error is usually 0.03 to "
            f"0.06, and half of that with {FEW_QUERIES}",
            CalibrationWarning,
        )
    rows: list[tuple[float, float, bool, int]] = []
    for start in range(0, len(texts), _BATCH):
        part = texts[start : start + _BATCH]
        found = index.search_batch(part, **(options | SearchOptions(limit=Z_CANDIDATES)))
        for i, (text, hits) in enumerate(zip(part, found, strict=True), start):
            values = np.array([hit.score for hit in hits])
            best = zip(hits[:_DEPTH], candidate_z(values).tolist(), strict=False)
            rows += [(hit.score, z, judged[text].get(hit.id, False), i) for hit, z in best]
        tell(start + len(part), len(texts))
    values, z, relevant, query = (np.array(column) for column in zip(*rows, strict=True))
    return _Hits(values, z, relevant.astype(bool), query.astype(np.int64), len(texts))


def _relevance(hits: _Hits, method: Method, *, name: str, seed: int) -> Relevance:
    """Learn the rule from all hits; measure it by folds over the queries."""
    relevant = int(hits.relevant.sum())
    if relevant in (0, hits.relevant.size):
        which = "none is" if relevant == 0 else "all are"
        raise InputError(
            f"{name}: of {hits.relevant.size:,} hits of {hits.queries:,} judged queries {which} "
            "relevant, and a probability needs both kinds; check that the judgements are of this "
            "collection, and min_grade"
        )
    fold = np.random.default_rng(seed).permutation(hits.queries)[hits.query] % _FOLDS
    enough = method == "isotonic" or (method == "auto" and hits.queries >= ISOTONIC_QUERIES)
    rules = {steps: _held_out(hits, fold, steps=steps) for steps in {enough, method == "isotonic"}}
    brier = {steps: _brier(chance, hits.relevant) for steps, chance in rules.items()}
    steps = min(brier, key=lambda name: (brier[name], name))
    chance = rules[steps]
    bins = reliability(chance, hits.relevant)
    return Relevance(
        rule=_rule(hits, steps=steps),
        queries=hits.queries,
        pairs=hits.relevant.size,
        relevant=relevant,
        ece=calibration_error(bins),
        raw_ece=calibration_error(reliability(np.clip(hits.values, 0, 1), hits.relevant)),
        brier=brier[steps],
        bins=bins,
        curve=Relevance.curve_of(chance, hits.relevant),
    )


def _held_out(hits: _Hits, fold: NDArray[np.int64], *, steps: bool) -> Floats:
    """The probability of each hit by a rule learned from the queries of other folds."""
    chance = np.zeros(hits.values.size)
    for k in range(_FOLDS):
        rule = _rule(hits.take(fold != k), steps=steps)
        chance[fold == k] = rule.probability(hits.values[fold == k], hits.z[fold == k])
    return chance


def _rule(hits: _Hits, *, steps: bool) -> Rule:
    """Learn Platt's curve and, over it, isotonic steps."""
    if not 0 < hits.relevant.sum() < hits.relevant.size:
        raise InputError(
            "the relevant hits, or the others, come from too few queries to learn from; judge more"
        )
    [slope], constant = _platt(hits.values[:, None], hits.relevant)
    both, known = (slope, 0.0, constant), np.isfinite(hits.z)
    if 0 < hits.relevant[known].sum() < known.sum():
        table = np.stack([hits.values, hits.z], axis=1)[known]
        (value, z), intercept = _platt(table, hits.relevant[known])
        both = (value, z, intercept)
    rule = Rule(*both, alone=(slope, constant))
    if not steps:
        return rule
    chance = rule.probability(hits.values, hits.z)
    least = 1 / (hits.values.size + 2)  # no hit is certain
    isotonic = require("sklearn.isotonic", extra="eval").IsotonicRegression(
        y_min=least, y_max=1 - least, out_of_bounds="clip"
    )
    isotonic.fit(chance, hits.relevant.astype(np.float64))
    table = np.stack([isotonic.X_thresholds_, isotonic.y_thresholds_])
    return Rule(*both, alone=(slope, constant), steps=table)


def _platt(table: Floats, relevant: Bools) -> tuple[Sequence[float], float]:
    """The coefficients and the constant of a logistic regression, of the table as it is."""
    linear = require("sklearn.linear_model", extra="eval")
    mean, deviation = table.mean(axis=0), table.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1)
    model = linear.LogisticRegression(C=1.0).fit((table - mean) / deviation, relevant)
    slopes = model.coef_[0] / deviation
    return slopes.tolist(), float(model.intercept_[0] - slopes @ mean)


def _brier(probability: Floats, relevant: Bools) -> float:
    return float(np.mean((probability - relevant) ** 2))


def reliability(probability: Floats, relevant: Bools) -> Floats:
    """Compare probabilities with what happened, in ten bins of equal width.

    Args:
        probability: `(n,)` from 0 to 1.
        relevant: `(n,)`.

    Returns:
        `(10, 3) float64`: mean probability, share of relevant ones, and their number; 0 for an
        empty bin.
    """
    place = np.minimum((np.asarray(probability) * _BINS).astype(np.int64), _BINS - 1)
    number = np.bincount(place, minlength=_BINS)
    sums = (np.bincount(place, held, minlength=_BINS) for held in (probability, relevant))
    return np.stack([*(held / np.maximum(number, 1) for held in sums), number], axis=1)


def calibration_error(bins: Floats) -> float:
    """The expected calibration error: the mean distance of `reliability`, weighted by number.

    Args:
        bins: See `reliability`.

    Returns:
        From 0 to 1 (Naeini et al. 2015).
    """
    return float(np.abs(bins[:, 0] - bins[:, 1]) @ bins[:, 2] / max(bins[:, 2].sum(), 1))
