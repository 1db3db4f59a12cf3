"""Commands that measure: bge-m3 evaluate, tune, calibrate, ab-report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack

import typer

from bge_m3_integrations.cli.options import Debug, Device, Dtype, Model, chosen_model

if TYPE_CHECKING:
    from bge_m3_integrations.encoders.config import ModelOptions
    from bge_m3_integrations.engine.engine import BGEM3
    from bge_m3_integrations.evaluation.datasets import Dataset
    from bge_m3_integrations.index.index import HybridIndex

app = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Index = Annotated[Path | None, typer.Option(help="The folder of an index.")]
Data = Annotated[
    str,
    typer.Argument(
        help="A folder in BEIR's or FlagEmbedding's layout, a file of labelled pairs (.jsonl, "
        ".csv, .tsv), or a data set's name on a hub."
    ),
]


More = Annotated[
    list[str] | None,
    typer.Option(
        "--weights", help='More weightings: names of profiles, or "0.5,0.2,0.3"; repeatable.'
    ),
]
Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help='Such as "ndcg@10", the default; repeatable.')
]
Exact = Annotated[bool, typer.Option("--exact", help="Score every document, not candidates.")]
Split = Annotated[str, typer.Option(help="Which judgements.")]
Report = Annotated[Path | None, typer.Option(help="Write an HTML report here.")]
Runs = Annotated[Path | None, typer.Option(help="Write TREC run files into here.")]
MaxLength = Annotated[int | None, typer.Option(min=1, help="Most tokens of a text.")]


@app.command()
def evaluate(
    *,
    dataset: Data,
    index: Index = None,
    weights: More = None,
    metric: Metrics = None,
    exact: Exact = False,
    split: Split = "test",
    report: Report = None,
    runs: Runs = None,
    as_json: Json = False,
    model: Model = None,
    max_length: MaxLength = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    debug: Debug = False,
) -> None:
    """Measure searches on judged queries: each mode, fusion and weighting, with intervals."""
    from bge_m3_integrations.cli.score import read_weights
    from bge_m3_integrations.evaluation.datasets import LabelledPairs, load_dataset
    from bge_m3_integrations.evaluation.evaluation import Evaluation
    from bge_m3_integrations.evaluation.evaluation import evaluate as run
    from bge_m3_integrations.evaluation.runs import DEFAULT_METRICS

    data = load_dataset(dataset, split=split)
    if isinstance(data, LabelledPairs) and (report or runs or metric or exact):
        raise typer.BadParameter(
            "labelled pairs are measured by AUC; leave out --report, --runs, --metric and --exact"
        )
    target = target_of(index, model, max_length=max_length, device=device, dtype=dtype)
    named = {value: read_weights(value) or value for value in weights or []}
    made = run(target, data, metrics=tuple(metric or DEFAULT_METRICS), weights=named, exact=exact)
    print_result(made, as_json=as_json)  # first: a folder may turn out to be read-only
    if isinstance(made, Evaluation):
        if report is not None:
            held = target.calibration if index is not None else None
            made.save_report(report, calibration=held)
        if runs is not None:
            made.save_runs(runs)


@app.command()
def tune(
    *,
    dataset: Data,
    index: Index = None,
    metric: Annotated[str, typer.Option(help="ndcg@k, recall@k, mrr@k or hit@k.")] = "ndcg@10",
    clicks: Annotated[bool, typer.Option("--clicks", help="The file is a click log.")] = False,
    split: Split = "test",
    save: Annotated[
        str | None, typer.Option(help='Write the profile here: "profiles.toml:my-profile".')
    ] = None,
    report: Report = None,
    as_json: Json = False,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    debug: Debug = False,
) -> None:
    """Tune weights on judged queries, clicks or labelled pairs, and say what they are worth."""
    from bge_m3_integrations.evaluation.clicks import load_clicks
    from bge_m3_integrations.evaluation.datasets import LabelledPairs, load_dataset
    from bge_m3_integrations.evaluation.pair_tuning import tune_pairs
    from bge_m3_integrations.evaluation.tuning import tune as run

    place, name = _saved_as(save)
    data = load_clicks(dataset) if clicks else load_dataset(dataset, split=split)
    target = target_of(index, model, device=device, dtype=dtype)
    made: Any
    if isinstance(data, LabelledPairs):
        if report is not None:
            raise typer.BadParameter("labelled pairs have no report; leave it out")
        made = tune_pairs(target, data)
    else:
        made = run(indexed(target, data), data, metric=metric)
    print_result(made, as_json=as_json)  # first: a folder may turn out to be read-only
    if report is not None:
        made.save_report(report)
    if place is not None:
        from bge_m3_integrations.core.profile_file import save_profile

        save_profile(made.profile(name), place)


def _saved_as(save: str | None) -> tuple[str | None, str]:
    path, found, name = (save or "").rpartition(".toml:")
    if save is not None and not (found and name):
        raise typer.BadParameter('--save names a file and a profile: "profiles.toml:my-profile"')
    return (f"{path}.toml", name) if found else (None, "")


def indexed(target: HybridIndex | BGEM3, data: Dataset) -> HybridIndex:
    """The index, or one in memory of the dataset's own documents."""
    from bge_m3_integrations.index.index import HybridIndex

    if isinstance(target, HybridIndex):
        return target
    if not data.records:
        raise typer.BadParameter(f"{data.name} has no documents; give --index")
    made = HybridIndex(target)
    made.add(data.records)
    return made


