"""The modes that users of an engine declare, and counts of its work."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from bge_m3_integrations._internal.forks import new_lock
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Mode, Modes


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of an engine's work so far.

    Attributes:
        texts: Texts that callers asked for.
        forwards: Texts that went through the model, each in one forward: at most `texts`, since a
            text that comes again in a call, is remembered or is in the cache is not computed.
        passes: Forward passes of the model; one takes many texts. Two `Stats` that differ in it
            alone are equal.
        memo_hits: Distinct texts of a call that were remembered, or being computed by another.
        cache_hits: Distinct texts of a call whose embeddings were read from the cache on disk.
        cache_failures: Reads and writes of that cache that failed for want of room, and other
            writes that failed; the embeddings were returned all the same.
        cache_damaged: Values in that cache that were damaged on disk; their texts went through the
            model again.
        evicted_forwards: Forwards, or reads from the cache, that a larger memo would have saved.
        spilled: Texts whose embeddings went from the memo to a temporary file, still awaited.
        truncated_texts: Texts cut at the length limit.
        truncated_tokens: Tokens dropped there.
    """

    texts: int = 0
    forwards: int = 0
    passes: int = field(default=0, compare=False)
    memo_hits: int = 0
    cache_hits: int = 0
    cache_failures: int = 0
    cache_damaged: int = 0
    evicted_forwards: int = 0
    spilled: int = 0
    truncated_texts: int = 0
    truncated_tokens: int = 0


class Counts:
    """Counts that the encoders of one engine share; thread-safe."""

    def __init__(self) -> None:
        self._stats = Stats()
        self._lock = new_lock()

    @property
    def stats(self) -> Stats:
        """A snapshot."""
        return self._stats

    def add(self, **more: int) -> None:
        """Count more of what `Stats` has attributes for."""
        with self._lock:
            now = self._stats
            self._stats = replace(now, **{name: getattr(now, name) + n for name, n in more.items()})

    def add_forwards(self, batch: EmbeddingBatch, *, passes: int) -> None:
        """Count texts that the model has just encoded, in so many passes.

        An encoder that tells of none is taken to need one.
        """
        self.add(
            forwards=len(batch),
            passes=passes or min(1, len(batch)),
            truncated_texts=int((batch.truncated > 0).sum()),
            truncated_tokens=int(batch.truncated.sum()),
        )


class Needs:
    """The modes that the users of an engine will ask for, so that they can share forwards."""

    def __init__(self) -> None:
        self._declared: dict[str, dict[Kind, frozenset[Mode]]] = {}
        self._lock = new_lock()

    def declare(self, role: str, *, query: Modes = (), document: Modes = ()) -> None:
        """Say what one kind of caller will ask for.

        Args:
            role: Who asks, such as "langchain.retriever". Declaring a role again widens it, so an
                adapter that its framework rebuilds for every call counts once.
            query: Modes that the caller needs of queries.
            document: Modes that it needs of documents.
        """
        with self._lock:
            old = self._declared.get(role, {"query": frozenset(), "document": frozenset()})
            self._declared[role] = {
                "query": old["query"] | frozenset(query),
                "document": old["document"] | frozenset(document),
            }

    @property
    def shared(self) -> bool:
        """Whether two roles have declared their needs."""
        with self._lock:
            return len(self._declared) > 1

    def of(self, kind: Kind) -> frozenset[Mode]:
        """The union of what all roles need."""
        with self._lock:
            return frozenset[Mode]().union(*(needs[kind] for needs in self._declared.values()))

    def roles(self, kind: Kind) -> int:
        """How many roles need anything of texts of a kind."""
        with self._lock:
            return sum(bool(needs[kind]) for needs in self._declared.values())
