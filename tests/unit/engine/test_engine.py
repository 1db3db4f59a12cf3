from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BGEM3, Weights
from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Modes
from bge_m3_integrations.core.fusion import Candidates
from bge_m3_integrations.core.scores import Components
from bge_m3_integrations.core.validation import ENCODED_CHARACTERS, chunks
from bge_m3_integrations.core.weighting import WeightProfile
from bge_m3_integrations.engine import stretches
from bge_m3_integrations.engine.engine import ranking
from bge_m3_integrations.engine.stats import Stats
from bge_m3_integrations.errors import EncodingError, InputError, TruncationWarning
from bge_m3_integrations.testing import FakeEncoder

DOCUMENTS = ["dense vectors", "sparse weights", "token vectors of ColBERT", "cooking rice"]


@pytest.fixture
def fake() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def engine(fake: FakeEncoder) -> BGEM3:
    return BGEM3(fake)


def test_rerank_encodes_the_query_once_and_each_of_100_documents_once(
    engine: BGEM3, fake: FakeEncoder
) -> None:
    documents = [f"document number {i}" for i in range(100)]
    ranked = engine.rerank("which number", documents)
    assert len(ranked) == 100
    assert fake.forwards["which number"] == 1
    assert all(fake.forwards[text] == 1 for text in documents)
    assert sum(fake.forwards.values()) == 101


def test_rerank_is_best_first_with_ties_by_position(engine: BGEM3) -> None:
    ranked = engine.rerank("dense vectors", ["rice", "dense vectors", "other", "dense vectors"])
    assert [item.index for item in ranked[:2]] == [1, 3]
    assert [item.score for item in ranked] == sorted((r.score for r in ranked), reverse=True)


@pytest.mark.parametrize("count", [2, 17, 18, 40, 500])
def test_ties_of_any_number_of_documents_are_in_order_of_position(count: int) -> None:
    row = np.random.default_rng(count).integers(0, 3, count).astype(np.float32)
    parts = Candidates((), Components(dense=row), 0.0)
    dense = WeightProfile(None, Weights.only("dense"))
    expected = sorted(range(count), key=lambda i: (-row[i], i))
    assert [item.index for item in ranking(parts, dense)] == expected
    assert [item.index for item in ranking(parts, dense, limit=2)] == expected[:2]


class Failing(FakeEncoder):
    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        if "bad" in texts:
            raise EncodingError("is not finite", list(texts).index("bad"))
        return super().encode(texts, kind=kind, modes=modes, max_length=max_length)


