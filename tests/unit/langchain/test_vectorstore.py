from __future__ import annotations

import asyncio
import random
import shutil
import threading
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever
from pydantic import ValidationError

from bge_m3_integrations import (
    BGEM3,
    FilterError,
    HybridIndex,
    InputError,
    MemoryStore,
    ReciprocalRank,
    Record,
    ScaledSum,
    StoreError,
)
from bge_m3_integrations.core.filters import Compare
from bge_m3_integrations.core.records import text_hash
from bge_m3_integrations.langchain import BGEM3Embeddings, BGEM3Retriever, BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.gated import GatedEncoder

DOCUMENTS = [
    Document(id="fox", page_content="the red fox runs", metadata={"year": 2020, "tags": ["a"]}),
    Document(id="dog", page_content="the lazy dog sleeps", metadata={"year": 2021, "tags": []}),
    Document(id="cat", page_content="the cat sleeps too", metadata={"year": 2022}),
    Document(id="owl", page_content="an owl sees at night", metadata={"year": 2023}),
    Document(id="bee", page_content="a bee makes honey", metadata={"year": 2024}),
]
Made = tuple[FakeEncoder, BGEM3VectorStore]


@pytest.fixture(params=["memory", "edge"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Made]:
    """A store with the documents, in memory and in a folder."""
    encoder = FakeEncoder()
    path = tmp_path / "index" if request.param == "edge" else None
    with BGEM3VectorStore.from_documents(DOCUMENTS, BGEM3(encoder), path=path) as store:
        yield encoder, store


def filled(**options: Any) -> Made:
    encoder = FakeEncoder()
    return encoder, BGEM3VectorStore.from_documents(DOCUMENTS, BGEM3(encoder), **options)


def ids(documents: Sequence[Document]) -> list[str | None]:
    return [document.id for document in documents]


def hit_ids(store: BGEM3VectorStore, query: str, **options: Any) -> list[str]:
    return [hit.id for hit in store.index.search(query, **options)]


# what goes in ------------------------------------------------------------------------------------


def test_a_text_is_one_forward_and_a_hybrid_query_one(made: Made) -> None:
    encoder, store = made
    store.similarity_search("sleeping dogs")
    assert set(encoder.forwards.values()) == {1}
    assert encoder.forwards["sleeping dogs"] == 1
    assert len(encoder.forwards) == len(DOCUMENTS) + 1


def test_documents_come_back_equal_and_inputs_stay_as_they_were(made: Made) -> None:
    _, store = made
    before = deepcopy(DOCUMENTS)
    found = store.get_by_ids([str(d.id) for d in DOCUMENTS])
    assert found == DOCUMENTS
    found[0].metadata["tags"].append("changed")
    store.similarity_search("red fox")[0].metadata["year"] = 0
    assert before == DOCUMENTS
    assert store.get_by_ids(["fox"]) == [DOCUMENTS[0]]


def test_ids_that_are_given_come_before_the_documents_own_and_none_is_no_choice() -> None:
    store = BGEM3VectorStore(BGEM3(FakeEncoder()))
    three = [DOCUMENTS[0], DOCUMENTS[1], Document(page_content="without an id")]
    added = store.add_documents(three, ids=["any string at all/1", None, None])
    assert added[:2] == ["any string at all/1", "dog"]
    assert added[2] == text_hash("without an id")
    assert [d.page_content for d in store.get_by_ids(added)] == [d.page_content for d in three]
    assert store.index.count() == 3


@pytest.mark.parametrize("way", ["from_texts", "from_documents", "add_texts", "add_documents"])
def test_a_program_that_runs_again_doubles_nothing(tmp_path: Path, way: str) -> None:
    texts, about = ["a cat", "a dog", "a cat"], [{"source": "x"}, {}, {"source": "y"}]
    documents = [Document(page_content=t, metadata=m) for t, m in zip(texts, about, strict=True)]
    for _ in range(2):
        engine = BGEM3(FakeEncoder())
        if way.startswith("from"):
            given: Any = (texts, engine, about) if way == "from_texts" else (documents, engine)
            store = getattr(BGEM3VectorStore, way)(*given, path=tmp_path / "index")
        else:
            store = BGEM3VectorStore(engine, path=tmp_path / "index")
            given = (texts, about) if way == "add_texts" else (documents,)
            assert len(set(getattr(store, way)(*given))) == 3
        with store:
            assert store.index.count() == 3


def test_equal_documents_of_one_call_are_one_and_each_is_told_its_id() -> None:
    store = BGEM3VectorStore(BGEM3(FakeEncoder()))
    added = store.add_texts(["a cat", "a dog", "a cat"])
    assert added[0] == added[2] != added[1]
    assert store.index.count() == 2
    assert added == store.index.add(["a cat", "a dog", "a cat"])
    assert store.index.count() == 2


def test_a_known_id_is_replaced(made: Made) -> None:
    _, store = made
    store.add_documents([Document(id="fox", page_content="the grey wolf", metadata={"n": 1})])
    assert store.index.count() == len(DOCUMENTS)
    assert store.get_by_ids(["fox"])[0].page_content == "the grey wolf"
    assert ids(store.similarity_search("grey wolf", k=1)) == ["fox"]


def test_of_an_id_that_comes_twice_the_later_one_holds_as_in_langchains_own_store() -> None:
    twice = [Document(id="a", page_content="first"), Document(id="b", page_content="beside")]
    twice.append(Document(id="a", page_content="second"))
    encoder = FakeEncoder()
    ours = BGEM3VectorStore(BGEM3(encoder))
    theirs = InMemoryVectorStore(BGEM3Embeddings(engine=BGEM3(FakeEncoder())))
    assert ours.add_documents(twice) == theirs.add_documents(twice) == ["a", "b", "a"]
    assert ours.get_by_ids(["a", "b"]) == theirs.get_by_ids(["a", "b"])
    assert encoder.forwards == {"second": 1, "beside": 1}


def test_texts_metadatas_and_ids_may_come_from_generators(made: Made) -> None:
    _, store = made
    added = store.add_texts(
        (f"text {i}" for i in range(3)), ({"i": i} for i in range(3)), ids=(f"t{i}" for i in "012")
    )
    assert added == ["t0", "t1", "t2"]
    assert store.get_by_ids(added)[2] == Document(id="t2", page_content="text 2", metadata={"i": 2})
    assert store.add_documents(d for d in DOCUMENTS[:2]) == ["fox", "dog"]


async def test_generators_reach_the_async_twins_whole() -> None:
    store = await BGEM3VectorStore.afrom_texts((t for t in ["one", "two"]), BGEM3(FakeEncoder()))
    assert len(await store.aadd_texts(t for t in ["three", "four"])) == 2
    assert len(await store.aadd_documents(d for d in DOCUMENTS)) == 5
    other = await BGEM3VectorStore.afrom_documents((d for d in DOCUMENTS), BGEM3(FakeEncoder()))
    assert (store.index.count(), other.index.count()) == (9, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ids": ["a"]},
        {"ids": []},
        {"metadatas": [{}]},
        {"metadatas": []},
        {"metadatas": [{}, {}, {}], "ids": ["a", "b"]},
    ],
)
def test_lists_of_other_lengths_are_refused_and_nothing_is_added(wrong: dict[str, Any]) -> None:
    encoder = FakeEncoder()
    store = BGEM3VectorStore(BGEM3(encoder))
    with pytest.raises(InputError, match=r"2 documents, but [013]"):
        store.add_texts(["one", "two"], **wrong)
    assert store.index.count() == 0
    assert not encoder.forwards


