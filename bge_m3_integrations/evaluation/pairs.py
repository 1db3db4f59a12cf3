"""Labelled pairs: how well each score tells those that belong together from those that do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import MODES, FloatArray
from bge_m3_integrations.core.scores import Components, Weights
from bge_m3_integrations.core.weighting import WeightProfile, WeightsLike
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.evaluation.datasets import LabelledPairs
from bge_m3_integrations.evaluation.runs import Interval, interval
from bge_m3_integrations.index.index import HybridIndex

Weightings = Mapping[str, WeightsLike] | Sequence[WeightsLike]
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
    parts = engine.score_pairs(data.pairs, weights=every).components
    values: dict[str, FloatArray] = {str(mode): scores for mode, scores in parts.items()}
    named = {DEFAULT: Weights().restricted(engine.modes), **named_weightings(weights)}
    for name, value in named.items():
        values[name] = scoring.hybrid(parts, engine.weights(value)).hybrid
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


def named_weightings(weights: Weightings) -> dict[str, WeightsLike]:
    """Weightings by names: those given, or their own."""
    if isinstance(weights, Mapping):
        return dict(weights)
    if isinstance(weights, str):
        weights = [weights]
    out: dict[str, WeightsLike] = {}
    for value in weights:
        if isinstance(value, WeightProfile):
            name = value.name or str(value.weights)
        elif isinstance(value, str):
            name = value
        elif callable(value):
            name = getattr(value, "__name__", repr(value))
        else:
            parsed = Weights.parse(value)
            name = "/".join(f"{parsed.of(mode):g}" for mode in MODES)
        out[name] = value
    return out
