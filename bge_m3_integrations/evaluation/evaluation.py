"""Evaluation: how good are the searches of an index, by each mode, fusion and weighting."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from bge_m3_integrations._internal.progress import ProgressLike, reporter
from bge_m3_integrations.core.calibration import Calibration
from bge_m3_integrations.core.embeddings import Mode, ordered_modes
from bge_m3_integrations.core.fusion import FUSIONS, WeightedSum
from bge_m3_integrations.core.scores import PRESETS, Weights
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.core.weighting import WeightProfile, WeightsLike
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.engine.profiles import by_profile
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.evaluation.candidates import CandidateScores, score_candidates
from bge_m3_integrations.evaluation.comparison import Comparison, compare
from bge_m3_integrations.evaluation.datasets import Dataset, LabelledPairs, load_dataset
from bge_m3_integrations.evaluation.files import write_file
from bge_m3_integrations.evaluation.metrics import metric_depth
from bge_m3_integrations.evaluation.pairs import (
    DEFAULT,
    PairEvaluation,
    Weightings,
    evaluate_pairs,
    named_weightings,
)
from bge_m3_integrations.evaluation.reliability import reliability
from bge_m3_integrations.evaluation.report import contrasts, report
from bge_m3_integrations.evaluation.runs import DEFAULT_METRICS, Interval, Run, check_metrics
from bge_m3_integrations.index.index import HybridIndex


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The measured searches of an index on a dataset; `print` shows a table.

    Attributes:
        name: Of the dataset.
        about: The model, the index and what was looked up, for people.
        runs: One per mode, fusion and weighting.
        metrics: What was measured; the first decides.
        queries: Texts by id.
        documents: Texts of documents that a report shows, by id.
        scores: The component scores, which `tune` and further weightings start from.
    """

    name: str
    about: Mapping[str, str]
    runs: Sequence[Run]
    metrics: Sequence[str]
    queries: Mapping[str, str] = field(repr=False)
    documents: Mapping[str, str] = field(repr=False)
    scores: CandidateScores = field(repr=False)

    def __getitem__(self, name: str) -> Run:
        """The run of a name; an error names all that there are."""
        for run in self.runs:
            if run.name == name:
                return run
        raise InputError(f"there is no run {name!r}; there are {[run.name for run in self.runs]}")

    @property
    def best(self) -> Run:
        """The run with the greatest mean of the first metric."""
        return max(self.runs, key=lambda run: run.measure(self.metrics[0]).mean)

    def compare(self, a: str, b: str, *, metric: str | None = None) -> Comparison:
        """Compare two runs by name; see `runs.compare`."""
        return compare(self[a], self[b], metric=metric or self.metrics[0])

    def rows(self) -> list[tuple[str, list[Interval]]]:
        """The table: for each run its metrics with their intervals."""
        return [(run.name, [run.measure(metric) for metric in self.metrics]) for run in self.runs]

    def __str__(self) -> str:
        about = ", ".join(f"{key} {value}" for key, value in self.about.items())
        width = max(len(run.name) for run in self.runs)
        first = max(len(self.metrics[0]), len(str(self.rows()[0][1][0])))
        head = f"{'':{width}}  {self.metrics[0]:>{first}}" + "".join(
            f"  {metric:>10}" for metric in self.metrics[1:]
        )
        lines = [f"{self.name}: {about}", head]
        for name, (main, *others) in self.rows():
            more = "".join(f"  {one.mean:10.3f}" for one in others)
            lines.append(f"{name:{width}}  {main!s:>{first}}{more}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The measurements as plain Python, which `json.dumps` takes; without rankings."""
        return {
            "dataset": self.name,
            "about": dict(self.about),
            "runs": {
                name: {
                    metric: {"mean": one.mean, "interval": [one.low, one.high]}
                    for metric, one in zip(self.metrics, measured, strict=True)
                }
                for name, measured in self.rows()
            },
            "comparison": self._verdict(),
        }

    def _verdict(self) -> dict[str, Any] | None:
        found = contrasts(self.runs, self.metrics[0])
        return None if found is None else found.comparison.to_dict()

    def save_json(self, path: str | Path) -> None:
        """Write `to_dict` to a file."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=2)
        write_file(path, text + "\n")

    def save_runs(self, folder: str | Path) -> list[Path]:
        """Write a TREC run file for each run.

        Args:
            folder: Is made if it is not there.

        Returns:
            The files.
        """
        paths: list[Path] = []
        for run in self.runs:
            name = re.sub(r"[^\w.+-]+", "-", run.name)[:60].strip(".-") or "run"
            path = Path(folder).expanduser() / f"{name}.trec"
            for number in range(2, len(self.runs) + 2):
                if path not in paths:
                    break
                path = path.with_name(f"{name}-{number}.trec")
            run.save(path)
            paths.append(path)
        return paths

    def save_report(self, path: str | Path, *, calibration: Calibration | None = None) -> None:
        """Write one HTML file with plots, the table, and the queries won and lost, with texts.

        Args:
            path: The file.
            calibration: Its reliability diagram is put below.
        """
        shown = {"queries": self.queries, "documents": self.documents}
        more = [] if calibration is None else ["<h2>Calibration</h2>", reliability(calibration)]
        text = report(self.name, self.about, self.runs, self.metrics, more=more, **shown)
        write_file(path, text)


def evaluate(
    target: HybridIndex | BGEM3,
    dataset: Dataset | LabelledPairs | str | Path,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    weights: Weightings = (),
    candidates: Mapping[Mode, int] | None = None,
    exact: bool = False,
    depth: int = 100,
    split: str = "test",
    progress: ProgressLike = None,
) -> Evaluation | PairEvaluation:
    """Measure searches by each mode, each fusion, each preset, and further weightings.

    Queries are encoded and candidates are scored once, for all of them.

    Args:
        target: An index that holds the dataset's documents; or an engine, which then encodes them
            into an index in memory.
        dataset: A `Dataset`, `LabelledPairs`, or what `load_dataset` takes.
        metrics: See `Run.values`; the first is the one that decides.
        weights: More weightings: a mapping by names, or a list of numbers, profiles, their names,
            and functions of a query.
        candidates: How many documents each mode looks up; see `HybridIndex.search`.
        exact: Score every document instead.
        depth: Most documents ranked for a query; more where a metric looks at more.
        split: See `load_dataset`.
        progress: See `HybridIndex.add`.

    Returns:
        An `Evaluation`; of pairs a `PairEvaluation`.

    Raises:
        InputError: The dataset is malformed or fits the index not, or a metric is unknown.
        MissingExtraError: ir-measures or scipy is not installed.
    """
    if not isinstance(target, HybridIndex | BGEM3):
        raise InputError(f"evaluate takes a HybridIndex or a BGEM3, not {type(target).__name__}")
    check_metrics(metrics)
    data = load_dataset(dataset, split=split) if isinstance(dataset, str | Path) else dataset
    if not isinstance(data, Dataset | LabelledPairs):
        raise InputError(
            "a dataset is a Dataset, LabelledPairs, or a path or name for load_dataset, not "
            f"{type(data).__name__}"
        )
    if isinstance(data, LabelledPairs):
        return evaluate_pairs(target, data, weights)
    how: Any = {"candidates": candidates, "exact": exact, "depth": depth, "progress": progress}
    if isinstance(target, HybridIndex):
        return _evaluated(target, data, metrics, weights, **how)
    if not data.records:
        raise InputError(f"the dataset {data.name} has no documents; give the index that has them")
    with HybridIndex(target) as index:
        _weightings(index, weights)  # an error before a corpus is encoded
        index.add(data.records, progress=progress)
        return _evaluated(index, data, metrics, weights, **how)


def _evaluated(
    index: HybridIndex,
    data: Dataset,
    metrics: Sequence[str],
    weights: Weightings,
    *,
    candidates: Mapping[Mode, int] | None,
    exact: bool,
    depth: int,
    progress: ProgressLike,
) -> Evaluation:
    total = len(data.judged)
    depth = max(check_int("depth", depth), *map(metric_depth, metrics))
    named = _weightings(index, weights)
    looked: Any = {"depth": depth, "candidates": candidates, "exact": exact}
    with reporter(progress, label="evaluating", total=total) as tell:
        scores = score_candidates(index, data, tell=tell, **looked)
    searches = _Searches(index, data, scores, **looked)
    runs = [searches.run(name, value) for name, value in named.items()]
    unjudged = len(data.queries) - total
    left_out = f" ({unjudged:,} without a relevant document left out)" if unjudged else ""
    how = "every document" if exact else f"candidates {dict(candidates or {}) or 'as usual'}"
    about = {
        "model": PurePath(index.engine.name).name,
        "documents": f"{index.count():,}",
        "queries": f"{len(scores.queries):,}{left_out}",
        "modes": "+".join(ordered_modes(index.modes)),
        "looked up": how,
    }
    made = Evaluation(data.name, about, runs, tuple(metrics), data.queries, {}, scores)
    return replace(made, documents=_texts(index, made))


def _weightings(index: HybridIndex, weights: Weightings) -> dict[str, WeightsLike]:
    """All weightings to measure; an error where one stands for nothing, or not here."""
    named = named_weightings(weights, usual=_usual(index))
    for value in named.values():
        if not callable(value):
            index.weighting(value)
    return named


def _usual(index: HybridIndex) -> dict[str, WeightsLike]:
    """Each mode alone, the default weights by each fusion, and the presets that differ."""
    base = Weights().restricted(index.modes)
    out: dict[str, WeightsLike] = {m: Weights.only(m) for m in ordered_modes(index.modes)}
    if len(out) == 1:
        return out
    out[DEFAULT] = base
    for name, kind in FUSIONS.items():
        if kind is not WeightedSum:
            out[name] = WeightProfile(name, base, kind())
    for name, preset in PRESETS.items():
        if name != DEFAULT and preset.modes <= index.modes:
            out[name] = preset
    return out


@dataclass(frozen=True, slots=True)
class _Searches:
    """The searches that are measured: an index, queries, and how far they look.

    Attributes:
        index: Holds the documents.
        data: The queries.
        scores: In every mode, for all weightings that are arithmetic on them.
        depth: Most documents ranked for a query.
        candidates: See `HybridIndex.search`.
        exact: Score every document instead.
    """

    index: HybridIndex
    data: Dataset
    scores: CandidateScores
    depth: int
    candidates: Mapping[Mode, int] | None
    exact: bool

    def run(self, name: str, weights: WeightsLike) -> Run:
        """The run of one weighting; of a function of the query, by the weights of each query."""
        texts = [self.scores.texts[query] for query in self.scores.queries]
        rankings: dict[str, Sequence[str]] = {}
        scores: dict[str, Sequence[float]] = {}
        for profile, rows in by_profile(texts, weights, self.index.weighting):
            held = self._scores(profile).only(rows)
            part = held.run(name, profile.weights, profile.fusion, depth=self.depth)
            rankings |= part.rankings
            scores |= part.scores
        order = self.scores.queries
        return Run(name, {q: rankings[q] for q in order}, scores, self.scores.qrels)

    def _scores(self, profile: WeightProfile) -> CandidateScores:
        """The scores that a profile ranks; learned weights look up other candidates."""
        if profile.fusion is None or type(profile.fusion) in FUSIONS.values():
            return self.scores
        return score_candidates(
            self.index,
            self.data,
            candidates=self.candidates,
            exact=self.exact,
            depth=self.depth,
            weights=profile,
        )


def _texts(index: HybridIndex, made: Evaluation) -> dict[str, str]:
    """The texts of the documents that a report shows."""
    found = contrasts(made.runs, made.metrics[0])
    if found is None:
        return {}
    ids = {
        document
        for query in [*found.wins, *found.losses]
        for run in (found.base, found.other)
        for document in run.rankings.get(query, ())[:3]
    }
    held = list(ids)
    records = index.get(held)
    return {one: r.display_text for one, r in zip(held, records, strict=True) if r is not None}
