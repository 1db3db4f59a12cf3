"""Commands about weights: bge-m3 weights learn, weights show."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bge_m3_integrations.cli.measure import Json, opened, print_json
from bge_m3_integrations.cli.options import Debug

if TYPE_CHECKING:
    from bge_m3_integrations.core.weighting import WeightProfile

app = typer.Typer(help="Learn weights from an index, without labels.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="The folder of an index.")]


@app.command()
def learn(
    *,
    index: Folder,
    documents: Annotated[
        int, typer.Option(min=40, help="Most documents that questions are taken out of.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn weights from an index's own documents, and keep them in its folder."""
    from bge_m3_integrations.index.index import HybridIndex

    with HybridIndex.open(index, create=False) as held:
        _show(held.learn_weights(documents=documents, seed=seed), as_json=as_json)


@app.command()
def show(*, index: Folder, as_json: Json = False, debug: Debug = False) -> None:
    """Show the weights that an index has learned."""
    with opened(index) as held:
        _show(held.weighting("learned"), as_json=as_json)


def _show(learned: WeightProfile, *, as_json: bool) -> None:
    from bge_m3_integrations.core.learned import LearnedSum

    if not as_json:
        typer.echo(str(learned))
        return
    fusion: Any = learned.fusion
    facts = {n: getattr(learned, n) for n in ("documents", "queries", "records", "seed", "date")}
    print_json(
        {
            "weights": asdict(learned.weights),
            "fusion": fusion.name,
            "idf_power": fusion.power if isinstance(fusion, LearnedSum) else None,
            **facts,
            "gains": dict(getattr(learned, "gains", {})),
            "measured_on": asdict(learned.measured_on),
        }
    )