def test_a_string_is_not_read_letter_by_letter() -> None:
    store = BGEM3VectorStore(BGEM3(FakeEncoder()))
    with pytest.raises(InputError, match="not the one string 'one text'"):
        store.add_texts("one text")
    with pytest.raises(InputError, match="not the one string 'fox'"):
        store.delete("fox")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not the one string 'fox'"):
        store.get_by_ids("fox")


def test_what_index_passes_is_accepted_and_other_keywords_are_refused_by_name(made: Made) -> None:
    encoder, store = made
    store.add_texts(["a b", "c d", "e f"], batch_size=2)
    assert [len(c.texts) for c in encoder.calls][-2:] == [2, 1]
    with pytest.raises(InputError, match=r"'bulk_size'; did you mean batch_size\?"):
        store.add_documents([], bulk_size=3)
    with pytest.raises(InputError, match="batch_size must be a whole number of at least 1, not 0"):
        store.add_texts(["g"], batch_size=0)


def test_progress_is_told() -> None:
    seen: list[tuple[int, int | None]] = []
    store = BGEM3VectorStore(BGEM3(FakeEncoder()))
    store.add_texts("abc"[i] for i in range(0))
    store.add_texts(
        ["a", "b", "c"], batch_size=2, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (3, 3)


# what goes out -----------------------------------------------------------------------------------


def test_unknown_and_no_ids_delete_nothing_and_known_ones_do(made: Made) -> None:
    _, store = made
    assert store.delete([]) is True
    assert store.delete(["nobody"]) is True
    assert store.index.count() == 5
    assert store.delete(["fox", "dog", "nobody"]) is True
    assert ids(store.get_by_ids(["fox", "cat", "dog"])) == ["cat"]


def test_everything_is_deleted_only_when_that_is_said(made: Made) -> None:
    _, store = made
    for call in [{}, {"ids": None}, {"ids": ["fox"], "delete_all": True}, {"delete_all": False}]:
        with pytest.raises(InputError, match="delete_all=True for all documents"):
            store.delete(**call)
    with pytest.raises(InputError, match=r"'where'; did you mean filter\?"):
        store.delete(where={"year": 2020})  # type: ignore[call-arg]
    with pytest.raises(InputError, match="an empty filter"):
        store.delete(filter={})
    with pytest.raises(FilterError, match="gtee"):
        store.delete(filter={"year": {"$gtee": 1}})
    assert store.index.count() == 5
    assert store.delete(delete_all=True) is True
    assert store.index.count() == 0
    assert store.similarity_search("fox") == []


@pytest.mark.parametrize(
    "chosen",
    [
        {"year": {"$gte": 2022}},
        Compare("year", "$gte", 2022),
        lambda document: document.metadata["year"] >= 2022,
    ],
    ids=["dict", "tree", "function"],
)
async def test_a_filter_deletes_what_a_search_with_it_finds(made: Made, chosen: Any) -> None:
    _, store = made
    for both in ({"ids": ["fox"]}, {"delete_all": True}):
        with pytest.raises(InputError, match="delete_all=True for all documents"):
            store.delete(filter=chosen, **both)
    assert store.index.count() == 5
    assert store.delete(filter=chosen) is True
    assert sorted(hit_ids(store, "fox")) == ["dog", "fox"]
    assert await store.adelete(filter={"year": 2020}) is True
    assert hit_ids(store, "fox") == ["dog"]


async def test_the_async_twins_of_deleting_and_getting_do_the_same(made: Made) -> None:
    _, store = made
    assert await store.adelete(["fox"]) is True
    assert ids(await store.aget_by_ids(["bee", "fox", "dog"])) == ["bee", "dog"]
    with pytest.raises(InputError, match="delete_all=True"):
        await store.adelete()
    assert await store.adelete(delete_all=True) is True
    assert store.index.count() == 0


def test_documents_come_by_id_in_order_also_twice_and_unknown_ids_are_left_out(made: Made) -> None:
    _, store = made
    assert ids(store.get_by_ids(["owl", "nobody", "fox", "owl"])) == ["owl", "fox", "owl"]
    assert store.get_by_ids([]) == []


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


# types of search, the retriever ------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["dense", "sparse", "colbert"])
async def test_one_mode_alone_looks_up_and_ranks(made: Made, mode: Any) -> None:
    encoder, store = made
    retriever = store.as_retriever(search_type=mode, search_kwargs={"k": 5})
    found = retriever.invoke("the lazy dog")
    assert encoder.calls[-1].modes == {mode}
    exact = store.index.search("the lazy dog", weights={
        "dense": 0, "sparse": 0, "colbert": 0, mode: 1}, limit=5, exact=True)  # fmt: skip
    assert ids(found) == [hit.id for hit in exact if mode != "sparse" or hit.score > 0]
    assert await retriever.ainvoke("the lazy dog") == found
    assert store.search("the lazy dog", mode, k=5) == found
    assert await store.asearch("the lazy dog", mode, k=5) == found


def test_one_mode_alone_takes_no_weights_and_the_score_is_its_own() -> None:
    _, store = filled(fusion=ReciprocalRank(), weights="keyword")
    with pytest.raises(InputError, match=r'sparse alone takes no weights.*search_type="hybrid"'):
        store.search("fox", "sparse", weights=(1, 1, 1))
    lexical = store.index.search("the fox", weights=(0, 1, 0), limit=2)
    threshold = lexical[0].score
    assert ids(store.search("the fox", "sparse", score_threshold=threshold)) == ["fox"]


def test_hybrid_is_similarity_by_the_stores_weights() -> None:
    encoder, store = filled(weights=(1, 1, 0))
    assert store.search("lazy dog", "hybrid", k=3) == store.similarity_search("lazy dog", k=3)
    assert encoder.calls[-1].modes == {"dense", "sparse"}
    found = store.as_retriever(search_type="hybrid").invoke("dog", weights=(0, 1, 0))
    assert encoder.calls[-1].modes >= {"sparse"}
    assert ids(found)[0] == "dog"


def test_a_mode_that_the_index_lacks_is_an_error() -> None:
    _, store = filled(modes=["dense"])
    with pytest.raises(InputError, match=r"count \['sparse'\], which this index lacks"):
        store.search("fox", "sparse")


def test_token_vectors_that_are_not_kept_score_what_the_others_find(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    store = BGEM3VectorStore.from_documents(
        DOCUMENTS, BGEM3(encoder), path=tmp_path, colbert="reencode"
    )
    with store:
        assert all(call.modes == {"dense", "sparse"} for call in encoder.calls)
        found = store.search("the lazy dog", "colbert", k=1)
        assert ids(found) == ["dog"]


async def test_langchains_types_of_search_are_there_and_others_are_named() -> None:
    _, store = filled()
    assert store.search("fox", "similarity") == store.similarity_search("fox")
    assert store.search("fox", "mmr") == store.max_marginal_relevance_search("fox")
    assert await store.asearch("fox", "mmr") == store.max_marginal_relevance_search("fox")
    with pytest.raises(InputError, match=r"'bm25' is none of .*'similarity'.*'hybrid'.*'colbert'"):
        store.search("fox", "bm25")
    with pytest.raises(InputError, match="'bm25'"):
        await store.asearch("fox", "bm25")
    with pytest.raises(ValidationError, match="bm25"):
        store.as_retriever(search_type="bm25")
    with pytest.raises(ValidationError, match="float"):
        store.as_retriever(search_type="similarity_score_threshold")


def test_a_mistyped_field_of_the_retriever_is_refused() -> None:
    with pytest.raises(ValidationError, match="search_kwrags"):
        filled()[1].as_retriever(search_kwrags={"k": 1})


def test_the_retriever_is_langchains_and_takes_options_for_one_call() -> None:
    _, store = filled()
    retriever = store.as_retriever(search_kwargs={"k": 3})
    assert isinstance(retriever, VectorStoreRetriever)
    assert len(retriever.invoke("fox")) == 3
    assert len(retriever.invoke("fox", k=1)) == 1
    assert retriever.add_documents([Document(id="new", page_content="a new fox")]) == ["new"]
    mmr = store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "lambda_mult": 1.0})
    assert mmr.invoke("new fox") == store.similarity_search("new fox", k=2)


