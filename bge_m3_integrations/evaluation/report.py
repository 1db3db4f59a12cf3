"""The evaluation as one HTML file: plots, the table, and queries won and lost with their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bge_m3_integrations.evaluation.comparison import Comparison, compare
from bge_m3_integrations.evaluation.page import bars, escaped, facts, page, table
from bge_m3_integrations.evaluation.runs import Run

_LENGTH = 220
_QUERY = 400
_SHOWN = 8
_DOCUMENTS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Contrast:
    """Two runs that a report sets against each other.

    Attributes:
        base: The one by default weights, or the first.
        other: The best of the others.
        metric: What decides.
        wins: Ids of the queries that the other wins, largest difference first.
        losses: Ids of the queries that it loses, largest difference first.
    """

    base: Run
    other: Run
    metric: str
    wins: Sequence[str]
    losses: Sequence[str]

    @property
    def comparison(self) -> Comparison:
        """The paired test of the two."""
        return compare(self.base, self.other, metric=self.metric)


def contrasts(runs: Sequence[Run], metric: str, *, base: str = "default") -> Contrast | None:
    """Choose the two runs to set against each other, and the queries that differ most.

    Args:
        runs: At least one.
        metric: What decides.
        base: The name of the run in use, if it is among them.

    Returns:
        The contrast; None where there is one run.
    """
    if len(runs) < 2:
        return None
    first = next((run for run in runs if run.name == base), runs[0])
    others = [run for run in runs if run is not first]
    other = max(others, key=lambda run: run.measure(metric).mean)
    left, right = first.values(metric), other.values(metric)
    change = {query: right[query] - left[query] for query in left}
    wins = sorted((q for q in change if change[q] > 0), key=lambda q: -change[q])
    losses = sorted((q for q in change if change[q] < 0), key=change.__getitem__)
    return Contrast(first, other, metric, wins[:_SHOWN], losses[:_SHOWN])


def report(
    name: str,
    about: Mapping[str, str],
    runs: Sequence[Run],
    metrics: Sequence[str],
    *,
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    more: Sequence[str] = (),
) -> str:
    """Write the whole file.

    Args:
        name: Of the dataset.
        about: Facts for people.
        runs: What was measured.
        metrics: The first decides.
        queries: Texts by id.
        documents: Texts of the documents that are shown, by id.
        more: HTML that stands below.

    Returns:
        HTML without scripts; nothing is loaded from elsewhere.
    """
    rows = [(run.name, [run.measure(metric) for metric in metrics]) for run in runs]
    best = max(rows, key=lambda row: row[1][0].mean)[0]
    found = contrasts(runs, metrics[0])
    cells = [
        [run, str(first), *(f"{one.mean:.3f}" for one in others)] for run, (first, *others) in rows
    ]
    picture = bars(
        [(run, first.mean, first.low, first.high) for run, (first, *_) in rows],
        chosen=[best] if found is None else [found.base.name, best],
        label=f"{metrics[0]} of each mode, fusion and weighting",
    )
    parts = [
        f"<h1>Search quality on {escaped(name)}</h1>",
        facts(about.items()),
        "" if found is None else _verdict(found.comparison, len(runs) - 1),
        f"<h2>{escaped(metrics[0])}, with 95 % intervals</h2>",
        picture,
        "<h2>All metrics</h2>",
        table(["", *metrics], cells, chosen=[row[0] for row in cells].index(best)),
        '<p class="soft">Means over all queries that have a relevant document, with 95 % '
        "intervals over queries. Where two overlap, only the paired comparison tells.</p>",
    ]
    if found is not None:
        parts += _queries(found, queries, documents)
    return page(f"Search quality on {name}", "\n".join([*parts, *more]))


def _queries(
    found: Contrast, queries: Mapping[str, str], documents: Mapping[str, str]
) -> list[str]:
    one, two = escaped(found.base.name), escaped(found.other.name)
    parts = []
    for head, held in (
        (f"Queries that {two} wins over {one}", found.wins),
        (f"Queries that {two} loses to {one}", found.losses),
    ):
        if held:
            parts.append(f"<h2>{head}</h2>")
            parts += [_query(found, query, queries, documents) for query in held]
    return parts


def _verdict(comparison: Comparison, others: int) -> str:
    equal = comparison.queries - comparison.wins - comparison.losses
    luck = (
        f" It is the best of {others} on these very queries, so its lead is too good by some luck: "
        "see it on others before you choose it."
        if others > 1 and comparison.difference.mean > 0
        else ""
    )
    return (
        f'<div class="verdict"><p>{escaped(comparison)}.</p><p class="soft">'
        f"Queries on which {escaped(comparison.b)} is better: {comparison.wins}, worse: "
        f"{comparison.losses}, equal: {equal}.{luck}</p></div>"
    )


def _query(
    found: Contrast, query: str, queries: Mapping[str, str], documents: Mapping[str, str]
) -> str:
    left, right = (run.values(found.metric)[query] for run in (found.base, found.other))
    change = right - left
    return (
        f'<details><summary><span dir="auto">{escaped(_cut(queries[query], _QUERY))}</span>'
        f'<span class="delta {"good" if change > 0 else "bad"}">{change:+.3f}</span></summary>'
        f'<div class="pair">{_ranking(found.base, found.metric, query, documents)}'
        f"{_ranking(found.other, found.metric, query, documents)}</div></details>"
    )


def _ranking(run: Run, metric: str, query: str, documents: Mapping[str, str]) -> str:
    items = []
    for document in run.rankings.get(query, ())[:_DOCUMENTS]:
        text = documents.get(document, "")
        grade = run.qrels[query].get(document, 0)
        mark = f'<span class="grade">✓ grade {grade}</span> ' if grade > 0 else ""
        short = escaped(_cut(text, _LENGTH))
        items.append(
            f'<li>{mark}<small>{escaped(document)}</small> <span dir="auto">{short}</span></li>'
        )
    value = run.values(metric)[query]
    head = f"{escaped(run.name)} <small>{escaped(metric)} {value:.3f}</small>"
    return f"<div><h3>{head}</h3><ol>{''.join(items) or '<li>nothing found</li>'}</ol></div>"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
