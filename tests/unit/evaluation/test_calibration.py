"""Calibration: percentiles from the index alone, probabilities from judged queries."""

from __future__ import annotations

import math
import random
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import (
    BGEM3,
    CalibrationWarning,
    HybridIndex,
    InputError,
    Probability,
    ReciprocalRank,
    ScaledSum,
    WeightProfile,
    Weights,
)
from bge_m3_integrations.demo import checkpoint_path, load_corpus, load_questions
from bge_m3_integrations.evaluation import Dataset, LabelledPairs, calibrate, load_dataset
from bge_m3_integrations.evaluation.calibration import calibration_error, reliability
from bge_m3_integrations.evaluation.unrelated import sentences, unrelated_pairs
from bge_m3_integrations.testing import FakeEncoder

QUESTIONS = load_questions()
DATA = Dataset(
    "demo",
    {question.id: question.text for question in QUESTIONS},
    {question.id: dict(question.relevant) for question in QUESTIONS},
)


@pytest.fixture(scope="module")
def index() -> Iterator[HybridIndex]:
    with HybridIndex(BGEM3(checkpoint_path(), dtype="float32")) as made:
        made.add(load_corpus())
        yield made


def part(*which: int | None) -> Dataset:
    some = {question.id for question in QUESTIONS[slice(*which)]}
    return replace(
        DATA,
        queries={query: text for query, text in DATA.queries.items() if query in some},
        qrels={query: grades for query, grades in DATA.qrels.items() if query in some},
    )


def distance(one: Any, other: Any) -> float:
    """The Kolmogorov-Smirnov distance of one's values, read as percentiles of the other's."""
    share = other.percentile(one.levels) / 100
    return float(np.abs(share - one.below / one.pairs).max())


@pytest.mark.parametrize(
    "options", [{}, {"weights": "keyword"}, {"fusion": ScaledSum()}, {"weights": (0, 0, 1)}]
)
def test_percentiles_of_held_out_unrelated_pairs_are_uniform(
    index: HybridIndex, options: Any
) -> None:
    held = calibrate(index, **options).unrelated
    other = unrelated_pairs(index, options, seed=99, tell=lambda *_: None)
    assert distance(other, held) <= 0.05
    assert other.levels.tolist() != held.levels.tolist()


def test_percentiles_of_documents_that_were_not_seen_are_uniform() -> None:
    """One half of a collection gives the quantiles, the other half the pairs that are read."""
    chosen = random.Random(3)
    words = [f"word{i}" for i in range(300)]
    texts = [
        " ".join(f"{' '.join(chosen.choices(words, k=8))}." for _ in range(4)) for _ in range(600)
    ]
    engine = BGEM3(FakeEncoder())
    halves = []
    for some in (texts[:300], texts[300:]):
        half = HybridIndex(engine)
        half.add(some)
        halves.append(unrelated_pairs(half, {}, seed=0, tell=lambda *_: None))
    assert distance(*halves) <= 0.05


def test_probabilities_hold_on_queries_that_were_not_seen(index: HybridIndex) -> None:
    """Learned from every second question, read on the others: three times better than raw.

    (The questions are in groups of one kind, so the first half is no sample of the second.)
    """
    with pytest.warns(CalibrationWarning):
        index.calibration = calibrate(index, part(0, None, 2))
    held_out = part(1, None, 2)
    rows = [
        (hit.probability, hit.score, hit.id in held_out.qrels[query])
        for query, text in held_out.queries.items()
        for hit in index.search(text)
    ]
    index.calibration = None
    chance, raw, relevant = (np.array(column, float) for column in zip(*rows, strict=True))
    error = calibration_error(reliability(chance, relevant > 0))
    raw_error = calibration_error(reliability(np.clip(raw, 0, 1), relevant > 0))
    assert error * 3 <= raw_error
    assert ((chance - relevant) ** 2).mean() < 0.8 * relevant.mean() * (1 - relevant.mean())


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_the_figures_of_a_calibration_are_of_held_out_queries(
    index: HybridIndex, method: Any
) -> None:
    held = calibrate(index, DATA, method=method).relevance
    assert held is not None
    assert (held.queries, held.pairs) == (94, 940)
    assert held.ece * 3 <= held.raw_ece
    assert held.brier < held.relevant / held.pairs
    assert held.bins[:, 2].sum() == held.pairs
    assert (held.rule.steps is None) == (method == "platt")
    assert held.curve[1, -1] == held.pairs
    assert held.curve[2, -1] == held.relevant


