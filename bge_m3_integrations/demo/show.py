"""The demo's output: plain sentences and tables, the same with and without a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bge_m3_integrations.core.display import one_line
from bge_m3_integrations.core.records import Hit
from bge_m3_integrations.demo import Quality, checkpoint_path, load_quality
from bge_m3_integrations.encoders.config import DEFAULT_MODEL
from bge_m3_integrations.index.index import HybridIndex

HIT_DEPTH = 3
SHOWN_IDS = 3
TABLE_WIDTH = 100
GRADES = {2: "answer", 1: "related"}
GROUPS = {
    "plain": "a question like its answer",
    "keyword": "a few search terms",
    "cross": "the answer is in the other language",
    "paraphrase": "shares no word with its answer",
}

Found = list[tuple[str, float]]
"""Document ids with their scores, best first."""


@dataclass(frozen=True, slots=True)
class Framework:
    """A framework's retriever and reranker over the demo's index.

    Attributes:
        name: "LangChain" or "LlamaIndex".
        ask: From a query to what the retriever finds, and to what the reranker makes of it.
    """

    name: str
    ask: Callable[[str], tuple[Found, Found]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One query with its judgments.

    Attributes:
        text: The query.
        label: The text shown beside it.
        relevant: Document id to grade, where the query is judged.
    """

    text: str
    label: str = ""
    relevant: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timing:
    """The cost of indexing the documents.

    Attributes:
        documents: How many.
        tokens: Tokens that the model read, special ones included.
        timed: Those of them that `encode` was spent on: the first text came with loading.
        load: Seconds until the model had encoded its first text.
        encode: Seconds to encode and store all documents.
    """

    documents: int
    tokens: int
    timed: int
    load: float
    encode: float


def describe_model(model: str | None) -> str:
    """Describe the model that runs, and its quality as far as that is known.

    Args:
        model: The user's choice; None is the demo checkpoint.

    Returns:
        A few plain sentences.
    """
    if model == DEFAULT_MODEL:
        return f"Model: {DEFAULT_MODEL}, the published weights."
    if model is not None:
        return f"Model: {model}, your own choice; nothing is known here about its quality."
    measured = load_quality(checkpoint_path())
    return (
        "Model: a small demo model trained for this package, with MiniLM as teacher, on XQuAD, "
        "CMRC 2018, Tatoeba, CC-CEDICT, WordNet and translated messages of programs; it is NOT "
        "BAAI/bge-m3.\n"
        f"{quality_sentence(measured)}\n"
        "It shows how things work, not how good they get. "
        f"For real use pass --model {DEFAULT_MODEL}"
    )


def quality_sentence(measured: Sequence[Quality]) -> str:
    """The demo model's nDCG@10 on the demo questions, beside its two yardsticks.

    Args:
        measured: The result of `load_quality`.

    Returns:
        One sentence.
    """
    values = {entry.system: entry.ndcg for entry in measured if entry.collection == "handbook"}
    names = {
        "checkpoint hybrid 0.4/0.2/0.4": "hybrid",
        "checkpoint dense": "dense",
        "checkpoint sparse": "sparse",
        "checkpoint colbert": "colbert",
        "bm25": "BM25 for comparison",
        "random hybrid 0.4/0.2/0.4": "the same model untrained",
    }
    parts = [f"{name} {values[system]:.3f}" for system, name in names.items() if system in values]
    if not parts:
        return "Its quality was not measured: no evaluation.json lies beside it."
    return f"nDCG@10 on the demo questions: {', '.join(parts)}."


def agreement(hits: Sequence[Hit], name: str, retrieved: Found, reranked: Found) -> str:
    """Whether a framework finds what the index finds, in one line.

    Args:
        hits: The index's, best first.
        name: The framework's.
        retrieved: Its retriever's results.
        reranked: Its reranker's order of them.

    Returns:
        The framework's first documents with their scores, and how they compare.
    """
    wanted = [(hit.id, hit.hybrid) for hit in hits]
    first = ", ".join(f"{record_id} {score:.3f}" for record_id, score in retrieved[:SHOWN_IDS])
    rest = ", ..." if len(retrieved) > SHOWN_IDS else ""
    verdicts = compared(wanted, retrieved), compared(wanted, reranked)
    if verdicts[0] == verdicts[1]:
        return f"{name}: {first}{rest}  [retriever and reranker: {verdicts[0]}]"
    return f"{name}: {first}{rest}  [retriever: {verdicts[0]}; reranker: {verdicts[1]}]"


def compared(wanted: Found, found: Found) -> str:
    """Whether two rankings are one: "agrees" with the largest gap of scores, or the difference."""
    for rank, (ours, theirs) in enumerate(zip_longest(wanted, found), start=1):
        if ours is None or theirs is None or ours[0] != theirs[0]:
            left, right = (pair[0] if pair else "nothing" for pair in (ours, theirs))
            return f"DIFFERS at {rank}: {right} instead of {left}"
    gap = max((abs(a[1] - b[1]) for a, b in zip(wanted, found, strict=True)), default=0.0)
    return "agrees, same scores" if gap == 0 else f"agrees, scores within {gap:.0e}"


