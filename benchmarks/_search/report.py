"""Outcomes as tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmarks._memory import Memory
from benchmarks._search.growth import FAR, Growth, growths
from benchmarks._search.results import Outcome, Stage, Timing
from benchmarks._search.subjects import KINDS

_MIB = 1024 * 1024
Rows = list[list[str]]


def collection_rows(outcomes: Sequence[Outcome]) -> Rows:
    """Adding, disk, memory, optimizing, reopening; a pair of values is before and after optimize.

    Memory is what came on top of the empty collection, per document; in brackets the part of it
    that no file backs.
    """
    header = ["subject", "documents", "added/s", "flush s", "disk B/doc", "RSS B/doc (anonymous)"]
    header += ["RSS MiB", "peak MiB", "optimize s", "reopen s", "first search ms", "remarks"]
    return [header, *(_collection(outcome) for outcome in outcomes)]


def search_rows(outcomes: Sequence[Outcome]) -> Rows:
    """Every task before and after optimize."""
    header = ["subject", "documents", "search", "p50 ms", "p95 ms", "recall@10", "calls"]
    header += ["optimized: p50 ms", "p95 ms", "recall@10", "calls"]
    rows = [header]
    for outcome in outcomes:
        before, after = (_timings(outcome, name) for name in ("before", "after"))
        for task, timing in before.items():
            row = [outcome.subject, f"{outcome.documents:,}", task, *_cells(timing)]
            rows.append([*row, *_cells(after.get(task))])
    return rows


def text_rows(outcomes: Sequence[Outcome]) -> Rows:
    """Searches that encode the query."""
    rows = [["subject", "documents", "text in, hits out", "p50 ms", "p95 ms", "calls"]]
    for outcome in outcomes:
        for task, timing in _timings(outcome, "text").items():
            times, calls = _cells(timing)[:2], str(len(timing.seconds))
            name = task.removeprefix("text: ")
            rows.append([outcome.subject, f"{outcome.documents:,}", name, *times, calls])
    return rows


def growth_rows(outcomes: Sequence[Outcome]) -> Rows:
    """Slopes of our stores, and what ten million documents would need on a straight line."""
    header = ["subject", "what", "measured", "grew by", "per 1,000 documents", f"line to {FAR:,}"]
    rows = [header]
    for subject in dict.fromkeys(o.subject for o in outcomes if KINDS[o.subject].store):
        own = [o for o in outcomes if o.subject == subject]
        for growth in growths([point for outcome in own for point in points(outcome)]):
            rows.append([subject, *_growth(growth)])
    return rows


def points(outcome: Outcome) -> Iterator[tuple[str, str, int, float]]:
    """What grows, by the state of the collection."""
    for stage in outcome.stages:
        if stage.name == "text" or outcome.empty is None:
            continue
        state = "optimized" if stage.name == "after" else "as added"
        total = stage.memory.total - outcome.empty.total
        yield f"disk, {state}", "MiB", outcome.documents, stage.disk / _MIB
        yield f"memory, {state}", "MiB", outcome.documents, total
        for timing in stage.timings:
            name = f"p50 {timing.task}, {state}"
            yield name, "ms", outcome.documents, timing.percentile(50)


def notes(outcomes: Sequence[Outcome]) -> list[str]:
    """What a reader must know of each subject, and its versions."""
    lines = []
    for subject in dict.fromkeys(outcome.subject for outcome in outcomes):
        held = [outcome for outcome in outcomes if outcome.subject == subject]
        versions = {name: v for o in held for name, v in o.versions.items()}
        named = ", ".join(f"{name} {v}" for name, v in versions.items() if "torch " not in name)
        parts = [part for part in (KINDS[subject].note, named) if part]
        lines.append(f"{subject}: {'; '.join(parts)}")
    return lines


def _collection(outcome: Outcome) -> list[str]:
    row = [outcome.subject, f"{outcome.documents or outcome.wanted:,}"]
    remark = "" if outcome.status == "ok" else f"{outcome.status}: {outcome.detail}"
    stages = [stage for stage in outcome.stages if stage.name != "text"]
    if not outcome.ingest_seconds or outcome.empty is None:
        return [*row, remark]
    rate = outcome.documents / outcome.ingest_seconds
    row += [f"{rate:,.0f}", _seconds(outcome.flush_seconds)]
    row.append(_both(f"{stage.disk / outcome.documents:,.0f}" for stage in stages))
    row.append(_both(_grown(stage, outcome.empty, outcome.documents) for stage in stages))
    row.append(_both(f"{stage.memory.total:,.0f}" for stage in stages))
    row.append(_both(f"{stage.memory.peak:,.0f}" for stage in stages))
    row += [_seconds(outcome.optimize_seconds), _seconds(outcome.reopen_seconds)]
    return [*row, _number(1000 * outcome.first_seconds), remark]


def _grown(stage: Stage, empty: Memory, documents: int) -> str:
    total, anonymous = (
        (getattr(stage.memory, name) - getattr(empty, name)) * _MIB / documents
        for name in ("total", "anonymous")
    )
    return f"{total:,.0f} ({anonymous:,.0f})"


def _growth(growth: Growth) -> list[str]:
    pairs = zip(growth.sizes, growth.values, strict=True)
    measured = ", ".join(f"{size:,}: {_number(value)}" for size, value in pairs)
    return [
        growth.name,
        f"{measured} {growth.unit}",
        "" if math.isnan(growth.exponent) else f"n^{growth.exponent:.2f}",
        f"{_number(1000 * growth.slope)} {growth.unit}" if growth.slope > 0 else "no more",
        _amount(growth.at(FAR), growth.unit),
    ]


def _amount(value: float, unit: str) -> str:
    """A value with its unit, in a larger one where it is many."""
    larger = {"MiB": ("GiB", 1024), "ms": ("s", 1000)}
    if unit in larger and value >= 10 * larger[unit][1]:
        return f"{_number(value / larger[unit][1])} {larger[unit][0]}"
    return f"{_number(value)} {unit}"


def _timings(outcome: Outcome, stage: str) -> dict[str, Timing]:
    return {t.task: t for held in outcome.stages if held.name == stage for t in held.timings}


def _cells(timing: Timing | None) -> list[str]:
    if timing is None:
        return [""] * 4
    recall = "" if timing.recall is None else f"{timing.recall:.3f}"
    times = [_number(timing.percentile(share)) for share in (50, 95)]
    return [*times, recall, str(len(timing.seconds))]


def _both(cells: Iterator[str]) -> str:
    return " / ".join(cells)


def _seconds(value: float) -> str:
    return _number(value) if value >= 1e-4 else ""


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else ""