def test_auto_takes_steps_with_hundreds_of_queries_only(index: HybridIndex) -> None:
    held = calibrate(index, DATA).relevance
    assert held is not None
    assert held.rule.steps is None


def test_a_chosen_threshold_keeps_what_it_promises(index: HybridIndex) -> None:
    held = calibrate(index, DATA)
    index.calibration = held
    chosen = held.threshold(precision=0.7)
    rows = [
        hit.id in DATA.qrels[query]
        for query, text in DATA.queries.items()
        for hit in index.search(text, score_threshold=chosen)
    ]
    index.calibration = None
    assert isinstance(chosen, Probability)
    assert len(rows) >= 10
    assert np.mean(rows) >= 0.7


def test_learned_weights_are_calibrated_like_others() -> None:
    with HybridIndex(BGEM3(checkpoint_path(), dtype="float32")) as held:
        held.add(load_corpus())
        held.learn_weights(documents=60)
        held.calibration = calibrate(held, DATA, weights="learned")
        made = held.calibration
        assert made.relevance is not None
        assert made.relevance.ece * 3 <= made.relevance.raw_ece
        hits = held.search("What is a token vector?", weights="learned")
        assert hits[0].probability is not None
        assert held.search("What is a token vector?")[0].probability is None
        kept = held.search(
            "What is a token vector?", weights="learned", score_threshold=Probability(0.2)
        )
        assert kept == [hit for hit in hits if (hit.probability or 0) >= 0.2]


def test_a_seed_gives_the_same_calibration(index: HybridIndex) -> None:
    one, two, other = (calibrate(index, DATA, seed=seed).to_dict() for seed in (5, 5, 6))
    assert one == two
    assert one["unrelated"] != other["unrelated"]


def test_it_says_what_it_was_measured_on(index: HybridIndex) -> None:
    profile = WeightProfile("mine", Weights(1, 0, 1), ScaledSum())
    measured = calibrate(index, weights=profile, collection="my texts").measured
    assert measured.fingerprint == index.engine.fingerprint
    assert (measured.fusion, measured.weights) == ("scaled_sum", Weights(1, 0, 1))
    assert (measured.collection, measured.documents) == ("my texts", 108)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", measured.date)


def test_the_calibration_of_an_index_changes_nothing_in_the_next_one(index: HybridIndex) -> None:
    fresh = calibrate(index, DATA)
    index.calibration = fresh
    assert calibrate(index, DATA).to_dict() == fresh.to_dict()
    index.calibration = None


def test_ranks_have_no_level_to_calibrate(index: HybridIndex) -> None:
    with pytest.raises(InputError, match=r"ReciprocalRank.*depends on the others"):
        calibrate(index, fusion=ReciprocalRank())


@dataclass(frozen=True)
class Constant:
    """A fusion of a user's that gives every document one value."""

    value: float
    name: str = "constant"

    def rank_values(self, parts: Any, weights: Any, *, query_sparse_sum: float) -> Any:
        return np.full(parts.shape, self.value, np.float32)

    def max_score(self, weights: Any) -> float:
        return 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_fusion_of_the_users_must_give_finite_values(index: HybridIndex, value: float) -> None:
    with pytest.raises(InputError, match=r"0 have a finite value by Constant"):
        calibrate(index, fusion=Constant(value))


