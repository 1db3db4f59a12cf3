"""What a subject is: how it is opened, filled and asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks._search.corpus import Block, Corpus
from benchmarks._search.results import Timing

Tokens = tuple[np.ndarray, np.ndarray]
"""Token vectors, and where each text's start and end."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a process is given.

    Attributes:
        corpus: The documents.
        queries: The queries.
        folder: Empty; for files.
        colbert: Whether token vectors are kept and searched.
        storage: How a store keeps them: "turbo8", "float16" or "float32".
        batch: Documents added at a time.
        checkpoint: To search by text with; None leaves that out.
    """

    corpus: Corpus
    queries: Block
    folder: Path
    colbert: bool
    storage: str
    batch: int
    checkpoint: Path | None = None


class Subject(Protocol):
    """An open collection. `add`, `flush`, `search`, `optimize` and `reopen` are timed.

    Attributes:
        tasks: Which of `TASKS` it can do.
        durable: Whether it can be closed and opened again.
        optimizes: Whether `optimize` does something.
    """

    tasks: frozenset[str]
    durable: bool
    optimizes: bool

    def add(self, block: Block, texts: Sequence[str], tokens: Tokens | None) -> None:
        """Keep documents whose embeddings are known."""
        ...

    def flush(self) -> None:
        """Make them durable, where that is offered."""
        ...

    def search(self, task: str, query: int) -> list[str]:
        """The ids of the best, best first."""
        ...

    def optimize(self) -> None:
        """Build what makes searches fast."""
        ...

    def close(self) -> None:
        """Close it."""
        ...

    def reopen(self) -> None:
        """Open it again."""
        ...

    def by_text(self, setup: Setup) -> tuple[Timing, ...]:
        """Time searches that encode the query; nothing where there is no encoder."""
        ...


class Peer:
    """What most of the others have in common: nothing to flush, optimize or reopen."""

    durable = False
    optimizes = False

    def flush(self) -> None:
        """Nothing to do."""

    def optimize(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def reopen(self) -> None:
        """Nothing to do."""

    def by_text(self, setup: Setup) -> tuple[Timing, ...]:
        """It has no encoder here."""
        return ()


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the tables.

    Attributes:
        name: Of the row; its first word is the family, which `--python` goes by.
        modules: What must be importable.
        distributions: Whose versions are noted.
        open: Make an empty collection.
        most: Documents that it is given at most: more would take hours or all memory.
        note: What a reader of its numbers must know.
        needs_colbert: Whether it is nothing without token vectors.
        store: Our store's name; empty for others.
    """

    name: str
    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    open: Callable[[Setup], Subject]
    most: int = 10_000_000
    note: str = ""
    needs_colbert: bool = False
    store: str = ""

    @property
    def family(self) -> str:
        """The first word of the name."""
        return self.name.partition("-")[0]


class Known:
    """An embedding model of any framework that looks up what the corpus has.

    Args:
        queries: They are asked for as "0", "1" and so on.
    """

    def __init__(self, queries: Block) -> None:
        self.queries = queries
        self.block = queries
        self.places: dict[str, int] = {}

    def take(self, block: Block, texts: Sequence[str]) -> None:
        """Know these documents, and no others any more."""
        self.block = block
        self.places = {text: i for i, text in enumerate(texts)}

    def dense(self, texts: Sequence[str]) -> list[list[float]]:
        """Dense vectors of documents."""
        return self.block.dense[[self.places[text] for text in texts]].tolist()

    def lexical(self, texts: Sequence[str]) -> list[dict[int, float]]:
        """Lexical weights of documents."""
        return [self.block.lexical.as_dict(self.places[text]) for text in texts]

    def query_dense(self, text: str) -> list[float]:
        """A query's dense vector."""
        return self.queries.dense[int(text)].tolist()

    def query_lexical(self, text: str) -> dict[int, float]:
        """A query's lexical weights."""
        return self.queries.lexical.as_dict(int(text))
