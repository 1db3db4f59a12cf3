"""Results as markdown tables, and those in a page of the docs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks._quality.gate import Change
from benchmarks._quality.measure import Result
from benchmarks._table import markdown

GATED = "Cranfield"
_MODES = ("dense", "sparse", "colbert", "hybrid")


def tables(results: Sequence[Result]) -> str:
    """Vectors, scores and quality, each as a table under its heading."""
    judged = [held for held in results if held.quality]
    parts = [
        ("Vectors", _vector_rows(results)),
        ("Scores", _score_rows(results)),
        ("nDCG@10", _quality_rows(judged)),
    ]
    return "\n\n".join(f"### {title}\n\n{markdown(rows)}" for title, rows in parts)


def name_of(held: Result) -> str:
    """The dtype, and what the process was kept to."""
    return held.dtype if held.isa == "full" else f"{held.dtype}, {held.isa.upper()} only"


def _vector_rows(results: Sequence[Result]) -> list[list[str]]:
    header = ["texts", "dtype", "dense cosine, least (mean)", "centred", "colbert cosine"]
    rows = [[*header, "lexical weight, greatest difference", "texts with other tokens"]]
    for held in results:
        v = held.vectors
        pairs = [
            (v.dense_min, v.dense_mean),
            (v.centred_min, v.centred_mean),
            (v.colbert_min, v.colbert_mean),
        ]
        cosines = [f"{low:.5f} ({mean:.6f})" for low, mean in pairs]
        last = [f"{v.sparse_max:.1e}", f"{v.token_sets:.1%}"]
        rows.append([held.texts, name_of(held), *cosines, *last])
    return rows


def _score_rows(results: Sequence[Result]) -> list[list[str]]:
    return _by_mode(results, _score)


def _score(held: Result, mode: str) -> str:
    s = held.scores[mode]
    return f"{s.greatest:.1e} ({s.mean:.1e}) of {s.spread:.1e}"


def _quality_rows(results: Sequence[Result]) -> list[list[str]]:
    def cell(held: Result, mode: str) -> str:
        return _change(held.quality[mode], gated=held.texts == GATED)

    return _by_mode(results, cell)


def _change(found: Change, *, gated: bool) -> str:
    means = f"{found.reference:.4f} → {found.value:.4f}"
    interval = f"{found.relative:+.2%} [{found.low:+.2%}, {found.high:+.2%}]"
    verdict = f" **{'passes' if found.passes else 'fails'}**" if gated else ""
    return f"{means}: {interval}{verdict}"


def _by_mode(results: Sequence[Result], cell: Callable[[Result, str], str]) -> list[list[str]]:
    header = ["texts", "dtype", *_MODES]
    rows = [[held.texts, name_of(held), *(cell(held, m) for m in _MODES)] for held in results]
    return [header, *rows]
