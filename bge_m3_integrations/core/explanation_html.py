"""Explanations as HTML: highlights, alignments, and a map of cosines."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bge_m3_integrations.core.words import Word

if TYPE_CHECKING:
    from bge_m3_integrations.core.explanation import Explanation

_MOST_CELLS = 2_400
"""A larger map would say nothing to an eye."""
_PAGE = """
:root { color-scheme: light dark; } body { margin: 2rem auto; max-width: 60rem; padding: 0 1.2rem; }
@media (prefers-color-scheme: dark) { body { background: #12161d; } }
"""
_STYLE = """
.m3 { --ink: #1c2330; --soft: #5b6576; --line: #dfe4ec; --card: #f6f8fb; --word: 47, 111, 222;
  --near: 214, 122, 18; color: var(--ink); font: 15px/1.6 system-ui, "Segoe UI", "Noto Sans",
  "Noto Sans CJK SC", sans-serif; max-width: 60rem; }
@media (prefers-color-scheme: dark) { .m3 { --ink: #e6eaf2; --soft: #98a2b5; --line: #2c3442;
  --card: #1a202a; --word: 110, 160, 255; --near: 240, 170, 80; } }
.m3 h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; } .m3 .soft { color: var(--soft); }
.m3 .text { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; margin: .3rem 0;
  overflow-wrap: anywhere; white-space: pre-wrap; }
.m3 mark { color: inherit; border-radius: .25rem; padding: .05em .1em; }
.m3 .bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: .25rem .8rem;
  align-items: center; grid-auto-flow: row dense; font-variant-numeric: tabular-nums; }
.m3 .bars .value { grid-column: 3; } .m3 .bars .track { grid-column: 2; }
.m3 .track span { display: block; height: .8rem; border-radius: .2rem; min-width: 1px;
  background: rgb(var(--word)); }
.m3 table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92em; }
.m3 th, .m3 td { text-align: left; padding: .2rem .9rem .2rem 0;
  border-bottom: 1px solid var(--line); }
.m3 .scroll { overflow-x: auto; } .m3 .map td { padding: 0; border: 0; width: 1.5rem;
  min-width: 1.5rem; height: 1.5rem; } .m3 .map th { border: 0; font-weight: 400;
  padding: 0 .4rem 0 0; white-space: nowrap; text-align: right; }
.m3 .map thead th { height: 7rem; vertical-align: bottom; padding: 0; } .m3 .map thead span {
  display: inline-block; writing-mode: vertical-rl; }
@media (max-width: 40rem) { .m3 .bars { grid-template-columns: 1fr max-content; }
  .m3 .bars .value { grid-column: 2; } .m3 .bars .track { grid-column: 1 / -1;
  margin-bottom: .4rem; } }
"""


def whole_page(made: Explanation) -> str:
    """A whole HTML file."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Why this score</title><style>{_PAGE}</style></head><body>{fragment(made)}</body>"
        "</html>\n"
    )


def fragment(made: Explanation) -> str:
    """The explanation as a part of a page, with its own style and no script."""
    parts = [
        f'<style>{_STYLE}</style><div class="m3">',
        f"<h3>Score {made.score:.4f} <span class='soft'>{_escaped(made.fusion)}, weights "
        f"{_escaped(made.weighting or 'given')}</span></h3>",
        _bars(made),
        _texts(made),
        _matches(made),
        _alignments(made),
        _map(made),
        _without(made),
    ]
    return "".join([*parts, "</div>"])


def _bars(made: Explanation) -> str:
    names = {"dense": "whole meaning (dense)", "sparse": "same words (lexical)"}
    names |= {"colbert": "close words (ColBERT)"}
    top = max([abs(value) for value in made.parts.values()] or [1.0]) or 1.0
    rows = []
    for mode, part in made.parts.items():
        value = made.lexical_value if mode == "sparse" else made.scores[mode]
        width, adds = max(0.0, part) / top * 100, f"<span class='soft'>adds {part:.4f}</span>"
        rows.append(
            f"<span>{names[mode]}</span><span class='value'>{value or 0.0:.4f} {adds}</span>"
            f'<span class="track"><span style="width:{width:.1f}%"></span></span>'
        )
    return f'<div class="bars">{"".join(rows)}</div>'


