"""One forward pass for several callers: remembers embeddings, bounded in bytes.

Two adapters over one engine ask for the same text a moment apart, or at once: dense and sparse,
retriever and reranker. Each declares the modes that it will ask for, the first call computes their
union, and the others find it here, or wait for it while it runs.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from bge_m3_integrations._internal.forks import follows, new_lock
from bge_m3_integrations._internal.passes import PassCount
from bge_m3_integrations.core.embeddings import MODES, EmbeddingBatch, Kind, Mode, Modes, as_modes
from bge_m3_integrations.core.validation import chunks, whole
from bge_m3_integrations.encoders.base import Encoder
from bge_m3_integrations.encoders.wrapper import EncoderWrapper
from bge_m3_integrations.engine.spill import Key, Spill
from bge_m3_integrations.engine.stats import DeclaredModes, Stats, StatsCounter
from bge_m3_integrations.errors import EncodingError

_QUERY_SHARE = 0.25
_REMEMBERED_EVICTIONS = 100_000


@dataclass(slots=True)
class _Held:
    """A row, and how many callers are still expected to ask for it."""

    row: EmbeddingBatch
    awaited: int


class _Shelf:
    """The embeddings of one kind, least recently used first out; its user holds the lock.

    A row that is still awaited when it must go is spilled to disk.
    """

    def __init__(self, max_bytes: int, *, spill_bytes: int = 0) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._rows: OrderedDict[Key, _Held] = OrderedDict()
        self._evicted: OrderedDict[bytes, None] = OrderedDict()
        self._spill = Spill(spill_bytes if max_bytes else 0)
        self.running: dict[Key, tuple[frozenset[Mode], Future[EmbeddingBatch]]] = {}

    def take(self, key: Key, modes: frozenset[Mode]) -> EmbeddingBatch | None:
        """The row of a key for one caller, if it has the modes."""
        held = self._rows.get(key)
        if held is None:
            return self._spill.take(key, modes)
        if not modes <= held.row.modes:
            return None
        self._rows.move_to_end(key)
        held.awaited -= 1
        return held.row

    def was_evicted(self, key: Key) -> bool:
        return key not in self._rows and _digest(key) in self._evicted

    def put(self, key: Key, row: EmbeddingBatch, *, awaited: int) -> int:
        """Remember a row; how many rows were spilled for it."""
        old = self._rows.pop(key, None)
        if old is not None:
            self._bytes -= _nbytes(old.row)
            missing = [mode for mode in MODES if getattr(row, mode) is None]
            row = replace(row, **{mode: getattr(old.row, mode) for mode in missing})
        self._rows[key] = _Held(row, awaited)
        self._bytes += _nbytes(row)
        spilled = 0
        while self._bytes > self._max_bytes:
            spilled += self._evict_oldest()
        return spilled

    def _evict_oldest(self) -> bool:
        """Give up one row; whether it was spilled."""
        key, held = self._rows.popitem(last=False)
        self._bytes -= _nbytes(held.row)
        if held.awaited < 1:
            self._lose(key)
            return False
        lost = self._spill.put(key, held.row, awaited=held.awaited)
        for one in lost:
            self._lose(one)
        return key not in lost

    def _lose(self, key: Key) -> None:
        self._evicted[_digest(key)] = None
        if len(self._evicted) > _REMEMBERED_EVICTIONS:
            self._evicted.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Ask:
    """One call's question, the same for all its texts."""

    kind: Kind
    modes: frozenset[Mode]
    limit: int


