"""The command line: bge-m3 demo, verify, score, and what the other files here add.

Nothing here imports torch before a command runs, so that `--help` is instant.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from bge_m3_integrations._version import __version__
from bge_m3_integrations.cli import explain as explain_command
from bge_m3_integrations.cli import measure
from bge_m3_integrations.cli import weights as weights_commands
from bge_m3_integrations.cli.options import (
    DEBUG,
    Debug,
    Device,
    Dtype,
    Model,
    chosen_model,
    console,
    note,
    say,
)
from bge_m3_integrations.errors import BGEM3Error

if TYPE_CHECKING:
    from bge_m3_integrations.evaluation.parity_report import Report


class _Commands(TyperGroup):
    """Shows the package's errors and warnings as one readable line each."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; `--debug` lets errors through with their traceback."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except BGEM3Error as error:
                if ctx.meta.get(DEBUG):
                    raise
                say(f"error: {error}", style="red")
                raise typer.Exit(1) from None


app = typer.Typer(
    name="bge-m3",
    cls=_Commands,
    help="BGE-M3's dense, sparse and ColBERT retrieval for LangChain and LlamaIndex.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"bge-m3-integrations {__version__}")
        raise typer.Exit


app.add_typer(measure.app)
app.add_typer(explain_command.app)
app.add_typer(weights_commands.app, name="weights")


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Debug = False,
) -> None:
    pass


@app.command()
def demo(
    *,
    docs: Annotated[
        Path | None, typer.Option(help="Folder with your own .md and .txt files.")
    ] = None,
    model: Model = None,
    query: Annotated[
        list[str] | None, typer.Option(help="What to ask; may be given several times.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Documents shown per query.")] = 5,
    device: Device = "auto",
    dtype: Dtype = "auto",
    debug: Debug = False,
) -> None:
    """Index documents, ask questions, and see all scores side by side."""
    if query is not None and not all(text.strip() for text in query):
        raise typer.BadParameter(
            '--query is empty; ask something, such as --query "hybrid weights"'
        )
    if docs is not None and not query and not sys.stdin.isatty():
        raise typer.BadParameter('--docs needs something to ask: add --query "..."')
    from bge_m3_integrations.demo.run import read_records, run_demo

    err = console(stderr=True)
    records = None if docs is None else read_records(docs, err)
    typed = _typed_queries() if docs is not None and not query else iter(query or [])
    run_demo(
        out=console(),
        err=err,
        records=records,
        model=model,
        queries=typed,
        limit=limit,
        device=device,
        dtype=dtype,
    )


@app.command()
def score(
    *,
    query: Annotated[str, typer.Argument(help="The query.")],
    documents: Annotated[
        list[str] | None,
        typer.Argument(help='Documents. "-" reads standard input, one document per line.'),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(help="A text file as one document; may be given several times."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help='A preset such as "keyword", or "dense,sparse,colbert": "0.4,0.2,0.4".'),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most documents shown.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with whole texts.")] = False,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    debug: Debug = False,
) -> None:
    """Score documents for a query: dense, sparse, ColBERT and hybrid; the best comes first."""
    from bge_m3_integrations.cli import score

    texts = score.read_documents(documents or [], file or [], note=note)
    if not texts:
        raise typer.BadParameter(
            'there is no document; add texts, --file FILE, or "-" for the lines of standard input'
        )
    chosen = score.read_weights(weights)
    results = score.scored(
        query, texts, chosen_model(model), weights=chosen, limit=limit, device=device, dtype=dtype
    )
    if as_json:
        typer.echo(score.to_json(results, ascii_only=not _is_unicode(sys.stdout.encoding)))
    else:
        score.show(results, console())


@app.command()
def verify(
    *,
    model: Model = None,
    out: Annotated[Path | None, typer.Option(help="Write the report to this JSON file.")] = None,
    device: Device = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "float32",
    published: Annotated[
        bool | None,
        typer.Option(
            help="Check the figures published for BAAI/bge-m3. Default: for that id only."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Compare this installation's numbers with FlagEmbedding's on the same weights."""
    from bge_m3_integrations.evaluation.parity import verify_model
    from bge_m3_integrations.evaluation.parity_report import write_report

    report = verify_model(chosen_model(model), device=device, dtype=dtype, published=published)
    _show_report(report, console())
    if out is not None:
        write_report(report, out)
    if not report.passed:
        raise typer.Exit(1)


def main() -> None:
    """The entry point of `bge-m3` and of `python -m bge_m3_integrations.cli.main`."""
    for stream in (sys.stdout, sys.stderr):
        # a Windows pipe in a narrow code page cannot show Chinese; that is no reason to crash
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        try:
            app(prog_name="bge-m3")
        finally:
            if sys.stdout is not None:  # as it is where a program has no streams
                sys.stdout.flush()  # here, where a full disk can still be told of
    except OSError as error:
        if error.errno not in {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            raise  # it is not about the output
        if error.errno == errno.EPIPE:  # who reads the output, such as head, has seen enough
            _lose_output()
            raise SystemExit(0) from None
        say(f"error: the output cannot be written: {error.strerror or error}", style="red")
        _lose_output()
        raise SystemExit(1) from None


def _lose_output() -> None:
    """Send what is left in the buffer nowhere: Python writes it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _typed_queries() -> Iterator[str]:
    while text := typer.prompt("\nAsk (empty line to end)", default="", show_default=False).strip():
        yield text


def _is_unicode(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "").startswith("utf")


def _show_warning(message: Warning | str, *where: object, **rest: object) -> None:
    del where, rest
    say(f"note: {message}")


def _show_report(report: Report, console: Console) -> None:
    for line in report.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
