"""Fusion rules."""

from __future__ import annotations

import numpy as np
import pytest

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.fusion import Fusion, ReciprocalRank, ScaledSum, WeightedSum
from bge_m3_integrations.core.scores import Components, Weights
from bge_m3_integrations.errors import InputError

PARTS = Components(
    np.array([0.9, 0.5, 0.1], np.float32),
    np.array([0.0, 6.0, 3.0], np.float32),
    np.array([0.2, 0.2, 0.8], np.float32),
)
WEIGHTS = Weights(0.4, 0.2, 0.4)
FUSIONS: list[Fusion] = [WeightedSum(), ScaledSum(), ReciprocalRank()]


def values(fusion: Fusion, parts: Components, *, mass: float = 3.0) -> list[float]:
    ranked = fusion.rank_values(parts, WEIGHTS, query_sparse_sum=mass)
    assert ranked.dtype == np.float32
    return [float(value) for value in ranked]


def test_weighted_sum_is_the_hybrid_score() -> None:
    expected = scoring.hybrid(PARTS, WEIGHTS).hybrid.tolist()
    assert values(WeightedSum(), PARTS) == expected
    assert values(WeightedSum(), PARTS, mass=99.0) == expected


def test_scaled_sum_divides_the_lexical_score_by_the_mass_of_the_query() -> None:
    expected = [0.4 * d + 0.2 * s / 3 + 0.4 * c for d, s, c in [(0.9, 0, 0.2), (0.5, 6, 0.2)]]
    assert values(ScaledSum(), PARTS)[:2] == pytest.approx(expected)
    assert PARTS.sparse is not None
    assert PARTS.sparse.tolist() == [0.0, 6.0, 3.0]


def test_scaled_sum_of_a_query_without_lexical_weights_is_finite() -> None:
    parts = Components(PARTS.dense, np.zeros(3, np.float32), PARTS.colbert)
    assert np.isfinite(values(ScaledSum(), parts, mass=0.0)).all()


def test_scaled_sum_does_not_depend_on_who_else_was_found() -> None:
    all_of_them = values(ScaledSum(), PARTS)
    assert values(ScaledSum(), PARTS.take(np.array([1]))) == [all_of_them[1]]


def test_reciprocal_rank_adds_one_over_k_plus_rank() -> None:
    given = values(ReciprocalRank(k=10), PARTS)
    ranks = [(1, None, 2), (2, 1, 2), (3, 2, 1)]  # the first shares no token with the query
    expected = [
        0.4 / (10 + d) + (0.2 / (10 + s) if s else 0.0) + 0.4 / (10 + c) for d, s, c in ranks
    ]
    assert given == pytest.approx(expected)


def test_reciprocal_rank_gives_equal_scores_the_better_rank() -> None:
    parts = Components(dense=np.array([0.5, 0.5, 0.1], np.float32))
    only = ReciprocalRank(k=1).rank_values(parts, Weights.only("dense"), query_sparse_sum=0.0)
    assert only.tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 4])


@pytest.mark.parametrize("k", [0, -1.0, float("nan")])
def test_reciprocal_rank_refuses_a_k_that_is_not_positive(k: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        ReciprocalRank(k=k)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_weighted_mode_that_was_not_scored_is_an_error(fusion: Fusion) -> None:
    with pytest.raises(InputError, match="colbert"):
        values(fusion, Components(PARTS.dense, PARTS.sparse))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_better_score_never_ranks_lower(fusion: Fusion) -> None:
    before = values(fusion, PARTS)
    better = Components(np.array([0.9, 0.95, 0.1], np.float32), PARTS.sparse, PARTS.colbert)
    after = values(fusion, better)
    assert after[1] - after[0] >= before[1] - before[0]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_no_candidates_give_no_values(fusion: Fusion) -> None:
    assert values(fusion, PARTS.take(np.zeros(0, np.int64))) == []


@pytest.mark.parametrize("weights", [WEIGHTS, Weights(1, 0, 3), Weights.only("dense")])
def test_who_is_first_by_every_mode_has_the_greatest_reciprocal_rank(weights: Weights) -> None:
    first = Components(*(np.array([1.0, 0.5], np.float32) for _ in range(3)))
    parts = Components(**{m: s for m, s in first.items() if m in weights.modes})
    fusion = ReciprocalRank(k=10)
    values = fusion.rank_values(parts, weights, query_sparse_sum=1.0)
    assert fusion.max_score(weights) == pytest.approx(float(values[0]))


@pytest.mark.parametrize("fusion", [WeightedSum(), ScaledSum()])
def test_a_mean_is_at_most_1_and_lexical_scores_alone_are_unbounded(fusion: Fusion) -> None:
    assert fusion.max_score(WEIGHTS) == 1
    assert fusion.max_score(Weights.only("sparse")) == float("inf")


def test_every_fusion_has_its_own_name() -> None:
    assert len({fusion.name for fusion in FUSIONS}) == len(FUSIONS)
