"""A ranking: ties, what is gone, thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from bge_m3_integrations.core.embeddings import ALL_MODES
from bge_m3_integrations.core.fusion import Fusion, ReciprocalRank, ScaledSum, WeightedSum
from bge_m3_integrations.core.scores import Components
from bge_m3_integrations.index.request import SearchOptions, SearchRequest, ranking, search_request


def planned(**options: object) -> SearchRequest:
    given: SearchOptions = {"limit": 9, "weights": (1, 1, 0), **options}  # type: ignore[typeddict-item]
    return search_request(given, modes=ALL_MODES, findable=ALL_MODES)


def parts(dense: list[float], sparse: list[float]) -> Components:
    return Components(np.array(dense, np.float32), np.array(sparse, np.float32))


@pytest.mark.parametrize("fusion", [WeightedSum(), ScaledSum(), ReciprocalRank()])
def test_equal_values_are_in_ascending_order_of_id_whatever_order_they_came_in(
    fusion: Fusion,
) -> None:
    ids = ["b", "10", "a", "9", "A"]
    scores = parts([0.5, 0.5, 0.5, 0.5, 0.5], [0.25] * 5)
    ranked = ranking(ids, scores, planned(fusion=fusion), 1.0)
    assert [scored.id for scored in ranked] == sorted(ids)
    assert [s.id for s in ranking(ids, scores, planned(limit=2), 1.0)] == ["10", "9"]


def test_a_better_value_comes_before_a_lower_id_and_what_is_gone_is_left_out() -> None:
    scores = parts([0.1, np.nan, 0.9], [0.0, 0.0, 0.0])
    assert [s.id for s in ranking(["a", "b", "c"], scores, planned(), 0.0)] == ["c", "a"]


def test_lexical_scores_alone_make_no_hit_of_a_document_without_a_shared_token() -> None:
    scores = Components(sparse=np.array([0.0, 0.5, np.nan], np.float32))
    for options, kept in [({}, ["b"]), ({"exact": True}, ["b", "a"])]:
        request = planned(weights=(0, 1, 0), **options)
        assert [s.id for s in ranking(["a", "b", "c"], scores, request, 1.0)] == kept
