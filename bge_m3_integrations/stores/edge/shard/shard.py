"""Every call of the engine, qdrant-edge, that this package makes.

One call at a time. A call holds Python's lock while it runs, so each is kept short: writes come in
small batches, and whole collections are read in pages and scored in pieces, of the size that
`AdaptiveCallSize` says.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import qdrant_edge as engine

from bge_m3_integrations.core.embeddings import Mode
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.files import sync_files
from bge_m3_integrations.stores.edge.folder.manifest import Manifest
from bge_m3_integrations.stores.edge.folder.open_handles import close_handles, never_free
from bge_m3_integrations.stores.edge.shard.call_size import AdaptiveCallSize
from bge_m3_integrations.stores.edge.shard.prefetch import Prefetcher
from bge_m3_integrations.stores.edge.shard.schema import engine_config, token_bytes

_PAGE = 256
"""Points of one read: a millisecond, and 20 where each has to come from the disk."""
_FIRST_PAGE = 64
_FIRST_VECTORS = 8
_COLD_BYTES = 1 << 19
"""Token vectors of one scoring where they may have to come from the disk: 10 ms, rarely 30."""
_TURN = 0.005
"""Seconds of calls after which other threads have a turn."""
_DELETED_AT_ONCE = 1000
_NUMBERS = 16
_NAMED_NUMBERS = 64
"""Indexes of numbers, without and with filter fields that somebody chose; filters on further ones
are as right, and slower. Each is ten files, which every flush brings to disk: 1.4 ms on a quiet
one, beside 9 ms for all the rest of an index."""


class Shard:
    """One collection on disk, for an index's manifest.

    `vacuum` lets `optimize` give back the room of everything deleted, not only where it is a fifth
    of a segment. `warm` reads token vectors ahead in a thread, for searches to come: see
    `Prefetcher`.
    """

    def __init__(
        self, path: Path, manifest: Manifest, *, vacuum: bool = False, warm: bool = False
    ) -> None:
        self.path = path
        self._prefetcher = Prefetcher() if warm else None
        self._cold = _COLD_BYTES // token_bytes(manifest)
        self.token_calls = AdaptiveCallSize(self._cold)  # token vectors of one scoring
        self._gave_way = time.perf_counter()
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._users: dict[object, int] = {}
        load = partial(engine.EdgeShard.load, str(path), engine_config(manifest, vacuum=vacuum))
        self._held: engine.EdgeShard | None = _guarded(load, path)
        self._numbers = {
            name for name in self._run(lambda held: held.info()).payload_schema if name != "terms"
        }
        self._warm()

    @staticmethod
    def create(path: Path, manifest: Manifest) -> None:
        """Make an empty shard in a folder that does not exist yet."""
        path.mkdir()
        shard = _guarded(partial(engine.EdgeShard.create, str(path), engine_config(manifest)), path)
        # before any graph is built: a graph knows only the filters that it was built with
        index = engine.UpdateOperation.create_field_index("terms", engine.KeywordIndexParams())
        _guarded(partial(shard.update, index), path)
        _guarded(shard.flush, path)
        _guarded(shard.close, path)

    def write(self, points: engine.UpdateOperation) -> None:
        """Insert or replace checked points; a malformed one makes the shard unreadable for good."""
        self._update(points)

    def index_numbers(self, names: Iterable[str], *, named: bool = False) -> None:
        """Have payload keys indexed as numbers, as long as there are not too many.

        There may be more if they are `named`: of filter fields that somebody chose.
        """
        fresh = sorted(set(names) - self._numbers)
        most = _NAMED_NUMBERS if named else _NUMBERS
        for name in fresh[: max(0, most - len(self._numbers))]:
            self._update(engine.UpdateOperation.create_field_index(name, engine.FloatIndexParams()))
            self._numbers.add(name)

    def overwrite_payload(self, point: UUID, payload: Mapping[str, Any]) -> None:
        """Replace a point's payload and keep its vectors."""
        self._update(engine.UpdateOperation.overwrite_payload([point], dict(payload)))

    def delete(self, points: Sequence[UUID]) -> None:
        """Delete points; unknown ones are passed over."""
        for start in range(0, len(points), _DELETED_AT_ONCE):
            part: list[int | UUID | str] = list(points[start : start + _DELETED_AT_ONCE])
            self._update(engine.UpdateOperation.delete_points(part))

    def payloads(
        self, points: Sequence[UUID], names: Sequence[str] | None = None
    ) -> dict[UUID, dict[str, Any]]:
        """Return the payloads of those points that are there, by point.

        `names` are the payload's keys to read; None reads all, an empty list none.
        """
        return {point.id: point.payload or {} for point in self._retrieved(points, names, False)}

    def with_vectors(self, points: Sequence[UUID], modes: Sequence[Mode]) -> dict[UUID, Any]:
        """Return points with payload and vectors; those that are not there are left out."""
        return {point.id: point for point in self._retrieved(points, None, list(modes))}

    def pages(
        self, where: engine.Filter | None, names: Sequence[str]
    ) -> Iterator[list[tuple[UUID, dict[str, Any]]]]:
        """Yield all matching points with some of their payload, in pages of no useful order."""
        size, offset = AdaptiveCallSize(_FIRST_PAGE), None
        while True:
            request = engine.ScrollRequest(
                offset=offset,
                limit=min(_PAGE, size.now),
                filter=where,
                with_payload=engine.PayloadSelector.Include(list(names)),
                with_vector=False,
            )
            (points, offset), seconds = self._timed(lambda held, asked=request: held.scroll(asked))
            size.observe(len(points), seconds)
            yield [(point.id, point.payload) for point in points]
            if offset is None:
                return

    def count(self, where: engine.Filter | None) -> int:
        """Count the points that match."""
        request = engine.CountRequest(exact=True, filter=where)
        return int(self._run(lambda held: held.count(request)))

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._held is None

    def count_now(self) -> int | None:
        """The number of points; None if a call is under way, or the shard is closed."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            held = self._held
            return None if held is None else int(held.count(engine.CountRequest(exact=True)))
        finally:
            self._lock.release()

    @property
    def tokens_at_once(self) -> int:
        """Token vectors of the next scoring: while some are only on the disk, any may be."""
        warm = self._prefetcher is not None and self._prefetcher.done
        return self.token_calls.now if warm else min(self._cold, self.token_calls.now)

    def scored(
        self, query: engine.Query, points: Sequence[UUID]
    ) -> tuple[dict[UUID, float], float]:
        """Exact scores of points in one call, and the seconds that it took."""
        chosen = engine.Filter(must=[engine.HasIdCondition(set(points))])
        exact = engine.SearchParams(exact=True)
        found, seconds = self.nearest(query, limit=len(points), where=chosen, params=exact)
        return dict(found), seconds

    def nearest(
        self,
        query: engine.Query,
        *,
        limit: int,
        where: engine.Filter | None,
        params: engine.SearchParams,
    ) -> tuple[list[tuple[UUID, float]], float]:
        """Find the best points, best first with their scores, and the seconds that it took."""
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
        """Build graphs and drop deleted points; False where there was nothing to do.

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
        with self._lock:
            if (held := self._take()) is not None:
                try:
                    _guarded(held.flush, self.path)
                finally:
                    _guarded(held.close, self.path)

    def keep(self) -> None:
        """Keep it from being freed when the process ends: the engine flushes a freed shard."""
        with self._lock:
            never_free(self._held)

    def abandon(self, log_lock: os.stat_result | None) -> None:
        """Let go of a shard without a flush: another has its place by now, or there is no room.

        See `Folder.log_lock`.
        """
        if (held := self._take()) is not None:
            never_free(held)
            close_handles(log_lock)

    def _take(self) -> engine.EdgeShard | None:
        """Wait for all users, and have nobody use the engine's object from now on."""
        if self._prefetcher is not None:
            self._prefetcher.close()
        with self._idle:
            self._idle.wait_for(lambda: not self._users)
            held, self._held = self._held, None
        return held

    def _retrieved(
        self, points: Sequence[UUID], names: Sequence[str] | None, vectors: Any
    ) -> Iterator[Any]:
        payload: Any = names is None
        if names:
            payload = engine.PayloadSelector.Include(list(names))
        size, start = AdaptiveCallSize(_FIRST_VECTORS if vectors else _FIRST_PAGE), 0
        while start < len(points):
            part = list(points[start : start + min(_PAGE, size.now)])
            found, seconds = self._timed(
                lambda held, part=part: held.retrieve(part, payload, vectors)
            )
            size.observe(len(part), seconds)
            start += len(part)
            yield from found

    def _warm(self) -> None:
        if self._prefetcher is not None:
            self._prefetcher.start(self.path)

    def _open(self) -> engine.EdgeShard:
        if self._held is None:
            raise StoreError(f"the index in {self.path.parent} is closed; open it again")
        return self._held

    def _update(self, change: engine.UpdateOperation) -> None:
        self._run(lambda held: held.update(change))

    def _run(self, call: Any) -> Any:
        return self._timed(call)[0]

    def _timed(self, call: Any) -> tuple[Any, float]:
        """Return the engine's answer, and the seconds it took, the queue not counted."""
        with self._lock:
            held = self._open()
            start = time.perf_counter()
            answer = _guarded(partial(call, held), self.path)
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


def _guarded(call: Callable[[], Any], path: Path) -> Any:
    """Call the engine; its errors, panics included, become ours."""
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
