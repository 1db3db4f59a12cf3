"""Outcomes get their recalls, and lose what was found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks._search.corpus import FIELDS, Block, Corpus
from benchmarks._search.oracle import Expected, Top, expected, recall, tops
from benchmarks._search.results import Outcome, Stage, Timing
from benchmarks._search.tasks import TASKS

CANDIDATES = max(task.candidates for task in TASKS.values())


class Oracle:
    """What searches must find in a collection, or in its first documents; computed when asked.

    Args:
        corpus: The whole collection.
        queries: Its queries.
    """

    def __init__(self, corpus: Corpus, queries: Block) -> None:
        self.corpus = corpus
        self.queries = queries
        self.held: dict[int, dict[tuple[str | None, str], Top]] = {}
        self.known: dict[tuple[int, str], list[Expected]] = {}

    def compared(self, outcome: Outcome) -> Outcome:
        """The outcome with recalls, and without the ids."""

        def stage_of(stage: Stage) -> Stage:
            timings = (self._timing(timing, outcome.documents) for timing in stage.timings)
            return replace(stage, timings=tuple(timings))

        return replace(outcome, stages=tuple(map(stage_of, outcome.stages)))

    def _timing(self, timing: Timing, documents: int) -> Timing:
        task = TASKS.get(timing.task)
        if task is None or not task.lookups:
            return replace(timing, found=())
        wanted = self._expected(task.name, documents)
        return replace(timing, found=(), recall=recall(timing.found, wanted))

    def _expected(self, task: str, documents: int) -> list[Expected]:
        if documents not in self.held:
            blocks, fields = first(self.corpus, documents), (None, *FIELDS)
            self.held[documents] = tops(blocks, self.queries, fields=fields, most=CANDIDATES)
        key = (documents, task)
        if key not in self.known:
            tops_of = self.held[documents]
            self.known[key] = expected(TASKS[task], self.corpus, self.queries, tops_of)
        return self.known[key]


def first(corpus: Corpus, documents: int) -> Iterator[Block]:
    """The blocks of the first documents."""
    for block in corpus.blocks():
        if block.start >= documents:
            return
        yield block.part(0, documents - block.start)
