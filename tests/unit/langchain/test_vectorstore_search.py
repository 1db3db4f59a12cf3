from __future__ import annotations

import random
import warnings
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from bge_m3_integrations import (
    BGEM3,
    FilterError,
    InputError,
    ReciprocalRank,
    ScaledSum,
    StoreError,
)
from bge_m3_integrations.core.filters import Compare
from bge_m3_integrations.langchain import BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.stored import DOCUMENTS, Made, filled, hit_ids, ids

# searching ---------------------------------------------------------------------------------------


def test_it_finds_what_the_index_finds_with_the_value_ranked_by(made: Made) -> None:
    _, store = made
    hits = store.index.search("lazy dog", limit=3)
    found = store.similarity_search_with_score("lazy dog", k=3)
    assert [(d.id, score) for d, score in found] == [(h.id, h.score) for h in hits]
    assert ids(store.similarity_search("lazy dog", k=3)) == [h.id for h in hits]
    assert len(store.similarity_search("lazy dog")) == 4


def test_a_call_stands_in_place_of_the_stores_own_weights_candidates_and_fusion() -> None:
    encoder, store = filled(weights=(0, 1, 0), candidates={"sparse": 9}, fusion=ScaledSum())
    store.similarity_search("the dog")
    assert encoder.calls[-1].modes == {"sparse"}
    own = store.similarity_search_with_score("the dog", k=1)[0][1]
    expected = store.index.search(
        "the dog", limit=1, weights=(0, 1, 0), candidates={"sparse": 9}, fusion=ScaledSum()
    )
    assert own == expected[0].score
    call: dict[str, Any] = {
        "weights": "keyword",
        "candidates": {"colbert": 5},
        "fusion": ReciprocalRank(),
    }
    found = store.similarity_search_with_score("the dog", k=5, **call)
    hits = store.index.search("the dog", limit=5, **call)
    assert [(d.id, s) for d, s in found] == [(h.id, h.score) for h in hits]
    assert hits[0].fusion == "reciprocal_rank"


def test_a_threshold_leaves_out_lower_ranking_values(made: Made) -> None:
    _, store = made
    scores = [s for _, s in store.similarity_search_with_score("the lazy dog", k=5)]
    assert scores[1] > scores[2]
    assert len(store.similarity_search("the lazy dog", k=5, score_threshold=scores[1])) == 2


FILTERS = [
    {"year": {"$gte": 2022}},
    Compare("year", "$gte", 2022),
    lambda document: document.metadata["year"] >= 2022,
    lambda document: document.id in {"cat", "owl", "bee"},
    lambda document: document.page_content.split()[1] in {"cat", "owl", "bee"},
]


@pytest.mark.parametrize("where", FILTERS)
async def test_every_search_takes_every_form_of_filter(made: Made, where: Any) -> None:
    _, store = made
    vector = store.embeddings.embed_query("the lazy dog")
    query, kept = "the lazy dog", {"cat", "owl", "bee"}
    found = [
        store.similarity_search(query, k=9, filter=where),
        await store.asimilarity_search(query, k=9, filter=where),
        [d for d, _ in store.similarity_search_with_score(query, k=9, filter=where)],
        [d for d, _ in store.similarity_search_with_relevance_scores(query, k=9, filter=where)],
        store.similarity_search_by_vector(vector, k=9, filter=where),
        store.max_marginal_relevance_search(query, k=9, filter=where),
        await store.amax_marginal_relevance_search(query, k=9, filter=where),
        store.max_marginal_relevance_search_by_vector(vector, k=9, filter=where),
        store.search(f"{query} cat owl bee", "sparse", k=9, filter=where),
        store.as_retriever(search_kwargs={"k": 9, "filter": where}).invoke(query),
    ]
    assert [set(ids(documents)) for documents in found] == [kept] * len(found)


def test_a_function_sees_a_document_and_cannot_change_what_is_kept() -> None:
    _, store = filled()
    seen: list[Document] = []

    def spoils(document: Document) -> bool:
        seen.append(deepcopy(document))
        document.metadata.clear()
        return True

    assert len(store.similarity_search("fox", k=5, filter=spoils)) == 5
    assert sorted(seen, key=lambda d: str(d.id)) == sorted(DOCUMENTS, key=lambda d: str(d.id))
    assert store.get_by_ids(["fox"]) == [DOCUMENTS[0]]


@pytest.mark.parametrize("name", ["where", "expr", "filters", "pre_filter"])
async def test_another_name_for_a_filter_is_refused_with_the_fix(name: str) -> None:
    encoder, store = filled()
    for call in [
        lambda: store.similarity_search("fox", **{name: {"year": 2020}}),
        lambda: store.similarity_search_with_relevance_scores("fox", **{name: {"year": 2020}}),
        lambda: store.max_marginal_relevance_search("fox", **{name: {"year": 2020}}),
        lambda: store.similarity_search_by_vector([1.0] * 32, **{name: {"year": 2020}}),
        lambda: store.search("fox", "dense", **{name: {"year": 2020}}),
        lambda: store.as_retriever(search_kwargs={name: {}}).invoke("fox"),
    ]:
        with pytest.raises(InputError, match=rf"'{name}'; did you mean filter\?"):
            call()
    with pytest.raises(InputError, match="did you mean filter"):
        await store.asimilarity_search("fox", **{name: {"year": 2020}})
    assert "fox" not in encoder.forwards


