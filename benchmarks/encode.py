"""Encoding: ours and every installed peer, each repetition in a process of its own.

    python -m benchmarks.encode --cache CACHE --json encode.json

`docs/performance.md` has the last full table and the command that made it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import _run, _table, _workloads
from benchmarks._checkpoint import checkpoint
from benchmarks._machine import machine
from benchmarks._parity import Parity
from benchmarks._peers import PEERS, Peer, Setting, chosen
from benchmarks._results import Run
from benchmarks._shape import BGE_M3, TINY

DEFAULT = ("mixed", "short", "query")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    given = _parser().parse_args(arguments)
    if given.read:
        _report(given, json.loads(given.read.read_text(encoding="utf-8")))
        return
    shape = TINY if given.tiny else BGE_M3
    folder = checkpoint(given.cache, shape=shape, dtype=given.checkpoint_dtype)
    setting = Setting(folder, given.cache, given.token_budget)
    pythons = dict(pair.split("=", 1) for pair in given.python)
    harness = _run.Harness(setting, given.isa, pythons, given.threads, given.timeout)
    runs, parities = _measure(given, harness, chosen(given.only))
    _report(given, _as_json(given, runs, parities))


def _measure(
    given: argparse.Namespace, harness: _run.Harness, peers: list[Peer]
) -> tuple[list[Run], dict[str, Parity]]:
    """All repetitions; JSON is written after each, so that an interruption loses one run."""
    runs, ready = _prepare(harness, peers)
    reference = None if given.no_parity else _run.reference(harness)
    parities: dict[str, Parity] = {}
    for repetition, peer in _run.interleaved(ready, given.repeats):
        path = harness.setting.cache / "parity.npz"
        path.unlink(missing_ok=True)
        run = harness.measure(peer, given.workload, repetition=repetition, parity=path)
        runs.append(run)
        if found := _run.parity_of(path, reference):
            parities[peer.name] = found
        _progress(run)
        _write(given, runs, parities)
    return runs, parities


def _prepare(harness: _run.Harness, peers: list[Peer]) -> tuple[list[Run], list[Peer]]:
    """Export for every peer that needs it; one whose export failed has that as its only run."""
    failed = []
    for peer in peers:
        if peer.prepare is not None:
            run = harness.prepare(peer)
            failed += [run] if run.status != "ok" else []
    names = {run.peer for run in failed}
    return failed, [peer for peer in peers if peer.name not in names]


def _progress(run: Run) -> None:
    values = ", ".join(f"{m.workload} {m.value:.4g}" for m in run.measured)
    line = f"{run.repetition} {run.peer}: {run.status} {run.detail} {values}"
    print(" ".join(line.split()), file=sys.stderr, flush=True)


def _as_json(
    given: argparse.Namespace, runs: list[Run], parities: dict[str, Parity]
) -> dict[str, object]:
    return {
        "machine": machine(),
        "isa": given.isa,
        "workloads": given.workload,
        "runs": [asdict(run) for run in runs],
        "parity": {name: asdict(parity) for name, parity in parities.items()},
    }


def _write(given: argparse.Namespace, runs: list[Run], parities: dict[str, Parity]) -> None:
    if given.json:
        text = json.dumps(_as_json(given, runs, parities), indent=1)
        given.json.write_text(text, encoding="utf-8")


def _report(given: argparse.Namespace, held: dict[str, object]) -> None:
    runs = [Run.of(raw) for raw in held["runs"]]
    parities = {name: Parity(**raw) for name, raw in held["parity"].items()}
    rows = _table.encode_rows(runs, parities, held["workloads"], isa=held["isa"])
    facts = {**held["machine"], "instructions": held["isa"]}
    for name, found in facts.items():
        print(f"- {name}: {found}")
    versions = {k: v for run in runs for k, v in run.versions.items() if not k.startswith("torch ")}
    print("- " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())), "\n")
    print((_table.markdown if given.markdown else _table.plain)(rows))
    print("\nBest other peer with three heads:", _table.best_line(runs, held["workloads"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--cache", type=Path, default=Path(".bench"), help="checkpoint and exports: 15 GB")
    add("--repeats", type=int, default=5, help="processes per peer")
    add("--only", nargs="*", default=[], help=f"names or their beginnings: {', '.join(PEERS)}")
    add("--workload", nargs="*", choices=_workloads.NAMES, default=list(DEFAULT))
    add("--python", nargs="*", default=[], metavar="FAMILY=PATH", help="interpreter of a family")
    add("--isa", choices=["full", "avx2"], default="full")
    add("--threads", type=int, help="of each process; each library's own choice by default")
    add("--token-budget", type=int, help="of our packs; our default by default")
    add("--checkpoint-dtype", choices=["float32", "float16"], default="float32")
    add("--tiny", action="store_true", help="a tiny checkpoint: tries the harness only")
    add("--timeout", type=float, default=1800, help="seconds per process")
    add("--no-parity", action="store_true", help="skip the comparison with FlagEmbedding")
    add("--json", type=Path, help="where results go")
    add("--read", type=Path, metavar="JSON", help="print earlier results, measure nothing")
    add("--markdown", action="store_true")
    return parser


if __name__ == "__main__":
    main()
