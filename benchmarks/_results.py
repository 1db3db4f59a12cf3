"""What one process measured, and its form as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks._memory import Memory


@dataclass(frozen=True, slots=True)
class Measured:
    """One workload in one process.

    Args:
        workload: Its name.
        tokens: Real tokens of a pass; 0 where tokens are not what counts.
        seconds: Of each pass, or of each call where texts come singly.
        single: Whether `seconds` are of calls.
        peak: Most resident memory meanwhile, in MiB.
    """

    workload: str
    tokens: int
    seconds: tuple[float, ...]
    single: bool
    peak: float

    @property
    def value(self) -> float:
        """Median milliseconds of a call, or tokens per second of the median pass."""
        if self.single or not self.tokens:
            return 1000 * median(self.seconds)
        return self.tokens / median(self.seconds)


@dataclass(frozen=True, slots=True)
class Run:
    """One process: `status` is "ok", "not installed" or "error", and `detail` says more."""

    peer: str
    repetition: int
    status: str
    detail: str = ""
    load_seconds: float = 0.0
    load_peak: float = 0.0
    loaded: Memory | None = None
    measured: tuple[Measured, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Run:
        """Read back what `dataclasses.asdict` made of it."""
        loaded = Memory(**raw["loaded"]) if raw["loaded"] else None
        measured = (Measured(**{**m, "seconds": tuple(m["seconds"])}) for m in raw["measured"])
        return cls(**{**raw, "loaded": loaded, "measured": tuple(measured)})
