from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bge_m3_integrations import BGEM3, EncodingError, HybridIndex, InputError, Record, StoreError
from bge_m3_integrations.index.rerank import RerankDocument
from bge_m3_integrations.testing import FakeEncoder

TEXTS = {
    "a": "the fox runs over the bridge",
    "b": "a bridge of stone and iron",
    "c": "tea is made from leaves",
}
QUERY = "which fox runs over a bridge"


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture(params=["memory", "folder"])
def index(
    request: pytest.FixtureRequest, encoder: FakeEncoder, tmp_path: Path
) -> Iterator[HybridIndex]:
    engine = BGEM3(encoder)
    index = (
        HybridIndex(engine)
        if request.param == "memory"
        else HybridIndex.open(tmp_path / "index", engine, colbert="float32")
    )
    index.add(Record(name, text) for name, text in TEXTS.items())
    encoder.forwards.clear()
    with index:
        yield index


def given() -> list[RerankDocument]:
    return [RerankDocument(text, name) for name, text in TEXTS.items()]


def test_documents_of_the_index_cost_the_query_alone(
    index: HybridIndex, encoder: FakeEncoder
) -> None:
    ranked = index.rerank(QUERY, given())
    expected = BGEM3(FakeEncoder()).rerank(QUERY, list(TEXTS.values()))
    assert [one.index for one in ranked] == [one.index for one in expected]
    np.testing.assert_allclose(
        [one.score for one in ranked], [one.score for one in expected], atol=1e-6
    )
    assert dict(encoder.forwards) == {QUERY: 1}


def test_an_edited_text_a_foreign_id_and_a_bare_text_are_encoded_once_each(
    index: HybridIndex, encoder: FakeEncoder
) -> None:
    edited, foreign = "the fox sleeps on the bridge", "a fox of elsewhere"
    documents = [
        RerankDocument(TEXTS["a"], "a"),
        RerankDocument(edited, "b"),
        RerankDocument(foreign, "nowhere"),
        edited,
        RerankDocument(TEXTS["a"], "a"),
        RerankDocument(TEXTS["c"]),
    ]
    ranked = index.rerank(QUERY, documents)
    texts = [d if isinstance(d, str) else d.text for d in documents]
    expected = BGEM3(FakeEncoder()).rerank(QUERY, texts)
    assert [one.index for one in ranked] == [one.index for one in expected]
    np.testing.assert_allclose(
        [one.score for one in ranked], [one.score for one in expected], atol=1e-6
    )
    assert dict(encoder.forwards) == {QUERY: 1, edited: 1, foreign: 1, TEXTS["c"]: 1}


