"""Starts a worker and brings back what it wrote, however it ended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks._search.results import Outcome
from benchmarks._search.subjects.base import Kind

_ROOT = Path(__file__).parents[2]
_GRACE = 1.5
"""A process that is in a long step when its time is over may take half as long again."""


@dataclass(frozen=True, slots=True)
class Starter:
    """How workers are started.

    Args:
        folder: Where collections are written, each removed at the end.
        arguments: For every worker.
        minutes: Time box of a worker.
        pythons: Interpreters by family; this one for the rest.
        threads: Of each process; None lets every library choose.
        keep: Leave the collections there.
    """

    folder: Path
    arguments: Sequence[str]
    minutes: float
    pythons: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    keep: bool = False

    def run(self, kind: Kind, documents: int) -> Outcome:
        """One subject over one collection."""
        self.folder.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f"{kind.name}-{documents}-", dir=self.folder))
        try:
            return self._run(kind, documents, place)
        finally:
            if not self.keep:
                shutil.rmtree(place, ignore_errors=True)

    def _run(self, kind: Kind, documents: int, place: Path) -> Outcome:
        out, log, files = place / "outcome.json", place / "log", place / "files"
        files.mkdir()
        command = [self.pythons.get(kind.family, sys.executable), "-m", "benchmarks._search.worker"]
        command += ["--subject", kind.name, "--documents", str(documents)]
        command += ["--seconds", str(60 * self.minutes), "--folder", str(files), "--out", str(out)]
        ended = self._call([*command, *self.arguments], log)
        if not out.exists():
            return Outcome(kind.name, documents, status="error", detail=f"{ended}: {_last(log)}")
        found = Outcome.of(json.loads(out.read_text(encoding="utf-8")))
        if ended == "exit 0":
            return found
        details = [found.detail, f"ended in {found.doing or 'closing'}: {ended}"]
        return replace(found, status="stopped", detail="; ".join(filter(None, details)))

    def _call(self, command: Sequence[str], log: Path) -> str:
        limit = 60 * self.minutes * _GRACE
        with log.open("wb") as sink:
            try:
                done = subprocess.run(
                    command,
                    cwd=_ROOT,
                    env=self._environment(),
                    stdout=sink,
                    stderr=sink,
                    timeout=limit,
                    check=False,
                )
            except (subprocess.TimeoutExpired, OSError) as error:
                return f"{type(error).__name__} after at most {limit / 60:.3g} minutes"
        return f"exit {done.returncode}"

    def _environment(self) -> dict[str, str]:
        counted = {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}
        return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", **counted}


def _last(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no output"