def test_a_malformed_filter_and_a_mistyped_keyword_are_errors() -> None:
    _, store = filled()
    with pytest.raises(FilterError, match=r"unknown filter operator '\$gtee'"):
        store.similarity_search("fox", filter={"year": {"$gtee": 1}})
    with pytest.raises(FilterError, match="a filter is a dict, a function or a filter tree"):
        store.similarity_search("fox", filter="year > 3")
    with pytest.raises(InputError, match=r"'wieghts'; did you mean weights\?"):
        store.similarity_search("fox", wieghts=(1, 0, 0))
    with pytest.raises(InputError, match=r"'weights'; there are .*filter, score_thresh"):
        store.similarity_search_by_vector([1.0] * 32, weights=(0, 1, 0))


def test_a_search_by_vector_is_dense_and_its_score_the_cosine(made: Made) -> None:
    encoder, store = made
    vector = 7 * np.array(store.embeddings.embed_query("the lazy dog"))
    before = len(encoder.calls)
    found = store.similarity_search_with_score_by_vector(vector.tolist(), k=5)
    assert len(encoder.calls) == before
    hits = store.index.search("the lazy dog", limit=5, weights=(1, 0, 0))
    assert [d.id for d, _ in found] == [h.id for h in hits]
    assert [s for _, s in found] == pytest.approx([h.components["dense"] for h in hits], abs=1e-6)
    assert ids(store.similarity_search_by_vector(vector.tolist(), k=2)) == [h.id for h in hits[:2]]


async def test_the_async_searches_by_vector_find_the_same(made: Made) -> None:
    _, store = made
    vector = store.embeddings.embed_query("an owl")
    assert await store.asimilarity_search_by_vector(
        vector, k=3
    ) == store.similarity_search_by_vector(vector, k=3)
    assert await store.asimilarity_search_with_score_by_vector(
        vector
    ) == store.similarity_search_with_score_by_vector(vector)
    assert await store.amax_marginal_relevance_search_by_vector(
        vector, k=3, lambda_mult=0.1
    ) == store.max_marginal_relevance_search_by_vector(vector, k=3, lambda_mult=0.1)


@pytest.mark.parametrize("vector", [[0.0] * 32, [float("nan")] * 32, [[1.0] * 32], "x", 3.0])
def test_a_vector_without_a_direction_is_refused(vector: Any) -> None:
    with pytest.raises(InputError, match="finite numbers that are not all 0"):
        filled()[1].similarity_search_by_vector(vector)


def test_a_vector_of_another_width_is_refused_with_both_numbers(made: Made) -> None:
    with pytest.raises(StoreError, match="32 wide, the given ones 5"):
        made[1].similarity_search_by_vector([1.0] * 5)


# relevance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ranking",
    [
        {},
        {"weights": (0, 1, 0)},
        {"weights": (1, 0, 0)},
        {"weights": (0, 0, 1)},
        {"weights": "keyword"},
        {"fusion": ScaledSum()},
        {"fusion": ReciprocalRank(), "weights": (9, 9, 9)},
    ],
)
async def test_relevance_is_in_0_to_1_for_any_texts(ranking: dict[str, Any]) -> None:
    dice = random.Random(7)
    words = [f"w{i}" for i in range(40)]
    texts = [" ".join(dice.choices(words, k=dice.randint(0, 120))) for _ in range(60)]
    store = BGEM3VectorStore.from_texts(texts, BGEM3(FakeEncoder(dim=4)))
    queries = [*texts[:5], " ".join(words * 10), "nothing shared", "", "w1 " * 400]
    above = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for query in queries:
            found = store.similarity_search_with_relevance_scores(query, k=60, **ranking)
            assert len(found) == 60 or ranking.get("weights") == (0, 1, 0)
            assert all(0 <= relevance <= 1 for _, relevance in found)
            assert found == await store.asimilarity_search_with_relevance_scores(
                query, k=60, **ranking
            )
            raw = store.similarity_search_with_score(query, k=60, **ranking)
            above += sum(score > 1 for _, score in raw)
            assert [d for d, _ in raw] == [d for d, _ in found]
    if ranking.get("weights") in {(0, 1, 0), "keyword"}:
        assert above, "the raw scores never left [0, 1], so nothing was tested"


def test_lexical_scores_alone_keep_their_order_below_1() -> None:
    _, store = filled(weights=(0, 1, 0))
    query = " ".join(d.page_content for d in DOCUMENTS)
    raw = [s for _, s in store.similarity_search_with_score(query, k=5)]
    relevance = [s for _, s in store.similarity_search_with_relevance_scores(query, k=5)]
    assert raw[0] > 1
    assert relevance == pytest.approx([s / (1 + s) for s in raw])
    assert list(map(store._select_relevance_score_fn(), raw)) == relevance


