"""The reliability diagram of a calibration, as HTML without scripts or links."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bge_m3_integrations._internal.keywords import public_function
from bge_m3_integrations.core.calibration import Calibration
from bge_m3_integrations.core.calibration_parts import Relevance
from bge_m3_integrations.core.thresholds import BANDS
from bge_m3_integrations.evaluation.files import write_file
from bge_m3_integrations.evaluation.page import escaped, page, table

_SIDE: Final = 300
_LEFT: Final = 60
_TOP: Final = 12
_DOT: Final = 12
"""Radius of the dot of the fullest bin."""


@public_function
def save_calibration_report(calibration: Calibration, path: str | Path) -> None:
    """Write one HTML file on a calibration: figures, reliability diagram, names of the scale.

    Args:
        calibration: Of `calibrate`.
        path: The file.
    """
    name = f"Calibration of {calibration.measured.collection}"
    body = f"<h1>{escaped(name)}</h1>{reliability(calibration)}"
    write_file(path, page(name, body))


def reliability(calibration: Calibration) -> str:
    """Show how far probabilities hold, on queries that the calibration was not learned from.

    Args:
        calibration: Of `calibrate`.

    Returns:
        A part of a page: sentences, the diagram (a dot for each bin, its area by the number of
        hits; on the diagonal the probability is right), its table and the names of the scale.
        Without judgements there are the sentences alone.
    """
    said = "".join(f"<p>{escaped(line)}</p>" for line in calibration.lines())
    held = calibration.relevance
    if held is None:
        return said
    bins = [
        [f"{i / 10:.1f} to {(i + 1) / 10:.1f}", f"{mean:.3f}", f"{share:.3f}", f"{number:.0f}"]
        for i, (mean, share, number) in enumerate(held.bins.tolist())
        if number
    ]
    names = [[band.name, f"from {band.least:g}", band.meaning] for band in BANDS]
    return (
        f"{said}{_diagram(held)}{table(['said', 'mean probability', 'relevant', 'hits'], bins)}"
        f"{table(['name', 'probability', 'meaning'], names)}"
    )


def _diagram(held: Relevance) -> str:
    right, bottom = _LEFT + _SIDE, _TOP + _SIDE
    most = max(held.bins[:, 2].max(), 1)
    dots = "".join(
        f'<circle class="bar chosen" cx="{_LEFT + _SIDE * mean:.1f}" '
        f'cy="{bottom - _SIDE * share:.1f}" r="{max(_DOT * (number / most) ** 0.5, 2):.1f}">'
        f"<title>said {mean:.2f}, was {share:.2f}, {number:.0f} hits</title></circle>"
        for mean, share, number in held.bins.tolist()
        if number
    )
    ticks = "".join(
        f'<text class="axis" x="{_LEFT + _SIDE * at:.0f}" y="{bottom + 16}" '
        f'text-anchor="middle">{at:g}</text><text class="axis" x="{_LEFT - 6}" '
        f'y="{bottom - _SIDE * at + 4:.0f}" text-anchor="end">{at:g}</text>'
        for at in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<svg viewBox="0 0 {right + 20} {bottom + 40}" role="img" style="max-width: 28rem" '
        f'aria-label="Reliability diagram"><rect class="grid" fill="none" x="{_LEFT}" y="{_TOP}" '
        f'width="{_SIDE}" height="{_SIDE}"/><line class="whisker" stroke-dasharray="4" '
        f'x1="{_LEFT}" y1="{bottom}" x2="{right}" y2="{_TOP}"/>{dots}{ticks}'
        f'<text x="{_LEFT + _SIDE // 2}" y="{bottom + 34}" text-anchor="middle">probability</text>'
        f'<text transform="translate(16 {_TOP + _SIDE // 2}) rotate(-90)" text-anchor="middle">'
        "share that is relevant</text></svg>"
    )