async def test_traces_name_the_store_and_the_model_and_no_second_user_is_declared() -> None:
    encoder, store = filled()
    retriever = store.as_retriever(search_type="sparse", tags=["mine"])
    events = [event async for event in retriever.astream_events("fox", version="v2")]
    about = events[0]["metadata"]
    assert about["ls_vector_store_provider"] == "BGEM3VectorStore"
    assert about["ls_embedding_provider"] == "BGEM3"
    assert about["ls_embedding_model"] == "FakeEncoder"
    assert events[0]["tags"] == ["mine"]
    assert store.as_retriever().tags == ["BGEM3VectorStore", "BGEM3Embeddings"]
    retriever.invoke("fox")
    assert encoder.forwards["fox"] == 2, "the store shares its engine with nobody: no memo"


async def test_queries_that_wait_at_once_share_forwards_and_hold_no_thread() -> None:
    encoder = GatedEncoder()
    encoder.gate.set()
    store = await BGEM3VectorStore.afrom_documents(DOCUMENTS, BGEM3(encoder))
    await store.asimilarity_search("a first query")
    encoder.gate.clear()
    encoder.entered.clear()
    calls, threads = len(encoder.calls), threading.active_count()
    tasks = [asyncio.create_task(store.asimilarity_search(f"query {i}")) for i in range(40)]
    while not encoder.entered.is_set():
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    grown = threading.active_count() - threads
    encoder.gate.set()
    found = await asyncio.gather(*tasks)
    assert all(len(documents) == 4 for documents in found)
    assert len(encoder.calls) - calls <= 3
    assert grown <= 8, "40 waiting queries hold a thread each"
    assert not encoder.expired


