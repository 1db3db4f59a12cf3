"""The result of tuning as one HTML file: the verdict, and how good every weighting is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core.embeddings import MODES
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.evaluation.comparison import Comparison
from bge_m3_integrations.evaluation.page import escaped, page, table

Matrix = NDArray[np.float64]
_CORNERS = ((390.0, 30.0), (60.0, 600.0), (720.0, 600.0))
"""Dense above, lexical left, ColBERT right."""
_LABELS = ("dense", "lexical", "ColBERT")


def tuning_report(
    verdict: Sequence[str],
    metric: str,
    *,
    points: Matrix,
    surface: Matrix,
    marks: Mapping[str, Weights],
    folds: Sequence[Weights],
    comparisons: Sequence[Comparison],
    title: str,
) -> str:
    """Write the whole file.

    Args:
        verdict: Lines of text; the last one says what to do.
        metric: What was tuned.
        points: `(w, 3)` weights of sum 1.
        surface: `(w,)`, the metric of each.
        marks: Weights to name in the map.
        folds: The weights of each fold.
        comparisons: Of cross-validated values.
        title: Of the page.

    Returns:
        HTML without scripts.
    """
    rows = [
        [c.a, c.b, f"{c.mean_a:.3f}", f"{c.mean_b:.3f}", f"{c.difference.mean:+.3f}",
         f"{c.difference.low:+.3f} to {c.difference.high:+.3f}", f"{c.p_value:.4f}"]
        for c in comparisons
    ]  # fmt: skip
    weights = [[f"fold {i + 1}", *_numbers(held)] for i, held in enumerate(folds)]
    weights += [[name, *_numbers(held)] for name, held in marks.items()]
    said = "".join(f"<p>{escaped(line.strip())}</p>" for line in verdict)
    parts = [
        f"<h1>{escaped(title)}</h1>",
        f'<div class="verdict">{said}</div>',
        f"<h2>{escaped(metric)} of every weighting</h2>",
        '<p class="soft">Each dot is a weighting; darker is better. Corners are one mode alone. '
        "The means are of the queries that the weights were chosen on, so the darkest dot is too "
        "good; the table below is not.</p>",
        simplex_map(points, surface, marks),
        "<h2>On queries that the weights were not chosen on</h2>",
        table(["in use", "tuned", "in use", "tuned", "gain", "95 % interval", "p"], rows),
        "<h2>The weights</h2>",
        table(["", *_LABELS], weights),
    ]
    return page(title, "\n".join(parts))


def simplex_map(points: Matrix, surface: Matrix, marks: Mapping[str, Weights]) -> str:
    """A triangle of weightings, coloured by a value, as SVG.

    Args:
        points: `(w, 3)` weights of sum 1.
        surface: `(w,)`.
        marks: Weights to name.

    Returns:
        The picture; every dot says its weights and its value.
    """
    low, high = float(surface.min()), float(surface.max())
    spread = max(high - low, 1e-9)
    triangle = " ".join(f"{x:.0f},{y:.0f}" for x, y in _CORNERS)
    parts = [
        '<svg viewBox="0 0 780 660" role="img" aria-label="value of each weighting">'
        f'<polygon points="{triangle}" fill="none" class="grid"/>'
    ]
    for row, value in zip(points, surface.tolist(), strict=True):
        x, y = _place(row)
        share = (value - low) / spread
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{8 + 4 * share:.1f}" class="dot" '
            f'fill-opacity="{0.06 + 0.94 * share**2:.3f}"><title>{_said(row)}: {value:.4f}</title>'
            "</circle>"
        )
    anchors = (("middle", 390, 20), ("start", 20, 632), ("end", 760, 632))
    for label, (anchor, x, y) in zip(_LABELS, anchors, strict=True):
        parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{label} alone</text>')
    for name, weights in marks.items():
        row = np.array([weights.of(mode) for mode in MODES])
        x, y = _place(row / row.sum())
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" class="mark"/>'
            f'<text class="named" x="{x + 12:.1f}" y="{y + 5:.1f}">{escaped(name)}</text>'
        )
    legend = f"lightest {low:.3f}, darkest {high:.3f}"
    return (
        "".join(parts)
        + f'<text class="axis" x="390" y="652" text-anchor="middle">{legend}</text></svg>'
    )


def _place(row: Matrix) -> tuple[float, float]:
    corners = np.array(_CORNERS)
    x, y = (row @ corners).tolist()
    return x, y


def _said(row: Matrix) -> str:
    return ", ".join(f"{n} {v:.2f}" for n, v in zip(_LABELS, row.tolist(), strict=True))


def _numbers(weights: Weights) -> list[str]:
    total = sum(weights.of(mode) for mode in MODES)
    return [f"{weights.of(mode) / total:.3f}" for mode in MODES]
