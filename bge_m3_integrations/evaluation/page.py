"""The frame of the HTML reports: one file, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6576; --line: #dfe4ec; --back: #fff;
  --card: #f6f8fb; --main: #2f6fde; --other: #9db4d6; --good: #1a7f4b; --bad: #b3362b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf2; --soft: #98a2b5; --line: #2c3442;
  --back: #12161d; --card: #1a202a; --main: #6ea0ff; --other: #47597a; --good: #5cc98f;
  --bad: #f0857a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .7rem; }
p { margin: .5rem 0; max-width: 46rem; }
.soft, small { color: var(--soft); }
.facts { display: flex; flex-wrap: wrap; gap: .35rem 1.4rem; color: var(--soft);
  font-size: .92rem; padding: 0; margin: 0; list-style: none; }
.facts b { color: var(--ink); font-weight: 600; overflow-wrap: anywhere; }
.verdict { border-left: 4px solid var(--main); background: var(--card); padding: .8rem 1rem;
  margin: 1.4rem 0; border-radius: 0 .4rem .4rem 0; }
.verdict p { max-width: none; }
.scroll { overflow-x: auto; }
.narrow { display: none; }
@media (max-width: 40rem) { .wide { display: none; } .narrow { display: block; } }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem;
  width: 100%; }
th, td { text-align: right; padding: .38rem .6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9.2rem;
  overflow-wrap: anywhere; }
thead th { color: var(--soft); font-weight: 600; }
tr.chosen td { font-weight: 650; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font-size: 13px; font-variant-numeric: tabular-nums; }
svg .axis { fill: var(--soft); font-size: 11px; }
svg .grid { stroke: var(--line); }
svg .bar { fill: var(--other); }
svg .bar.chosen { fill: var(--main); }
svg .dot { fill: var(--main); }
svg .mark { fill: var(--back); stroke: var(--ink); stroke-width: 2.5; }
svg .named { font-weight: 650; paint-order: stroke; stroke: var(--back); stroke-width: 4px; }
svg .whisker { stroke: var(--ink); stroke-width: 1.4; }
details { border: 1px solid var(--line); border-radius: .5rem; padding: .55rem .9rem;
  margin: .5rem 0; background: var(--card); }
summary { cursor: pointer; display: flex; gap: .8rem; justify-content: space-between; }
summary span:first-child { overflow-wrap: anywhere; }
.delta { font-variant-numeric: tabular-nums; white-space: nowrap; font-weight: 650; }
.good { color: var(--good); } .bad { color: var(--bad); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1.2rem; margin-top: .7rem; }
@media (max-width: 44rem) { .pair { grid-template-columns: 1fr; } }
.pair h3 { font-size: .9rem; margin: 0 0 .3rem; }
ol { margin: 0; padding-left: 1.3rem; font-size: .9rem; }
li { margin: .25rem 0; overflow-wrap: anywhere; }
.grade { color: var(--good); font-weight: 650; }
"""


def page(title: str, body: str) -> str:
    """A whole HTML file around a body that is HTML already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def escaped(text: object) -> str:
    """Any text as HTML."""
    return html.escape(str(text))


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A line of names with their values."""
    items = "".join(f"<li>{escaped(n)} <b>{escaped(v)}</b></li>" for n, v in pairs)
    return f'<ul class="facts">{items}</ul>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, chosen: int | None = None) -> str:
    """A table; the first column is a name, the others numbers.

    Args:
        head: Of the columns.
        rows: Cells as text.
        chosen: The row to stress.

    Returns:
        HTML.
    """
    top = "".join(f"<th>{escaped(name)}</th>" for name in head)
    lines = [
        ('<tr class="chosen">' if i == chosen else "<tr>")
        + "".join(f"<td>{escaped(cell)}</td>" for cell in row)
        + "</tr>"
        for i, row in enumerate(rows)
    ]
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def bars(
    rows: Sequence[tuple[str, float, float, float]], *, chosen: Sequence[str], label: str
) -> str:
    """Horizontal bars with intervals, as SVG; narrow screens get one with the names above.

    Args:
        rows: Name, value, lower and upper end, none below 0.
        chosen: Names of the bars to stress.
        label: What the values are, for people who do not see.

    Returns:
        The picture.
    """
    wide = _bars(rows, chosen, label, _Layout(760, 190, 620, 30, 6, (180, 16, "end", 24)))
    narrow = _bars(rows, chosen, label, _Layout(380, 4, 222, 46, 22, (4, -4, "start", 44)))
    return f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'


@dataclass(frozen=True, slots=True)
class _Layout:
    """The places of a picture's parts, in its units.

    Attributes:
        width: Of the whole.
        left: Start of the bars.
        right: End of the bars.
        row: Height of a row.
        top: Height above the first bar.
        name: Place of a bar's name, x and y from its top, its anchor, and its greatest length.
    """

    width: int
    left: int
    right: int
    row: int
    top: int
    name: tuple[int, int, str, int]


def _bars(
    rows: Sequence[tuple[str, float, float, float]],
    chosen: Sequence[str],
    label: str,
    layout: _Layout,
) -> str:
    left, right, height = layout.left, layout.right, layout.row * len(rows) + 34
    top = max(row[3] for row in rows) or 1.0
    step = _step(top)
    end = step * math.ceil(top / step)

    def x(value: float) -> float:
        return left + (right - left) * value / end

    parts = [
        f'<svg viewBox="0 0 {layout.width} {height}" role="img" aria-label="{escaped(label)}">'
    ]
    for tick in range(round(end / step) + 1):
        at = x(tick * step)
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{height - 26}"/>'
            f'<text class="axis" x="{at:.1f}" y="{height - 9}" text-anchor="middle">'
            f"{tick * step:g}</text>"
        )
    at, below, anchor, length = layout.name
    for i, (name, value, low, upper) in enumerate(rows):
        y, kind = layout.top + i * layout.row, "bar chosen" if name in chosen else "bar"
        parts.append(
            f"<g><title>{escaped(name)}: {value:.4f}, 95 % interval {low:.4f} to {upper:.4f}"
            f'</title><text x="{at}" y="{y + below}" text-anchor="{anchor}">'
            f"{escaped(_cut(name, length))}</text>"
            f'<rect class="{kind}" x="{left}" y="{y + 3}" width="{max(0.0, x(value) - left):.1f}" '
            f'height="18" rx="2"/><path class="whisker" fill="none" d="M{x(low):.1f} {y + 12}'
            f'H{x(upper):.1f}M{x(low):.1f} {y + 8}v8M{x(upper):.1f} {y + 8}v8"/>'
            f'<text x="{right + 14}" y="{y + 16}">{value:.3f} '
            f'<tspan class="axis">{low:.3f} to {upper:.3f}</tspan></text></g>'
        )
    return "".join([*parts, "</svg>"])


def _cut(text: str, width: int) -> str:
    """A text that is no wider than so many Latin letters; Chinese ones count twice."""
    used = 0
    for i, letter in enumerate(text):
        used += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if used > width:
            return f"{text[:i]}…"
    return text


def _step(top: float) -> float:
    """A round distance of ticks, so that there are four to eight."""
    size = 10.0 ** math.floor(math.log10(top / 4))
    return next(size * m for m in (1.0, 2.0, 2.5, 5.0, 10.0) if top / (size * m) <= 6)