async def test_the_event_loop_runs_on_while_a_query_is_encoded() -> None:
    encoder = GatedEncoder()
    encoder.gate.set()
    store = await BGEM3VectorStore.afrom_documents(DOCUMENTS, BGEM3(encoder))
    encoder.gate.clear()
    encoder.entered.clear()
    assert await encoder.runs_beside_the_loop(store.asimilarity_search("fox"))


# construction ------------------------------------------------------------------------------------


def test_our_embeddings_are_taken_for_their_engine() -> None:
    encoder = FakeEncoder()
    embeddings = BGEM3Embeddings(engine=BGEM3(encoder))
    store = BGEM3VectorStore.from_documents(DOCUMENTS, embeddings)
    assert store.index.engine is embeddings.engine
    assert store.embeddings is embeddings
    assert encoder.calls[0].modes == {"dense", "sparse", "colbert"}
    store.similarity_search("fox")
    embeddings.embed_query("fox")
    assert encoder.forwards["fox"] == 1


def test_the_embeddings_are_dense_vectors_of_the_same_engine() -> None:
    _, store = filled()
    assert isinstance(store.embeddings, BGEM3Embeddings)
    assert store.embeddings is store.embeddings
    assert store.embeddings.engine is store.index.engine


def test_an_index_that_is_held_is_used_and_stays_open() -> None:
    encoder = FakeEncoder()
    index = HybridIndex(BGEM3(encoder))
    index.add([Record("a", "a red fox"), Record("b", "a lazy dog")])
    with BGEM3VectorStore(index=index) as store:
        assert store.index is index
        assert store.engine is index.engine
        assert ids(store.similarity_search("fox", k=1)) == ["a"]
    assert index.count() == 2
    BGEM3VectorStore(index.engine, index=index).add_texts(["more"])
    assert index.count() == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "there"}, r"an index brings its own engine and store, but \['path'\]"),
        ({"store": MemoryStore()}, r"but \['store'\]"),
        ({"modes": ["dense"], "pooling": 2}, r"but \['modes', 'pooling'\]"),
        ({"embedding": BGEM3(FakeEncoder())}, r"but \['another engine'\]"),
    ],
)
def test_options_that_an_index_would_ignore_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        BGEM3VectorStore(index=HybridIndex(BGEM3(FakeEncoder())), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give an embedding"),
        ({"embedding": "BAAI/bge-m3"}, "must be a BGEM3 or BGEM3Embeddings, not str"),
        (
            {
                "embedding": HybridIndex(BGEM3(FakeEncoder())),
                "index": HybridIndex(BGEM3(FakeEncoder())),
            },
            "two different things",
        ),
        (
            {"embedding": BGEM3(FakeEncoder()), "engine": BGEM3(FakeEncoder())},
            "two different things",
        ),
        ({"index": BGEM3(FakeEncoder())}, "index must be a HybridIndex, not BGEM3"),
        ({"embedding": BGEM3(FakeEncoder()), "colbert": "float32"}, r"\['colbert'\].*give path="),
        ({"embedding": BGEM3(FakeEncoder()), "path": "a", "store": MemoryStore()}, "two places"),
        (
            {"embedding": DeterministicFakeEmbedding(size=4)},
            "DeterministicFakeEmbedding gives vectors of another model: pass a BGEM3 .*own stores",
        ),
        ({"embedding": BGEM3(FakeEncoder()), "weights": "best"}, "unknown weights preset 'best'"),
        ({"embedding": BGEM3(FakeEncoder()), "fusion": "rrf"}, "fusion 'rrf'"),
    ],
)
def test_arguments_that_make_no_store_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BGEM3VectorStore(**options)
    with pytest.raises(TypeError, match="collection"):
        BGEM3VectorStore.from_texts(["a"], BGEM3(FakeEncoder()), collection="b")


