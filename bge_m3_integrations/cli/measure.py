"""Commands that measure: bge-m3 evaluate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer

from bge_m3_integrations.cli.options import Debug, Device, Dtype, Model, chosen_model

if TYPE_CHECKING:
    from bge_m3_integrations.encoders.config import ModelOptions
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
    from bge_m3_integrations.evaluation.evaluation import Evaluation
    from bge_m3_integrations.evaluation.evaluation import evaluate as run
    from bge_m3_integrations.evaluation.runs import DEFAULT_METRICS

    target = _target(index, model, max_length=max_length, device=device, dtype=dtype)
    named = {value: read_weights(value) or value for value in weights or []}
    metrics = tuple(metric or DEFAULT_METRICS)
    made = run(target, dataset, metrics=metrics, weights=named, exact=exact, split=split)
    if isinstance(made, Evaluation):
        if report is not None:
            made.save_report(report)
        if runs is not None:
            made.save_runs(runs)
    elif report is not None or runs is not None:
        raise typer.BadParameter("labelled pairs have no report and no runs; leave these out")
    print_result(made, as_json=as_json)


def _target(index: Path | None, model: str | None, **options: Unpack[ModelOptions]) -> Any:
    """The index in a folder, or an engine."""
    from bge_m3_integrations.engine.engine import BGEM3

    if index is None:
        return BGEM3(chosen_model(model), **options)
    if model is not None:
        raise typer.BadParameter("give --index, whose model is known, or --model; not both")
    return opened(index)


def opened(path: Path) -> HybridIndex:
    """The index in a folder, for reading."""
    from bge_m3_integrations.index.config import for_reading
    from bge_m3_integrations.index.index import HybridIndex

    return HybridIndex.open(path, create=False, read_only=for_reading(path).read_only)


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
