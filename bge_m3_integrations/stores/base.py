"""The protocol of a store: find per mode, score by id; the engine combines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode, Modes
from bge_m3_integrations.core.filters import Filter
from bge_m3_integrations.core.records import Candidate, Record
from bge_m3_integrations.core.scores import Components


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The abilities of a store.

    Attributes:
        find: Modes it can find candidates by.
        score: Modes it can score given ids by.
        vectors: Modes whose vectors it can give back.
        operators: Filter operators that it runs itself; it refuses others, and the index then
            resolves them to ids before the search.
        durable: Whether `flush` makes what was written survive the process.
        colbert_kind: How token vectors are kept; None is as they are.
    """

    find: frozenset[Mode]
    score: frozenset[Mode]
    vectors: frozenset[Mode]
    operators: frozenset[str]
    durable: bool
    colbert_kind: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of a scroll.

    Attributes:
        records: In ascending order of id.
        after: The id to go on from, or None at the end.
    """

    records: Sequence[Record]
    after: str | None


@runtime_checkable
class Store(Protocol):
    """Keeps records with embeddings. Synchronous, thread-safe, ids are arbitrary strings."""

    @property
    def capabilities(self) -> Capabilities:
        """The abilities of this store."""
        ...

    def upsert(self, records: Sequence[Record], embeddings: EmbeddingBatch) -> None:
        """Insert or replace whole records; row `i` of the embeddings belongs to record `i`."""
        ...

    def rewrite(self, records: Sequence[Record]) -> None:
        """Replace all of records but their text; the numbers of that text stay.

        An unknown id, or one that holds another text, is an error.
        """
        ...

    def text_hashes(self, ids: Sequence[str]) -> list[str | None]:
        """The `Record.text_hash` of each id's record; None for an unknown id."""
        ...

    def delete(self, *, ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """Delete by ids or by filter, exactly one of them; returns how many were there."""
        ...

    def get(self, ids: Sequence[str]) -> list[Record | None]:
        """The records of the ids, in order; None for an unknown id."""
        ...

    def scroll(
        self, where: Filter | None = None, *, after: str | None = None, limit: int = 1000
    ) -> Page:
        """Matching records in ascending order of id, from behind `after`."""
        ...

    def ids(self, where: Filter | None = None) -> Iterator[str]:
        """The ids of matching records, ascending: a scroll that fetches nothing else."""
        ...

    def find(
        self, queries: EmbeddingBatch, mode: Mode, *, limit: int, where: Filter | None = None
    ) -> list[list[Candidate]]:
        """The best candidates of one mode per query, best first, ties by ascending id.

        A document that shares no token with the query is no sparse candidate.
        """
        ...

    def score(
        self, queries: EmbeddingBatch, ids: Sequence[Sequence[str]], modes: Modes
    ) -> list[Components]:
        """Exact component scores; `ids[i]` belongs to query `i`, an unknown id scores NaN."""
        ...

    def vectors(self, ids: Sequence[str], modes: Modes) -> EmbeddingBatch:
        """The stored embeddings of known ids, in order; an unknown id is an error."""
        ...

    def count(self, where: Filter | None = None) -> int:
        """Count the records that match."""
        ...

    def flush(self) -> None:
        """Make everything written so far durable, where the store is."""
        ...

    def optimize(
        self, *, isolated: bool = False, progress: Callable[[str], None] | None = None
    ) -> None:
        """Build the graphs that make searches fast; never needed for right results.

        `isolated` does it in a process of its own, where the store can; `progress` is told what
        happens.
        """
        ...

    def close(self) -> None:
        """Release the store's resources; further calls are errors."""
        ...


@runtime_checkable
class ChecksRecords(Protocol):
    """A store that cannot keep every record, and says so before anything is encoded."""

    def check_records(self, records: Sequence[Record]) -> None:
        """Refuse records that `upsert` would refuse whatever the numbers."""
        ...


@runtime_checkable
class OffersBackup(Protocol):
    """A store in a folder."""

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    def backup(self, path: str | Path) -> None:
        """Copy the store as it is now to a new folder."""
        ...

    def compact(self, *, progress: Callable[[str], None] | None = None) -> None:
        """Give back the room of everything that was deleted or replaced."""
        ...

    def set_filter_fields(
        self, fields: Sequence[str] | None, *, progress: Callable[[str], None] | None = None
    ) -> None:
        """Change which metadata paths filters are fast on."""
        ...