def _texts(made: Explanation) -> str:
    """Both texts with what matched: colour says how much a word adds."""
    asked: dict[Word, float] = {}
    held: dict[Word, float] = {}
    for match in made.lexical:
        asked[match.query] = asked.get(match.query, 0.0) + match.value
        for word in match.document:
            held[word] = held.get(word, 0.0) + match.value
    near: dict[Word, float] = {}
    for one in made.alignments:
        for word in one.document:
            near[word] = max(near.get(word, 0.0), one.cosine)
    out = []
    for name, text, exact in (("Query", made.query, asked), ("Document", made.document, held)):
        close = {} if name == "Query" else near
        note = f" <span class='soft'>{text.truncated} tokens were cut off</span>" * bool(
            text.truncated
        )
        out.append(
            f"<h3>{name}{note}</h3>"
            f'<div class="text">{_highlighted(text.text, text.words, exact, close)}</div>'
        )
    out.append(
        "<div class='soft'>Filled: the same word is in both. Underlined: the closest word to "
        "one of the query.</div>"
    )
    return "".join(out)


def _highlighted(
    text: str, words: Sequence[Word], exact: Mapping[Word, float], near: Mapping[Word, float]
) -> str:
    top = max(exact.values(), default=0.0) or 1.0
    out, at = [], 0
    for word in words:
        if word.start < at or (word not in exact and word not in near):
            continue
        out.append(_escaped(text[at : word.start]))
        style = []
        if word in exact:
            style.append(f"background:rgba(var(--word),{0.15 + 0.55 * exact[word] / top:.2f})")
        else:
            style.append("background:none")
        if near.get(word, 0.0) > 0.3:
            style.append(f"border-bottom:2px solid rgba(var(--near),{near[word]:.2f})")
        title = f"{exact.get(word, 0.0):.4f} lexical, cosine {near.get(word, 0.0):.3f}"
        shown = _escaped(text[word.start : word.end])
        out.append(f'<mark style="{";".join(style)}" title="{title}">{shown}</mark>')
        at = word.end
    return "".join([*out, _escaped(text[at:])])


def _matches(made: Explanation) -> str:
    if "sparse" not in made.scores:
        return ""
    if not made.lexical:
        return f"<h3>Same words</h3><p>{made.lexical_note.capitalize()}.</p>"
    rows = "".join(
        f"<tr><td>{_escaped(m.query.text)}</td><td>{_names(m.document)}</td>"
        f"<td>{_sum(m.query_weights)}</td><td>{_sum(m.document_weights)}</td>"
        f"<td>{m.value:.4f}</td></tr>"
        for m in made.lexical
    )
    head = "<th>query</th><th>document</th><th>weight</th><th>weight</th><th>product</th>"
    return f"<h3>Same words</h3>{_table(head, rows)}"


def _alignments(made: Explanation) -> str:
    if not made.alignments:
        return ""
    rows = "".join(
        f"<tr><td>{_escaped(a.query.text)}</td><td>{_names(a.document)}</td>"
        f"<td>{a.cosine:.3f}</td><td>{a.value:.4f}</td></tr>"
        for a in made.alignments
    )
    head = "<th>query</th><th>closest in the document</th><th>cosine</th><th>adds to ColBERT</th>"
    return f"<h3>Close words</h3>{_table(head, rows)}"


def _table(head: str, rows: str) -> str:
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def _map(made: Explanation) -> str:
    table = made.similarity
    if table is None or not 0 < table.size <= _MOST_CELLS:
        return ""
    head = "".join(f"<th><span>{_escaped(w.text)}</span></th>" for w in made.document.words)
    rows = []
    for word, values in zip(made.query.words, np.nan_to_num(table).tolist(), strict=True):
        cells = "".join(
            f'<td style="background:rgba(var(--near),{max(0.0, value) ** 2:.2f})" '
            f'title="{_escaped(word.text)} / {_escaped(other.text)}: {value:.3f}"></td>'
            for other, value in zip(made.document.words, values, strict=True)
        )
        rows.append(f"<tr><th>{_escaped(word.text)}</th>{cells}</tr>")
    return (
        "<h3>All cosines</h3><div class='scroll'><table class='map'><thead><tr><th></th>"
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _without(made: Explanation) -> str:
    if not made.without:
        return ""
    rows = "".join(
        f"<tr><td>{_escaped(w.word.text)}</td><td>{w.change:+.4f}</td></tr>" for w in made.without
    )
    return (
        "<h3>The dense score without a word</h3><p class='soft'>A dense vector has no parts: these "
        f"changes do not sum to the score.</p><table>{rows}</table>"
    )


def _names(words: Sequence[Word]) -> str:
    return ", ".join(_escaped(text) for text in dict.fromkeys(word.text for word in words))


def _sum(values: Sequence[float]) -> str:
    return " + ".join(f"{value:.3f}" for value in values)


def _escaped(text: str) -> str:
    return html.escape(text)
