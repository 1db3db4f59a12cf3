"""The explanation of a score in a terminal: bge-m3 explain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bge_m3_integrations.cli.measure import Index, Json, print_json, target_of
from bge_m3_integrations.cli.options import Debug, Device, Dtype, Model, console

if TYPE_CHECKING:
    from bge_m3_integrations.core.explanation import Difference, Explanation

app = typer.Typer()
_BAR = 28


@app.command()
def explain(
    *,
    query: Annotated[str, typer.Argument(help="The query.")],
    document: Annotated[str, typer.Argument(help="A text; with --index, a record's id.")],
    other: Annotated[
        str | None, typer.Argument(help="Another one: why does the first beat it?")
    ] = None,
    index: Index = None,
    weights: Annotated[
        str | None, typer.Option(help='A preset or profile, or "dense,sparse,colbert".')
    ] = None,
    without: Annotated[
        str | None, typer.Option(help='"query" or "document": leave out each word in turn.')
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write an HTML file here.")] = None,
    as_json: Json = False,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    debug: Debug = False,
) -> None:
    """Explain a score: which words are the same, which are close, and what each adds."""
    from bge_m3_integrations.cli.score import read_weights

    if other is not None and (html is not None or without is not None):
        raise typer.BadParameter("--html and --without are for one document; leave out the other")
    if without not in (None, "query", "document"):
        raise typer.BadParameter(f'--without is "query" or "document", not {without!r}')
    chosen: Any = read_weights(weights)
    target: Any = target_of(index, model, device=device, dtype=dtype)
    if other is not None:
        difference = target.explain_difference(query, document, other, weights=chosen)
        print_json(difference.to_dict()) if as_json else _show_difference(difference, console())
        return
    side: Literal["query", "document"] | None = without  # type: ignore[assignment]
    made = target.explain(query, document, weights=chosen, without=side)
    if html is not None:
        made.save_html(html)
    print_json(made.to_dict()) if as_json else show(made, console())


def show(made: Explanation, out: Console) -> None:
    """Print an explanation with colour.

    Args:
        made: The explanation.
        out: Where.
    """
    head = f"score {made.score:.4f}   {made.fusion}, weights {made.weighting or 'given'}"
    out.print(Text(head, style="bold"))
    top = max([abs(part) for part in made.parts.values()] or [1.0]) or 1.0
    names = {"dense": "whole meaning", "sparse": "same words", "colbert": "close words"}
    table = Table.grid(padding=(0, 2))
    for mode, part in made.parts.items():
        value = made.lexical_value if mode == "sparse" else made.scores[mode]
        bar = Text("█" * round(_BAR * max(0.0, part) / top), style="blue")
        table.add_row(mode, names[mode], bar, f"{value or 0.0:.4f}", f"adds {part:.4f}")
    out.print(table)
    for name, one in (("query", made.query), ("document", made.document)):
        out.print(Text(f"\n{name}", style="bold"))
        out.print(_highlighted(made, query=name == "query"))
        if one.truncated:
            out.print(Text(f"{one.truncated} tokens were cut off and not seen", style="yellow"))
    out.print(_rows(made))
    for change in made.without:
        style = "red" if change.change < 0 else "green"
        line = Text.assemble("dense without ", (repr(change.word.text), "bold"), " ")
        out.print(line.append(f"{change.change:+.4f}", style=style))


def _highlighted(made: Explanation, *, query: bool) -> Text:
    side = made.query if query else made.document
    shown = Text(side.text)
    for one in made.alignments:
        for word in [one.query] if query else one.document:
            if word.start >= 0 and not query and one.cosine > 0.5:
                shown.stylize("underline", word.start, word.end)
    for match in made.lexical:
        for word in [match.query] if query else match.document:
            if word.start >= 0:
                shown.stylize("bold blue", word.start, word.end)
    return shown


def _rows(made: Explanation) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("query word", "same words", "product", "closest words", "cosine"):
        table.add_column(name, justify="right" if name in ("product", "cosine") else "left")
    matches = {match.query: match for match in made.lexical}
    near = {one.query: one for one in made.alignments}
    for word in made.query.words:
        match, one = matches.get(word), near.get(word)
        if match is None and one is None:
            continue
        table.add_row(
            Text(word.text),
            Text("" if match is None else _names(match.document)),
            "" if match is None else f"{match.value:.4f}",
            Text("" if one is None else _names(one.document)),
            "" if one is None else f"{one.cosine:.3f}",
        )
    return table


def _show_difference(made: Difference, out: Console) -> None:
    gap = made.a.score - made.b.score
    out.print(Text(f"{made.a.score:.4f} against {made.b.score:.4f}: {gap:+.4f}", style="bold"))
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("difference", "score", "word", "first", "second"):
        table.add_column(name, justify="left" if name in ("score", "word") else "right")
    for part in made.parts:
        style = "green" if part.difference > 0 else "red"
        table.add_row(
            Text(f"{part.difference:+.4f}", style=style),
            part.mode,
            Text(part.word or "(whole meaning)"),
            f"{part.a:.4f}",
            f"{part.b:.4f}",
        )
    out.print(table)


def _names(words: Any) -> str:
    return ", ".join(dict.fromkeys(word.text for word in words))
