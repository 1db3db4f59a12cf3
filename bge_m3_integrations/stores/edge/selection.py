"""The records that a filter means: by the engine where that is exact, else by reading them."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import qdrant_edge as engine

from bge_m3_integrations.core.filters import (
    PREDICATE,
    And,
    Compare,
    Filter,
    Ids,
    Not,
    Or,
    Predicate,
    RecordPredicate,
    matcher,
    operators,
)
from bge_m3_integrations.stores.edge.filters import compile_filter
from bge_m3_integrations.stores.edge.ids import IdIndex, ascending
from bge_m3_integrations.stores.edge.points import metadata_of, name_of, point_id
from bge_m3_integrations.stores.edge.shard.shard import Shard

_REMEMBERED = 8
"""Filters whose result is kept until the next write."""
_ALL = And(())


@dataclass(frozen=True, slots=True)
class _Resolved:
    """The meaning of a filter at one moment.

    Attributes:
        condition: For the engine, exact; None for all records.
        ids: Ascending, where they are known already.
        count: How many records, where that is known already.
    """

    condition: engine.Filter | None
    ids: Sequence[str] | None = None
    count: int | None = None


class FilterResolver:
    """Finds which records of one shard pass a filter. Thread-safe.

    `fields` are the metadata paths that the engine filters by; None is all.
    """

    def __init__(self, fields: frozenset[str] | None, index: IdIndex) -> None:
        self._fields, self.index = fields, index
        self._results: dict[tuple[Hashable, int], _Resolved] = {}
        self._lock = threading.Lock()

    def condition(self, where: Filter | None, shard: Shard) -> engine.Filter | None:
        """Return the filter for the engine, exact; None for all records."""
        return self._resolved(where, shard).condition

    def ids(self, where: Filter | None, shard: Shard) -> Sequence[str]:
        """Return the ids of matching records, ascending."""
        if where is None:
            return self.index.ordered(shard)
        version, resolved = self.index.version, self._resolved(where, shard)
        if resolved.ids is not None:
            return resolved.ids
        pages = shard.pages(resolved.condition, ["name"])
        ids = ascending([name_of(payload) for _, payload in page] for page in pages)
        self._remember(where, version, _Resolved(resolved.condition, ids, len(ids)))
        return ids

    def count(self, where: Filter | None, shard: Shard) -> int:
        """Count the matching records."""
        version, resolved = self.index.version, self._resolved(where, shard)
        if resolved.count is not None:
            return resolved.count
        count = shard.count(resolved.condition)
        self._remember(where or _ALL, version, replace(resolved, count=count))
        return count

    def _resolved(self, where: Filter | None, shard: Shard) -> _Resolved:
        where, version = where or _ALL, self.index.version
        known = self._results.get((_key(where), version))
        if known is None:
            known = _Resolved(self._exact(where, shard))
            self._remember(where, version, known)
        return known

    def _exact(self, where: Filter, shard: Shard) -> engine.Filter | None:
        pushed = compile_filter(where, self._fields, point_id=point_id)
        if pushed.exact:
            return pushed.condition
        passes = matcher(where)
        return pushed.settled(
            [
                point
                for page in shard.pages(pushed.doubtful, ["name", "body"])
                for point, payload in page
                if passes(metadata_of(payload), name_of(payload), None)
            ]
        )

    def _remember(self, where: Filter, version: int, resolved: _Resolved) -> None:
        if PREDICATE in operators(where):
            return  # what a function answers may change
        with self._lock:
            while len(self._results) >= _REMEMBERED:
                del self._results[next(iter(self._results))]
            self._results[_key(where), version] = resolved


def _key(where: Filter) -> Hashable:
    """Equal for filters of one meaning; filters themselves are equal for 1 and True."""
    match where:
        case And(parts) | Or(parts):
            return type(where).__name__, tuple(map(_key, parts))
        case Not(part):
            return "Not", _key(part)
        case Compare(path, op, value):
            return path, op, repr(value)
        case Ids(ids):
            return frozenset(ids)
        case Predicate(fn) | RecordPredicate(fn):
            return id(fn)
