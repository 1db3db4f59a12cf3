"""Speed as two bar charts in one SVG file, from the JSON that `benchmarks.encode` wrote.

python -m benchmarks.chart encode.json docs/images/speed.svg
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from benchmarks._results import Run
from benchmarks._table import Spread, by_peer, spread

BARS = {
    "flag-b12": "FlagEmbedding, float32",
    "lite-int8-b1": "bge-m3-lite, int8",
    "ours-fp32": "float32",
    "ours-bf16": "bfloat16 (default)",
    "ours-int8": "int8",
}
"""The peers that are drawn, where they were measured, and their labels."""
PANELS = {
    "mixed": ("Encoding, tokens per second", "more is better"),
    "query": ("One short query, milliseconds", "less is better"),
}
_WIDTH, _ROW, _TOP, _LABEL, _PANEL = 960, 34, 62, 168, 470
_BAR = _PANEL - _LABEL - 110
_STYLE = """<style>
text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;fill:#1f2733}
.title{font-size:15px;font-weight:600}.note{font-size:12px;fill:#5a6675}
.ours{fill:#2f6fd0}.peer{fill:#b3bdc9}
@media (prefers-color-scheme:dark){text{fill:#e6ebf2}.note{fill:#9fabba}
.ours{fill:#5b96ee}.peer{fill:#56616e}}
</style>"""


def svg(runs: Sequence[Run]) -> str:
    """Draw one panel per workload, one bar per peer: medians, and how many times FlagEmbedding's.

    Args:
        runs: Of one machine and one call of `benchmarks.encode`.

    Returns:
        The text of an SVG file, for light and dark pages.
    """
    grouped = {name: held for name, held in by_peer(runs).items() if name in BARS}
    names = [name for name in BARS if name in grouped]
    height = _TOP + _ROW * len(names) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" aria-label="{escape(_said(grouped))}">',
        _STYLE,
    ]
    for at, (workload, (title, note)) in enumerate(PANELS.items()):
        x = 10 + at * (_PANEL + 10)
        parts.append(f'<text class="title" x="{x}" y="24">{title}</text>')
        parts.append(f'<text class="note" x="{x}" y="44">{note}</text>')
        values = {name: spread(grouped[name], workload) for name in names}
        parts += _bars(values, x, fewer=workload == "query")
    return "\n".join([*parts, "</svg>\n"])


def _bars(values: dict[str, Spread | None], x: int, *, fewer: bool) -> list[str]:
    drawn = {name: held.median for name, held in values.items() if held is not None}
    greatest, flag = max(drawn.values()), drawn["flag-b12"]
    parts = []
    for row, (name, value) in enumerate(drawn.items()):
        y = _TOP + row * _ROW
        length = max(2, round(_BAR * value / greatest))
        ratio = flag / value if fewer else value / flag
        times = "" if name == "flag-b12" else f" · {ratio:.1f} times as fast"
        kind = "ours" if name.startswith("ours") else "peer"
        parts += [
            f'<text x="{x + _LABEL - 10}" y="{y + 15}" text-anchor="end">{BARS[name]}</text>',
            f'<rect class="{kind}" x="{x + _LABEL}" y="{y}" width="{length}" height="20" rx="3"/>',
            *_value(f"{value:,.0f}{times}", x + _LABEL + length, y),
        ]
    return parts


def _value(text: str, end: int, y: int) -> list[str]:
    number, dot, times = text.partition(" · ")
    bold = f'<tspan font-weight="600">{number}</tspan>{dot and " "}{times.split(" ")[0]}'
    return [f'<text x="{end + 8}" y="{y + 15}">{bold}{"×" if times else ""}</text>']


def _said(grouped: dict[str, list[Run]]) -> str:
    told = []
    for workload, (title, _) in PANELS.items():
        held = {BARS[name]: spread(runs, workload) for name, runs in grouped.items()}
        told.append(f"{title}: " + ", ".join(f"{k} {v.median:.0f}" for k, v in held.items() if v))
    return ". ".join(told)


def main() -> None:
    """Read results, write a picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    held = json.loads(given.results.read_text(encoding="utf-8"))
    given.picture.write_text(svg([Run.of(raw) for raw in held["runs"]]), encoding="utf-8")


if __name__ == "__main__":
    main()
