"""Candidates and scores out of a shard: which lookup is exact, how ties end."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import numpy as np
from qdrant_edge import SearchParams

from bge_m3_integrations.core.embeddings import EmbeddingBatch, FloatArray, Mode, ordered_modes
from bge_m3_integrations.core.filters import Filter
from bge_m3_integrations.core.records import Candidate
from bge_m3_integrations.core.scores import Components
from bge_m3_integrations.stores.edge.points import point_id
from bge_m3_integrations.stores.edge.selection import FilterResolver
from bge_m3_integrations.stores.edge.shard.schema import engine_query
from bge_m3_integrations.stores.edge.shard.shard import Shard
from bge_m3_integrations.stores.edge.shard.token_scores import token_scores

_EXACT_UP_TO = 50_000
"""Matching documents that are compared one by one: as fast as a graph up to about there, and a
graph loses much of its recall under a filter."""
_THOROUGHNESS = 256
"""Candidates that a walk through the graph keeps (HNSW's `ef`)."""
_NUMBERS_AT_ONCE = 4096
"""Points of one scoring by dense or lexical numbers."""
_SCORED_AT_ONCE = 128
"""So few that Python's objects for them are gone before its garbage collector comes for the third
time: many that are still there then make it walk through everything, for 100 ms."""


def find(
    query: EmbeddingBatch,
    mode: Mode,
    *,
    limit: int,
    where: Filter | None,
    filters: FilterResolver,
    shard: Shard,
) -> list[Candidate]:
    """Return the best candidates of a batch of one query; see `Store.find`."""
    if mode == "colbert":
        return _by_token_vectors(query, limit, filters.ids(where, shard), shard)
    if (asked := engine_query(query, mode)) is None:
        return []
    limit = min(limit, filters.count(None, shard) or 1)  # the engine makes room for all
    condition = filters.condition(where, shard)
    many = mode == "dense" and filters.count(where, shard) > _EXACT_UP_TO
    params = SearchParams(exact=not many, hnsw_ef=_THOROUGHNESS if many else None)
    wanted = limit + 1
    while True:
        found, _ = shard.nearest(asked, limit=wanted, where=condition, params=params)
        # equal scores at the end: ids decide who is in, so all of them are needed
        if len(found) < wanted or found[limit - 1][1] != found[-1][1]:
            break
        wanted *= 2
    if mode == "sparse":
        found = [pair for pair in found if pair[1] > 0]  # weights so small that nothing is left
    if len(found) > limit:
        least = found[limit - 1][1]
        found = [pair for pair in found if pair[1] >= least]
    names = filters.index.by_point([point for point, _ in found], shard)
    held = [Candidate(names[p], score) for p, score in found if p in names]
    return sorted(held, key=lambda candidate: (-candidate.score, candidate.id))[:limit]


def _by_token_vectors(
    query: EmbeddingBatch, limit: int, ids: Sequence[str], shard: Shard
) -> list[Candidate]:
    best: list[tuple[float, str]] = []
    # the best so far, not all scores: sorting those, and collecting the garbage of so many
    # objects, would each hold Python's lock for as long as there are documents
    for start in range(0, len(ids), _SCORED_AT_ONCE):
        part = {point_id(key): key for key in ids[start : start + _SCORED_AT_ONCE]}
        found = _scores(query, "colbert", list(part), shard)
        best = sorted([*best, *((-found[p], part[p]) for p in found)])[:limit]
    return [Candidate(key, -score) for score, key in best]


def _scores(
    query: EmbeddingBatch, mode: Mode, points: Sequence[UUID], shard: Shard
) -> dict[UUID, float]:
    """Score points exactly; those without a score are absent."""
    if mode == "colbert" and query.colbert is not None:
        return token_scores(shard, query.colbert, points)
    asked, found = engine_query(query, mode), dict[UUID, float]()
    if asked is not None:
        for start in range(0, len(points), _NUMBERS_AT_ONCE):
            found.update(shard.scored(asked, points[start : start + _NUMBERS_AT_ONCE])[0])
    return found


def components(query: EmbeddingBatch, ids: Sequence[str], shard: Shard) -> Components:
    """Score ids in all modes of a batch of one query: `(len(ids),)` each, NaN for an unknown id."""
    points = [point_id(record_id) for record_id in ids]
    distinct = list(dict.fromkeys(points))
    found = {m: _scores(query, m, distinct, shard) for m in ordered_modes(query.modes)}
    # every record has a dense vector and token vectors, but not every one lexical weights
    complete = [found[mode] for mode in ("dense", "colbert") if mode in found]
    held = complete[0] if complete else shard.payloads(distinct, [])
    scores: dict[Mode, FloatArray] = {}
    for mode, by_point in found.items():
        absent = {p: 0.0 if mode == "sparse" and p in held else np.nan for p in distinct}
        row = [by_point.get(point, absent[point]) for point in points]
        scores[mode] = np.array(row, np.float32)
    return Components(**scores)