class _Shy(FakeEncoder):
    """Fails at the first look."""

    @property
    def modes(self) -> Any:
        raise AssertionError("looked at")

    @modes.setter
    def modes(self, value: Any) -> None: ...


def test_nothing_is_read_or_written_before_the_first_use(tmp_path: Path) -> None:
    path = tmp_path / "index"
    store = BGEM3VectorStore(BGEM3(_Shy()), path=path)
    store.as_retriever(search_type="sparse")
    assert not path.exists()
    store.close()
    with pytest.raises(StoreError, match="this vector store is closed"):
        store.similarity_search("fox")
    assert not path.exists()


def test_a_folder_keeps_documents_and_says_which_choices_it_was_made_by(tmp_path: Path) -> None:
    choices: dict[str, Any] = {"colbert": "float32", "pooling": 2, "filter_fields": ["year"]}
    with BGEM3VectorStore.from_documents(
        DOCUMENTS, BGEM3(FakeEncoder()), path=tmp_path, **choices
    ) as store:
        found = store.similarity_search("the lazy dog")
        manifest = store.index.store.manifest  # type: ignore[attr-defined]
        assert (manifest.colbert, manifest.pooling) == ("float32", 2)
        assert manifest.filter_fields == ("year",)
    encoder = FakeEncoder()
    with BGEM3VectorStore(BGEM3(encoder), path=tmp_path) as store:
        assert store.get_by_ids(["fox"]) == [DOCUMENTS[0]]
        assert store.similarity_search("the lazy dog") == found
        assert not encoder.forwards.keys() & {d.page_content for d in DOCUMENTS}
    with pytest.raises(StoreError, match="colbert 'float32', but 'turbo8'"):
        BGEM3VectorStore(BGEM3(FakeEncoder()), path=tmp_path, colbert="turbo8")


