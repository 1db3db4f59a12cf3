"""Which records a filter means: by the engine where it can say so exactly, else by reading them."""

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
from bge_m3_integrations.stores.edge.ids import Names, ascending
from bge_m3_integrations.stores.edge.points import metadata_of, name_of, point_id
from bge_m3_integrations.stores.edge.shard.shard import Shard

_REMEMBERED = 8
"""Filters whose result is kept until the next write."""
_ALL = And(())


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What a filter means at one moment.

    Attributes:
        condition: For the engine, exact; None for all records.
        ids: Ascending, where they are known already.
        count: How many records, where that is known already.
    """

    condition: engine.Filter | None
    ids: Sequence[str] | None = None
    count: int | None = None


class Choosing:
    """Filters over one shard. Thread-safe.

    Args:
        fields: The metadata paths that the engine filters by; None is all.
        names: The shard's ids.
    """

    def __init__(self, fields: frozenset[str] | None, names: Names) -> None:
        self._fields, self._names = fields, names
        self._results: dict[tuple[Hashable, int], _Chosen] = {}
        self._lock = threading.Lock()

    def condition(self, where: Filter | None, shard: Shard) -> engine.Filter | None:
        """The filter for the engine, exact; None for all records."""
        return None if where is None else self._chosen(where, shard).condition

    def ids(self, where: Filter | None, shard: Shard) -> Sequence[str]:
        """The ids of matching records, ascending."""
        if where is None:
            return self._names.ordered(shard)
        version = self._names.version
        chosen = self._chosen(where, shard)
        if chosen.ids is not None:
            return chosen.ids
        pages = shard.pages(chosen.condition, ["name"])
        ids = ascending([name_of(payload) for _, payload in page] for page in pages)
        self._remember(where, version, _Chosen(chosen.condition, ids, len(ids)))
        return ids

    def count(self, where: Filter | None, shard: Shard) -> int:
        """How many records match."""
        version = self._names.version
        chosen = self._chosen(_ALL if where is None else where, shard)
        if chosen.count is None:
            chosen = replace(chosen, count=shard.count(chosen.condition))
            self._remember(_ALL if where is None else where, version, chosen)
        assert chosen.count is not None
        return chosen.count

    def _chosen(self, where: Filter, shard: Shard) -> _Chosen:
        version = self._names.version
        known = self._results.get((_key(where), version))
        if known is None:
            known = _Chosen(self._exact(where, shard))
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

    def _remember(self, where: Filter, version: int, chosen: _Chosen) -> None:
        if PREDICATE in operators(where):
            return  # what a function answers may change
        with self._lock:
            while len(self._results) >= _REMEMBERED:
                del self._results[next(iter(self._results))]
            self._results[_key(where), version] = chosen


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
