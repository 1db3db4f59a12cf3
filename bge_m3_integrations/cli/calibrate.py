"""`bge-m3 calibrate`: the calibration of an index in a folder, for a reader or as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bge_m3_integrations.cli.score import read_weights
from bge_m3_integrations.core.calibration import Calibration
from bge_m3_integrations.core.fusion import FUSIONS
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.evaluation.calibration import Method, calibrate
from bge_m3_integrations.evaluation.datasets import Dataset, LabelledPairs
from bge_m3_integrations.index.index import HybridIndex


@dataclass(frozen=True, slots=True)
class Result:
    """A calibration, and the thresholds that were asked for.

    Attributes:
        calibration: The calibration.
        thresholds: For "precision" and "recall" the value that is wanted and the probability, or
            the reason why there is none.
    """

    calibration: Calibration
    thresholds: Mapping[str, Mapping[str, Any]]

    def __str__(self) -> str:
        said = [
            f"For a {name} of {one['wanted']:g}: "
            + (one["reason"] or f"score_threshold=Probability({one['probability']:.4g})")
            for name, one in self.thresholds.items()
        ]
        return "\n".join([*self.calibration.lines(), *said])

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain Python, without quantiles and curves."""
        held, null = self.calibration.relevance, self.calibration.unrelated
        figures = ("queries", "pairs", "relevant", "ece", "raw_ece", "brier")
        return {
            "measured": asdict(self.calibration.measured),
            "unrelated": {"pairs": null.pairs, "queries": null.queries},
            "relevance": None if held is None else {name: getattr(held, name) for name in figures},
            "thresholds": dict(self.thresholds),
        }


def calibrated(
    index: HybridIndex,
    dataset: Dataset | LabelledPairs | None,
    *,
    weights: str | None,
    fusion: str | None,
    method: Method,
    min_grade: int,
) -> Calibration:
    """Calibrate by what was typed.

    Args:
        index: It is searched.
        dataset: Judged queries; None is none.
        weights: Of the searches to come.
        fusion: A name of one of the package's.
        method: See `calibrate`.
        min_grade: See `calibrate`.

    Returns:
        The calibration, which is not yet the index's.

    Raises:
        InputError: As `calibrate` does; also for an unknown fusion.
    """
    if fusion is not None and fusion not in FUSIONS:
        raise InputError(f"--fusion {fusion}: there are {list(FUSIONS)}")
    return calibrate(
        index,
        dataset,  # type: ignore[arg-type]  # it refuses pairs itself
        weights=read_weights(weights),
        fusion=None if fusion is None else FUSIONS[fusion](),
        method=method,
        min_grade=min_grade,
    )


def with_thresholds(calibration: Calibration, **wanted: float | None) -> Result:
    """Choose the threshold for each figure that is wanted.

    Args:
        calibration: The calibration.
        **wanted: `precision` and `recall`; None is not wanted.

    Returns:
        The calibration with them.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name, value in wanted.items():
        if value is None:
            continue
        probability, reason = None, None
        try:
            probability = calibration.threshold(**{name: value}).value
        except InputError as error:
            reason = str(error)
        found[name] = {"wanted": value, "probability": probability, "reason": reason}
    return Result(calibration, found)