Folder = Annotated[Path, typer.Argument(help="The folder of an index.")]
Judged = Annotated[
    str | None,
    typer.Argument(
        help="Judged queries in BEIR's or FlagEmbedding's layout; without them there are "
        "percentiles and no probabilities."
    ),
]
Weighting = Annotated[
    str | None, typer.Option(help='Of the searches to come: a name, or "0.5,0.2,0.3".')
]
Fused = Annotated[str | None, typer.Option(help="weighted_sum, the usual one, or scaled_sum.")]
Learned = Annotated[
    Literal["auto", "platt", "isotonic"], typer.Option(help="How probabilities are learned.")
]
Grade = Annotated[int, typer.Option(min=1, help="The least grade that is relevant.")]
Precision = Annotated[float | None, typer.Option(help="Name the threshold for this precision.")]
Recall = Annotated[float | None, typer.Option(help="Name the threshold for this recall.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing in the index.")]
Out = Annotated[Path | None, typer.Option(help="Write the calibration here too.")]


@app.command()
def calibrate(
    *,
    index: Folder,
    dataset: Judged = None,
    weights: Weighting = None,
    fusion: Fused = None,
    method: Learned = "auto",
    min_grade: Grade = 1,
    split: Split = "test",
    precision: Precision = None,
    recall: Recall = None,
    dry_run: DryRun = False,
    out: Out = None,
    report: Report = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure what the scores of an index mean, and keep it beside the index."""
    from bge_m3_integrations.cli.calibrate import calibrated, with_thresholds
    from bge_m3_integrations.evaluation.datasets import load_dataset
    from bge_m3_integrations.evaluation.reliability import save_calibration_report

    judged = None if dataset is None else load_dataset(dataset, split=split)
    options = {"weights": weights, "fusion": fusion}
    with opened(index, write=not dry_run) as held:
        made = calibrated(held, judged, method=method, min_grade=min_grade, **options)
        if not dry_run:
            held.calibration = made
    if out is not None:
        made.save(out)
    if report is not None:
        save_calibration_report(made, report)
    print_result(with_thresholds(made, precision=precision, recall=recall), as_json=as_json)


@app.command()
def ab_report(
    *,
    log: Annotated[list[Path], typer.Argument(help="The log of an A/B test, or its parts.")],
    experiment: Annotated[str | None, typer.Option(help="Which, where there are several.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what the clicks of an A/B test tell, with intervals."""
    from bge_m3_integrations.evaluation.ab_report import ab_report as reported

    print_result(reported(log, experiment=experiment), as_json=as_json)


def target_of(index: Path | None, model: str | None, **options: Unpack[ModelOptions]) -> Any:
    """The index in a folder, or an engine."""
    from bge_m3_integrations.engine.engine import BGEM3

    if index is None:
        return BGEM3(chosen_model(model), **options)
    if model is not None:
        raise typer.BadParameter("give --index, whose model is known, or --model; not both")
    return opened(index)


def opened(path: Path, *, write: bool = False) -> HybridIndex:
    """The index in a folder, for reading unless it is to be changed."""
    from bge_m3_integrations.index.config import for_reading
    from bge_m3_integrations.index.index import HybridIndex

    read_only = not write and for_reading(path).read_only
    return HybridIndex.open(path, create=False, read_only=read_only)


def print_result(made: Any, *, as_json: bool) -> None:
    """Print a measurement as a table, or as JSON."""
    if as_json:
        print_json(made.to_dict())
    else:
        typer.echo(str(made))


def print_json(value: Any) -> None:
    """Print plain Python as JSON; in ASCII where the output shows nothing else."""
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "")[:3] != "utf"
    typer.echo(json.dumps(value, ensure_ascii=ascii_only, indent=2))
