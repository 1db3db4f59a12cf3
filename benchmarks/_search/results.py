"""What a process reports about one collection, and its form as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks._memory import Memory


@dataclass(frozen=True, slots=True)
class Timing:
    """One task's calls.

    Attributes:
        task: Its name.
        seconds: Of each call.
        found: The ids of each query, once; empty where recall says nothing.
        recall: Share of what the oracle has, when it was compared.
    """

    task: str
    seconds: tuple[float, ...]
    found: tuple[tuple[str, ...], ...] = ()
    recall: float | None = None

    def percentile(self, share: float) -> float:
        """Milliseconds."""
        return 1000 * float(np.percentile(self.seconds, share))


@dataclass(frozen=True, slots=True)
class Stage:
    """A state of the collection: "before" and "after" optimize, or "text".

    Attributes:
        name: Which.
        disk: Bytes that its files occupy.
        memory: Of the process and those it started.
        timings: The searches.
    """

    name: str
    disk: int
    memory: Memory
    timings: tuple[Timing, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """One subject over one collection; a later field is 0 or empty while it is not measured.

    Attributes:
        subject: Its name.
        wanted: Documents of the collection.
        documents: How many went in within the time.
        status: "ok", "not installed", "error" or "stopped".
        detail: Why.
        doing: What comes next or was going on; empty at the end.
        empty: Memory with the collection open and nothing in it.
        ingest_seconds: Of adding, flush included.
        flush_seconds: Of the flush at the end.
        optimize_seconds: Of optimize, where there is one.
        reopen_seconds: From closed to open.
        first_seconds: Of the first search after that.
        stages: What was measured.
        versions: Of distributions.
    """

    subject: str
    wanted: int
    documents: int = 0
    status: str = "ok"
    detail: str = ""
    doing: str = ""
    empty: Memory | None = None
    ingest_seconds: float = 0.0
    flush_seconds: float = 0.0
    optimize_seconds: float = 0.0
    reopen_seconds: float = 0.0
    first_seconds: float = 0.0
    stages: tuple[Stage, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Outcome:
        """Read back what `dataclasses.asdict` made of it."""
        empty = Memory(**raw["empty"]) if raw["empty"] else None
        return cls(**{**raw, "empty": empty, "stages": tuple(map(_stage, raw["stages"]))})


def _stage(raw: Mapping[str, Any]) -> Stage:
    timings = tuple(map(_timing, raw["timings"]))
    return Stage(raw["name"], raw["disk"], Memory(**raw["memory"]), timings)


def _timing(raw: Mapping[str, Any]) -> Timing:
    found = tuple(map(tuple, raw["found"]))
    return Timing(raw["task"], tuple(raw["seconds"]), found, raw["recall"])
