"""One process of a benchmark: load one peer, warm it up, measure the workloads, write JSON.

It runs under the peer's own interpreter, so it imports numpy and the peer and nothing else.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import _workloads
from benchmarks._memory import memory, reset_peak
from benchmarks._parity import save
from benchmarks._peers import PEERS, Model, Peer, Setting
from benchmarks._results import Measured, Run
from benchmarks._shape import Shape
from benchmarks._workloads import Workload

MIN_SECONDS = 6.0
MAX_PASSES = 5


def measure(model: Model, work: Workload, *, shape: Shape, keep: Callable[[Any], None]) -> Measured:
    """Time passes over a workload until they took `MIN_SECONDS` together.

    Args:
        model: Loaded and warmed up.
        work: The texts.
        shape: Whose words they are made of.
        keep: Is given what the first pass returned, off the clock.

    Returns:
        The seconds of each pass (of each call, for single texts) and the peak of memory.
    """
    texts = work.texts(shape)
    calls = [[text] for text in texts] if work.single else [texts]
    gc.collect()
    reset_peak()
    seconds: list[float] = []
    while not seconds or (sum(seconds) < MIN_SECONDS and len(seconds) < MAX_PASSES * len(calls)):
        for call in calls:
            start = time.perf_counter()
            raw = model.encode(call, query=work.single)
            seconds.append(time.perf_counter() - start)
        if len(seconds) == len(calls):
            peak = memory().peak
            keep(raw)
        del raw
    return Measured(work.name, work.tokens, tuple(seconds), work.single, peak)


def run(
    peer: Peer, setting: Setting, names: list[str], *, repetition: int, parity: Path | None
) -> Run:
    """Load a peer and measure it; what goes wrong is the result."""
    if missing := [m for m in peer.modules if importlib.util.find_spec(m) is None]:
        return Run(peer.name, repetition, "not installed", f"no module {', '.join(missing)}")
    shape = Shape.of(setting.checkpoint)
    start = time.perf_counter()
    measured: list[Measured] = []
    ran = Run(peer.name, repetition, "ok")
    try:
        model = peer.load(setting)
        ran = replace(ran, load_seconds=time.perf_counter() - start, loaded=memory())
        ran = replace(ran, load_peak=memory().peak, versions=versions_of(peer.distributions))
        model.encode(_workloads.warm_up().texts(shape), query=False)
        for work in map(_workloads.workload, names):
            keep = _keeper(model, parity if work.name == "mixed" else None)
            measured.append(measure(model, work, shape=shape, keep=keep))
    except Exception as error:
        traceback.print_exc()
        ran = replace(ran, status="error", detail=first_line(error))
    return replace(ran, measured=tuple(measured))


def _keeper(model: Model, path: Path | None) -> Callable[[Any], None]:
    def keep(raw: Any) -> None:
        if path is not None:
            save(path, model.read(raw))

    return keep


def versions_of(distributions: Sequence[str]) -> dict[str, str]:
    """Versions of Python, of distributions, and what torch makes of this processor."""
    found = {"python": sys.version.split()[0]}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not a distribution here"
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        found["torch kernels"] = torch.backends.cpu.get_cpu_capability()
        found["torch threads"] = str(torch.get_num_threads())
    return found


def first_line(error: Exception) -> str:
    """An error's kind and the beginning of what it says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--checkpoint", "--cache", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--parity", type=Path)
    parser.add_argument("--peer", choices=list(PEERS), required=True)
    parser.add_argument("--workloads", nargs="*", default=[])
    parser.add_argument("--repetition", type=int, default=0)
    parser.add_argument("--token-budget", type=int)
    parser.add_argument("--prepare", action="store_true")
    given = parser.parse_args()
    peer = PEERS[given.peer]
    setting = Setting(given.checkpoint, given.cache, given.token_budget)
    if given.prepare:
        result = _prepared(peer, setting)
    else:
        result = run(
            peer, setting, given.workloads, repetition=given.repetition, parity=given.parity
        )
    given.out.write_text(json.dumps(asdict(result)), encoding="utf-8")
    sys.stderr.flush()
    os._exit(0)  # some peers leave threads behind that never end


def _prepared(peer: Peer, setting: Setting) -> Run:
    try:
        if peer.prepare and all(importlib.util.find_spec(m) for m in peer.modules):
            peer.prepare(setting)
    except Exception as error:
        traceback.print_exc()
        return Run(peer.name, 0, "error", f"export: {first_line(error)}")
    return Run(peer.name, 0, "ok")


if __name__ == "__main__":
    _main()