class MemoEncoder(EncoderWrapper):
    """An encoder that runs equal texts once per call and, when shared, across calls and threads.

    Args:
        encoder: Does the work.
        needs: What the callers will ask for. Nothing is remembered before two roles have declared
            theirs, so a lone caller pays no memory.
        max_bytes: Most bytes of embeddings remembered: a quarter for queries, which documents in
            bulk must not push out, the rest for documents.
        spill_bytes: Most bytes of documents' embeddings in a temporary file, for those that a
            second caller has not had when they must go; see `Spill`.
        counts: Where the encoder behind counts its forwards, as a `CachedEncoder` does, to whom
            not every text that it is given is one; None counts each as one here.
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
        super().__init__(encoder)
        max_bytes = whole("memo_bytes", max_bytes, least=0)
        spill_bytes = whole("spill_bytes", spill_bytes, least=0)
        queries = int(max_bytes * _QUERY_SHARE)
        self._needs = needs
        self._bounds = {"query": (queries, 0), "document": (max_bytes - queries, spill_bytes)}
        self._shelves = self._new_shelves()
        self._counts = counts or StatsCounter()
        self._counts_forwards = counts is None
        self._lock = new_lock()
        follows(self)

    def forking(self) -> None:
        """See `Forks`."""

    def forked(self) -> None:
        """Nobody computes what others were computing; what one was changing is begun anew."""
        if self._lock.locked():
            self._shelves = self._new_shelves()
        for shelf in self._shelves.values():
            shelf.running.clear()

    def _new_shelves(self) -> dict[str, _Shelf]:
        return {
            kind: _Shelf(most, spill_bytes=spilled)
            for kind, (most, spilled) in self._bounds.items()
        }

    @property
    def stats(self) -> Stats:
        """A snapshot of the counts."""
        return self._counts.stats

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """See `Encoder.encode`."""
        modes = modes if isinstance(modes, frozenset) else as_modes(modes)
        distinct = list(dict.fromkeys(texts))
        self._counts.add(texts=len(texts))
        try:
            if self._needs.shared:
                limit = self.max_length if max_length is None else max_length
                return self._encode_shared(texts, distinct, _Ask(kind, modes, limit))
            with PassCount() as count:
                batch = self.encoder.encode(distinct, kind=kind, modes=modes, max_length=max_length)
        except EncodingError as error:
            text = distinct[error.position]
            raise EncodingError(error.reason, list(texts).index(text)) from error
        if self._counts_forwards:
            self._counts.add_forwards(batch, passes=count.passes)
        return batch if len(distinct) == len(texts) else in_order(texts, distinct, [batch])

    def _encode_shared(
        self, texts: Sequence[str], distinct: list[str], ask: _Ask
    ) -> EmbeddingBatch:
        found, fresh = self._shared(distinct, ask)
        parts = [row.only(ask.modes) for row in found.values()]
        if fresh or not distinct:
            parts.append(self._run_left(fresh, distinct, ask))
        return in_order(texts, [*found, *fresh], parts)

    def _shared(self, texts: list[str], ask: _Ask) -> tuple[dict[str, EmbeddingBatch], list[str]]:
        """What is remembered or computed for all callers, and what is left for this one alone."""
        found, running, mine, left = self._claim(texts, ask)
        found |= self._run_for_all(mine, texts, ask)
        for text, future in running.items():
            try:
                found[text] = future.result()
            except Exception:  # another caller's batch failed, perhaps for another text in it
                left.append(text)
        self._counts.add(memo_hits=len(texts) - len(mine) - len(left))
        return found, left

    def _claim(
        self, texts: list[str], ask: _Ask
    ) -> tuple[dict[str, EmbeddingBatch], dict[str, Future[EmbeddingBatch]], list[str], list[str]]:
        """Split texts: remembered, being computed by another caller, now claimed by this, and left.

        What another caller computes without a mode of this one stays that caller's to hand out.
        """
        found: dict[str, EmbeddingBatch] = {}
        running: dict[str, Future[EmbeddingBatch]] = {}
        mine: list[str] = []
        left: list[str] = []
        shelf, wanted, lost = self._shelves[ask.kind], self._wanted(ask), 0
        with self._lock:
            for text in texts:
                key = (ask.limit, text)
                modes, future = shelf.running.get(key, (frozenset(), None))
                if (row := shelf.take(key, ask.modes)) is not None:
                    found[text] = row
                elif future is not None:
                    if ask.modes <= modes:
                        running[text] = future
                    else:
                        left.append(text)
                else:
                    mine.append(text)
                    lost += shelf.was_evicted(key)
                    shelf.running[key] = (wanted, Future())
        self._counts.add(evicted_forwards=lost)
        return found, running, mine, left

    def _run_for_all(
        self, mine: list[str], texts: list[str], ask: _Ask
    ) -> dict[str, EmbeddingBatch]:
        """Compute the claimed texts in all declared modes, and hand them to whoever waits.

        In stretches where others want more modes than this caller: what it keeps of a whole
        collection is its own modes only.
        """
        found: dict[str, EmbeddingBatch] = {}
        whole_call = [slice(0, len(mine))] if mine else []
        start = 0
        try:
            for part in whole_call if self._wanted(ask) == ask.modes else chunks(mine):
                start = part.start
                found |= self._run_part(mine[part], ask)
        except BaseException as error:
            self._give_up(mine[start:], ask, error)
            if isinstance(error, EncodingError):
                position = texts.index(mine[start + error.position])
                raise EncodingError(error.reason, position) from error
            raise
        return found

    def _run_part(self, mine: list[str], ask: _Ask) -> dict[str, EmbeddingBatch]:
        shelf, keys = self._shelves[ask.kind], [(ask.limit, text) for text in mine]
        fresh = self._run(mine, ask, self._wanted(ask))
        rows = [fresh.take([i]) for i in range(len(mine))]
        awaited = self._needs.roles(ask.kind) - 1
        with self._lock:
            spilled = sum(
                shelf.put(key, row, awaited=awaited) for key, row in zip(keys, rows, strict=True)
            )
            futures = [shelf.running.pop(key)[1] for key in keys]
        self._counts.add(spilled=spilled)
        for future, row in zip(futures, rows, strict=True):
            future.set_result(row)
        return {text: row.only(ask.modes) for text, row in zip(mine, rows, strict=True)}

    def _give_up(self, mine: list[str], ask: _Ask, error: BaseException) -> None:
        """Tell those who wait for these texts that they will not come."""
        running = self._shelves[ask.kind].running
        with self._lock:
            # an interrupt may come when some are handed over already
            left = [running.pop((ask.limit, text), None) for text in mine]
        for _, future in filter(None, left):
            future.set_exception(error)

    def _run_left(self, left: list[str], texts: list[str], ask: _Ask) -> EmbeddingBatch:
        """Compute texts for this caller alone; an error has the position among all its texts."""
        try:
            return self._run(left, ask, ask.modes)
        except EncodingError as error:
            raise EncodingError(error.reason, texts.index(left[error.position])) from error

    def _run(self, texts: list[str], ask: _Ask, modes: frozenset[Mode]) -> EmbeddingBatch:
        with PassCount() as count:
            fresh = self.encoder.encode(texts, kind=ask.kind, modes=modes, max_length=ask.limit)
        if self._counts_forwards:
            self._counts.add_forwards(fresh, passes=count.passes)
        return fresh

    def _wanted(self, ask: _Ask) -> frozenset[Mode]:
        return ask.modes | (self._needs.of(ask.kind) & self.modes)


def in_order(texts: Sequence[str], held: list[str], parts: list[EmbeddingBatch]) -> EmbeddingBatch:
    """The parts, which hold the distinct texts end to end, as one row per text.

    Args:
        texts: What the caller gave.
        held: The distinct texts, in the order of the parts.
        parts: Batches of the same modes, at least one.

    Returns:
        One row per text of the caller.
    """
    batch = parts[0] if len(parts) == 1 else EmbeddingBatch.concat(parts)
    if held == list(texts):
        return batch
    place = {text: i for i, text in enumerate(held)}
    return batch.take([place[text] for text in texts])


def _digest(key: Key) -> bytes:
    limit, text = key
    return hashlib.blake2b(f"{limit} {text}".encode("utf-8", "replace"), digest_size=16).digest()


def _nbytes(row: EmbeddingBatch) -> int:
    """Bytes of a row's arrays, and a rough allowance for the objects around them."""
    total = 1024 + (0 if row.dense is None else row.dense.nbytes)
    if row.sparse is not None:
        total += row.sparse.token_ids.nbytes + row.sparse.weights.nbytes
    return total + (0 if row.colbert is None else row.colbert.vectors.nbytes)
