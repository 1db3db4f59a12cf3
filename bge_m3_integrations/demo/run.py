"""The demo: index some documents, ask them questions, show what each mode and framework finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations.core.embeddings import MODES, EmbeddingBatch
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.demo import Question, checkpoint_path, load_corpus, load_questions
from bge_m3_integrations.demo.show import (
    GROUPS,
    HIT_DEPTH,
    Asked,
    Found,
    Framework,
    Timing,
    describe_model,
    show_answer,
    show_counts,
    show_end,
    show_timing,
)
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError, MissingExtraError
from bge_m3_integrations.index.index import HybridIndex

BATCH = 16


def run_demo(
    *,
    out: Console,
    err: Console,
    records: Sequence[Record] | None = None,
    model: str | None = None,
    queries: Iterable[str] = (),
    limit: int = 5,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Run the demo and show it.

    Args:
        out: Where results go.
        err: Where progress and notes go.
        records: The user's own documents; None takes the handbook.
        model: A folder or a hub id; None takes the demo checkpoint.
        queries: The queries to ask, read one at a time; none are the demo's own questions.
        limit: Documents shown per query.
        device: See `BGEM3`.
        dtype: See `BGEM3`.

    Raises:
        InputError: `limit` is below 1.
    """
    if limit < 1:
        raise InputError(f"--limit must be at least 1, not {limit}")
    chosen = str(checkpoint_path()) if model is None else model
    engine = BGEM3(chosen, device=device, dtype=dtype)
    out.print(describe_model(model), soft_wrap=True, markup=False, highlight=False)
    with HybridIndex(engine) as index:
        frameworks = find_frameworks(index, limit, note=err.print)
        documents = load_corpus() if records is None else records
        timing = _indexed(index, documents, err)
        show_timing(timing, out)
        questions = load_questions() if records is None else []
        for asked in to_ask(queries, questions):
            show_answer(asked, index, frameworks, limit, out)
        if questions:
            show_counts(count_hits(index, questions), out)
        show_end(index, model, out)


def to_ask(queries: Iterable[str], questions: Sequence[Question]) -> Iterable[Asked]:
    """Choose the user's queries, or the first question of each group and language.

    Args:
        queries: The user's own; a demo question among them keeps its judgements.
        questions: The judged questions; none for the user's own documents.

    Yields:
        One query at a time, so that a user can type them.
    """
    by_text = {question.text: question for question in questions}
    own = False
    for text in queries:
        own = True
        yield _judged(by_text[text]) if text in by_text else Asked(text)
    if not own:
        firsts = {(q.group, q.lang): q for q in reversed(questions)}
        yield from (_judged(q) for q in questions if firsts[q.group, q.lang] is q)


def find_frameworks(
    index: HybridIndex, limit: int, *, note: Callable[[str], None]
) -> list[Framework]:
    """The frameworks that are installed, each over the same index and engine.

    Args:
        index: The index they search.
        limit: Documents per query.
        note: Called with a sentence about each framework that is missing.

    Returns:
        LangChain and LlamaIndex, as far as they are there.
    """
    found = []
    for make in (_langchain, _llama_index):
        try:
            found.append(make(index, limit))
        except MissingExtraError as error:
            note(f"note: {escape(str(error))}; the demo goes on without it")
    return found


def count_hits(
    index: HybridIndex, questions: Sequence[Question]
) -> dict[str, dict[str, tuple[int, int]]]:
    """Count questions with a relevant document among the first three, by group and ranking.

    Args:
        index: Holds the judged documents.
        questions: Each is encoded once for all rankings.

    Returns:
        By group, then by mode or "hybrid": questions that hit, and questions.
    """
    embeddings = index.engine.encode_queries([question.text for question in questions])
    weights: dict[str, Weights] = {m: Weights.only(m) for m in MODES if m in index.modes}
    weights["hybrid"] = index.engine.weights(None)
    hits = {name: _hits(index, embeddings, questions, chosen) for name, chosen in weights.items()}
    groups = [*dict.fromkeys(question.group for question in questions), "all"]
    return {
        group: {
            name: _count(row, [group in ("all", q.group) for q in questions])
            for name, row in hits.items()
        }
        for group in groups
    }


def _langchain(index: HybridIndex, limit: int) -> Framework:
    require("langchain_core", extra="langchain")
    from bge_m3_integrations.langchain import BGEM3Reranker, BGEM3Retriever

    retriever = BGEM3Retriever(index=index, k=limit, include_scores=True)
    reranker = BGEM3Reranker(engine=index.engine, top_n=limit)

    def ask(query: str) -> tuple[Found, Found]:
        documents = retriever.invoke(query)
        best = reranker.compress_documents(documents, query)
        return (
            [(str(d.id), float(d.metadata["bge_m3_scores"]["score"])) for d in documents],
            [(str(d.id), float(d.metadata["relevance_score"])) for d in best],
        )

    return Framework("LangChain", ask)


def _llama_index(index: HybridIndex, limit: int) -> Framework:
    require("llama_index.core", extra="llama-index")
    from bge_m3_integrations.llama_index import BGEM3Reranker, BGEM3Retriever

    retriever = BGEM3Retriever(index, similarity_top_k=limit)
    reranker = BGEM3Reranker(engine=index.engine, top_n=limit)

    def ask(query: str) -> tuple[Found, Found]:
        nodes = retriever.retrieve(query)
        best = reranker.postprocess_nodes(nodes, query_str=query)
        return (
            [(node.node_id, float(node.score or 0)) for node in nodes],
            [(node.node_id, float(node.score or 0)) for node in best],
        )

    return Framework("LlamaIndex", ask)


def _judged(question: Question) -> Asked:
    label = f"{question.group}, {question.lang}: {GROUPS[question.group]}"
    return Asked(question.text, label, question.relevant)


def _indexed(index: HybridIndex, records: Sequence[Record], err: Console) -> Timing:
    start = time.perf_counter()
    index.engine.encode_documents([records[0].text])
    loaded = time.perf_counter()
    columns = (TextColumn("encoding documents"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=err.is_terminal) as bar:
        task = bar.add_task("", total=len(records))
        index.add(
            records,
            batch_size=BATCH,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    done = time.perf_counter()
    ends = index.engine.tokenize([record.text for record in records]).offsets
    total, first = int(ends[-1]), int(ends[1])
    return Timing(len(records), total, total - first, loaded - start, done - loaded)


def _hits(
    index: HybridIndex, embeddings: EmbeddingBatch, questions: Sequence[Question], weights: Weights
) -> list[bool]:
    found = index.search_embedded(embeddings, limit=HIT_DEPTH, weights=weights, exact=True)
    return [
        any(hit.id in question.relevant for hit in row)
        for question, row in zip(questions, found, strict=True)
    ]


def _count(row: Sequence[bool], chosen: Sequence[bool]) -> tuple[int, int]:
    return sum(hit for hit, take in zip(row, chosen, strict=True) if take), sum(chosen)


def read_records(folder: Path, err: Console) -> list[Record]:
    """The user's own files, with notes about them on `err`; see `documents.read_folder`."""
    from bge_m3_integrations.index.text_files import read_folder

    return read_folder(folder, note=lambda text: err.print(f"note: {text}", markup=False))