def test_a_failed_from_documents_gives_its_folder_back(tmp_path: Path) -> None:
    bad = [Document(id="a", page_content="\ud800")]
    with pytest.raises(InputError, match="surrogate"):
        BGEM3VectorStore.from_documents(bad, BGEM3(FakeEncoder()), path=tmp_path / "a")
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
    other = FakeEncoder(dim=8)  # would be refused by a handle that is still open
    with BGEM3VectorStore.from_documents(DOCUMENTS, BGEM3(other), path=tmp_path / "a") as store:
        assert store.index.count() == 5


def test_the_index_is_opened_once_by_many_threads(tmp_path: Path) -> None:
    store = BGEM3VectorStore(BGEM3(FakeEncoder()), path=tmp_path)
    held: list[HybridIndex] = []
    threads = [threading.Thread(target=lambda: held.append(store.index)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 8
    assert len(set(map(id, held))) == 1
    store.close()
    with pytest.raises(StoreError, match="closed"):
        held[0].count()


def test_a_copy_is_the_same_handle() -> None:
    _, store = filled()
    assert deepcopy(store) is store
    assert deepcopy({"chain": store.as_retriever()})["chain"].vectorstore is store


# with others -------------------------------------------------------------------------------------


def test_a_retriever_over_the_same_index_costs_no_second_forward() -> None:
    encoder, store = filled(weights=(1, 0, 0), candidates={"dense": 5})
    retriever = BGEM3Retriever(index=store.index, weights=(0, 0, 1))
    retriever.invoke("warm both up")
    store.similarity_search("lazy dog")
    retriever.invoke("lazy dog")
    assert encoder.forwards["lazy dog"] == 1


def test_documents_that_llama_index_wrote_come_back_as_documents(made: Made) -> None:
    llama = pytest.importorskip("bge_m3_integrations.llama_index.nodes")
    schema = pytest.importorskip("llama_index.core.schema")
    _, store = made
    node = schema.TextNode(id_="node", text="a green parrot", metadata={"year": 1999})
    store.index.add([llama.node_to_record(node)])
    expected = Document(id="node", page_content="a green parrot", metadata={"year": 1999})
    assert store.similarity_search("green parrot", k=1) == [expected]
    assert store.similarity_search("parrot", filter={"year": 1999}) == [expected]
    read = llama.record_to_node(store.index.get(["fox"])[0])
    assert (read.node_id, read.text, read.metadata) == (
        "fox",
        DOCUMENTS[0].page_content,
        DOCUMENTS[0].metadata,
    )


@pytest.mark.parametrize("folder", [False, True])
def test_a_real_checkpoint_makes_the_round_trip(
    xlm_roberta: Path, tmp_path: Path, folder: bool
) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    path = tmp_path / "index" if folder else None
    with BGEM3VectorStore.from_documents(DOCUMENTS, engine, path=path) as store:
        found = store.similarity_search_with_score("the lazy dog sleeps", k=5)
        assert store.embeddings.embed_query("x")
    assert {d.id for d, _ in found} == {d.id for d in DOCUMENTS}
    assert found[0][0] == DOCUMENTS[1]
    assert engine.stats.truncated_texts == 0
    if folder:
        with BGEM3VectorStore(path=path) as store:
            assert store.engine is None
            again = store.similarity_search_with_score("the lazy dog sleeps", k=5)
            assert store.engine is not None
            assert store.engine.name == str(xlm_roberta)
        assert [d.id for d, _ in again] == [d.id for d, _ in found]
        assert [s for _, s in again] == pytest.approx([s for _, s in found], abs=1e-5)
