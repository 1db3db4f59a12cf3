"""Scores by token vectors, in calls of the engine that are short however long all texts are."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import numpy as np
import qdrant_edge as engine

from bge_m3_integrations.core.embeddings import TokenVectors
from bge_m3_integrations.stores.edge.shard.call_size import parts
from bge_m3_integrations.stores.edge.shard.shard import Shard

_POINTS_AT_ONCE = 256
"""Points of one scoring: 20 ms where each has to come from the disk."""
_QUERY_TOKENS_AT_ONCE = 32
_PRODUCTS_AT_ONCE = 32 * 8192
"""Pairs of a query's and a document's token vector of one scoring: 12 ms on a quiet machine."""


def token_scores(shard: Shard, query: TokenVectors, points: Sequence[UUID]) -> dict[UUID, float]:
    """Score points by the token vectors of a query, exactly: the mean over the query's tokens."""
    vectors = query.vectors.astype(np.float32)
    pieces = np.array_split(vectors, -(-len(vectors) // _QUERY_TOKENS_AT_ONCE))
    asked = [engine.Query.Nearest(piece.tolist(), using="colbert") for piece in pieces]
    products = _PRODUCTS_AT_ONCE // len(pieces[0])
    found: dict[UUID, float] = {}
    for start in range(0, len(points), _POINTS_AT_ONCE):
        held = shard.payloads(points[start : start + _POINTS_AT_ONCE], ["tokens"])
        lengths = {point: int(payload["tokens"]) for point, payload in held.items()}
        for part in parts(lengths, lambda: min(products, shard.tokens_at_once)):
            sums, seconds = zip(*(shard.scored(piece, part) for piece in asked), strict=True)
            # vectors come from the disk for the query's first piece
            shard.token_calls.observe(sum(lengths[point] for point in part), max(seconds))
            # the engine's score is a sum over the query's tokens, ours their mean
            found.update(
                (point, sum(s[point] for s in sums) / len(vectors))
                for point in part
                if all(point in s for s in sums)
            )
    return found