def show_timing(timing: Timing, out: Console) -> None:
    """Show the cost of indexing, and explain the tables that follow."""
    speed = timing.timed / timing.encode if timing.encode else 0.0
    out.print(
        f"Indexed {timing.documents} documents, {timing.tokens:,} tokens, in {timing.encode:.1f} s "
        f"({speed:,.0f} tokens/s), after {timing.load:.1f} s to load the model.\n"
        'A star marks the best score of each column; "judged" comes with the demo\'s questions.',
        highlight=False,
    )


def show_answer(
    asked: Asked, index: HybridIndex, frameworks: Sequence[Framework], limit: int, out: Console
) -> None:
    """One question: all scores side by side, then what each framework found."""
    hits = index.search(asked.text, limit=limit)
    out.print()
    out.print(Text(asked.text, style="bold"), soft_wrap=True)
    if asked.label:
        out.print(f"  ({asked.label})", style="dim", markup=False, highlight=False)
    out.print(_table(asked, hits), width=min(out.width, TABLE_WIDTH))
    missed = [i for i, grade in asked.relevant.items() if grade == 2 and i not in _ids(hits)]
    if missed:
        out.print(f"  not among these {len(hits)}: {', '.join(missed)} (answer)", highlight=False)
    for framework in frameworks:
        line = agreement(hits, framework.name, *framework.ask(asked.text))
        out.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _table(asked: Asked, hits: Sequence[Hit]) -> Table:
    modes = list(hits[0].components) if hits else []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True, padding=(0, 1, 0, 0))
    table.add_column("#", justify="right", min_width=2)
    table.add_column("document", ratio=1, overflow="ellipsis", no_wrap=True)
    for name in [*modes, "hybrid"]:
        table.add_column(name, justify="right", no_wrap=True, min_width=7)
    if asked.relevant:
        table.add_column("judged", no_wrap=True, min_width=7)
    best = {mode: max(hit.components[mode] for hit in hits) for mode in modes}
    top = max((hit.hybrid for hit in hits), default=0.0)
    for rank, hit in enumerate(hits, start=1):
        scores = [_score(hit.components[mode], best[mode]) for mode in modes]
        judged = [GRADES.get(asked.relevant.get(hit.id, 0), "")] if asked.relevant else []
        title = Text(one_line(str(hit.record.metadata.get("title", hit.id))))
        table.add_row(str(rank), title, *scores, _score(hit.hybrid, top), *judged)
    return table


def _score(value: float, best: float) -> Text:
    """A score; the best of its column has a star, which also shows where there is no color."""
    if value < best or value == 0:
        return Text(f"{value:.3f} ")
    return Text(f"{value:.3f}*", style="bold green")


def _ids(hits: Iterable[Hit]) -> set[str]:
    return {hit.id for hit in hits}


def show_counts(counts: Mapping[str, Mapping[str, tuple[int, int]]], out: Console) -> None:
    """A table of hits by group and ranking; see `run.count_hits`."""
    title = f"Questions with a relevant document among the first {HIT_DEPTH} (hit@{HIT_DEPTH})"
    wide = out.width >= TABLE_WIDTH
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=title,
        title_justify="left",
    )
    table.add_column("group")
    table.add_column("questions", justify="right", no_wrap=True)
    for name in counts["all"]:
        table.add_column(name, justify="right", no_wrap=True)
    for group, row in counts.items():
        total = str(next(iter(row.values()))[1])
        label = f"{group} ({GROUPS[group]})" if wide and group in GROUPS else group
        table.add_row(label, total, *(_percent(*pair, wide=wide) for pair in row.values()))
    out.print()
    out.print(table)


def _percent(hit: int, total: int, *, wide: bool) -> str:
    return f"{hit} ({hit / total:.0%})" if wide else f"{hit / total:.0%}"


def show_end(index: HybridIndex, model: str | None, out: Console) -> None:
    """Show the number of forward passes, and suggest next steps."""
    stats = index.engine.stats
    out.print(
        f"{stats.texts} texts were asked for by search, retrievers and rerankers; "
        f"{stats.forwards} went through the model, the others were remembered.",
        soft_wrap=True,
        highlight=False,
    )
    out.print("\nNext steps", style="bold")
    steps = [
        'your own documents:  bge-m3 demo --docs FOLDER --query "..."',
        "three scores of a pair:  bge-m3 score QUERY DOCUMENT",
        "check your installation:  bge-m3 verify",
        "what the numbers mean:  docs/demo.md in the repository",
    ]
    if model is None:
        steps.insert(
            0, f"the real model (a download of 2.3 GB):  bge-m3 demo --model {DEFAULT_MODEL}"
        )
    for step in steps:
        out.print(f"  {step}", markup=False, highlight=False, soft_wrap=True)
