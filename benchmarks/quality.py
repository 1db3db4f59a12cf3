"""What each dtype costs against float32: in vectors, in scores, and in nDCG@10.

    python -m benchmarks.quality --checkpoint bge_m3_integrations/demo/checkpoint \
        --demo bge_m3_integrations/demo --cranfield ../shared/data/cranfield \
        --json out.json --markdown docs/precision.md

`docs/precision.md` says what the numbers mean and holds the last tables.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks._machine import isa_environment, machine
from benchmarks._quality.measure import Result
from benchmarks._quality.table import tables
from benchmarks._table import fill

DTYPES = {"full": ("bfloat16", "int8"), "avx2": ("int8",)}
"""What is compared with float32, by instruction set.

No float16, which no CPU here computes in hardware: Cranfield would take many minutes.
"""
_TEXTS = ("cranfield", "demo", "full_size")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    given = _parser().parse_args(arguments)
    if given.read:
        held = [json.loads(path.read_text(encoding="utf-8")) for path in given.read]
        facts = held[0]["machine"]
        results = [Result.of(raw) for part in held for raw in part["results"]]
    else:
        facts, results = machine(), [found for isa in given.isa for found in _measured(given, isa)]
    if given.json:
        whole = {"machine": facts, "results": [asdict(result) for result in results]}
        given.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    measured_on = f"Measured {facts['date']} on {facts['cpu']} ({facts['flags']})."
    page = f"{measured_on}\n\n{tables(results)}"
    print(page)
    if given.markdown:
        fill(given.markdown, page, mark="quality")


def _measured(given: argparse.Namespace, isa: str) -> list[Result]:
    """In a process of its own: an instruction set is chosen when torch is loaded."""
    dtypes = given.dtype or DTYPES[isa]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.json"
        command = [sys.executable, "-m", "benchmarks._quality.measure", "--isa", isa]
        command += ["--out", str(out), "--dtype", *dtypes, "--checkpoint", str(given.checkpoint)]
        for name in _TEXTS:
            if path := getattr(given, name):
                command += [f"--{name.replace('_', '-')}", str(path)]
        subprocess.run(command, check=True, env={**os.environ, **isa_environment(isa)})
        return [Result.of(raw) for raw in json.loads(out.read_text(encoding="utf-8"))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", type=Path, default=Path("bge_m3_integrations/demo/checkpoint"))
    add("--cranfield", type=Path, help="folder in BEIR's layout; its nDCG@10 is the gate's")
    add("--demo", type=Path, help="folder of the demo's handbook and questions")
    add("--full-size", type=Path, help="a random checkpoint, as benchmarks.encode writes it")
    add("--dtype", nargs="*", default=[], help=f"instead of {DTYPES}")
    add("--isa", nargs="*", choices=list(DTYPES), default=list(DTYPES))
    add("--json", type=Path, help="where results go")
    add("--read", type=Path, nargs="+", metavar="JSON", help="earlier results; measure nothing")
    add(
        "--markdown",
        type=Path,
        nargs="?",
        const=Path("docs/precision.md"),
        metavar="PAGE",
        help="fill the tables into a page",
    )
    return parser


if __name__ == "__main__":
    main()
