"""A search as asked: the modes looked up, how many of each, the weights, and the ranking."""

from __future__ import annotations

import numpy as np
import pytest

from bge_m3_integrations.core.embeddings import ALL_MODES
from bge_m3_integrations.core.fusion import (
    Candidates,
    Fusion,
    ReciprocalRank,
    ScaledSum,
    WeightedSum,
)
from bge_m3_integrations.core.scores import Components, Weights
from bge_m3_integrations.core.weighting import WeightProfile
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.request import SearchOptions, SearchRequest, ranking, search_request
from tests.unit.index.spy import SpyStore, make


def planned(**options: object) -> SearchRequest:
    given: SearchOptions = {"limit": 9, **options}  # type: ignore[typeddict-item]
    weights = WeightProfile(None, Weights.parse(given.get("weights", (1, 1, 0))))  # type: ignore[arg-type]
    return search_request(given, weights, modes=ALL_MODES, findable=ALL_MODES)


def parts(dense: list[float], sparse: list[float]) -> Components:
    return Components(np.array(dense, np.float32), np.array(sparse, np.float32))


@pytest.mark.parametrize("fusion", [WeightedSum(), ScaledSum(), ReciprocalRank()])
def test_equal_values_are_in_ascending_order_of_id_whatever_order_they_came_in(
    fusion: Fusion,
) -> None:
    ids = ["b", "10", "a", "9", "A"]
    scores = parts([0.5, 0.5, 0.5, 0.5, 0.5], [0.25] * 5)
    ranked = ranking(Candidates(ids, scores, 1.0), planned(fusion=fusion))
    assert [scored.id for scored in ranked] == sorted(ids)
    assert [s.id for s in ranking(Candidates(ids, scores, 1.0), planned(limit=2))] == ["10", "9"]


def test_a_better_value_comes_before_a_lower_id_and_what_is_gone_is_left_out() -> None:
    scores = parts([0.1, np.nan, 0.9], [0.0, 0.0, 0.0])
    held = Candidates(["a", "b", "c"], scores, 0.0)
    assert [s.id for s in ranking(held, planned())] == [
        "c",
        "a",
    ]


def test_lexical_scores_alone_make_no_hit_of_a_document_without_a_shared_token() -> None:
    scores = Components(sparse=np.array([0.0, 0.5, np.nan], np.float32))
    for options, kept in [({}, ["b"]), ({"exact": True}, ["b", "a"])]:
        request = planned(weights=(0, 1, 0), **options)
        assert [s.id for s in ranking(Candidates(["a", "b", "c"], scores, 1.0), request)] == kept


def test_candidates_are_looked_up_and_weights_are_scored() -> None:
    store = SpyStore()
    index, fake = make(store)
    hits = index.search(
        "fox", limit=3, candidates={"sparse": 5}, weights=Weights(1, 0, 1), where={"even": True}
    )
    assert [(mode, limit) for mode, limit, _ in store.finds] == [("sparse", 5)]
    assert [modes for modes, _ in store.scored] == [{"dense", "colbert"}]
    assert [call.modes for call in fake.calls] == [{"dense", "sparse", "colbert"}]
    assert set(hits[0].components) == {"dense", "colbert"}


def test_a_mode_in_neither_is_not_computed() -> None:
    index, fake = make()
    index.search("fox", candidates={"dense": 5}, weights=Weights.only("dense"))
    index.search("fox", weights=Weights.only("colbert"), exact=True)
    assert [call.modes for call in fake.calls] == [{"dense"}, {"colbert"}]


def test_the_default_looks_up_a_hundred_dense_and_a_hundred_sparse() -> None:
    store = SpyStore()
    index, _ = make(store)
    index.search("fox")
    assert [(mode, n) for mode, n, _ in store.finds] == [("dense", 100), ("sparse", 100)]


def test_the_pool_grows_to_the_limit() -> None:
    store = SpyStore()
    index, _ = make(store)
    assert len(index.search("fox", limit=20, candidates={"dense": 3})) == 20
    assert store.finds[0][:2] == ("dense", 20)


def test_weights_default_to_the_preset_without_the_modes_that_are_not_there() -> None:
    index, fake = make(modes=["dense", "sparse"])
    hit = index.search("fox")[0]
    assert hit.weights == Weights(0.4, 0.2, 0)
    assert fake.calls[0].modes == {"dense", "sparse"}


def test_an_explicit_weight_on_an_absent_mode_names_both_sides() -> None:
    index, _ = make(modes=["dense", "sparse"])
    with pytest.raises(InputError, match=r"\['colbert'\].*\['dense', 'sparse'\]"):
        index.search("fox", weights=(0.4, 0.2, 0.4))
    assert index.search("fox", weights=(0.4, 0.2, 0))[0].weights == Weights(0.4, 0.2, 0)
