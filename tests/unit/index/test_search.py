"""A search's hits: found by every mode, ranked exactly, filtered before, and no more than match."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode, Modes
from bge_m3_integrations.core.filters import Ids, matches, parse
from bge_m3_integrations.core.fusion import ReciprocalRank, ScaledSum
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.core.scores import Components, Weights
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.stores.memory.store import MemoryStore
from bge_m3_integrations.testing.fake import FakeEncoder
from tests.unit.index.spy import QUERIES, RECORDS, SpyStore, by_hand, make


def test_hits_carry_record_components_hybrid_and_the_weights_used() -> None:
    index, _ = make()
    hit = index.search("fox bridge", limit=1)[0]
    assert hit.record == RECORDS[int(hit.id)]
    assert hit.weights == Weights()
    assert hit.fusion == "weighted_sum"
    assert list(hit.components) == ["dense", "sparse", "colbert"]
    mean = sum(Weights().of(mode) * score for mode, score in hit.components.items())
    assert hit.score == hit.hybrid == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("weights", [Weights(), Weights.only("colbert"), Weights(0, 1, 1)])
@pytest.mark.parametrize("query", QUERIES)
def test_exact_search_ranks_every_document_by_every_weighted_mode(
    query: str, weights: Weights
) -> None:
    index, _ = make(SpyStore())
    hits = index.search(query, limit=30, weights=weights, exact=True)
    expected = by_hand(query, weights, RECORDS)
    assert [hit.score for hit in hits] == pytest.approx([s for _, s in expected], abs=1e-6)
    assert {hit.id: hit.score for hit in hits} == pytest.approx(dict(expected), abs=1e-6)
    assert isinstance(index.store, SpyStore)
    assert index.store.finds == []


def test_wide_candidates_give_the_hits_of_an_exact_search() -> None:
    index, _ = make()
    for query in QUERIES:
        assert index.search(query, limit=8) == index.search(query, limit=8, exact=True)


def test_ties_are_in_ascending_order_of_id() -> None:
    same = [Record(key, f"fox {key}", {}) for key in ("b", "A", "c", "a", "10", "9")]
    index, _ = make(records=same)
    looked_up = {"candidates": {"dense": 6}, "limit": 6}
    by_dense = [h.id for h in index.search("fox", weights=Weights.only("dense"), **looked_up)]
    tied = index.search("fox", weights=Weights.only("sparse"), **looked_up)
    assert len({hit.score for hit in tied}) == 1
    assert by_dense != [hit.id for hit in tied] == sorted(record.id for record in same)


def test_each_query_of_a_batch_is_scaled_by_its_own_lexical_mass() -> None:
    index, _ = make()
    queries = ["fox", "fox dog bridge river sparse dense", "bread"]
    together = index.search_batch(queries, limit=5, fusion=ScaledSum())
    for query, hits in zip(queries, together, strict=True):
        alone = index.search(query, limit=5, fusion=ScaledSum())
        assert [hit.id for hit in hits] == [hit.id for hit in alone]
        assert [h.score for h in hits] == pytest.approx([h.score for h in alone], abs=1e-6)


LEXICAL: list[dict[str, Any]] = [
    {"weights": Weights.only("sparse")},
    {"weights": Weights.only("sparse"), "candidates": {"sparse": 5}},
    {"weights": Weights.only("sparse"), "candidates": {"dense": 5}},
    {"weights": Weights.only("sparse"), "fusion": ReciprocalRank()},
    {"weights": Weights.only("sparse"), "fusion": ScaledSum()},
    {"candidates": {"sparse": 5}},
    {"candidates": {"sparse": 5}, "weights": Weights.only("dense")},
]


@pytest.mark.parametrize("query", ["unheard", "", "bread", "fox", "of the"])
@pytest.mark.parametrize("options", LEXICAL, ids=range(len(LEXICAL)))
def test_a_lexical_search_finds_only_what_shares_a_token(
    query: str, options: dict[str, Any]
) -> None:
    index, _ = make(SpyStore())
    exact = index.search(query, limit=30, weights=Weights.only("sparse"), exact=True)
    assert len(exact) == 30  # asked to rank everything
    sharing = {hit.id for hit in exact if hit.score > 0}
    found = {hit.id for hit in index.search(query, limit=30, **options)}
    assert found <= sharing
    assert bool(found) == bool(sharing)
    assert {h.id for h in index.search_batch([query, "fox"], limit=30, **options)[0]} == found
    assert {h.id for h in index.search_diverse(query, limit=30, **options)} == found


SHARED = make()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([*QUERIES, "", "unheard"]),
    st.integers(1, 35),
    st.sampled_from([None, {"even": True}, {"n": {"$lt": 4}}, {"n": -1}]),
    st.sampled_from([None, {"dense": 2}, {"colbert": 1, "sparse": 3}]),
)
def test_there_are_fewer_hits_than_the_limit_only_where_fewer_match(
    query: str, limit: int, where: dict[str, Any] | None, candidates: dict[Mode, int] | None
) -> None:
    index = SHARED[0]
    matching = [r for r in RECORDS if where is None or matches(parse(where), r.metadata)]
    hits = index.search(query, limit=limit, where=where, candidates=candidates)
    assert len(hits) == min(limit, len(matching))
    assert {hit.id for hit in hits} <= {record.id for record in matching}


def test_a_batch_is_encoded_in_one_call_and_equals_single_searches() -> None:
    index, fake = make()
    together = index.search_batch(QUERIES, limit=4)
    assert [call.texts for call in fake.calls] == [tuple(QUERIES)]
    alone = [index.search(query, limit=4) for query in QUERIES]
    for left, right in zip(together, alone, strict=True):
        assert [hit.id for hit in left] == [hit.id for hit in right]
        assert [h.score for h in left] == pytest.approx([h.score for h in right], abs=1e-6)
    assert index.search_batch([]) == []


def test_search_embedded_encodes_nothing() -> None:
    index, fake = make()
    embeddings = fake.encode(QUERIES, kind="query", modes=fake.modes)
    expected = index.search_batch(QUERIES, limit=4)
    fake.calls.clear()
    assert index.search_embedded(embeddings, limit=4) == expected
    assert fake.calls == []
    with pytest.raises(InputError, match="colbert"):
        index.search_embedded(embeddings.only(["dense", "sparse"]))
    assert index.search_embedded(embeddings.take([])) == []


@pytest.mark.parametrize(
    "runs", [None, frozenset(), frozenset({"$eq"}), frozenset({"$eq", "$and"})]
)
@pytest.mark.parametrize(
    "where",
    [
        {"even": True},
        {"even": True, "n": {"$gt": 10}},
        {"$or": [{"n": 3}, {"n": {"$in": [4, 5]}}]},
        lambda metadata: metadata["n"] in {1, 2, 29},
        Ids(["03", "29", "gone"]),
        None,
    ],
)
def test_a_filter_selects_before_the_search_whoever_runs_it(where: Any, runs: Any) -> None:
    store = SpyStore(runs=runs)
    index, _ = make(store)
    wanted = [r for r in RECORDS if _selected(where, r)]
    hits = index.search("fox", limit=30, where=where)
    assert [hit.id for hit in hits] == [key for key, _ in by_hand("fox", Weights(), wanted)]
    assert index.search("fox", limit=30, where=where, exact=True) == hits
    assert index.count(where) == len(wanted)
    assert [r.id for r in _pages(index, where)] == [r.id for r in wanted]
    if where is not None:
        assert index.delete(where=where) == len(wanted)
        assert index.count() == 30 - len(wanted)


def _selected(where: Any, record: Record) -> bool:
    if where is None:
        return True
    if callable(where):
        return bool(where(record.metadata))
    tree = parse(where) if isinstance(where, dict) else where
    return matches(tree, record.metadata, record_id=record.id)


def _pages(index: HybridIndex, where: Any) -> Iterator[Record]:
    page = index.scroll(where, limit=4)
    yield from page.records
    while page.after is not None:
        page = index.scroll(where, after=page.after, limit=4)
        yield from page.records


def test_the_part_of_a_filter_that_the_store_runs_narrows_what_is_read() -> None:
    store = SpyStore(runs=frozenset({"$eq", "$and"}))
    index, _ = make(store)
    index.count({"even": True, "n": {"$gt": 10}})
    assert store.scrolled != []
    for where in store.scrolled:
        assert where == parse({"$and": [{"even": True}]})


def test_the_threshold_is_on_the_value_ranked_by() -> None:
    index, _ = make()
    hits = index.search("fox", limit=30, fusion=ReciprocalRank())
    cut = hits[3].score
    kept = index.search("fox", limit=30, fusion=ReciprocalRank(), score_threshold=cut)
    assert kept == [hit for hit in hits if hit.score >= cut]
    assert 4 <= len(kept) < 30


@pytest.mark.parametrize("weights", [(0.4, 0.2, 0.4), (9, 9, 9), (0, 1, 0)])
def test_reciprocal_ranks_are_told_as_shares_of_the_greatest_one(weights: Any) -> None:
    index, _ = make()
    fusion = ReciprocalRank()
    hits = index.search(RECORDS[3].text, limit=30, fusion=fusion, weights=weights)
    greatest = sum(weights) / 61
    assert hits[0].relevance == pytest.approx(1)
    assert [h.relevance for h in hits] == pytest.approx([h.score / greatest for h in hits])


def test_diversity_weighs_reciprocal_ranks_as_it_does_a_weighted_mean() -> None:
    engine = BGEM3(FakeEncoder())
    index = HybridIndex(engine)
    texts = ["red fox runs", "red fox runs fast", "honey bee", "owl at night", "boat sails"]
    index.add([Record(text, text) for text in texts])
    picks = [
        [h.id for h in index.search_diverse(texts[0], limit=3, mmr_lambda=0.9, fusion=fusion)]
        for fusion in (None, ReciprocalRank())
    ]
    assert picks[0][:2] == picks[1][:2] == texts[:2]


def test_fusion_changes_the_score_but_not_the_hybrid() -> None:
    index, fake = make()
    plain = {hit.id: hit for hit in index.search("fox bridge", limit=30)}
    query = fake.encode(["fox bridge"], kind="query", modes=["sparse"])
    assert query.sparse is not None
    mass = float(query.sparse.weights.sum())
    for hit in index.search("fox bridge", limit=30, fusion=ScaledSum()):
        assert hit.fusion == "scaled_sum"
        assert hit.hybrid == plain[hit.id].hybrid
        sparse = 0.2 * hit.components["sparse"]
        assert hit.score == pytest.approx(hit.hybrid - sparse + sparse / mass, abs=1e-6)


def test_a_document_deleted_during_a_search_is_left_out() -> None:
    class Vanishing(SpyStore):
        def score(
            self, queries: EmbeddingBatch, ids: Sequence[Sequence[str]], modes: Modes
        ) -> list[Components]:
            MemoryStore.delete(self, ids=["00"])
            return super().score(queries, ids, modes)

        def get(self, ids: Sequence[str]) -> list[Record | None]:
            MemoryStore.delete(self, ids=["01"])
            return super().get(ids)

    index, _ = make(Vanishing())
    hits = index.search("fox", limit=30)
    assert sorted(hit.id for hit in hits) == [record.id for record in RECORDS[2:]]
    assert np.isfinite([hit.score for hit in hits]).all()


def test_an_empty_index_finds_nothing() -> None:
    index, _ = make(records=[])
    assert index.search("fox") == []
    assert index.search("fox", exact=True) == []
    assert index.search_batch(["a", "b"]) == [[], []]


def test_a_huge_limit_gives_all_documents() -> None:
    index, _ = make()
    assert len(index.search("fox", limit=sys.maxsize)) == len(RECORDS)
