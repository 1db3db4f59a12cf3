"""The modes that users of an engine declare, counts of its work, and encoders that count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from bge_m3_integrations._internal.forks import new_lock
from bge_m3_integrations._internal.passes import PassCount
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Mode, Modes
from bge_m3_integrations.encoders.base import Encoder
from bge_m3_integrations.encoders.wrapper import EncoderWrapper
from bge_m3_integrations.engine.request import EncodeRequest
from bge_m3_integrations.errors import EncodingError


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


class StatsCounter:
    """Adds up what the encoders of one engine do; thread-safe."""

    def __init__(self) -> None:
        self._counts = asdict(Stats())
        self._lock = new_lock()

    @property
    def stats(self) -> Stats:
        """A snapshot."""
        with self._lock:
            return Stats(**self._counts)

    def add(self, **more: int) -> None:
        """Add to counts, by the names of `Stats`."""
        with self._lock:
            for name, count in more.items():
                self._counts[name] += count

    def add_forwards(self, batch: EmbeddingBatch, *, passes: int) -> None:
        """Count texts that the model has just encoded, in so many passes.

        An encoder that tells of none is taken to need one.
        """
        counts, cut = self._counts, batch.truncated
        with self._lock:
            counts["forwards"] += len(cut)
            counts["passes"] += passes or min(1, len(cut))
            counts["truncated_texts"] += int((cut > 0).sum())
            counts["truncated_tokens"] += int(cut.sum())


class CountingEncoder(EncoderWrapper):
    """A wrapper that counts the texts that it has to run.

    Args:
        encoder: Does the work.
        counts: Where to count; None makes new counts.
        forwards: Whether each text that goes on is a forward. It is not where the encoder behind
            counts its own.
    """

    def __init__(
        self, encoder: Encoder, *, counts: StatsCounter | None, forwards: bool = True
    ) -> None:
        super().__init__(encoder)
        self._counts = counts or StatsCounter()
        self._counts_forwards = forwards

    @property
    def stats(self) -> Stats:
        """A snapshot of the counts."""
        return self._counts.stats

    def _run(
        self, texts: list[str], request: EncodeRequest, *, among: Sequence[str]
    ) -> EmbeddingBatch:
        """Encode some of a caller's texts; an error has the first place there of its text."""
        try:
            with PassCount() as count:
                batch = self.encoder.encode(
                    texts, kind=request.kind, modes=request.modes, max_length=request.max_length
                )
        except EncodingError as error:
            position = list(among).index(texts[error.position])
            raise EncodingError(error.reason, position, error.name) from error
        if self._counts_forwards:
            self._counts.add_forwards(batch, passes=count.passes)
        return batch


class DeclaredModes:
    """The modes that the users of an engine will ask for, so that they can share forwards.

    Attributes:
        shared: Whether two roles have declared theirs.
    """

    def __init__(self) -> None:
        self.shared = False
        self._declared: dict[str, dict[Kind, frozenset[Mode]]] = {}
        self._lock = new_lock()

    def declare(self, role: str, *, query: Modes = (), document: Modes = ()) -> None:
        """Register the modes that one kind of caller will ask for.

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
            self.shared = len(self._declared) > 1

    def of(self, kind: Kind) -> frozenset[Mode]:
        """Return the union of the modes that roles need."""
        with self._lock:
            return frozenset[Mode]().union(*(needs[kind] for needs in self._declared.values()))

    def roles(self, kind: Kind) -> int:
        """Count the roles that need anything of texts of a kind."""
        with self._lock:
            return sum(bool(needs[kind]) for needs in self._declared.values())
