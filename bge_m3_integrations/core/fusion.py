"""From component scores to the one value that a result list is ranked by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import FloatArray
from bge_m3_integrations.core.scores import Components, Weights
from bge_m3_integrations.errors import InputError


@runtime_checkable
class Fusion(Protocol):
    """Ranks the candidates of one query."""

    @property
    def name(self) -> str:
        """The name that a hit reports beside its score."""
        ...

    def rank_values(
        self, parts: Components, weights: Weights, *, query_sparse_sum: float
    ) -> FloatArray:
        """The value to rank each candidate by, higher first.

        Args:
            parts: Component scores of `n` candidates, arrays of shape `(n,)`.
            weights: Weights whose modes are all in `parts`.
            query_sparse_sum: Sum of the query's lexical weights.

        Returns:
            `(n,) float32`.
        """
        ...

    def max_score(self, weights: Weights) -> float:
        """The value that stands for full relevance, whatever the query; see `Hit.relevance`.

        Args:
            weights: Those of the search.

        Returns:
            Above 0; infinite where no value stands for it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Candidates:
    """The scored candidates of one query, before any weights.

    Attributes:
        ids: The documents, `n` of them.
        components: Their exact scores, arrays of `(n,)`; NaN where a document is gone.
        query_sparse_sum: The sum of the query's lexical weights.
        lexical: The lexical values of learned weights, `(n,)`; None otherwise.
    """

    ids: Sequence[str]
    components: Components
    query_sparse_sum: float
    lexical: FloatArray | None = None

    def values(self, fusion: Fusion, weights: Weights) -> FloatArray:
        """The values to rank by, `(n,) float32`, higher first."""
        parts = self.components
        if self.lexical is not None:
            parts = Components(parts.dense, self.lexical, parts.colbert)
        return fusion.rank_values(parts, weights, query_sparse_sum=self.query_sparse_sum)


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """The raw weighted mean of the scores, which FlagEmbedding and the paper's numbers use."""

    name: str = "weighted_sum"

    def rank_values(
        self, parts: Components, weights: Weights, *, query_sparse_sum: float
    ) -> FloatArray:
        """See `Fusion.rank_values`; the sum is not used."""
        del query_sparse_sum
        return scoring.hybrid(parts, weights).hybrid

    def max_score(self, weights: Weights) -> float:
        """See `Fusion.max_score`: 1; infinite for lexical scores alone, which have no bound."""
        return _greatest_mean(weights)


@dataclass(frozen=True, slots=True)
class ScaledSum:
    """The weighted mean with the lexical score divided by the sum of the query's own weights.

    Raw lexical scores grow with the query's length and can drown the other modes on long queries.
    The divisor depends on the query only, so a document's value does not depend on who else was
    found. It helps on some collections and costs points on others: measure before you choose it.
    """

    name: str = "scaled_sum"

    def rank_values(
        self, parts: Components, weights: Weights, *, query_sparse_sum: float
    ) -> FloatArray:
        """See `Fusion.rank_values`; a query without lexical weights keeps its zeros."""
        if parts.sparse is not None and query_sparse_sum > 0:
            scaled = parts.sparse / np.float32(query_sparse_sum)
            parts = Components(parts.dense, scaled, parts.colbert)
        return scoring.hybrid(parts, weights).hybrid

    def max_score(self, weights: Weights) -> float:
        """See `WeightedSum.max_score`."""
        return _greatest_mean(weights)


@dataclass(frozen=True, slots=True)
class ReciprocalRank:
    """Reciprocal rank fusion, `sum of w / (k + rank)` with ranks from 1 (Cormack et al. 2009).

    Ranks are among all candidates of the query; a lexical score of 0 adds nothing.

    Attributes:
        k: Damping of the first ranks; 60 in the paper.
        name: Reported in the hits.
    """

    k: float = 60.0
    name: str = "reciprocal_rank"

    def __post_init__(self) -> None:
        if not self.k > 0:
            raise InputError(f"k of ReciprocalRank must be above 0, not {self.k}")

    def rank_values(
        self, parts: Components, weights: Weights, *, query_sparse_sum: float
    ) -> FloatArray:
        """See `Fusion.rank_values`; equal scores share the better rank."""
        del query_sparse_sum
        if missing := weights.modes - parts.modes:
            raise InputError(f"weights {weights} need {sorted(missing)}, which were not scored")
        total = np.zeros(parts.shape, np.float32)
        for mode, scores in parts.items():
            ordered = np.sort(-scores)
            rank = np.searchsorted(ordered, -scores, side="left") + 1
            share = np.float32(weights.of(mode)) / (np.float32(self.k) + rank.astype(np.float32))
            # a document that shares no token with the query is in no lexical list
            total += np.where(scores > 0, share, 0) if mode == "sparse" else share
        return total

    def max_score(self, weights: Weights) -> float:
        """See `Fusion.max_score`: that of a document which is first by every weighted mode."""
        return sum(weights.of(mode) for mode in weights.modes) / (self.k + 1)


FUSIONS: Mapping[str, type[WeightedSum | ScaledSum | ReciprocalRank]] = MappingProxyType(
    {kind().name: kind for kind in (WeightedSum, ScaledSum, ReciprocalRank)}
)
"""The rules by the names that files and serialized adapters have for them."""


def _greatest_mean(weights: Weights) -> float:
    return math.inf if weights.modes == {"sparse"} else 1.0
