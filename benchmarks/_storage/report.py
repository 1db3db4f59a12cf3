"""Rows as a markdown table, and the default that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from benchmarks._quality.errors import ScoreErrors
from benchmarks._quality.gate import Change
from benchmarks._storage.kinds import REFERENCE
from benchmarks._storage.measure import DRAWN, JUDGED, Row
from benchmarks._table import markdown

ALLOWED_ERROR = 3e-4
"""Of a score, which is a mean over the query's tokens: so per query token."""
_HEADER = (
    "kind",
    "B/token on disk",
    "B/token in memory",
    "score error, Cranfield: mean (max)",
    "score error, full size: mean (max)",
    "nDCG@10, ColBERT alone",
    "nDCG@10, hybrid",
    "100 candidates, p50 ms",
)


def cheapest(
    rows: Sequence[Row],
    error: Literal["mean", "greatest"],
    *,
    texts: Sequence[str] = (JUDGED, DRAWN),
) -> Row:
    """The cheapest kind on disk whose score is at most `ALLOWED_ERROR` off.

    Args:
        rows: Of which those that keep all vectors in a store may be chosen.
        error: Which of a text's errors is held against it: of all pairs, or of the worst one.
        texts: On which texts; the default goes by the width of their vectors.

    Returns:
        The row.

    Raises:
        ValueError: None is near enough.
    """
    near = [
        row
        for row in rows
        if row.kind.is_choice
        and all(
            getattr(held, error) <= ALLOWED_ERROR
            for text, held in row.errors.items()
            if text in texts
        )
    ]
    return min(near, key=lambda row: row.cost.disk)


def table(rows: Sequence[Row]) -> str:
    """A row per kind."""
    return markdown([list(_HEADER), *(_cells(row) for row in rows)])


def _cells(row: Row) -> list[str]:
    cost = row.cost
    return [
        row.kind.name,
        f"{cost.disk:,.0f}",
        "-" if cost.files is None else f"{cost.files:,.0f}",
        _error(row.errors.get(JUDGED)),
        _error(row.errors.get(DRAWN)),
        _change(row.quality.get("colbert")),
        _change(row.quality.get("hybrid")),
        "-" if cost.p50 is None else f"{cost.p50:.1f}",
    ]


def _error(found: ScoreErrors | None) -> str:
    return "-" if found is None else f"{found.mean:.1e} ({found.greatest:.1e})"


def _change(found: Change | None) -> str:
    if found is None:
        return f"as {REFERENCE}"
    interval = f"{found.relative:+.2%} [{found.low:+.2%}, {found.high:+.2%}]"
    return f"{found.value:.4f}: {interval} **{'passes' if found.passes else 'fails'}**"