def test_what_is_rewritten_while_it_is_scored_is_encoded(
    encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = HybridIndex(BGEM3(encoder))
    index.add([Record("a", TEXTS["a"])])
    score = index.store.score

    def changing(*args: object) -> object:
        index.add([Record("a", "another text by now")])
        return score(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(index.store, "score", changing)
    encoder.forwards.clear()
    ranked = index.rerank(QUERY, [RerankDocument(TEXTS["a"], "a")])
    assert ranked == BGEM3(FakeEncoder()).rerank(QUERY, [TEXTS["a"]])
    assert encoder.forwards[TEXTS["a"]] == 1


def test_what_is_deleted_while_it_is_scored_is_encoded(
    encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = HybridIndex(BGEM3(encoder))
    index.add([Record("a", TEXTS["a"]), Record("b", TEXTS["b"])])
    score = index.store.score

    def deleting(*args: object) -> object:
        index.delete(ids=["a"])
        return score(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(index.store, "score", deleting)
    ranked = index.rerank(QUERY, [RerankDocument(TEXTS["a"], "a"), RerankDocument(TEXTS["b"], "b")])
    expected = BGEM3(FakeEncoder()).rerank(QUERY, [TEXTS["a"], TEXTS["b"]])
    assert [one.index for one in ranked] == [one.index for one in expected]


def test_a_weight_that_the_index_lacks_has_every_document_encoded(encoder: FakeEncoder) -> None:
    index = HybridIndex(BGEM3(encoder), modes=["dense"])
    index.add(Record(name, text) for name, text in TEXTS.items())
    encoder.forwards.clear()
    index.rerank(QUERY, given(), weights=(1, 0, 0))
    assert sum(encoder.forwards.values()) == 1
    index.rerank(QUERY, given(), weights=(1, 0, 1))
    assert sum(encoder.forwards.values()) == 1 + 1 + 3


def test_several_queries_are_encoded_in_one_call_and_so_are_their_documents(
    index: HybridIndex, encoder: FakeEncoder
) -> None:
    encoder.calls.clear()
    rankings = index.rerank_batch([QUERY, "tea leaves"], [given(), ["green tea", *given()]])
    assert [len(one) for one in rankings] == [3, 4]
    assert [len(call.texts) for call in encoder.calls] == [2, 1]
    alone = index.rerank("tea leaves", ["green tea", *given()])
    assert [one.index for one in rankings[1]] == [one.index for one in alone]


def test_no_documents_give_no_results(index: HybridIndex) -> None:
    assert index.rerank(QUERY, []) == []
    assert index.rerank_batch([], []) == []


def test_limit_and_weights_are_those_of_the_engine(index: HybridIndex) -> None:
    ranked = index.rerank(QUERY, given(), limit=1, weights="keyword")
    assert len(ranked) == 1
    with pytest.raises(InputError, match="limit"):
        index.rerank(QUERY, given(), limit=0)


def test_wrong_documents_are_named(index: HybridIndex) -> None:
    with pytest.raises(InputError, match="2 queries came with 1 lists"):
        index.rerank_batch([QUERY, QUERY], [given()])
    with pytest.raises(InputError, match="not int"):
        index.rerank(QUERY, [3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="queries must be a list"):
        index.rerank_batch(QUERY, [given()])


def test_a_document_without_finite_numbers_is_named_by_its_beginning() -> None:
    class Broken(FakeEncoder):
        def encode(self, texts: object, **options: object) -> object:  # type: ignore[override]
            if options["kind"] == "document":
                raise EncodingError("is not finite", 1)
            return super().encode(texts, **options)  # type: ignore[arg-type]

    index = HybridIndex(BGEM3(Broken()))
    with pytest.raises(EncodingError, match="the document that begins 'bad one' is not finite"):
        index.rerank(QUERY, ["good", "bad one"])


def test_each_step_of_a_search_is_observed(index: HybridIndex) -> None:
    stages = []
    index.search(QUERY, limit=2, observe=stages.append)
    assert [stage.name for stage in stages] == ["encode", "find", "score", "rank"]
    assert stages[0].counts == {"queries": 1}
    assert stages[-1].counts == {"hits": 2}


async def test_an_async_search_finds_the_same_and_observes_the_same(index: HybridIndex) -> None:
    stages = []
    found = await index.asearch(QUERY, limit=2, observe=stages.append)
    assert found == index.search(QUERY, limit=2)
    assert [stage.name for stage in stages] == ["encode", "find", "score", "rank"]
    assert await index.asearch_batch([]) == []
    with pytest.raises(InputError, match="queries must be a list"):
        await index.asearch_batch(QUERY)


def test_diversity_chooses_among_given_hits(index: HybridIndex) -> None:
    hits = index.search("bridge", limit=3)
    assert index.diversify(hits, limit=2, mmr_lambda=1.0) == hits[:2]
    assert index.diversify([], limit=2) == []


def test_a_hit_that_was_deleted_meanwhile_is_not_chosen(index: HybridIndex) -> None:
    hits = index.search("bridge", limit=3)
    index.delete(ids=[hits[0].id])
    assert {hit.id for hit in index.diversify(hits, limit=3)} == {hit.id for hit in hits[1:]}


def test_a_copy_in_a_folder_holds_the_same_numbers_and_encodes_nothing(
    index: HybridIndex, encoder: FakeEncoder, tmp_path: Path
) -> None:
    index.copy_to(tmp_path / "copy")
    assert not encoder.forwards
    with HybridIndex.open(tmp_path / "copy", index.engine) as copy:
        found = [(hit.id, hit.components) for hit in copy.search(QUERY)]
        assert copy.count() == 3
    for (name, parts), hit in zip(found, index.search(QUERY), strict=True):
        assert name == hit.id
        assert parts == pytest.approx(hit.components, abs=1e-6)


def test_a_copy_never_goes_into_a_folder_that_holds_something(
    index: HybridIndex, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match=r"letter\.txt"):
        index.copy_to(tmp_path / "full")
    assert (tmp_path / "full" / "letter.txt").read_text() == "dear"


def test_a_check_sees_each_batch_before_it_is_kept(index: HybridIndex) -> None:
    def refuse(records: object, embeddings: object) -> None:
        raise InputError(f"no {records[0].id}")  # type: ignore[index]

    with pytest.raises(InputError, match="no new"):
        index.add([Record("new", "a text")], check=refuse)
    assert index.count() == 3


@pytest.mark.parametrize(
    ("weights", "low", "high"), [((0, 1, 0), 0.0, 1.0), ((1, 0, 0), 0.0, 1.0), (None, 0.0, 1.0)]
)
def test_relevance_is_within_zero_and_one(
    index: HybridIndex, weights: tuple[int, int, int] | None, low: float, high: float
) -> None:
    hits = index.search("bridge fox tea leaves " * 10, weights=weights)
    assert all(low <= hit.relevance <= high for hit in hits)
    assert len({hit.relevance for hit in hits if hit.score != 0}) > 1


def test_a_filter_may_look_at_the_whole_record(index: HybridIndex) -> None:
    from bge_m3_integrations.core.filters import And, Compare, RecordPredicate

    hits = index.search("bridge", where=RecordPredicate(lambda r: "stone" in r.text))
    assert [hit.id for hit in hits] == ["b"]
    assert index.count(RecordPredicate(lambda r: r.id != "a")) == 2
    both = And([RecordPredicate(lambda r: "bridge" in r.text), Compare("x", "$exists", True)])
    assert index.count(both) == 0
