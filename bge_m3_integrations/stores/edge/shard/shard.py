"""The engine behind one small wall: every call that this package makes of qdrant-edge.

One call at a time. A call holds Python's lock while it runs, so each is kept short: writes come in
small batches, and whole collections are read in pages and scored in pieces, of a size that `Pace`
says.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import UUID

import numpy as np
import qdrant_edge as engine

from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.open_handles import close_handles, never_free
from bge_m3_integrations.stores.edge.shard.pace import Pace, parts
from bge_m3_integrations.stores.edge.shard.prefetch import Warming

_Result = TypeVar("_Result")

COLBERT_TYPES: Mapping[str, engine.VectorStorageDatatype] = {
    "float32": engine.VectorStorageDatatype.Float32,
    "float16": engine.VectorStorageDatatype.Float16,
    "turbo8": engine.VectorStorageDatatype.Turbo8,
}
_BYTES = {"float32": 4, "float16": 2, "turbo8": 1}
"""Bytes of a number of `COLBERT_TYPES`."""
_PAGE = 256
"""Points of one read, or of one scoring by token vectors: a millisecond, and 20 where each has to
come from the disk."""
_FIRST_PAGE = 64
_FIRST_VECTORS = 8
_COLD_BYTES = 1 << 19
"""Token vectors of one scoring where they may have to come from the disk: 10 ms, rarely 30."""
_TURN = 0.005
"""Seconds of calls after which other threads have a turn."""
_SCORED_AT_ONCE = 4096
_QUERY_TOKENS_AT_ONCE = 32
_PRODUCTS_AT_ONCE = 32 * 8192
"""Pairs of a query's and a document's token vector of one scoring: 12 ms on a quiet machine."""
_DELETED_AT_ONCE = 1000
_INDEXED_FROM_KIB = 10_000
"""Size of a segment's vectors from which `optimize` builds a graph."""
_NUMBERS = 16
_NAMED_NUMBERS = 64
"""Indexes of numbers, without and with filter fields that somebody chose; filters on further ones
are as right, and slower. Each is ten files, which every flush brings to disk: 1.4 ms on a quiet
one, beside 9 ms for all the rest of an index."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a shard holds.

    Attributes:
        dim: Width of dense vectors; None without the mode.
        sparse: Whether it holds lexical weights.
        colbert_dim: Width of token vectors; None without the mode.
        colbert: How token vectors are kept, one of `COLBERT_TYPES`.
    """

    dim: int | None
    sparse: bool
    colbert_dim: int | None
    colbert: str


