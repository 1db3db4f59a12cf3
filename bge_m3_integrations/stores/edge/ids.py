"""The ids of an edge store: known by the engine's ids, and in ascending order where that is asked.

The engine's id is a function of ours, so nothing that is remembered here becomes wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from heapq import merge
from uuid import UUID

from bge_m3_integrations.stores.edge.points import name_of, point_id
from bge_m3_integrations.stores.edge.shard.shard import Shard

_REMEMBERED = 1 << 20
"""Ids kept by the engine's id: 200 bytes each."""


class IdIndex:
    """The ids of a shard, as far as they were needed. Thread-safe.

    Attributes:
        version: Changes with every write.
    """

    def __init__(self) -> None:
        # by `UUID.int`: Python's garbage collector walks every UUID that is kept, and no integer
        self._by_point: dict[int, str] = {}
        self._ordered: Sequence[str] | None = None
        self._new: set[str] = set()
        self._gone: set[str] = set()
        self.version = 0
        self._lock = threading.RLock()

    def added(self, ids: Iterable[str]) -> None:
        """Add written ids."""
        fresh = set(ids)
        with self._lock:
            self.version += 1
            self._gone -= fresh
            self._new |= fresh
            self._remember((point_id(record_id).int, record_id) for record_id in fresh)

    def deleted(self, ids: Iterable[str]) -> None:
        """Remove deleted ids."""
        lost = set(ids)
        with self._lock:
            self.version += 1
            self._new -= lost
            self._gone |= lost

    def invalidate(self) -> None:
        """Forget the order, after a write that failed and may have been half done."""
        with self._lock:
            self.version += 1
            self._ordered = None

    def by_point(self, points: Sequence[UUID], shard: Shard) -> dict[UUID, str]:
        """Return the ids of points; one that is gone meanwhile is left out."""
        known = self._by_point
        missing = [point for point in points if point.int not in known]
        if not missing:
            return {point: known[point.int] for point in points}
        found = shard.payloads(missing, ["name"])
        fresh = {point.int: name_of(payload) for point, payload in found.items()}
        with self._lock:
            self._remember(fresh.items())
        held = [(point, fresh.get(point.int) or known.get(point.int)) for point in points]
        return {point: name for point, name in held if name is not None}

    def ordered(self, shard: Shard) -> Sequence[str]:
        """Return all ids, ascending; the list is never changed afterwards."""
        with self._lock:
            if self._ordered is None:
                self._new.clear()
                self._gone.clear()
                pages = shard.pages(None, ["name"])
                self._ordered = ascending([name_of(held) for _, held in page] for page in pages)
            elif self._new or self._gone:
                changed = self._new | self._gone
                kept = [key for key in self._ordered if key not in changed]
                self._ordered = list(merge(kept, sorted(self._new)))
                self._new.clear()
                self._gone.clear()
            return self._ordered

    def _remember(self, pairs: Iterable[tuple[int, str]]) -> None:
        if len(self._by_point) > _REMEMBERED:
            self._by_point = {}
        self._by_point.update(pairs)


def ascending(pages: Iterable[Iterable[str]]) -> list[str]:
    """All ids of pages in order: merged in Python, where one sort would hold its lock."""
    return list(merge(*map(sorted, pages)))
