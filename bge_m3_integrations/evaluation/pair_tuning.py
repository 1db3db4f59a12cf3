"""Tuning on labelled pairs: a logistic regression over the component scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import MODES
from bge_m3_integrations.core.scores import Components, Weights
from bge_m3_integrations.core.weighting import MeasuredOn, WeightProfile
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.evaluation.comparison import Comparison, compare_values
from bge_m3_integrations.evaluation.datasets import LabelledPairs
from bge_m3_integrations.index.index import HybridIndex

LEAST_OF_A_KIND: Final = 10
Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PairTuning:
    """Weights from labelled pairs, and what they are worth on pairs that they were not chosen on.

    Attributes:
        name: Of the pairs.
        weights: Of sum 1, from all pairs.
        against_default: Shares of pairs of the other label that each pair is on the right side of,
            whose mean is the AUC; cross-validated, queries kept together.
        measured_on: The model.
    """

    name: str
    weights: Weights
    against_default: Comparison
    measured_on: MeasuredOn = field(repr=False)

    @property
    def worth_it(self) -> bool:
        """Whether the weights beat the default by more than chance, on held-out pairs."""
        return self.against_default.significant and self.against_default.difference.mean > 0

    def __str__(self) -> str:
        numbers = "/".join(f"{self.weights.of(mode):.3g}" for mode in MODES)
        last = (
            "Take the tuned weights."
            if self.worth_it
            else "Keep the default: on pairs that were not used, the gain is within chance."
        )
        count = self.against_default.queries
        return f"{self.name}: tuned {numbers} on {count} pairs\n  {self.against_default}\n  {last}"

    def profile(self, name: str) -> WeightProfile:
        """The weights as a profile for `save_profile`."""
        used = self.against_default
        evidence = f"{used.queries} pairs: AUC {used.mean_b:.3f} cross-validated, default "
        measured = MeasuredOn(
            fingerprint=self.measured_on.fingerprint,
            collection=self.name,
            evidence=f"{evidence}{used.mean_a:.3f}",
        )
        return WeightProfile(name, self.weights, None, measured)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain Python, which `json.dumps` takes."""
        return {
            "dataset": self.name,
            "metric": "auc",
            "weights": {mode: self.weights.of(mode) for mode in MODES},
            "fusion": "weighted_sum",
            "worth_it": self.worth_it,
            "against_default": self.against_default.to_dict(),
        }


def tune_pairs(
    target: HybridIndex | BGEM3, pairs: LabelledPairs, *, folds: int = 5, seed: int = 0
) -> PairTuning:
    """Tune weights on labelled pairs, by scikit-learn's logistic regression.

    Args:
        target: An engine, or an index over one.
        pairs: At least 10 of each label.
        folds: Of the cross-validation; pairs of one query are in one fold.
        seed: Of the folds and of resampling.

    Returns:
        The weights and the verdict.

    Raises:
        InputError: Too few pairs of a kind, or one mode only.
    """
    engine = target.engine if isinstance(target, HybridIndex) else target
    labels = np.array(pairs.labels)
    if min(labels.sum(), (1 - labels).sum()) < LEAST_OF_A_KIND:
        raise InputError(
            f"weights are tuned on at least {LEAST_OF_A_KIND} pairs of each label; {pairs.name} "
            f"has {labels.sum()} of label 1 and {(1 - labels).sum()} of label 0"
        )
    every = Weights(1, 1, 1).restricted(engine.modes)
    if len(every.modes) < 2:
        raise InputError(f"there are no weights to tune: the model has {sorted(every.modes)} alone")
    parts = engine.score_pairs(pairs.pairs, weights=every).components
    usual = scoring.hybrid(parts, Weights().restricted(engine.modes)).hybrid
    groups = np.unique([query for query, _ in pairs.pairs], return_inverse=True)[1]
    splits = require("sklearn.model_selection", extra="eval").StratifiedGroupKFold(
        n_splits=min(folds, len(set(groups.tolist()))), shuffle=True, random_state=seed
    )
    first, second = np.zeros(len(labels)), np.zeros(len(labels))
    for train, test in splits.split(np.zeros(len(labels)), labels, groups):
        if len(set(labels[train].tolist())) < 2 or len(set(labels[test].tolist())) < 2:
            continue
        tuned = scoring.hybrid(parts, _fit(parts.take(train), labels[train])).hybrid
        # within a fold, since values of different weights do not compare
        first[test] = _right_side(usual[test], labels[test])
        second[test] = _right_side(tuned[test], labels[test])
    against = compare_values("default", first, "tuned", second, "AUC", seed=seed)
    return PairTuning(pairs.name, _fit(parts, labels), against, engine.measured_on())


def _fit(parts: Components, labels: NDArray[np.int64]) -> Weights:
    """Weights of sum 1; a mode whose factor would be negative is left out."""
    linear = require("sklearn.linear_model", extra="eval")
    modes = [mode for mode, _ in parts.items()]
    while True:
        table = np.stack([np.asarray(getattr(parts, m), np.float64) for m in modes], axis=1)
        scale = table.std(axis=0) + 1e-9
        found = linear.LogisticRegression(C=1.0, class_weight="balanced").fit(table / scale, labels)
        raw = found.coef_[0] / scale
        if (raw > 0).all() or len(modes) == 1:
            break
        modes = [mode for mode, factor in zip(modes, raw.tolist(), strict=True) if factor > 0] or [
            modes[int(np.argmax(raw))]
        ]
    values = np.maximum(raw, 1e-9)
    held = dict(zip(modes, (values / values.sum()).tolist(), strict=True))
    return Weights(**{mode: held.get(mode, 0.0) for mode in MODES})


def _right_side(scores: Any, labels: NDArray[np.int64]) -> Matrix:
    """For each pair the share of pairs of the other label that it is on the right side of."""
    out = np.zeros(len(labels))
    for label, sign in ((1, 1.0), (0, -1.0)):
        own, other = sign * scores[labels == label], np.sort(sign * scores[labels != label])
        below = np.searchsorted(other, own, side="left")
        equal = np.searchsorted(other, own, side="right") - below
        out[labels == label] = (below + equal / 2) / len(other)
    return out