def test_a_fusion_of_the_users_is_calibrated_like_others(index: HybridIndex) -> None:
    assert calibrate(index, fusion=Constant(0.5)).unrelated.levels.tolist() == [0.5]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": lambda query: "keyword"}, "one weighting"),
        ({"method": "sigmoid"}, "method must be"),
        ({"seed": -1}, "seed"),
        ({"min_grade": 0}, "min_grade"),
        ({"dataset": DATA.qrels}, "needs queries"),
        ({"dataset": "no/such/folder"}, "no data set|is no folder"),
        ({"weights": "nobody's"}, "nobody's"),
    ],
)
def test_what_cannot_be_meant_is_refused(index: HybridIndex, options: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        calibrate(index, **options)
    with pytest.raises(InputError, match="needs a HybridIndex"):
        calibrate(index.engine)  # type: ignore[arg-type]


def test_pairs_of_texts_are_refused(index: HybridIndex) -> None:
    pairs = LabelledPairs("pairs.csv", [("a", "b"), ("a", "c")], [0, 1])
    with pytest.raises(InputError, match=r"pairs\.csv: calibration needs queries"):
        calibrate(index, pairs)  # type: ignore[arg-type]


def test_too_few_judged_queries_are_refused_and_few_are_warned_of(index: HybridIndex) -> None:
    with pytest.raises(InputError, match="19 judged queries are too few"):
        calibrate(index, part(0, 19))
    with pytest.warns(CalibrationWarning, match="20 judged queries make a rough calibration"):
        calibrate(index, part(0, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        calibrate(index, part(0, 50))


def judged(grade: Any) -> Dataset:
    """Every document judged by a grade for every query."""
    documents = [record.id for record in load_corpus()]
    return replace(DATA, qrels={query: dict.fromkeys(documents, grade) for query in DATA.queries})


def test_labels_of_one_class_are_refused(index: HybridIndex) -> None:
    with pytest.raises(InputError, match=r"demo: .*all are relevant"):
        calibrate(index, judged(1))
    with pytest.raises(InputError, match=r"demo: .*none is relevant.*min_grade"):
        calibrate(index, DATA, min_grade=9)


def test_relevant_hits_of_one_query_alone_are_too_little(index: HybridIndex) -> None:
    first, *others = DATA.qrels
    qrels = {
        first: DATA.qrels[first],
        **{query: dict.fromkeys(DATA.qrels[query], 0) for query in others},
    }
    with pytest.raises(InputError, match="too few queries"):
        calibrate(index, replace(DATA, qrels=qrels))


@pytest.mark.parametrize("grade", [math.nan, math.inf, "3"])
def test_grades_that_are_no_numbers_are_refused(index: HybridIndex, grade: Any) -> None:
    qrels = {query: dict(grades) for query, grades in DATA.qrels.items()}
    query = list(qrels)[-1]
    document = next(iter(qrels[query]))
    data = replace(DATA, qrels=qrels)
    qrels[query][document] = grade
    with pytest.raises(InputError, match=f"demo: the grade of '{document}' for query '{query}'"):
        calibrate(index, data)


def test_an_unknown_document_is_an_error_with_file_and_line(
    index: HybridIndex, tmp_path: Path
) -> None:
    (tmp_path / "queries.jsonl").write_text(
        "\n".join(f'{{"_id": "{i}", "text": "query {i}"}}' for i in range(30))
    )
    lines = [f"{i}\ten/filter-before-search\t1" for i in range(29)]
    (tmp_path / "qrels.tsv").write_text(
        "\n".join(["query-id\tcorpus-id\tscore", *lines, "29\tnone\t1"])
    )
    with pytest.raises(InputError, match=r"'none'.*qrels\.tsv, line 31"):
        calibrate(index, tmp_path)


def test_a_query_that_comes_twice_counts_once(index: HybridIndex) -> None:
    twice = replace(
        DATA,
        queries=dict(DATA.queries) | {f"{query}-2": text for query, text in DATA.queries.items()},
        qrels=dict(DATA.qrels) | {f"{query}-2": grades for query, grades in DATA.qrels.items()},
    )
    assert calibrate(index, twice).relevance.queries == 94  # type: ignore[union-attr]


def test_a_path_is_loaded(index: HybridIndex, tmp_path: Path) -> None:
    from tests.beir import write

    write(DATA, tmp_path)
    from_path = calibrate(index, str(tmp_path)).relevance
    assert from_path is not None
    assert load_dataset(tmp_path).qrels == DATA.qrels
    assert from_path.relevant == calibrate(index, DATA).relevance.relevant  # type: ignore[union-attr]


def small(texts: list[str]) -> HybridIndex:
    made = HybridIndex(BGEM3(FakeEncoder()))
    made.add([{"id": str(i), "text": text} for i, text in enumerate(texts)])
    return made


@pytest.mark.parametrize(
    "texts",
    [[], ["one text"] * 39, ["..."] * 100, [""] * 50, [f"text {i}" for i in range(39)]],
)
def test_few_or_empty_documents_are_refused(texts: list[str]) -> None:
    with pytest.raises(InputError, match=r"documents with text.*need 40"):
        calibrate(small(texts))


def test_documents_that_are_all_the_same_make_a_calibration_of_one_level() -> None:
    held = calibrate(small(["the very same text"] * 60))
    value = held.unrelated.levels
    assert len(value) == 1
    assert held.percentile(value)[0] == 0


def test_pairs_are_of_one_script() -> None:
    """Latin queries never meet Chinese documents, whose lexical scores are 0 by their letters."""
    latin = [f"alpha beta gamma text {i}" for i in range(50)]
    han = [f"甲乙丙丁文字第{i}号文档" for i in range(50)]
    both = calibrate(small(latin + han), weights=(0, 1, 0)).unrelated
    assert both.levels[0] > 0


def test_ten_scripts_of_few_documents_are_no_group() -> None:
    texts = [
        f"{letter * 3} {letter * 4} {letter * 5} {letter * 6}" for letter in "aяαאअกあ한中ა" * 6
    ]
    with pytest.raises(InputError, match="scripts of 20 or more"):
        calibrate(small(texts))


def test_a_query_is_encoded_once_and_no_document(index: HybridIndex) -> None:
    fake = FakeEncoder()
    held = HybridIndex(BGEM3(fake))
    held.add([f"sentence one of {i}. And sentence two of {i}." for i in range(60)])
    before = sum(len(call.texts) for call in fake.calls if call.kind == "document")
    made = calibrate(held)
    documents = sum(len(call.texts) for call in fake.calls if call.kind == "document")
    queries = sum(len(call.texts) for call in fake.calls if call.kind == "query")
    assert documents == before
    assert queries <= made.unrelated.queries + 2  # two look at the fusion


def test_sentences_are_short_and_distinct() -> None:
    chosen = random.Random(0)
    text = "One two three four. One two three four. " + "long " * 100 + ". 这是一个中文句子，很长。"
    found = sentences(text, 99, chosen)
    assert len(found) == len(set(found)) == 4  # equal pieces are one
    assert all(len(one.split()) <= 45 for one in found)
    assert len(sentences(text, 2, chosen)) == 2
    assert sentences("Hi!", 9, chosen) == ["Hi!"]
    assert sentences(" \n..", 9, chosen) == []


def test_the_error_is_the_mean_distance() -> None:
    bins = reliability(np.array([0.05, 0.05, 0.95, 1.0]), np.array([True, False, True, True]))
    assert bins[0].tolist() == [0.05, 0.5, 2]
    assert bins[9].tolist() == [0.975, 1.0, 2]
    assert calibration_error(bins) == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)
