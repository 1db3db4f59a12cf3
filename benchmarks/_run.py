"""Runs peers, each repetition in a process of its own, in interleaved order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import _parity
from benchmarks._machine import isa_environment
from benchmarks._parity import Parity
from benchmarks._peers import PEERS, Peer, Setting
from benchmarks._results import Run
from benchmarks._shape import Shape
from benchmarks._workloads import workload

REFERENCE = "flag-b1"
"""Float32 and one text at a time: no padding that could touch a number."""
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Harness:
    """How processes are started.

    Args:
        setting: What each is given.
        isa: "full" or "avx2".
        pythons: Interpreters by family of peer; this one for the rest.
        threads: Of each process; None lets every library choose.
        timeout: Seconds after which a process is ended, and that is its result.
    """

    setting: Setting
    isa: str = "full"
    pythons: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    timeout: float = 1800

    def prepare(self, peer: Peer) -> Run:
        """Export the checkpoint for a peer, with the whole processor."""
        return self._start(peer, ["--prepare"], isa="full")

    def measure(
        self, peer: Peer, workloads: Sequence[str], *, repetition: int, parity: Path
    ) -> Run:
        """One process over the workloads."""
        extra = ["--workloads", *workloads, "--repetition", str(repetition)]
        return self._start(peer, [*extra, "--parity", str(parity)], isa=self.isa)

    def _start(self, peer: Peer, extra: list[str], *, isa: str) -> Run:
        with tempfile.TemporaryDirectory() as folder:
            command = [self.pythons.get(peer.family, sys.executable), "-m", "benchmarks._worker"]
            command += ["--peer", peer.name, "--cache", str(self.setting.cache)]
            command += ["--checkpoint", str(self.setting.checkpoint)]
            if self.setting.token_budget is not None:
                command += ["--token-budget", str(self.setting.token_budget)]
            command += extra
            made = start(command, Path(folder), isa=isa, threads=self.threads, timeout=self.timeout)
            return replace(made, peer=peer.name)


def start(
    command: Sequence[str],
    folder: Path,
    *,
    isa: str,
    threads: int | None,
    timeout: float = 1800,
) -> Run:
    """Run a process that writes a `Run` to the file named by `--out`.

    Args:
        command: The process.
        folder: An empty one, for its result and its output.
        isa: "full" or "avx2".
        threads: Of each library; None lets them choose.
        timeout: Seconds after which it is ended.

    Returns:
        What it wrote; or, of no peer, how it failed.
    """
    out, log = folder / "run.json", folder / "log"
    code = _call([*command, "--out", str(out)], _environment(isa, threads), log, timeout)
    if out.exists():
        return Run.of(json.loads(out.read_text(encoding="utf-8")))
    return Run("", 0, "error", f"exit {code}: {_last_line(log)}")


def _environment(isa: str, threads: int | None) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in isa_environment("avx2")}
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "PYTHONPATH": ""}
    counted = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return kept | offline | counted | isa_environment(isa)


def interleaved(peers: Sequence[Peer], repetitions: int) -> Iterator[tuple[int, Peer]]:
    """Every peer in every repetition, secondary ones in the first only; each time in another order.

    So what drifts (clock, temperature, neighbours) meets all peers alike.
    """
    for repetition in range(repetitions):
        turn = repetition % max(1, len(peers))
        for peer in (*peers[turn:], *peers[:turn]):
            if repetition == 0 or not peer.secondary:
                yield repetition, peer


def reference(harness: Harness) -> Path | None:
    """FlagEmbedding's own numbers on the mixed texts, computed once per checkpoint."""
    checkpoint = harness.setting.checkpoint
    texts = workload("mixed").texts(Shape.of(checkpoint))
    digest = zlib.crc32("\n".join(texts).encode())
    path = harness.setting.cache / f"reference-{checkpoint.name}-{digest:08x}.npz"
    if not path.exists():
        plain = Harness(harness.setting, pythons=harness.pythons, timeout=harness.timeout)
        plain.measure(PEERS[REFERENCE], ["mixed"], repetition=0, parity=path)
    return path if path.exists() else None


def parity_of(path: Path, reference_path: Path | None) -> Parity | None:
    """A run's differences to the reference, where both are there."""
    if reference_path is None or not path.exists():
        return None
    return _parity.compare(_parity.load(reference_path), _parity.load(path))


def _call(command: list[str], environment: dict[str, str], log: Path, timeout: float) -> str:
    with log.open("wb") as sink:
        try:
            done = subprocess.run(
                command,
                cwd=_ROOT,
                env=environment,
                stdout=sink,
                stderr=sink,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"none within {timeout:.0f} s"
    return str(done.returncode)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no output"
