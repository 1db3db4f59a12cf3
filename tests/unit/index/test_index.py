"""HybridIndex over a real engine, a fake encoder and the exact store."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode, Modes
from bge_m3_integrations.core.filters import And, Filter, Ids, matches, operators, parse
from bge_m3_integrations.core.fusion import ReciprocalRank, ScaledSum
from bge_m3_integrations.core.records import Candidate, Record, text_hash
from bge_m3_integrations.core.scores import Components, Weights
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import FilterError, InputError, StoreError
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.stores.base import Capabilities, Page
from bge_m3_integrations.stores.memory.store import MemoryStore
from bge_m3_integrations.testing.fake import FakeEncoder

WORDS = ["fox", "dog", "bridge", "river", "sparse", "dense", "token", "query", "model", "bread"]
WORDS += ["cheese", "garden"]
RECORDS = [
    Record(
        f"{i:02}",
        " ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 5)),
        {"n": i, "even": i % 2 == 0, "lang": "en" if i % 3 else "de"},
        content=f"shown {i}",
    )
    for i in range(30)
]
QUERIES = ["fox on the bridge", "sparse token weights", "bread"]


class SpyStore(MemoryStore):
    """Counts what is asked of it, and runs only some operators."""

    def __init__(self, *, runs: frozenset[str] | None = None) -> None:
        super().__init__()
        self.runs = runs
        self.finds: list[tuple[Mode, int, Filter | None]] = []
        self.scored: list[tuple[frozenset[Mode], list[list[str]]]] = []
        self.scrolled: list[Filter | None] = []

    @property
    def capabilities(self) -> Capabilities:
        held = super().capabilities
        return held if self.runs is None else replace(held, operators=self.runs)

    def find(
        self, queries: EmbeddingBatch, mode: Mode, *, limit: int, where: Filter | None = None
    ) -> list[list[Candidate]]:
        self._refuse(where)
        self.finds.append((mode, limit, where))
        return super().find(queries, mode, limit=limit, where=where)

    def score(
        self, queries: EmbeddingBatch, ids: Sequence[Sequence[str]], modes: Modes
    ) -> list[Components]:
        self.scored.append((frozenset(modes), [list(row) for row in ids]))
        return super().score(queries, ids, modes)

    def scroll(
        self, where: Filter | None = None, *, after: str | None = None, limit: int = 1000
    ) -> Page:
        self._refuse(where)
        self.scrolled.append(where)
        return super().scroll(where, after=after, limit=min(limit, 7))

    def delete(self, *, ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        self._refuse(where)
        return super().delete(ids=ids, where=where)

    def count(self, where: Filter | None = None) -> int:
        self._refuse(where)
        return super().count(where)

    def _refuse(self, where: Filter | None) -> None:
        if where is not None and self.runs is not None:
            assert operators(where) <= self.runs


def make(
    store: MemoryStore | None = None,
    *,
    modes: Modes | None = None,
    records: Sequence[Record] = RECORDS,
    **encoder: Any,
) -> tuple[HybridIndex, FakeEncoder]:
    fake = FakeEncoder(**encoder)
    index = HybridIndex(BGEM3(fake, memo_bytes=0), store, modes=modes)
    index.add(records)
    fake.calls.clear()
    fake.forwards.clear()
    return index, fake


def by_hand(query: str, weights: Weights, records: Sequence[Record]) -> list[tuple[str, float]]:
    fake = FakeEncoder()
    left = fake.encode([query], kind="query", modes=weights.modes)
    right = fake.encode([r.text for r in records], kind="document", modes=weights.modes)
    hybrid = scoring.hybrid(scoring.components(left, right, weights.modes), weights).hybrid[0]
    pairs = [(r.id, float(s)) for r, s in zip(records, hybrid, strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


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


SHARED = make()


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


def test_every_document_is_encoded_once_in_batches() -> None:
    fake = FakeEncoder()
    index = HybridIndex(BGEM3(fake))
    seen: list[tuple[int, int]] = []
    ids = index.add(
        iter(RECORDS), batch_size=12, progress=lambda done, total: seen.append((done, total))
    )
    assert ids == [record.id for record in RECORDS]
    assert [len(call.texts) for call in fake.calls] == [12, 12, 6]
    assert {call.kind for call in fake.calls} == {"document"}
    assert seen == [(12, 30), (24, 30), (30, 30)]
    assert index.count() == 30


def test_adding_nothing_encodes_nothing() -> None:
    index, fake = make(records=[])
    assert index.add(record for record in ()) == []
    assert fake.calls == []


def test_a_bad_batch_of_records_is_refused_before_anything_is_encoded() -> None:
    index, fake = make()
    wrong: Any = 3
    with pytest.raises(InputError, match="'x' comes twice"):
        index.add([Record("x", "a"), Record("y", "b"), Record("x", "c")])
    with pytest.raises(InputError, match="record 1 must be a Record"):
        index.add([Record("x", "a"), wrong])
    with pytest.raises(InputError, match="batch_size"):
        index.add([Record("x", "a")], batch_size=0)
    assert fake.calls == []
    assert index.count() == 30


def test_texts_and_dicts_get_ids_of_their_content() -> None:
    index, _ = make(records=[])
    given: list[Any] = ["a b", {"text": "c", "metadata": {"k": 1}}, Record("id", "d")]
    given += [{"text": "e", "id": "mine"}, {"text": "c", "metadata": {"k": 2}}, {"text": "f"}]
    ids = index.add(given)
    assert len(set(ids)) == len(index) == 6
    assert ids[0] == text_hash("a b")
    assert ids[2:4] == ["id", "mine"]
    assert [record and record.text for record in index.get(ids)] == ["a b", "c", "d", "e", "c", "f"]
    assert [record and record.metadata for record in index.get(ids[1:2])] == [{"k": 1}]
    assert index.add(given) == ids
    assert len(index) == 6


def test_a_text_that_comes_twice_is_one_record() -> None:
    index, fake = make(records=[])
    ids = index.add(["a", "b", {"text": "a", "metadata": None}, "a"])
    assert ids == [text_hash(text) for text in ("a", "b", "a", "a")]
    assert len(index) == 2
    assert fake.forwards == {"a": 1, "b": 1}


def test_ingest_takes_texts_and_dicts_too() -> None:
    index, fake = make(records=[])
    given: list[Any] = ["a", {"text": "b", "metadata": {"k": 1}}]
    assert index.ingest(iter(given)).encoded == 2
    assert index.ingest(given).unchanged == 2
    assert fake.forwards == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("a text", "not one str"),
        ({"text": "a"}, "not one dict"),
        (Record("a", "b"), "not one Record"),
        (b"a", "not one bytes"),
        (3, "not one int"),
        ([{"text": "a", "page": 3, "lang": "en"}], r"unknown keys \['page', 'lang'\].*metadata"),
        ([{"id": "a"}], "record 0: .text. must be str, not missing"),
        (["a", {"text": 3}], "record 1: .text. must be str, not int"),
        ([{"text": "a", "id": 3}], "id must be a non-empty string"),
        ([{"text": "a", "metadata": "en"}], "metadata must be a mapping"),
    ],
)
def test_what_is_no_list_of_records_is_refused(given: Any, words: str) -> None:
    index, fake = make(records=[])
    for take in (index.add, index.ingest):
        with pytest.raises(InputError, match=words):
            take(given)
    assert fake.calls == []


def test_a_table_of_pandas_is_added_by_its_rows_only() -> None:
    pandas = pytest.importorskip("pandas")
    index, fake = make(records=[])
    table = pandas.DataFrame({"text": ["a", "b"], "id": ["1", "2"]})
    with pytest.raises(InputError, match="to_dict"):
        index.add(table)
    assert fake.calls == []
    assert index.add(table.to_dict("records")) == ["1", "2"]
    assert index.add(table["text"]) == [text_hash("a"), text_hash("b")]


def test_an_added_id_is_replaced() -> None:
    index, _ = make()
    index.add([Record("00", "unheard words")])
    assert index.count() == 30
    assert index.search("unheard words", limit=1)[0].record == Record("00", "unheard words")


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


def test_a_malformed_filter_is_an_error_before_anything_is_encoded() -> None:
    index, fake = make()
    with pytest.raises(FilterError, match=r"unknown filter operator '\$gtt'"):
        index.search("fox", where={"n": {"$gtt": 1}})
    assert fake.calls == []


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


def test_documents_are_encoded_by_the_modes_of_the_index_only() -> None:
    fake = FakeEncoder()
    index = HybridIndex(BGEM3(fake, memo_bytes=0), modes=["colbert"])
    index.add(RECORDS)
    assert [call.modes for call in fake.calls] == [{"colbert"}]
    assert index.store.capabilities.find == {"colbert"}
    hits = index.search("fox bridge", limit=30)
    expected = by_hand("fox bridge", Weights.only("colbert"), RECORDS)
    assert {hit.id: hit.score for hit in hits} == pytest.approx(dict(expected), abs=1e-6)


def test_modes_that_the_engine_lacks_are_an_error() -> None:
    index = HybridIndex(BGEM3(FakeEncoder(modes=["dense"])), modes=["dense", "sparse"])
    with pytest.raises(InputError, match=r"the engine has \['dense'\]"):
        index.add(RECORDS)
    assert HybridIndex(BGEM3(FakeEncoder(modes=["dense"]))).modes == {"dense"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "limit"),
        ({"candidates": {}}, "one or more"),
        ({"candidates": {"bm25": 5}}, "bm25"),
        ({"candidates": {"dense": 0}}, "at least 1"),
        ({"candidates": {"dense": 5}, "exact": True}, "no candidates"),
        ({"weights": "unheard"}, "preset"),
    ],
)
def test_options_that_do_not_fit_are_an_error_before_anything_is_encoded(
    options: dict[str, Any], words: str
) -> None:
    index, fake = make()
    with pytest.raises(InputError, match=words):
        index.search("fox", **options)
    assert fake.calls == []


def test_an_unknown_option_is_an_error() -> None:
    index, _ = make()
    wrong: dict[str, Any] = {"top_k": 3}
    with pytest.raises(TypeError, match="top_k"):
        index.search_batch(["fox"], **wrong)


def test_one_string_is_no_batch() -> None:
    index, _ = make()
    with pytest.raises(InputError, match="list of strings"):
        index.search_batch("fox")


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
        [h.id for h in index.search_diverse(texts[0], limit=3, relevance_share=0.9, fusion=fusion)]
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


def test_the_index_closes_its_store_at_the_end_of_with() -> None:
    index, _ = make()
    with index as same:
        assert same is index
        assert index.get(["00", "gone"]) == [RECORDS[0], None]
        assert index.delete(ids=["00", "gone"]) == 1
        index.flush()
        index.optimize()
    with pytest.raises(StoreError, match="closed"):
        index.search("fox")


def test_an_empty_filter_deletes_nothing_unless_it_is_spelled_out() -> None:
    index, _ = make()
    with pytest.raises(InputError, match=f"would delete all {len(RECORDS)}"):
        index.delete(where={})
    assert index.count() == len(RECORDS)
    assert index.delete(where=And([])) == len(RECORDS)


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 2.5},
        {"limit": True},
        {"limit": "3"},
        {"candidates": {"dense": 5.5}},
        {"candidates": ["dense"]},
        {"score_threshold": float("nan")},
        {"score_threshold": "0.5"},
        {"score_threshold": True},
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_name(options: dict[str, Any]) -> None:
    index, _ = make()
    with pytest.raises(InputError, match=next(iter(options))):
        index.search("fox", **options)


def test_a_huge_limit_gives_all_documents() -> None:
    index, _ = make()
    assert len(index.search("fox", limit=sys.maxsize)) == len(RECORDS)


def test_a_function_as_filter_cannot_change_what_the_index_holds() -> None:
    index, _ = make()
    before = index.get([record.id for record in RECORDS])
    with pytest.raises((AttributeError, TypeError)):
        index.count(lambda metadata: metadata.clear() or True)  # type: ignore[attr-defined]
    assert index.get([record.id for record in RECORDS]) == before


@pytest.mark.filterwarnings("ignore::bge_m3_integrations.errors.TruncationWarning")
def test_long_texts_make_smaller_batches() -> None:
    fake = FakeEncoder()
    index = HybridIndex(BGEM3(fake))
    index.add([Record(str(i), f"{i} " + "long " * 20_000) for i in range(6)])
    assert [len(call.texts) for call in fake.calls] == [2, 2, 2]


def test_a_text_that_no_tokenizer_reads_is_named_by_its_record_before_anything_is_encoded() -> None:
    fake = FakeEncoder()
    index = HybridIndex(BGEM3(fake))
    with pytest.raises(InputError, match="record 'b' holds the lone surrogate"):
        index.add([Record("a", "fine"), Record("b", "x\ud800")])
    assert fake.calls == []


def test_metadata_must_be_a_mapping() -> None:
    with pytest.raises(InputError, match="'a': metadata must be a mapping, not list"):
        Record("a", "text", metadata=[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["BAAI/bge-m3", FakeEncoder(), None])
def test_what_is_no_engine_is_refused_at_once(engine: Any) -> None:
    with pytest.raises(InputError, match="engine must be a BGEM3, not "):
        HybridIndex(engine)


def test_a_fusion_that_lacks_a_method_is_refused_before_the_search() -> None:
    class Half:
        name = "half"

    index = HybridIndex(BGEM3(FakeEncoder()))
    with pytest.raises(InputError, match="name, rank_values and greatest"):
        index.search("fox", fusion=Half())  # type: ignore[arg-type]
