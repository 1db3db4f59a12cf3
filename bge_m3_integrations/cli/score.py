"""`bge-m3 score`: texts from anywhere, scored for a query, as a table or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Unpack

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bge_m3_integrations.core.display import one_line
from bge_m3_integrations.core.embeddings import ordered_modes
from bge_m3_integrations.core.scores import FixedWeights, Ranked, Weights
from bge_m3_integrations.encoders.config import ModelOptions
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.text_files import decoded, read_text

STDIN = "-"
NUMBER_WIDTH = 7
LEAST_TEXT_WIDTH = 12
_GAP = 2
"""Cells between two columns, and at both ends together."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text to be scored.

    Attributes:
        text: The text to score.
        source: The file that it comes from; None for one that was typed or piped.
    """

    text: str
    source: str | None = None

    @property
    def label(self) -> str:
        """One line for a table."""
        line = one_line(self.text) or "(empty)"
        return line if self.source is None else f"{one_line(self.source)}: {line}"


@dataclass(frozen=True, slots=True)
class Results:
    """A query's documents with their scores.

    Attributes:
        query: The query.
        model: The model's name or folder.
        weights: The weights used.
        ranked: Best first.
        documents: In the order in which they were given; `Ranked.index` points there.
    """

    query: str
    model: str
    weights: Weights
    ranked: Sequence[Ranked]
    documents: Sequence[Document]


def read_documents(
    typed: Sequence[str], files: Sequence[Path], *, note: Callable[[str], None]
) -> list[Document]:
    """Gather the documents: those that were typed, then those in files.

    Args:
        typed: Texts; "-" stands for the lines of standard input. With neither texts nor files,
            lines that are piped in are read as well.
        files: Each is one document.
        note: Called with a sentence on what may surprise.

    Returns:
        The documents, in order.

    Raises:
        InputError: A file or standard input cannot be read, or is no text.
    """
    if typed.count(STDIN) > 1:
        raise InputError('"-" stands for standard input, which can be read once; leave out one')
    if not typed and not files and _is_piped():
        typed = [STDIN]
    found: list[Document] = []
    for text in typed:
        if text == STDIN:
            found += [Document(line) for line in _piped(note)]
            continue
        if _is_file(text):
            note(f"{text!r} is scored as a text; --file {text} scores what the file holds")
        found.append(Document(text))
    return found + [Document(read_text(path, note=note), str(path)) for path in files]


def read_weights(value: str | None) -> FixedWeights | None:
    """Read weights as they are typed: the name of a preset or a profile, or three numbers.

    Args:
        value: Such as "keyword" or "0.4,0.2,0.4"; None is the default preset.

    Returns:
        The weights, or the name as it is.

    Raises:
        InputError: They are no numbers.
    """
    if value is None:
        return None
    parts = value.replace("/", " ").replace(",", " ").split()
    if len(parts) <= 1 or ".toml:" in value:
        return value
    try:
        numbers = [float(part) for part in parts]
    except ValueError as error:
        raise InputError(
            f"--weights {value}: expected three numbers for dense, sparse and colbert, such as "
            '"0.4,0.2,0.4", or the name of a preset or profile'
        ) from error
    return Weights.parse(numbers)


def scored(
    query: str,
    documents: Sequence[Document],
    model: str,
    *,
    weights: FixedWeights | None,
    limit: int | None,
    **loading: Unpack[ModelOptions],
) -> Results:
    """Score documents for a query.

    Args:
        query: The query.
        documents: At least one.
        model: A folder or a hub id.
        weights: None is the default preset.
        limit: Most results; None is all.
        **loading: Options of `BGEM3`.

    Returns:
        The results, best first.
    """
    engine = BGEM3(model, **loading)
    chosen = engine.weights(weights)
    texts = [document.text for document in documents]
    ranked = engine.rerank(query, texts, weights=chosen, limit=limit)
    return Results(query, model, chosen, ranked, documents)


def to_json(results: Results, *, ascii_only: bool = False) -> str:
    """Write results as JSON, with whole texts.

    Args:
        results: Of `scored`.
        ascii_only: For an output that cannot show all characters.

    Returns:
        An object with "query", "model", "weights" and "results", a list of objects, best first:
        "index", the place among the documents; "text", "source"; "hybrid" and the other scores.
    """
    rows = [
        {
            "index": one.index,
            "text": results.documents[one.index].text,
            "source": results.documents[one.index].source,
            "hybrid": one.score,
            **one.components,
        }
        for one in results.ranked
    ]
    about = {"query": results.query, "model": results.model, "weights": asdict(results.weights)}
    return json.dumps({**about, "results": rows}, ensure_ascii=ascii_only, indent=2)


def show(results: Results, console: Console) -> None:
    """Show results as a table: a line per document, whose numbers are never cut.

    Args:
        results: Of `scored`.
        console: Where to; one that is too narrow for the numbers is taken to be wide enough.
    """
    modes = ordered_modes(results.weights.modes)
    labels = [results.documents[one.index].label for one in results.ranked]
    cells = [
        [f"{value:.4f}" for value in (*(one.components[mode] for mode in modes), one.score)]
        for one in results.ranked
    ]
    widths = [max(NUMBER_WIDTH, *map(len, column)) for column in zip(*cells, strict=True)]
    beside = sum(width + _GAP for width in widths) + _GAP
    console.width = max(console.width, beside + LEAST_TEXT_WIDTH)
    longest = max(map(cell_len, ["document", *labels]))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(
        "document", width=min(longest, console.width - beside), overflow="ellipsis", no_wrap=True
    )
    for name, width in zip([*modes, "hybrid"], widths, strict=True):
        table.add_column(name, justify="right", no_wrap=True, width=width)
    for label, row in zip(labels, cells, strict=True):
        table.add_row(Text(label), *row)
    console.print(table)


def _is_piped() -> bool:
    held = sys.stdin  # None where a program has no streams
    return held is not None and not held.closed and not held.isatty()


def _piped(note: Callable[[str], None]) -> list[str]:
    """The lines of standard input that are not blank."""
    if sys.stdin is None or sys.stdin.closed:
        raise InputError("standard input is closed; pipe texts into it, or give them as arguments")
    text = decoded(sys.stdin.buffer.read(), "standard input", note)
    return [line.strip() for line in text.splitlines() if line.strip()]


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False  # too long for a path, or with a character that none can have
