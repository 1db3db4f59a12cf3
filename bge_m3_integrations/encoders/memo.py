"""One forward pass for several callers: remembers embeddings, bounded in bytes.

Two adapters over one engine ask for the same text a moment apart: dense, then sparse; retriever,
then reranker. Each declares the modes that it will ask for, the first call computes their union,
and the later ones find it here.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bge_m3_integrations.encoders.base import Encoder
from bge_m3_integrations.encoders.wrapper import EncoderWrapper
from bge_m3_integrations.types import (
    MODES,
    EmbeddingBatch,
    Kind,
    Mode,
    Modes,
    as_modes,
)

_Key = tuple[Kind, int | None, str]
_REMEMBERED_EVICTIONS = 100_000


@dataclass(frozen=True, slots=True)
class Stats:
    """What an engine did so far.

    Attributes:
        texts: Texts that callers asked for.
        forwards: Texts that went through the model.
        memo_hits: Distinct texts of a call that were remembered.
        evicted_forwards: Forwards that a larger memo would have saved.
        truncated_texts: Texts cut at the length limit.
        truncated_tokens: Tokens dropped there.
    """

    texts: int = 0
    forwards: int = 0
    memo_hits: int = 0
    evicted_forwards: int = 0
    truncated_texts: int = 0
    truncated_tokens: int = 0


class Needs:
    """Which modes the users of an engine will ask for: what makes sharing a forward possible."""

    def __init__(self) -> None:
        self._declared: dict[str, dict[Kind, frozenset[Mode]]] = {}
        self._lock = threading.Lock()

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
        return len(self._declared) > 1

    def of(self, kind: Kind) -> frozenset[Mode]:
        """The union of what all roles need."""
        with self._lock:
            return frozenset[Mode]().union(*(needs[kind] for needs in self._declared.values()))


class MemoEncoder(EncoderWrapper):
    """An encoder that runs equal texts once per call and, when sharing, across calls.

    Args:
        encoder: Does the work.
        needs: What the callers will ask for. Nothing is remembered before two roles have declared
            theirs, so a lone caller pays no memory.
        max_bytes: Most bytes of embeddings remembered.
    """

    def __init__(self, encoder: Encoder, needs: Needs, *, max_bytes: int) -> None:
        super().__init__(encoder)
        self._max_bytes = max_bytes
        self._bytes = 0
        self._needs = needs
        self._rows: OrderedDict[_Key, EmbeddingBatch] = OrderedDict()
        self._evicted: OrderedDict[bytes, None] = OrderedDict()
        self._stats = Stats()
        self._lock = threading.Lock()

    @property
    def stats(self) -> Stats:
        """A snapshot of the counts."""
        return self._stats

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """See `Encoder.encode`."""
        modes = as_modes(modes)
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            return self.encoder.encode(texts, kind=kind, modes=modes, max_length=max_length)
        distinct = list(dict.fromkeys(texts))
        found = self._recall(distinct, kind, max_length, modes)
        missing = [text for text in distinct if text not in found]
        parts = [row.only(modes) for row in found.values()]
        if missing or not distinct:
            parts.append(self._run(missing, kind, max_length, modes))
        self._count(texts=len(texts), forwards=len(missing), memo_hits=len(found))
        place = {text: i for i, text in enumerate([*found, *missing])}
        batch = parts[0] if len(parts) == 1 else EmbeddingBatch.concat(parts)
        if len(place) == len(texts) and not found:
            return batch
        return batch.take([place[text] for text in texts])

    def _run(
        self, texts: list[str], kind: Kind, max_length: int | None, modes: frozenset[Mode]
    ) -> EmbeddingBatch:
        wanted = modes | (self._needs.of(kind) & self.modes) if self._needs.shared else modes
        fresh = self.encoder.encode(texts, kind=kind, modes=wanted, max_length=max_length)
        cut = fresh.truncated > 0
        self._count(truncated_texts=int(cut.sum()), truncated_tokens=int(fresh.truncated.sum()))
        if self._needs.shared and texts:
            self._remember(texts, fresh, kind, max_length)
        return fresh.only(modes)

    def _recall(
        self, texts: list[str], kind: Kind, max_length: int | None, modes: frozenset[Mode]
    ) -> dict[str, EmbeddingBatch]:
        found: dict[str, EmbeddingBatch] = {}
        if not self._needs.shared:
            return found
        lost = 0
        with self._lock:
            for text in texts:
                row = self._rows.get((kind, max_length, text))
                if row is not None and modes <= row.modes:
                    self._rows.move_to_end((kind, max_length, text))
                    found[text] = row
                lost += row is None and _digest(kind, max_length, text) in self._evicted
        self._count(evicted_forwards=lost)
        return found

    def _remember(
        self, texts: list[str], fresh: EmbeddingBatch, kind: Kind, max_length: int | None
    ) -> None:
        with self._lock:
            for i, text in enumerate(texts):
                key: _Key = (kind, max_length, text)
                row, old = fresh.take([i]), self._rows.pop(key, None)
                if old is not None:
                    self._bytes -= _nbytes(old)
                    kept = {m: getattr(old, m) for m in MODES if getattr(row, m) is None}
                    row = replace(row, **kept)
                self._rows[key] = row
                self._bytes += _nbytes(row)
            while self._bytes > self._max_bytes:
                self._evict_oldest()

    def _evict_oldest(self) -> None:
        key, row = self._rows.popitem(last=False)
        self._bytes -= _nbytes(row)
        self._evicted[_digest(*key)] = None
        if len(self._evicted) > _REMEMBERED_EVICTIONS:
            self._evicted.popitem(last=False)

    def _count(self, **more: int) -> None:
        with self._lock:
            now = self._stats
            self._stats = replace(now, **{name: getattr(now, name) + n for name, n in more.items()})


def _digest(kind: Kind, max_length: int | None, text: str) -> bytes:
    key = f"{kind} {max_length} {text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key, digest_size=16).digest()


def _nbytes(row: EmbeddingBatch) -> int:
    """Bytes of a row's arrays, and a rough allowance for the objects around them."""
    total = 1024 + (0 if row.dense is None else row.dense.nbytes)
    if row.sparse is not None:
        total += row.sparse.token_ids.nbytes + row.sparse.weights.nbytes
    return total + (0 if row.colbert is None else row.colbert.vectors.nbytes)
