"""Calls that are timed one by one: every repetition in a process of its own, interleaved."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import _run, _table
from benchmarks._checkpoint import checkpoint
from benchmarks._machine import machine
from benchmarks._memory import memory, reset_peak
from benchmarks._peers import Setting
from benchmarks._results import Measured, Run
from benchmarks._shape import BGE_M3, TINY
from benchmarks._worker import first_line, versions_of

MIN_SECONDS = 1.0
MAX_CALLS = 200


@dataclass(frozen=True, slots=True)
class Case:
    """One way to do one task.

    Args:
        task: What is done; the first case of a task is the reference of its scores.
        name: How; its first word is the family that `--python` goes by.
        modules: What must be importable.
        distributions: Whose versions are noted.
        make: Prepares everything; what it returns is timed and gives the scores.
        flops: Of one call, where that says something.
        slow: Called once, without a call before the clock starts.
    """

    task: str
    name: str
    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    make: Callable[[Setting], Callable[[], np.ndarray]]
    flops: float = 0.0
    slow: bool = False

    @property
    def key(self) -> str:
        """Task and name."""
        return f"{self.task}/{self.name}"


def main(
    module: str, description: str, cases: Sequence[Case], arguments: Sequence[str] | None
) -> None:
    """Measure, print, write; or, when asked by a parent, run one case."""
    given = _parser(description).parse_args(arguments)
    shape = TINY if given.tiny else BGE_M3
    setting = Setting(checkpoint(given.cache, shape=shape), given.cache)
    if given.run:
        case = next(case for case in cases if case.key == given.run)
        result = run(case, setting, given.scores)
        given.out.write_text(json.dumps(asdict(result)), encoding="utf-8")
        return
    picked = [c for c in cases if not given.only or c.key.startswith(tuple(given.only))]
    runs, scores = _measure(module, picked, given)
    differences = _differences(picked, scores)
    if given.json:
        held = {"machine": machine(), "isa": given.isa, "runs": [asdict(r) for r in runs]}
        held["differences"] = differences
        given.json.write_text(json.dumps(held, indent=1), encoding="utf-8")
    _report(given, picked, runs, differences)


def run(case: Case, setting: Setting, path: Path) -> Run:
    """Time one case in this process; what goes wrong is the result."""
    if missing := [m for m in case.modules if importlib.util.find_spec(m) is None]:
        return Run(case.key, 0, "not installed", f"no module {', '.join(missing)}")
    try:
        start = time.perf_counter()
        call = case.make(setting)
        load = time.perf_counter() - start
        seconds, scores, peak = timed(call, slow=case.slow)
    except Exception as error:
        traceback.print_exc()
        return Run(case.key, 0, "error", first_line(error))
    np.save(path, np.asarray(scores, np.float32))
    measured = Measured(case.task, 0, tuple(seconds), True, peak)
    versions = versions_of(case.distributions)
    return Run(case.key, 0, "ok", load_seconds=load, measured=(measured,), versions=versions)


def timed(call: Callable[[], np.ndarray], *, slow: bool) -> tuple[list[float], np.ndarray, float]:
    """Seconds of each call, what the last one returned, and the peak of memory."""
    if not slow:
        call()
    gc.collect()
    reset_peak()
    seconds: list[float] = []
    while not seconds or (sum(seconds) < MIN_SECONDS and len(seconds) < MAX_CALLS and not slow):
        start = time.perf_counter()
        scores = call()
        seconds.append(time.perf_counter() - start)
    return seconds, scores, memory().peak


def _measure(
    module: str, cases: Sequence[Case], given: argparse.Namespace
) -> tuple[list[Run], dict[str, np.ndarray]]:
    pythons = dict(pair.split("=", 1) for pair in given.python)
    runs: list[Run] = []
    scores: dict[str, np.ndarray] = {}
    for repetition in range(given.repeats):
        turn = repetition % len(cases)
        for case in (*cases[turn:], *cases[:turn]):
            python = pythons.get(case.name.partition("-")[0], sys.executable)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "scores.npy")
                command = [python, "-m", module, "--run", case.key, "--cache", str(given.cache)]
                command += ["--scores", str(path), *(["--tiny"] if given.tiny else [])]
                result = _run.start(command, Path(folder), isa=given.isa, threads=given.threads)
                if path.exists():
                    scores[case.key] = np.load(path)
            runs.append(result if result.peer else Run(case.key, 0, "error", result.detail))
            print(f"{repetition} {case.key}: {_value(runs[-1])}", file=sys.stderr, flush=True)
    return runs, scores


def _differences(cases: Sequence[Case], scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Greatest difference of each case's scores to its task's first case."""
    first = {case.task: case.key for case in reversed(cases)}
    return {
        case.key: float(np.abs(scores[case.key] - scores[first[case.task]]).max())
        for case in cases
        if case.key in scores and first[case.task] in scores
    }


def _report(
    given: argparse.Namespace,
    cases: Sequence[Case],
    runs: Sequence[Run],
    differences: Mapping[str, float],
) -> None:
    rows = [["task", "how", "n", "ms", "GFLOP/s", "difference", "peak RSS MiB", "versions"]]
    for case in cases:
        held = [r for r in runs if r.peer == case.key]
        ok = [r for r in held if r.measured]
        if not ok:
            rows.append([case.task, case.name, "0", f"{held[0].status}: {held[0].detail}"])
            continue
        spread = _table.spread(ok, case.task)
        rate = f"{case.flops / spread.median / 1e6:.0f}" if case.flops else ""
        peak = f"{np.median([r.measured[0].peak for r in ok]):.0f}"
        versions = ", ".join(f"{n} {v}" for n, v in ok[0].versions.items())
        worst = f"{differences[case.key]:.1e}" if case.key in differences else ""
        rows.append([case.task, case.name, str(len(ok)), str(spread), rate, worst, peak, versions])
    for name, found in {**machine(), "instructions": given.isa}.items():
        print(f"- {name}: {found}")
    print()
    print((_table.markdown if given.markdown else _table.plain)(rows))


def _value(run: Run) -> str:
    return f"{run.measured[0].value:.4g} ms" if run.measured else f"{run.status}: {run.detail}"


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--cache", type=Path, default=Path(".bench"), help="where the checkpoint is: 2.3 GB")
    add("--repeats", type=int, default=5, help="processes per case")
    add("--only", nargs="*", default=[], help="tasks, or task/name, or their beginnings")
    add("--python", nargs="*", default=[], metavar="FAMILY=PATH", help="interpreter of a family")
    add("--isa", choices=["full", "avx2"], default="full")
    add("--threads", type=int, help="of each process; each library's own choice by default")
    add("--tiny", action="store_true", help="a tiny checkpoint: tries the harness only")
    add("--json", type=Path, help="where results go")
    add("--markdown", action="store_true")
    for name in ("--run", "--scores", "--out"):  # between parent and child
        add(name, type=str if name == "--run" else Path, help=argparse.SUPPRESS)
    return parser
