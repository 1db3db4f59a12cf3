"""Labelled pairs: how well each score tells those that belong together from those that do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import MODES, FloatArray, ordered_modes
from bge_m3_integrations.core.scores import PRESETS, Components, Weights
from bge_m3_integrations.core.weighting import WeightProfile, WeightsLike, as_weights
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.evaluation.datasets import LabelledPairs
from bge_m3_integrations.evaluation.runs import Interval, interval
from bge_m3_integrations.index.index import HybridIndex

Weightings = Mapping[str, WeightsLike] | Sequence[WeightsLike] | WeightsLike | None
DEFAULT = "default"


@dataclass(frozen=True, eq=False)
class PairEvaluation:
    """The area under the ROC curve (AUC) of labelled pairs, by each mode and weighting.

    Attributes:
        name: Of the pairs.
        auc: With a 95 % bootstrap interval over pairs, by name of the mode or weighting.
        labels: Of the pairs, 0 or 1.
        components: Scores of the pairs.
    """

    name: str
    auc: Mapping[str, Interval]
    labels: Sequence[int] = field(repr=False)
    components: Components = field(repr=False)

    def __str__(self) -> str:
        width = max(map(len, self.auc))
        positive = sum(self.labels)
        lines = [f"{self.name}: {len(self.labels)} pairs, {positive} of them belong together"]
        return "\n".join(
            [*lines, *(f"{name:{width}}  AUC {one}" for name, one in self.auc.items())]
        )

    def to_dict(self) -> dict[str, Any]:
        """The measurements as plain Python, which `json.dumps` takes."""
        return {
            "dataset": self.name,
            "pairs": len(self.labels),
            "auc": {n: {"mean": i.mean, "interval": [i.low, i.high]} for n, i in self.auc.items()},
        }


def evaluate_pairs(
    target: HybridIndex | BGEM3, data: LabelledPairs, weights: Weightings = ()
) -> PairEvaluation:
    """Measure how well scores tell labelled pairs apart; see `evaluate`."""
    engine = target.engine if isinstance(target, HybridIndex) else target
    every = Weights(1, 1, 1).restricted(engine.modes)
    usual: dict[str, WeightsLike] = {
        mode: Weights.only(mode) for mode in ordered_modes(every.modes)
    }
    usual[DEFAULT] = Weights().restricted(engine.modes)
    named = named_weightings(weights, usual=usual)
    if isinstance(target, HybridIndex):  # whose folder may have profiles
        named = {n: w if callable(w) else target.weighting(w) for n, w in named.items()}
    chosen = {name: engine.weights(value) for name, value in named.items()}
    parts = engine.score_pairs(data.pairs, weights=every).components
    values = {name: scoring.hybrid(parts, value).hybrid for name, value in chosen.items()}
    auc = {name: _auc(data.labels, scores) for name, scores in values.items()}
    return PairEvaluation(data.name, auc, data.labels, parts)


def _auc(labels: Sequence[int], scores: FloatArray) -> Interval:
    """The AUC with the interval of DeLong's placement values, by the bootstrap over pairs."""
    metrics = require("sklearn.metrics", extra="eval")
    truth, held = np.array(labels), np.asarray(scores, np.float64)
    mean = float(metrics.roc_auc_score(truth, held))
    # the share of the other kind that each pair is on the right side of: their mean is the AUC
    right = interval(_placements(held[truth == 1], held[truth == 0]))
    wrong = interval(_placements(-held[truth == 0], -held[truth == 1]))
    low = mean - float(np.hypot(right.mean - right.low, wrong.mean - wrong.low))
    high = mean + float(np.hypot(right.high - right.mean, wrong.high - wrong.mean))
    return Interval(mean, max(0.0, low), min(1.0, high))


def _placements(own: Any, other: Any) -> Any:
    ordered = np.sort(other)
    below = np.searchsorted(ordered, own, side="left")
    equal = np.searchsorted(ordered, own, side="right") - below
    return (below + equal / 2) / len(ordered)


def named_weightings(
    weights: Weightings, *, usual: Mapping[str, WeightsLike]
) -> dict[str, WeightsLike]:
    """The weightings to measure, by names.

    Args:
        weights: More of them: by names, or a list of them, or one.
        usual: Those that are always measured.

    Returns:
        The usual ones and then the others.

    Raises:
        InputError: Two weightings have one name.
    """
    out = dict(usual)
    for name, given in _listed(weights):
        value = as_weights(given)
        if value is None or out.setdefault(name, value) in (value, PRESETS.get(str(value))):
            continue
        raise InputError(
            f"two weightings have the name {name!r}, which would hide one of them; give them "
            "names of your own: weights={'mine': ...}"
        )
    return out


def _listed(weights: Any) -> list[tuple[str, WeightsLike]]:
    """Names and weightings, of one or of many."""
    if weights is None:
        return []
    numbers = weights.values() if isinstance(weights, Mapping) else weights
    if (
        isinstance(weights, str | Weights | WeightProfile)
        or callable(weights)
        or (numbers and all(isinstance(number, int | float) for number in numbers))
    ):
        return [(_name(weights), weights)]
    if isinstance(weights, Mapping):
        return list(weights.items())
    return [(_name(value), value) for value in weights]


def _name(value: WeightsLike) -> str:
    if isinstance(value, WeightProfile):
        return value.name or str(value.weights)
    if isinstance(value, str):
        return value
    if callable(value):
        return getattr(value, "__name__", repr(value))
    parsed = Weights.parse(value)
    return "/".join(f"{parsed.of(mode):g}" for mode in MODES)
