"""One forward pass for several callers: remembers embeddings, bounded in bytes.

Two adapters over one engine ask for the same text a moment apart, or at once: dense and sparse,
retriever and reranker. Each declares the modes that it will ask for, the first call computes their
union, and the others find it here, or wait for it while it runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from cachetools import LRUCache

from bge_m3_integrations._internal.forks import follows, new_lock
from bge_m3_integrations.core.embeddings import MODES, EmbeddingBatch, Kind, Mode, Modes, as_modes
from bge_m3_integrations.core.validation import check_int, chunks
from bge_m3_integrations.encoders.base import Encoder
from bge_m3_integrations.engine.request import EncodeRequest
from bge_m3_integrations.engine.spill import Key, Spill
from bge_m3_integrations.engine.stats import CountingEncoder, DeclaredModes, StatsCounter
from bge_m3_integrations.engine.stretches import in_order

_QUERY_SHARE = 0.25
_REMEMBERED_EVICTIONS = 100_000


@dataclass(slots=True)
class _Entry:
    """A row, and how many callers are still expected to ask for it."""

    row: EmbeddingBatch
    awaited: int


@dataclass(slots=True)
class _Claim:
    """The distinct texts of one call, by where their rows come from.

    Attributes:
        found: Remembered.
        running: Computed by another caller now.
        mine: Computed by this call, for all callers, who wait for these futures.
        left: Computed by this call for itself: the caller who computes them leaves out a mode.
    """

    found: dict[str, EmbeddingBatch] = field(default_factory=dict)
    running: dict[str, Future[EmbeddingBatch]] = field(default_factory=dict)
    mine: dict[str, Future[EmbeddingBatch]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


class _Shelf(LRUCache[Key, _Entry]):
    """The embeddings of one kind, least recently used first out; its user holds the lock.

    A row that is still awaited when it must go is spilled to disk.
    """

    def __init__(self, max_bytes: int, *, spill_bytes: int, counts: StatsCounter) -> None:
        super().__init__(max_bytes, getsizeof=_nbytes)
        self._counts = counts
        self._evicted: LRUCache[bytes, None] = LRUCache(_REMEMBERED_EVICTIONS)
        self._spill = Spill(spill_bytes if max_bytes else 0)
        self.running: dict[Key, tuple[frozenset[Mode], Future[EmbeddingBatch]]] = {}

    def claim(self, text: str, request: EncodeRequest, wanted: frozenset[Mode], to: _Claim) -> None:
        """Note where the row of a text comes from; this call's own texts are nobody else's now."""
        key = (request.max_length, text)
        modes, future = self.running.get(key, (frozenset(), None))
        row = self._row(key, request.modes)
        if row is not None:
            to.found[text] = row
        elif future is None:
            if key not in self and _digest(key) in self._evicted:
                self._counts.add(evicted_forwards=1)
            to.mine[text] = Future()
            self.running[key] = (wanted, to.mine[text])
        elif request.modes <= modes:
            to.running[text] = future
        else:
            to.left.append(text)

    def put(self, key: Key, row: EmbeddingBatch, *, awaited: int) -> None:
        """Remember a row, with the modes of an older one that it lacks."""
        old = self.pop(key, None)
        if old is not None:
            missing = [mode for mode in MODES if getattr(row, mode) is None]
            row = replace(row, **{mode: getattr(old.row, mode) for mode in missing})
        entry = _Entry(row, awaited)
        if _nbytes(entry) > self.maxsize:
            self._drop(key, entry)
        else:
            self[key] = entry

    def popitem(self) -> tuple[Key, _Entry]:
        """Give up the row that nobody asked for the longest."""
        key, entry = super().popitem()
        self._drop(key, entry)
        return key, entry

    def _drop(self, key: Key, entry: _Entry) -> None:
        self._evicted[_digest(key)] = None
        if entry.awaited > 0 and self._spill.put(key, entry.row, awaited=entry.awaited):
            self._counts.add(spilled=1)

    def _row(self, key: Key, modes: frozenset[Mode]) -> EmbeddingBatch | None:
        """The row of a key for one caller, if it has the modes."""
        entry = self.get(key)
        if entry is None:
            return self._spill.take(key, modes)
        if not modes <= entry.row.modes:
            return None
        entry.awaited -= 1
        return entry.row


class MemoEncoder(CountingEncoder):
    """An encoder that runs equal texts once per call and, when shared, across calls and threads.

    Args:
        encoder: Does the work.
        needs: The modes that the callers will ask for. Nothing is remembered before two roles have
            declared theirs, so a lone caller pays no memory.
        max_bytes: Most bytes of embeddings remembered: a quarter for queries, which documents in
            bulk must not push out, the rest for documents.
        spill_bytes: Most bytes of documents' embeddings in a temporary file, for those that a
            second caller has not had when they must go; see `Spill`.
        counts: The counts of an encoder behind that counts its own forwards, as a `CachedEncoder`
            does, which does not count a cache hit as a forward; None counts each text here.
    """

    def __init__(
        self,
        encoder: Encoder,
        needs: DeclaredModes,
        *,
        max_bytes: int,
        spill_bytes: int = 0,
        counts: StatsCounter | None = None,
    ) -> None:
        super().__init__(encoder, counts=counts, forwards=counts is None)
        max_bytes = check_int("memo_bytes", max_bytes, least=0)
        spill_bytes = check_int("spill_bytes", spill_bytes, least=0)
        queries = int(max_bytes * _QUERY_SHARE)
        self._needs = needs
        self._bounds = {"query": (queries, 0), "document": (max_bytes - queries, spill_bytes)}
        self._shelves = self._new_shelves()
        self._lock = new_lock()
        follows(self)

    def forking(self) -> None:
        """See `Forks`."""

    def forked(self) -> None:
        """Forget the texts that threads of the parent compute, and rows that one was changing."""
        if self._lock.locked():
            self._shelves = self._new_shelves()
        for shelf in self._shelves.values():
            shelf.running.clear()

    def _new_shelves(self) -> dict[str, _Shelf]:
        return {
            kind: _Shelf(most, spill_bytes=spilled, counts=self._counts)
            for kind, (most, spilled) in self._bounds.items()
        }

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """See `Encoder.encode`."""
        modes = modes if isinstance(modes, frozenset) else as_modes(modes)
        distinct = list(dict.fromkeys(texts))
        self._counts.add(texts=len(texts))
        if self._needs.shared:
            limit = self.max_length if max_length is None else max_length
            return self._encode_shared(texts, distinct, EncodeRequest(kind, modes, limit))
        batch = self._run(distinct, EncodeRequest(kind, modes, max_length), among=texts)
        return batch if len(distinct) == len(texts) else in_order(texts, distinct, [batch])

    def _encode_shared(
        self, texts: Sequence[str], distinct: list[str], request: EncodeRequest
    ) -> EmbeddingBatch:
        found, left = self._for_all(distinct, request, texts)
        parts = [row.only(request.modes) for row in found.values()]
        if left or not distinct:
            parts.append(self._run(left, request, among=texts))
        return in_order(texts, [*found, *left], parts)

    def _for_all(
        self, distinct: list[str], request: EncodeRequest, texts: Sequence[str]
    ) -> tuple[dict[str, EmbeddingBatch], list[str]]:
        """Remember or compute for all callers; the rows, and the texts left for this one alone."""
        claim, found = _Claim(), dict[str, EmbeddingBatch]()
        try:
            self._claim(distinct, request, claim)
            found = claim.found | self._run_claimed(claim, request, texts)
        except BaseException as error:
            self._give_up(claim, request, error)
            raise
        for text, future in claim.running.items():
            # another caller's batch may fail, perhaps for another text in it, or be interrupted
            if future.exception() is None:
                found[text] = future.result()
            else:
                claim.left.append(text)
        self._counts.add(memo_hits=len(distinct) - len(claim.mine) - len(claim.left))
        return found, claim.left

    def _claim(self, distinct: list[str], request: EncodeRequest, claim: _Claim) -> None:
        wanted, shelf = self._wanted(request), self._shelves[request.kind]
        with self._lock:
            for text in distinct:
                shelf.claim(text, request, wanted, claim)

    def _run_claimed(
        self, claim: _Claim, request: EncodeRequest, texts: Sequence[str]
    ) -> dict[str, EmbeddingBatch]:
        """Compute the claimed texts in all declared modes, and hand them to whoever waits.

        In stretches where others want more modes than this caller: what it keeps of a whole
        collection is its own modes only.
        """
        found: dict[str, EmbeddingBatch] = {}
        mine, shared = list(claim.mine), replace(request, modes=self._wanted(request))
        pieces = [slice(0, len(mine))] if mine and shared == request else chunks(mine)
        for piece in pieces:
            fresh = self._run(mine[piece], shared, among=texts)
            rows = {text: fresh.take([i]) for i, text in enumerate(mine[piece])}
            self._hand_out(rows, claim, request)
            found |= {text: row.only(request.modes) for text, row in rows.items()}
        return found

    def _hand_out(
        self, rows: dict[str, EmbeddingBatch], claim: _Claim, request: EncodeRequest
    ) -> None:
        """Remember rows, and give them to the callers who wait for them."""
        shelf, awaited = self._shelves[request.kind], self._needs.roles(request.kind) - 1
        with self._lock:
            for text, row in rows.items():
                shelf.put((request.max_length, text), row, awaited=awaited)
                shelf.running.pop((request.max_length, text), None)
        for text, row in rows.items():
            claim.mine[text].set_result(row)

    def _give_up(self, claim: _Claim, request: EncodeRequest, error: BaseException) -> None:
        """Tell those who wait for texts of a claim that they will not come."""
        running = self._shelves[request.kind].running
        with self._lock:
            for text in claim.mine:  # some may be handed out already
                running.pop((request.max_length, text), None)
        for future in claim.mine.values():
            if not future.done():
                future.set_exception(error)

    def _wanted(self, request: EncodeRequest) -> frozenset[Mode]:
        return request.modes | (self._needs.of(request.kind) & self.modes)


def _digest(key: Key) -> bytes:
    limit, text = key
    return hashlib.blake2b(f"{limit} {text}".encode("utf-8", "replace"), digest_size=16).digest()


def _nbytes(entry: _Entry) -> int:
    """Bytes of a row's arrays, and a rough allowance for the objects around them."""
    row = entry.row
    total = 1024 + (0 if row.dense is None else row.dense.nbytes)
    if row.sparse is not None:
        total += row.sparse.token_ids.nbytes + row.sparse.weights.nbytes
    return total + (0 if row.colbert is None else row.colbert.vectors.nbytes)
