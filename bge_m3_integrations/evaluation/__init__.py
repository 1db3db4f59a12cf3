"""Measurements of models and searches: evaluation, comparisons, parity with FlagEmbedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bge_m3_integrations._internal.lazy import lazy_names

if TYPE_CHECKING:
    from bge_m3_integrations.evaluation.ab import ABAnswer, ABTest, assign
    from bge_m3_integrations.evaluation.ab_report import ABComparison, ABReport, ab_report
    from bge_m3_integrations.evaluation.calibration import calibrate
    from bge_m3_integrations.evaluation.candidates import CandidateScores, score_candidates
    from bge_m3_integrations.evaluation.clicks import load_clicks
    from bge_m3_integrations.evaluation.comparison import Comparison, compare
    from bge_m3_integrations.evaluation.datasets import Dataset, LabelledPairs, load_dataset
    from bge_m3_integrations.evaluation.evaluation import Evaluation, evaluate
    from bge_m3_integrations.evaluation.pair_tuning import PairTuning, tune_pairs
    from bge_m3_integrations.evaluation.pairs import PairEvaluation
    from bge_m3_integrations.evaluation.reliability import save_calibration_report
    from bge_m3_integrations.evaluation.runs import Interval, Run
    from bge_m3_integrations.evaluation.tuning import Tuning, tune

_HOMES = {
    "ab": ["ABAnswer", "ABTest", "assign"],
    "ab_report": ["ABComparison", "ABReport", "ab_report"],
    "calibration": ["calibrate"],
    "candidates": ["CandidateScores", "score_candidates"],
    "datasets": ["Dataset", "LabelledPairs", "load_dataset"],
    "evaluation": ["Evaluation", "evaluate"],
    "clicks": ["load_clicks"],
    "pair_tuning": ["PairTuning", "tune_pairs"],
    "pairs": ["PairEvaluation"],
    "comparison": ["Comparison", "compare"],
    "reliability": ["save_calibration_report"],
    "runs": ["Interval", "Run"],
    "tuning": ["Tuning", "tune"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ABAnswer",
    "ABComparison",
    "ABReport",
    "ABTest",
    "CandidateScores",
    "Comparison",
    "Dataset",
    "Evaluation",
    "Interval",
    "LabelledPairs",
    "PairEvaluation",
    "PairTuning",
    "Run",
    "Tuning",
    "ab_report",
    "assign",
    "calibrate",
    "compare",
    "evaluate",
    "load_clicks",
    "load_dataset",
    "save_calibration_report",
    "score_candidates",
    "tune",
    "tune_pairs",
]


if not TYPE_CHECKING:  # a checker would take every misspelt name for one of ours
    __getattr__, __dir__ = lazy_names(__name__, _HOME_OF)