def test_the_relevance_function_is_that_of_the_stores_own_weights() -> None:
    _, hybrid = filled()
    assert [hybrid._select_relevance_score_fn()(s) for s in (-0.5, 0.25, 3.0)] == [0.0, 0.25, 1.0]
    lexical = BGEM3VectorStore(BGEM3(FakeEncoder()), modes=["sparse"])
    assert lexical._select_relevance_score_fn()(3.0) == 0.75


@pytest.mark.parametrize("weights", [None, "keyword", (0, 1, 0)])
def test_a_relevance_threshold_passes_exact_matches_also_by_reciprocal_ranks(weights: Any) -> None:
    _, store = filled(fusion="reciprocal_rank", weights=weights)
    query = DOCUMENTS[1].page_content
    [(best, relevance)] = store.similarity_search_with_relevance_scores(query, k=1)
    [(_, score)] = store.similarity_search_with_score(query, k=1)
    assert (best, relevance) == (DOCUMENTS[1], pytest.approx(1))
    assert store._select_relevance_score_fn()(score) == relevance
    retriever = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.99}
    )
    assert retriever.invoke(query) == [DOCUMENTS[1]]


async def test_a_relevance_threshold_is_held_against_the_relevance() -> None:
    _, store = filled(weights=(0, 1, 0))
    found = store.similarity_search_with_relevance_scores("the lazy dog sleeps", k=5)
    least = found[1][1]
    raw = store.similarity_search_with_score("the lazy dog sleeps", k=5)
    assert raw[0][1] > 0.9 > found[0][1], "held against the raw score, one would pass"
    assert not store.similarity_search_with_relevance_scores(
        "the lazy dog sleeps", k=5, score_threshold=0.9
    )
    strict = store.similarity_search_with_relevance_scores(
        "the lazy dog sleeps", k=5, score_threshold=least
    )
    assert strict == found[:2]
    retriever = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"k": 5, "score_threshold": least}
    )
    assert retriever.invoke("the lazy dog sleeps") == [d for d, _ in found[:2]]
    assert await retriever.ainvoke("the lazy dog sleeps") == [d for d, _ in found[:2]]


# diversity ---------------------------------------------------------------------------------------


def test_lambda_1_is_the_order_by_relevance_and_0_that_of_unlikeness(made: Made) -> None:
    _, store = made
    store.add_texts(["the lazy dog sleeps", "the lazy dog sleeps", "lazy dog"], ids=["x", "y", "z"])
    options: dict[str, Any] = {"weights": (1, 0, 0)}
    plain = ids(store.similarity_search("the lazy dog sleeps", k=4, **options))
    alike = store.max_marginal_relevance_search(
        "the lazy dog sleeps", k=4, fetch_k=8, lambda_mult=1, **options
    )
    unlike = store.max_marginal_relevance_search(
        "the lazy dog sleeps", k=4, fetch_k=8, lambda_mult=0, **options
    )
    assert ids(alike) == plain
    assert set(plain) >= {"dog", "x", "y"}
    assert ids(unlike)[0] == plain[0]
    assert len(set(ids(unlike)) & {"dog", "x", "y"}) == 1


def test_lambda_has_the_direction_of_langchains_own_store(made: Made) -> None:
    _, store = made
    store.add_texts(["the lazy dog runs", "lazy dog", "dog dog"], ids=["x", "y", "z"])
    theirs = InMemoryVectorStore(store.embeddings)
    held = store.index.scroll().records
    theirs.add_texts([r.text for r in held], ids=[r.id for r in held])
    vector = store.embeddings.embed_query("lazy dog at night")
    for share in (0.0, 0.3, 0.7, 1.0):
        asked: dict[str, Any] = {"k": 5, "fetch_k": 8, "lambda_mult": share}
        ours = store.max_marginal_relevance_search_by_vector(vector, **asked)
        expected = theirs.max_marginal_relevance_search_by_vector(vector, **asked)
        assert ids(ours) == ids(expected)


async def test_only_the_best_fetch_k_are_chosen_from_with_one_forward(made: Made) -> None:
    encoder, store = made
    asked: dict[str, Any] = {"k": 2, "fetch_k": 2, "lambda_mult": 0.0}
    found = store.max_marginal_relevance_search("lazy dog", **asked)
    assert ids(found) == hit_ids(store, "lazy dog", limit=2)
    assert await store.amax_marginal_relevance_search("lazy dog", **asked) == found
    store.max_marginal_relevance_search("a new question", k=3)
    assert encoder.forwards["a new question"] == 1
    assert len(store.max_marginal_relevance_search("lazy dog", k=4, fetch_k=1)) == 4


def test_diversity_without_dense_vectors_is_an_error() -> None:
    _, store = filled(modes=["sparse"])
    with pytest.raises(InputError, match="dense vectors, which this index lacks"):
        store.max_marginal_relevance_search("fox")
    with pytest.raises(InputError, match="lambda_mult must be a number from 0 to 1"):
        filled()[1].max_marginal_relevance_search("fox", lambda_mult=2)
