"""Candidates and scores out of a shard: what is exact, what walks a graph, how ties end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from qdrant_edge import SearchParams

from bge_m3_integrations.core.embeddings import EmbeddingBatch, FloatArray, Mode, ordered_modes
from bge_m3_integrations.core.filters import Filter
from bge_m3_integrations.core.records import Candidate
from bge_m3_integrations.core.scores import Components
from bge_m3_integrations.stores.edge.ids import Names
from bge_m3_integrations.stores.edge.points import point_id
from bge_m3_integrations.stores.edge.selection import Choosing
from bge_m3_integrations.stores.edge.shard.shard import Shard

_EXACT_UP_TO = 50_000
"""Matching documents that are compared one by one: as fast as a graph up to about there, and a
graph loses much of its recall under a filter."""
_THOROUGHNESS = 256
"""Candidates that a walk through the graph keeps (HNSW's `ef`)."""
_SCORED_AT_ONCE = 128
"""So few that what Python makes of them is gone before its garbage collector comes for the third
time: much that is still there then makes it walk through everything, for 100 ms."""


@dataclass(frozen=True, slots=True)
class Searching:
    """Looks up candidates.

    Attributes:
        choosing: What filters mean.
        names: The ids of points.
    """

    choosing: Choosing
    names: Names

    def find(
        self,
        query: EmbeddingBatch,
        mode: Mode,
        *,
        limit: int,
        where: Filter | None,
        shard: Shard,
    ) -> list[Candidate]:
        """The best candidates of a batch of one query; see `Store.find`."""
        if mode == "colbert":
            return self._by_token_vectors(query, limit, where, shard)
        limit = min(limit, self.choosing.count(None, shard) or 1)  # the engine makes room for all
        condition = self.choosing.condition(where, shard)
        many = mode == "dense" and self.choosing.count(where, shard) > _EXACT_UP_TO
        params = SearchParams(exact=not many, hnsw_ef=_THOROUGHNESS if many else None)
        wanted = limit + 1
        while True:
            found = shard.nearest(query, mode, limit=wanted, where=condition, params=params)
            # equal scores at the end: ids decide who is in, so all of them are needed
            if len(found) < wanted or found[limit - 1][1] != found[-1][1]:
                break
            wanted *= 2
        if mode == "sparse":
            found = [pair for pair in found if pair[1] > 0]  # weights so small that nothing is left
        return self._best(found, limit, shard)

    def _by_token_vectors(
        self, query: EmbeddingBatch, limit: int, where: Filter | None, shard: Shard
    ) -> list[Candidate]:
        ids = self.choosing.ids(where, shard)
        best: list[tuple[float, str]] = []
        # the best so far, not all scores: sorting those, and collecting the garbage of so many
        # objects, would each hold Python's lock for as long as there are documents
        for start in range(0, len(ids), _SCORED_AT_ONCE):
            part = {point_id(key): key for key in ids[start : start + _SCORED_AT_ONCE]}
            found = shard.scores(query, "colbert", list(part))
            best = sorted([*best, *((-found[p], part[p]) for p in found)])[:limit]
        return [Candidate(key, -score) for score, key in best]

    def _best(
        self, found: Sequence[tuple[UUID, float]], limit: int, shard: Shard
    ) -> list[Candidate]:
        """The first of scored points, best first, ties by ascending id."""
        if len(found) > limit:
            least = found[limit - 1][1]
            found = [pair for pair in found if pair[1] >= least]
        names = self.names.of([point for point, _ in found], shard)
        held = [Candidate(names[p], score) for p, score in found if p in names]
        return sorted(held, key=lambda candidate: (-candidate.score, candidate.id))[:limit]


def components(query: EmbeddingBatch, ids: Sequence[str], shard: Shard) -> Components:
    """Scores of given ids in every mode of a batch of one query.

    Args:
        query: One query.
        ids: The records.
        shard: Where they are.

    Returns:
        `(len(ids),)` each; NaN for an unknown id.
    """
    points = [point_id(record_id) for record_id in ids]
    distinct = list(dict.fromkeys(points))
    found = {m: shard.scores(query, m, distinct) for m in ordered_modes(query.modes)}
    # every record has a dense vector and token vectors, but not every one lexical weights
    complete = [found[mode] for mode in ("dense", "colbert") if mode in found]
    held = complete[0] if complete else shard.payloads(distinct, [])
    scores: dict[Mode, FloatArray] = {}
    for mode, by_point in found.items():
        absent = {p: 0.0 if mode == "sparse" and p in held else np.nan for p in distinct}
        row = [by_point.get(point, absent[point]) for point in points]
        scores[mode] = np.array(row, np.float32)
    return Components(**scores)