class Shard:
    """One collection on disk.

    Args:
        path: Its folder.
        layout: What it holds.
        vacuum: Let `optimize` give back the room of everything deleted, not only where it is a
            fifth of a segment.
        warm: Read token vectors ahead in a thread, for searches to come; see `Warming`.
    """

    def __init__(
        self, path: Path, layout: Layout, *, vacuum: bool = False, warm: bool = False
    ) -> None:
        self.path = path
        self._warming = Warming() if warm else None
        self._cold = _COLD_BYTES // _token_bytes(layout)
        self._pace = Pace(self._cold)
        self._gave_way = time.perf_counter()
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._users: dict[object, int] = {}
        self._held: engine.EdgeShard | None = self._guarded(
            lambda: engine.EdgeShard.load(str(path), _config(layout, vacuum=vacuum))
        )
        self._numbers = {
            name for name in self._run(lambda held: held.info()).payload_schema if name != "terms"
        }
        self._warm()

    @staticmethod
    def create(path: Path, layout: Layout) -> None:
        """Make an empty shard in a folder that does not exist yet.

        Args:
            path: The folder.
            layout: What it is to hold.

        Raises:
            StoreError: The engine refuses.
        """
        path.mkdir()
        shard = _guarded(lambda: engine.EdgeShard.create(str(path), _config(layout)), path)
        # before any graph is built: a graph knows only the filters that it was built with
        index = engine.UpdateOperation.create_field_index("terms", engine.KeywordIndexParams())
        _guarded(lambda: shard.update(index), path)
        _guarded(shard.flush, path)
        _guarded(shard.close, path)

    def write(self, points: engine.UpdateOperation, numbers: set[str]) -> None:
        """Insert or replace points.

        Args:
            points: Of checked ones: a malformed one would make the shard unreadable for good.
            numbers: See `index_numbers`.
        """
        self.index_numbers(numbers)
        self._run(lambda held: held.update(points))

    def index_numbers(self, names: Iterable[str], *, named: bool = False) -> None:
        """Have payload keys indexed as numbers, as long as there are not too many.

        Args:
            names: The keys; those that have an index are passed over.
            named: Whether they are of filter fields that somebody chose: then more are indexed.
        """
        fresh = sorted(set(names) - self._numbers)
        most = _NAMED_NUMBERS if named else _NUMBERS
        for name in fresh[: max(0, most - len(self._numbers))]:
            index = engine.UpdateOperation.create_field_index(name, engine.FloatIndexParams())
            self._run(lambda held, index=index: held.update(index))
            self._numbers.add(name)

    def overwrite_payload(self, point: UUID, payload: Mapping[str, Any]) -> None:
        """Replace a point's payload and keep its vectors."""
        change = engine.UpdateOperation.overwrite_payload([point], dict(payload))
        self._run(lambda held: held.update(change))

    def delete(self, points: Sequence[UUID]) -> None:
        """Delete points; unknown ones are passed over."""
        for start in range(0, len(points), _DELETED_AT_ONCE):
            part: list[int | UUID | str] = list(points[start : start + _DELETED_AT_ONCE])
            gone = engine.UpdateOperation.delete_points(part)
            self._run(lambda held, gone=gone: held.update(gone))

    def payloads(
        self, points: Sequence[UUID], names: Sequence[str] | None = None
    ) -> dict[UUID, dict[str, Any]]:
        """Payloads of those points that are there.

        Args:
            points: Any number.
            names: The payload's keys to read; None reads all, an empty list none.

        Returns:
            Point to payload.
        """
        return {point.id: point.payload or {} for point in self._retrieved(points, names, False)}

    def with_vectors(self, points: Sequence[UUID], modes: Sequence[Mode]) -> dict[UUID, Any]:
        """Points with payload and vectors; those that are not there are left out."""
        return {point.id: point for point in self._retrieved(points, None, list(modes))}

    def pages(
        self, where: engine.Filter | None, names: Sequence[str]
    ) -> Iterator[list[tuple[UUID, dict[str, Any]]]]:
        """All matching points with some of their payload, page by page, in no useful order."""
        pace, offset = Pace(_FIRST_PAGE), None
        while True:
            request = engine.ScrollRequest(
                offset=offset,
                limit=min(_PAGE, pace.size),
                filter=where,
                with_payload=engine.PayloadSelector.Include(list(names)),
                with_vector=False,
            )
            (points, offset), seconds = self._timed(lambda held, asked=request: held.scroll(asked))
            pace.took(len(points), seconds)
            yield [(point.id, point.payload) for point in points]
            if offset is None:
                return

    def count(self, where: engine.Filter | None) -> int:
        """How many points match."""
        request = engine.CountRequest(exact=True, filter=where)
        return int(self._run(lambda held: held.count(request)))

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._held is None

    def count_now(self) -> int | None:
        """How many points there are; None if a call is under way, or the shard is closed."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            held = self._held
            return None if held is None else int(held.count(engine.CountRequest(exact=True)))
        finally:
            self._lock.release()

    def nearest(
        self,
        queries: EmbeddingBatch,
        mode: Mode,
        *,
        limit: int,
        where: engine.Filter | None,
        params: engine.SearchParams,
    ) -> list[tuple[UUID, float]]:
        """The best points for the one query of a batch by dense or lexical numbers, best first.

        Args:
            queries: One query that holds the mode.
            mode: What to search by.
            limit: Most points.
            where: Which points may be found.
            params: Exact, or how thorough.

        Returns:
            Points with scores; by lexical weights none without a shared token.
        """
        query = _query(queries, mode)
        if query is None:
            return []
        return self._found(query, limit=limit, where=where, params=params)[0]

    def scores(
        self, queries: EmbeddingBatch, mode: Mode, points: Sequence[UUID]
    ) -> dict[UUID, float]:
        """Exact scores of points for the one query of a batch; those without a score are absent."""
        if mode == "colbert":
            return self._token_scores(queries, points)
        query, found = _query(queries, mode), dict[UUID, float]()
        if query is not None:
            for start in range(0, len(points), _SCORED_AT_ONCE):
                found.update(self._scored(query, points[start : start + _SCORED_AT_ONCE])[0])
        return found

    def _token_scores(self, queries: EmbeddingBatch, points: Sequence[UUID]) -> dict[UUID, float]:
        """Means over the query's tokens, in calls that are short however long all texts are."""
        assert queries.colbert is not None
        vectors = queries.colbert.vectors.astype(np.float32)
        pieces = np.array_split(vectors, -(-len(vectors) // _QUERY_TOKENS_AT_ONCE))
        asked = [engine.Query.Nearest(piece.tolist(), using="colbert") for piece in pieces]
        products = _PRODUCTS_AT_ONCE // len(pieces[0])
        found: dict[UUID, float] = {}
        for start in range(0, len(points), _PAGE):
            held = self.payloads(points[start : start + _PAGE], ["tokens"])
            lengths = {point: int(payload["tokens"]) for point, payload in held.items()}
            for part in parts(lengths, lambda: min(products, self._tokens_at_once())):
                sums, seconds = zip(*(self._scored(query, part) for query in asked), strict=True)
                # what comes from the disk comes for the query's first piece
                self._pace.took(sum(lengths[point] for point in part), max(seconds))
                # the engine's score is a sum over the query's tokens, ours their mean
                found.update(
                    (point, sum(s[point] for s in sums) / len(vectors))
                    for point in part
                    if all(point in s for s in sums)
                )
        return found

    def _tokens_at_once(self) -> int:
        """Token vectors of the next scoring: while some are only on the disk, any may be."""
        warm = self._warming is not None and self._warming.done
        return self._pace.size if warm else min(self._cold, self._pace.size)

    def _scored(
        self, query: engine.Query, points: Sequence[UUID]
    ) -> tuple[dict[UUID, float], float]:
        chosen = engine.Filter(must=[engine.HasIdCondition(set(points))])
        exact = engine.SearchParams(exact=True)
        found, seconds = self._found(query, limit=len(points), where=chosen, params=exact)
        return dict(found), seconds

    def _found(
        self,
        query: engine.Query,
        *,
        limit: int,
        where: engine.Filter | None,
        params: engine.SearchParams,
    ) -> tuple[list[tuple[UUID, float]], float]:
        request = engine.QueryRequest(
            limit=limit,
            query=query,
            filter=where,
            params=params,
            with_payload=False,
            with_vector=False,
        )
        points, seconds = self._timed(lambda held: held.query(request))
        return [(point.id, point.score) for point in points], seconds

    def flush(self) -> None:
        """Bring everything to disk."""
        self._open()
        # the pages are written without any lock, so that the engine, which holds Python's, finds
        # little left to write
        sync_files(self.path)
        self._run(lambda held: held.flush())

    def optimize(self) -> bool:
        """Build graphs and drop what was deleted; False where there was nothing to do.

        It holds Python's lock all the time: 3.4 minutes for 100,000 points without token vectors,
        7.3 with them, on two cores.
        """
        changed = bool(self._run(lambda held: held.optimize()))
        if changed:
            self._warm()
        return changed

    @contextmanager
    def in_use(self) -> Iterator[Self]:
        """Keep the shard open until the block ends, however many calls it makes."""
        user = object()
        with self._idle:
            self._open()
            self._users[user] = threading.get_ident()
        try:
            yield self
        finally:
            with self._idle:
                del self._users[user]
                self._idle.notify_all()

    def outlast_users(self) -> None:
        """Wait for those who use the shard now, but for this thread; others may begin to."""
        with self._idle:
            me = threading.get_ident()
            users = {user for user, thread in self._users.items() if thread != me}
            self._idle.wait_for(lambda: users.isdisjoint(self._users))

    def close(self) -> None:
        """Wait for its users, flush and release the shard; closing twice is fine."""
        if self._warming is not None:
            self._warming.close()
        with self._idle:
            self._idle.wait_for(lambda: not self._users)
            held, self._held = self._held, None
            if held is None:
                return
            try:
                self._guarded(held.flush)
            finally:
                self._guarded(held.close)

    def keep(self) -> None:
        """Have it not be freed when the process ends: the engine flushes what is freed."""
        with self._lock:
            never_free(self._held)

    def abandon(self, log_lock: os.stat_result | None) -> None:
        """Let go of a shard without a flush: another has its place by now, or there is no room.

        Args:
            log_lock: See `Folder.log_lock`.
        """
        if self._warming is not None:
            self._warming.close()
        with self._idle:
            self._idle.wait_for(lambda: not self._users)
            held, self._held = self._held, None
        if held is not None:
            never_free(held)
            close_handles(log_lock)

    def _retrieved(
        self, points: Sequence[UUID], names: Sequence[str] | None, vectors: Any
    ) -> Iterator[Any]:
        payload: Any = names is None
        if names:
            payload = engine.PayloadSelector.Include(list(names))
        pace, start = Pace(_FIRST_VECTORS if vectors else _FIRST_PAGE), 0
        while start < len(points):
            part = list(points[start : start + min(_PAGE, pace.size)])
            found, seconds = self._timed(
                lambda held, part=part: held.retrieve(part, payload, vectors)
            )
            pace.took(len(part), seconds)
            start += len(part)
            yield from found

    def _warm(self) -> None:
        if self._warming is not None:
            self._warming.start(self.path)

    def _open(self) -> engine.EdgeShard:
        if self._held is None:
            raise StoreError(f"the index in {self.path.parent} is closed; open it again")
        return self._held

    def _run(self, call: Any) -> Any:
        return self._timed(call)[0]

    def _timed(self, call: Any) -> tuple[Any, float]:
        """What the engine answers, and how many seconds it was at it, the queue not counted."""
        with self._lock:
            held = self._open()
            start = time.perf_counter()
            answer = self._guarded(lambda: call(held))
            seconds = time.perf_counter() - start
        self._give_way()
        return answer, seconds

    def _give_way(self) -> None:
        """Every few milliseconds, let a thread that waits for Python's lock have it.

        While calls of a millisecond followed each other, other threads were seen to wait for all of
        them, 370 ms long.
        """
        if time.perf_counter() - self._gave_way >= _TURN:
            time.sleep(0)
            self._gave_way = time.perf_counter()

    def _guarded(self, call: Any) -> Any:
        return _guarded(call, self.path)


def _query(queries: EmbeddingBatch, mode: Mode) -> engine.Query | None:
    """A dense or a sparse query in the engine's form; None for one without lexical weights."""
    if mode == "dense":
        assert queries.dense is not None
        return engine.Query.Nearest(queries.dense[0].tolist(), using=mode)
    assert queries.sparse is not None
    ids, weights = queries.sparse.row(0)
    if not len(ids):
        return None
    return engine.Query.Nearest(engine.SparseVector(ids.tolist(), weights.tolist()), using=mode)


def sync_files(folder: Path) -> None:
    """Have the system write a folder's files to disk, memory-mapped pages included."""
    tree = os.walk(folder, topdown=False)  # passes over what is removed meanwhile
    for file in (Path(parent) / name for parent, _, names in tree for name in [*names, "."]):
        try:
            handle = os.open(file, os.O_RDONLY)
        except OSError:  # removed meanwhile; or a folder, which Windows does not open
            continue
        try:
            os.fsync(handle)
        except OSError:  # Windows syncs only files opened for writing; the engine's flush does
            pass
        finally:
            os.close(handle)


def _token_bytes(layout: Layout) -> int:
    """Of one token vector, about; 1 where none is kept."""
    return 1 if layout.colbert_dim is None else layout.colbert_dim * _BYTES[layout.colbert]


def _config(layout: Layout, *, vacuum: bool = False) -> engine.EdgeConfig:
    vectors = {}
    if layout.dim is not None:
        vectors["dense"] = engine.EdgeVectorParams(size=layout.dim, distance=engine.Distance.Dot)
    if layout.colbert_dim is not None:
        vectors["colbert"] = engine.EdgeVectorParams(
            size=layout.colbert_dim,
            distance=engine.Distance.Dot,
            datatype=COLBERT_TYPES[layout.colbert],
            multivector_config=engine.MultiVectorConfig(engine.MultiVectorComparator.MaxSim),
            # opened without reading them all first: see warming.py
            memory=engine.Memory.Cold,
            # token vectors score given points only: no graph
            hnsw_config=engine.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=10),
        )
    return engine.EdgeConfig(
        vectors=vectors,
        sparse_vectors={"sparse": engine.EdgeSparseVectorParams()} if layout.sparse else {},
        # the engine's own defaults are named, since it remembers what it was last given
        optimizers=engine.EdgeOptimizersConfig(
            deleted_threshold=1e-6 if vacuum else 0.2,
            vacuum_min_vector_number=1 if vacuum else 1000,
            indexing_threshold=_INDEXED_FROM_KIB,
        ),
    )


def _guarded(call: Any, path: Path) -> Any:
    """Call the engine; what it raises, its panics included, becomes our error."""
    try:
        return call()
    except Exception as error:
        raise StoreError(f"the index engine failed in {path}: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise StoreError(
            f"the index engine failed badly in {path}: {error}; close the index and open it again, "
            "or restore a backup"
        ) from error
