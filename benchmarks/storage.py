"""What each way of keeping token vectors costs: bytes, score error, nDCG@10, time.

    python -m benchmarks.storage --cranfield PATH/TO/cranfield --full-size FOLDER \
        --json storage.json --markdown

`docs/storage.md` says what the numbers mean and holds the last table.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks._machine import machine
from benchmarks._storage import report
from benchmarks._storage.kinds import KINDS, REENCODE
from benchmarks._storage.measure import COPIES, DRAWN, JUDGED, Cost, Row, again, measured
from benchmarks._storage.texts import DOCUMENT_TOKENS, QUERY_TOKENS, Encoding, drawn, judged
from benchmarks._table import fill
from bge_m3_integrations import BGEM3

_PAGE = Path("docs/storage.md")


@dataclass(frozen=True, slots=True)
class Measurement:
    """A run.

    Attributes:
        machine: What it ran on.
        load: Mean number of running processes over the last minute, at start and end.
        rows: By kind.
        trained: What encoding a query's candidates again took with the demo checkpoint.
        full_size: What encoding as many documents took with a full-size one.
    """

    machine: dict[str, str]
    load: tuple[float, float]
    rows: tuple[Row, ...]
    trained: Encoding
    full_size: Encoding

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Measurement:
        """Read back what `dataclasses.asdict` made of it."""
        rows = tuple(Row.of(row) for row in raw["rows"])
        encodings = Encoding(**raw["trained"]), Encoding(**raw["full_size"])
        return cls(raw["machine"], tuple(raw["load"]), rows, *encodings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    given = _parser().parse_args(arguments)
    if given.read:
        found = Measurement.of(json.loads(given.read.read_text(encoding="utf-8")))
    elif not given.cranfield or not given.full_size:
        sys.exit("give --cranfield and --full-size, or --read")
    else:
        found = _measure(given)
    page = text(found)
    print(page)
    if given.markdown:
        fill(given.markdown, page, mark="storage")


def text(found: Measurement) -> str:
    """Conditions, table and remarks, as markdown."""
    facts, full = found.machine, found.full_size
    spreads = {name: held.spread for name, held in found.rows[0].errors.items()}
    again, tokens = found.trained, COPIES * full.documents * DOCUMENT_TOKENS
    return "\n\n".join(
        (
            f"Measured {facts['date']} on {facts['cpu']} ({facts['cores']} cores), one run; "
            f"{found.load[0]:.1f} to {found.load[1]:.1f} processes were running.",
            report.table(found.rows),
            f"- Full size: {full.documents} documents of {DOCUMENT_TOKENS} token vectors of 1,024 "
            f"numbers, queries of {QUERY_TOKENS}, each document kept {COPIES} times for bytes and "
            "times.\n"
            f"- Standard deviation of float32's own scores: {spreads[JUDGED]:.3f} on Cranfield, "
            f"{spreads[DRAWN]:.4f} at full size.\n"
            f"{_on_top([row.cost for row in found.rows], tokens)}\n"
            f"- reencode: {again.documents} candidates of {again.tokens:,} tokens took "
            f"{again.seconds:.1f} s with the demo checkpoint; {full.documents} documents of "
            f"{full.tokens:,} tokens took {full.seconds:.0f} s with the full-size one in bfloat16 "
            f"({full.tokens / full.seconds:.0f} tokens/s).\n"
            f"- Cheapest kind within {report.ALLOWED_ERROR} by greatest error: at full size "
            f"**{report.cheapest(found.rows, 'greatest', texts=[DRAWN]).kind.name}**, on "
            f"Cranfield, of narrower vectors, {report.cheapest(found.rows, 'greatest').kind.name}.",
        )
    )


def _on_top(costs: Sequence[Cost], tokens: int) -> str:
    """What an index takes beside its vectors, over all kinds that a store keeps."""
    logs = [cost.log for cost in costs if cost.files is not None]
    empty = [(cost.files - cost.disk) * tokens for cost in costs if cost.files is not None]
    other = [cost.anonymous * tokens for cost in costs if cost.anonymous is not None]
    return (
        f"- Per index on top: {_megabytes(logs)} MB of log on disk; in memory {_megabytes(empty)} "
        "MB of file pages that hold no vectors (the table's column has them), and "
        f"{_megabytes(other)} MB that no file backs."
    )


def _megabytes(found: Sequence[float]) -> str:
    return f"{min(found) / 1e6:.0f} to {max(found) / 1e6:.0f}"


def _measure(given: argparse.Namespace) -> Measurement:
    from scripts.evaluate_demo import cranfield

    start = os.getloadavg()[0]
    engine = BGEM3(given.checkpoint, device="cpu", dtype="float32")
    texts = judged(engine, given.cranfield)
    full, encoding = drawn(given.full_size)
    rows: list[Row] = []
    trained = Encoding(0, 0, 0.0)
    for kind in KINDS:
        print(kind.name, file=sys.stderr, flush=True)
        if kind.colbert == REENCODE:
            row, trained = again(engine, texts, cranfield(given.cranfield).docs)
        else:
            with tempfile.TemporaryDirectory(dir=given.folder) as folder:
                row = measured(kind, texts, full, Path(folder))
        rows.append(row)
        load = start, os.getloadavg()[0]
        found = Measurement(machine(), load, tuple(rows), trained, encoding)
        if given.json:  # after each, so that an interruption loses one
            whole = json.dumps(asdict(found), indent=1)
            given.json.write_text(whole + "\n", encoding="utf-8")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", type=Path, default=Path("bge_m3_integrations/demo/checkpoint"))
    add("--cranfield", type=Path, help="folder in BEIR's layout")
    add("--full-size", type=Path, help="a random checkpoint, as benchmarks._checkpoint writes it")
    add("--folder", type=Path, help="where stores are written and removed; needs 3 GB")
    add("--json", type=Path, help="where results go")
    add("--read", type=Path, metavar="JSON", help="earlier results; measure nothing")
    add("--markdown", type=Path, nargs="?", const=_PAGE, metavar="PAGE", help="fill a page in")
    return parser


if __name__ == "__main__":
    main()