LONG = "x" * (ENCODED_CHARACTERS // 2 + 1)  # a stretch each


@pytest.mark.parametrize(
    ("pairs", "position"),
    [
        ([("q", "a"), ("r", "bad")], 1),
        ([("q", "a"), ("q", "b"), ("bad", "a")], 2),
        ([(LONG, "a"), (LONG + "y", "b"), (LONG + "z", "bad")], 2),
        ([(LONG, "a"), (LONG + "y", "b"), (LONG + "y", "c"), (LONG, "bad")], 3),
        ([("q", LONG), ("q", LONG + "y"), ("q", "b"), ("q", "bad"), ("r", "bad")], 3),
        ([(LONG, "a"), (LONG + "y", "b"), ("q", "a"), ("bad", "a")], 3),
        ([(LONG, LONG), (LONG + "y", "c"), (LONG + "y", LONG), (LONG + "y", "bad")], 3),
    ],
    ids=range(7),
)
def test_score_pairs_names_the_pair_that_failed_in_whichever_stretch(
    pairs: list[tuple[str, str]], position: int
) -> None:
    with pytest.raises(EncodingError) as error:
        BGEM3(Failing()).score_pairs(pairs)
    assert error.value.position == position


def test_rerank_gives_the_weighted_mean_of_its_components(engine: BGEM3) -> None:
    best = engine.rerank("vectors", DOCUMENTS, limit=1, weights=(0.5, 0.3, 0.2))[0]
    parts = best.components
    mean = 0.5 * parts["dense"] + 0.3 * parts["sparse"] + 0.2 * parts["colbert"]
    assert best.score == pytest.approx(mean, abs=1e-6)


def test_score_of_all_pairs_and_of_single_pairs_agree(engine: BGEM3) -> None:
    queries = ["dense", "token vectors", "dense"]
    table = engine.score(queries, DOCUMENTS)
    pairs = [(q, d) for q in queries for d in DOCUMENTS]
    flat = engine.score_pairs(pairs)
    assert table.hybrid.shape == (3, 4)
    np.testing.assert_allclose(table.hybrid.reshape(-1), flat.hybrid, atol=1e-6)
    assert table.colbert is not None
    assert flat.colbert is not None
    np.testing.assert_allclose(table.colbert.reshape(-1), flat.colbert, atol=1e-6)


def test_score_pairs_encodes_each_distinct_text_once(engine: BGEM3, fake: FakeEncoder) -> None:
    engine.score_pairs([("q", "a"), ("q", "b"), ("r", "a")])
    assert dict(fake.forwards) == {"q": 1, "r": 1, "a": 1, "b": 1}


def test_modes_of_weight_zero_are_not_computed(engine: BGEM3, fake: FakeEncoder) -> None:
    scores = engine.score(["dense"], DOCUMENTS, weights=(1, 0.5, 0))
    assert {mode for call in fake.calls for mode in call.modes} == {"dense", "sparse"}
    assert scores.colbert is None


def test_the_default_weights_are_restricted_to_the_models_modes() -> None:
    engine = BGEM3(FakeEncoder(modes={"dense", "sparse"}))
    assert engine.score(["a"], ["a"]).weights == Weights(0.4, 0.2, 0.0)


def test_an_explicit_weight_on_a_missing_mode_is_an_error() -> None:
    engine = BGEM3(FakeEncoder(modes={"dense"}))
    with pytest.raises(InputError, match=r"colbert.*dense"):
        engine.score(["a"], ["a"], weights="default")
    with pytest.raises(InputError, match="sparse"):
        engine.encode_queries(["a"], modes={"sparse"})


def test_no_documents_give_no_results_and_no_pairs_give_empty_scores(engine: BGEM3) -> None:
    assert engine.rerank("q", []) == []
    assert engine.score([], DOCUMENTS).hybrid.shape == (0, 4)
    assert engine.score_pairs([]).hybrid.shape == (0,)
    assert len(engine.encode_queries([])) == 0


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_an_error(engine: BGEM3, limit: int) -> None:
    with pytest.raises(InputError, match="limit"):
        engine.rerank("q", DOCUMENTS, limit=limit)


def test_what_is_no_pair_is_named(engine: BGEM3) -> None:
    with pytest.raises(InputError, match="pair 1"):
        engine.score_pairs([("q", "d"), ("q",)])  # type: ignore[list-item]
    with pytest.raises(InputError, match="pair 0"):
        engine.score_pairs(["ab"])  # type: ignore[list-item]


def test_one_string_is_no_list_of_documents(engine: BGEM3, fake: FakeEncoder) -> None:
    for call in (engine.score, engine.rerank):
        with pytest.raises(InputError, match="list of strings"):
            call("query" if call == engine.rerank else ["query"], "document")  # type: ignore[arg-type]
    assert fake.calls == []


def test_a_broken_text_of_a_pair_is_named(engine: BGEM3) -> None:
    with pytest.raises(InputError, match="the document of pair 1 holds the lone surrogate"):
        engine.score_pairs([("q", "d"), ("q", "x\ud800")])
    with pytest.raises(InputError, match="the query of pair 0 must be str, not NoneType"):
        engine.score_pairs([(None, "d")])  # type: ignore[list-item]


def test_truncation_is_counted_and_warned_about() -> None:
    engine = BGEM3(FakeEncoder(max_length=4))
    with pytest.warns(TruncationWarning, match="1 of 2 texts"):
        batch = engine.encode_documents(["one two three four five", "one"])
    assert batch.truncated[0] > 0
    assert batch.truncated[1] == 0


def test_a_bare_string_is_refused_where_a_list_is_wanted(engine: BGEM3) -> None:
    with pytest.raises(InputError, match="list of strings"):
        engine.encode_documents("text")


def test_long_lists_are_scored_in_stretches_with_the_same_result(
    engine: BGEM3, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [f"document {i} about {i % 7}" for i in range(40)] * 2
    pairs = [(f"query {i % 3}", document) for i, document in enumerate(documents)]
    whole_table, whole_pairs = engine.score(["document 3"], documents), engine.score_pairs(pairs)
    fake.calls.clear()
    monkeypatch.setattr(stretches, "chunks", partial(chunks, characters=90))
    table, flat = engine.score(["document 3"], documents), engine.score_pairs(pairs)
    assert max(len(call.texts) for call in fake.calls) < 8
    np.testing.assert_allclose(table.hybrid, whole_table.hybrid, atol=1e-6)
    np.testing.assert_allclose(flat.hybrid, whole_pairs.hybrid, atol=1e-6)
    assert all(count <= 4 for count in fake.forwards.values())


def test_long_queries_too_are_scored_in_stretches_and_nothing_is_encoded_twice(
    engine: BGEM3, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [f"query {i} about {i % 7}" for i in range(40)]
    pairs = list(zip([*queries, *queries], [f"text {i}" for i in range(80)], strict=True))
    whole_table, whole_pairs = engine.score(queries, ["about 3"] * 2), engine.score_pairs(pairs)
    fake.calls.clear()
    fake.forwards.clear()
    monkeypatch.setattr(stretches, "chunks", partial(chunks, characters=90))
    table = engine.score(queries, ["about 3"] * 2)
    assert sum(fake.forwards.values()) == 41
    flat = engine.score_pairs(pairs)
    assert max(len(call.texts) for call in fake.calls) < 13
    assert fake.forwards["query 0 about 0"] == 2
    np.testing.assert_allclose(table.hybrid, whole_table.hybrid, atol=1e-6)
    np.testing.assert_allclose(flat.hybrid, whole_pairs.hybrid, atol=1e-6)


def test_only_token_vectors_are_worth_a_second_forward(
    engine: BGEM3, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "chunks", partial(chunks, characters=90))
    queries, documents = ([f"{kind} number {i}" for i in range(20)] for kind in ("query", "text"))
    engine.score(queries, documents, weights=(1, 1, 0))
    assert set(fake.forwards.values()) == {1}
    fake.forwards.clear()
    engine.score(queries, documents)
    assert {fake.forwards[text] for text in queries} == {1}
    assert {fake.forwards[text] for text in documents} == {4}


def test_a_text_without_numbers_is_named_by_its_place_in_any_stretch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failing(FakeEncoder):
        def encode(self, texts: Any, **options: Any) -> Any:
            if "bad" in texts:
                raise EncodingError("is not finite", list(texts).index("bad"))
            return super().encode(texts, **options)

    engine = BGEM3(Failing())
    monkeypatch.setattr(stretches, "chunks", partial(chunks, characters=4))
    texts = ["a", "a", "b", "c", "bad"]
    for call in (
        lambda: engine.score(texts, ["x"]),
        lambda: engine.score(["x"], texts),
        lambda: engine.score_pairs([("x", "a"), ("y", "b"), ("x", "c"), ("y", "d"), ("z", "bad")]),
    ):
        with pytest.raises(EncodingError, match="text 4 "):
            call()


@pytest.mark.parametrize("model", [42, None, object()])
def test_what_is_neither_a_name_nor_an_encoder_is_refused_at_once(model: Any) -> None:
    with pytest.raises(InputError, match="a folder, a hub id or an encoder"):
        BGEM3(model)


def test_a_generator_of_texts_is_read_once(engine: BGEM3) -> None:
    assert len(engine.encode_documents(text for text in ("a", "b"))) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("modes", [None, [], ["dense", "bm25"], [1, "dense"], 5])
def test_modes_that_are_none_are_refused(engine: BGEM3, modes: Any) -> None:
    with pytest.raises(InputError, match="modes must be one or more"):
        engine.encode_documents(["a"], modes=modes)


def test_scores_equal_the_reference_formulas(engine: BGEM3) -> None:
    scores = engine.score(["token vectors"], DOCUMENTS)
    left = engine.encode_queries(["token vectors"])
    right = engine.encode_documents(DOCUMENTS)
    expected = scoring.components(left, right, {"dense", "sparse", "colbert"})
    for (mode, ours), (other, theirs) in zip(
        scores.components.items(), expected.items(), strict=True
    ):
        assert mode == other
        np.testing.assert_array_equal(ours, theirs)


def test_an_engine_over_a_name_pickles_without_its_token() -> None:
    engine = BGEM3("some/model", dtype="float32", token="secret", clean=True)
    data = pickle.dumps(engine)
    again = pickle.loads(data)
    assert b"secret" not in data
    assert (again.name, dict(again.options)) == (engine.name, dict(engine.options))
    assert copy.deepcopy(engine) is engine


def test_an_engine_over_an_encoder_object_does_not_pickle(engine: BGEM3) -> None:
    with pytest.raises(InputError, match="cannot be pickled"):
        pickle.dumps(engine)


def test_a_truncation_warning_points_at_the_callers_line() -> None:
    engine = BGEM3(FakeEncoder(max_length=4))
    with pytest.warns(TruncationWarning) as caught:
        engine.rerank("a query that is long", ["and a document too"])
    assert {warning.filename for warning in caught} == {__file__}


def test_the_gathering_window_survives_pickling_and_is_no_option() -> None:
    engine = BGEM3("some/model", batch_window_ms=7, memo_bytes=5)
    again = pickle.loads(pickle.dumps(engine))
    assert again.__reduce__()[1][2]["batch_window_ms"] == 7
    assert "batch_window_ms" not in engine.options


async def test_a_coroutines_truncation_warning_points_at_the_callers_line() -> None:
    engine = BGEM3(FakeEncoder(max_length=4))
    with pytest.warns(TruncationWarning, match="1 of 2 texts") as caught:
        batch = await engine.aencode_documents(["one two three four five", "one"])
    assert {warning.filename for warning in caught} == {__file__}
    assert batch.truncated.tolist() == [3, 0]
    engine.close()


def test_load_runs_one_text_and_gives_the_engine_back() -> None:
    encoder = FakeEncoder()
    engine = BGEM3(encoder)
    assert engine.load() is engine
    assert [(len(call.texts), call.modes) for call in encoder.calls] == [(1, encoder.modes)]
    assert engine.stats == Stats()


def test_load_by_many_threads_at_once() -> None:
    encoder = FakeEncoder(modes=["dense"])
    engine = BGEM3(encoder)
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: engine.load(), range(8))) == {engine}
    engine.encode_documents(["a text"], modes=["dense"])
    assert engine.stats.forwards == 1
