"""The calibration of an index: what hits carry, thresholds, and the file in its folder."""

from __future__ import annotations

import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import (
    BGEM3,
    Calibration,
    CalibrationWarning,
    HybridIndex,
    InputError,
    Percentile,
    Probability,
    ReciprocalRank,
    ScaledSum,
    StoreError,
    Weights,
)
from bge_m3_integrations.core.calibration_parts import Rule, candidate_z
from bge_m3_integrations.core.weighting import CALIBRATION_FILE as NAME
from bge_m3_integrations.demo import checkpoint_path, load_corpus
from bge_m3_integrations.testing import FakeEncoder
from tests.calibrations import calibration, relevance

TEXTS = [f"text number {i} about {word}" for i, word in enumerate(["tea", "ships", "stars"] * 20)]
QUERY = "text about ships"


@pytest.fixture
def engine() -> BGEM3:
    return BGEM3(FakeEncoder())


@pytest.fixture
def index(engine: BGEM3) -> HybridIndex:
    made = HybridIndex(engine)
    made.add(TEXTS)
    return made


def folder(path: Path, engine: BGEM3, **options: Any) -> HybridIndex:
    made = HybridIndex.open(path, engine, **options)
    made.add(TEXTS)
    return made


def test_hits_carry_nothing_without_a_calibration(index: HybridIndex) -> None:
    hit = index.search(QUERY)[0]
    assert (hit.probability, hit.percentile, index.calibration) == (None, None, None)
    assert not {"probability", "percentile"} & (hit.to_dict().keys() | hit.score_details.keys())


def test_hits_carry_both_readings_with_judgements(index: HybridIndex) -> None:
    before = index.search(QUERY, limit=100)
    index.calibration = calibration(index)
    hits = index.search(QUERY, limit=100)
    assert [(hit.id, hit.score) for hit in hits] == [(hit.id, hit.score) for hit in before]
    for hit in hits:
        assert hit.percentile == pytest.approx(100 * hit.score, abs=0.2)
        assert hit.probability == pytest.approx(1 / (1 + np.exp(5 - 10 * hit.score)), abs=1e-6)
        assert hit.to_dict()["probability"] == hit.probability
        assert hit.score_details["percentile"] == hit.percentile


def test_without_judgements_there_is_the_percentile_alone(index: HybridIndex) -> None:
    index.calibration = calibration(index, judged=False)
    hit = index.search(QUERY)[0]
    assert hit.probability is None
    assert "probability" not in hit.to_dict()
    assert hit.to_dict()["percentile"] == hit.percentile


@pytest.mark.parametrize(
    "other", [{"weights": "keyword"}, {"fusion": ScaledSum()}, {"fusion": ReciprocalRank()}]
)
def test_a_search_by_other_rules_has_no_readings(index: HybridIndex, other: Any) -> None:
    index.calibration = calibration(index)
    hit = index.search(QUERY, **other)[0]
    assert (hit.probability, hit.percentile) == (None, None)
    with pytest.raises(InputError, match=r"Probability\(0.5\) needs a calibration of this search"):
        index.search(QUERY, score_threshold=Probability(0.5), **other)


def test_weights_of_the_same_ratios_are_the_same_search(index: HybridIndex) -> None:
    index.calibration = calibration(index)
    assert index.search(QUERY, weights=Weights(4, 2, 4))[0].percentile is not None


def test_weights_that_are_a_function_are_read_query_by_query(index: HybridIndex) -> None:
    index.calibration = calibration(index)
    lists = index.search_batch(
        ["one", "two"], weights=lambda query: "default" if query == "one" else "keyword"
    )
    assert lists[0][0].percentile is not None
    assert lists[1][0].percentile is None


@pytest.mark.parametrize("threshold", [Probability(0.9), Percentile(70)])
def test_a_threshold_keeps_what_reaches_it(index: HybridIndex, threshold: Any) -> None:
    index.calibration = calibration(index)
    name = type(threshold).__name__.lower()
    everything = index.search(QUERY, limit=100)
    reach = [hit for hit in everything if getattr(hit, name) >= threshold.value]
    assert 0 < len(reach) < len(everything)
    assert index.search(QUERY, limit=100, score_threshold=threshold) == reach
    assert index.search_diverse(QUERY, limit=100, score_threshold=threshold)
    embedded = index.engine.encode_queries([QUERY])
    assert index.search_embedded(embedded, limit=100, score_threshold=threshold)[0] == reach


async def test_asynchronous_searches_take_them_too(index: HybridIndex) -> None:
    index.calibration = calibration(index)
    hits = await index.asearch(QUERY, score_threshold=Percentile(45))
    assert hits
    assert all((hit.percentile or 0) >= 45 for hit in hits)


def test_a_number_is_still_about_the_score(index: HybridIndex) -> None:
    scores = [hit.score for hit in index.search(QUERY, limit=100)]
    cut = scores[len(scores) // 2]
    plain = index.search(QUERY, limit=100, score_threshold=cut)
    index.calibration = calibration(index)
    assert [h.id for h in index.search(QUERY, limit=100, score_threshold=cut)] == [
        h.id for h in plain
    ]
    assert min(hit.score for hit in plain) == cut


@pytest.mark.parametrize("threshold", [Probability(0.5), Percentile(99)])
def test_a_threshold_without_calibration_says_how_to_make_one(
    index: HybridIndex, threshold: Any
) -> None:
    with pytest.raises(InputError, match=r"which this index lacks; .*calibrate\(index"):
        index.search(QUERY, score_threshold=threshold)


def test_a_probability_needs_judgements_and_a_percentile_enough_pairs(index: HybridIndex) -> None:
    index.calibration = calibration(index, judged=False)
    with pytest.raises(InputError, match=r"made without: Percentile\(99\) works"):
        index.search(QUERY, score_threshold=Probability(0.5))
    with pytest.raises(InputError, match=r"the greatest is Percentile\(99.9\)"):
        index.search(QUERY, score_threshold=Percentile(99.95))
    index.search(QUERY, score_threshold=Percentile(99.9))


def test_the_reading_of_a_hit_does_not_depend_on_what_else_was_asked_for(engine: BGEM3) -> None:
    index = HybridIndex(engine)
    index.add([f"text {i}, of {i % 7} and {i % 11}" for i in range(300)])
    rule = Rule(1.0, 2.0, -1.0, (0.0, 0.0))
    index.calibration = replace(calibration(index), relevance=relevance(rule))
    one = index.search("text of 3 and 4", limit=1)[0].probability
    exact = index.search("text of 3 and 4", limit=300, exact=True)
    z = candidate_z(np.array([hit.score for hit in exact]))
    expected = 1 / (1 + np.exp(-(exact[0].score + 2 * z[0] - 1)))
    assert exact[0].probability == pytest.approx(expected)
    assert one == pytest.approx(expected, rel=0.05)
    few = index.search("text of 3 and 4", where=lambda metadata: False)
    assert few == []


def test_a_filter_that_leaves_few_candidates_reads_the_value_alone(index: HybridIndex) -> None:
    rule = Rule(0.0, 50.0, 0.0, (0.0, 0.0))
    index.calibration = replace(calibration(index), relevance=relevance(rule))
    index.add([{"text": f"ship {i}", "metadata": {"n": 1}} for i in range(5)])
    assert [hit.probability for hit in index.search(QUERY, where={"n": 1})] == [0.5] * 5


def test_a_calibration_of_another_index_is_refused_with_both_sides(
    index: HybridIndex, tmp_path: Path
) -> None:
    own = calibration(index)
    for change, words in (
        ({"fingerprint": "other"}, ["'other'", repr(index.engine.fingerprint)]),
        ({"storage": "turbo8"}, ["turbo8", "float32"]),
        ({"query_instruction": "find: "}, ["find: "]),
    ):
        strange = replace(own, measured=replace(own.measured, **change))
        with pytest.raises(InputError) as error:
            index.calibration = strange
        assert all(word in str(error.value) for word in words)
    with pytest.raises(InputError, match="a Calibration is needed"):
        index.calibration = {"probability": 1}  # type: ignore[assignment]
    assert index.calibration is None


def test_a_folder_keeps_its_calibration(engine: BGEM3, tmp_path: Path) -> None:
    with folder(tmp_path / "i", engine, colbert="float16") as index:
        index.calibration = calibration(index)
        held = index.calibration
        assert held is not None
        assert held.measured.storage == "float16"
        percentile = index.search(QUERY)[0].percentile
    with HybridIndex.open(tmp_path / "i", engine) as again:
        assert again.search(QUERY)[0].percentile == percentile
        again.calibration = None
        assert again.search(QUERY)[0].percentile is None
    assert not (tmp_path / "i" / NAME).exists()


def test_all_handles_of_a_folder_see_a_change_at_once(engine: BGEM3, tmp_path: Path) -> None:
    with folder(tmp_path, engine) as one, HybridIndex.open(tmp_path, engine) as other:
        assert other.search(QUERY)[0].percentile is None
        one.calibration = calibration(one)
        assert other.search(QUERY)[0].percentile is not None


def test_an_index_that_begins_later_takes_a_calibration(engine: BGEM3, tmp_path: Path) -> None:
    index = HybridIndex.open(tmp_path / "later", engine)
    with pytest.raises(StoreError):
        _ = index.calibration
    index.add(TEXTS)
    index.calibration = calibration(index)
    assert index.search(QUERY)[0].percentile is not None
    index.close()
    with pytest.raises(StoreError, match="closed"):
        _ = index.calibration


def test_an_index_in_another_process_has_it_too(tmp_path: Path) -> None:
    engine = BGEM3(checkpoint_path())
    with HybridIndex.open(tmp_path, engine, isolated=True) as index:
        index.add(load_corpus()[:30])
        index.calibration = calibration(index)
        assert index.search("filters")[0].percentile is not None


def test_copies_have_it_where_it_holds(engine: BGEM3, tmp_path: Path) -> None:
    with folder(tmp_path / "i", engine, colbert="float32") as index:
        index.backup(tmp_path / "plain backup")
        index.calibration = calibration(index)
        index.backup(tmp_path / "backup")
        index.copy_to(tmp_path / "same")
        index.copy_to(tmp_path / "other", colbert="float16")
    HybridIndex.restore(tmp_path / "backup", tmp_path / "restored")
    there = {path.parent.name for path in tmp_path.glob(f"*/{NAME}")}
    assert there == {"i", "backup", "same", "restored"}
    with HybridIndex.open(tmp_path / "restored", engine) as again:
        assert again.search(QUERY)[0].percentile is not None


def test_an_index_that_is_read_only_keeps_the_one_it_has(engine: BGEM3, tmp_path: Path) -> None:
    with folder(tmp_path, engine) as index:
        index.calibration = calibration(index)
    with HybridIndex.open(tmp_path, engine, read_only=True) as index:
        assert index.search(QUERY)[0].percentile is not None
        with pytest.raises(StoreError, match="read_only"):
            index.calibration = None
    assert (tmp_path / NAME).exists()


@pytest.mark.parametrize("text", ["", "{}", "\0", '{"kind": 1}'])
def test_a_damaged_file_is_warned_of_once_and_passed_over(
    engine: BGEM3, tmp_path: Path, text: str
) -> None:
    with folder(tmp_path, engine) as index:
        (tmp_path / NAME).write_text(text)
        with pytest.warns(CalibrationWarning, match=r"calibration\.json is not used"):
            assert index.search(QUERY)[0].percentile is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            index.search(QUERY)
            with pytest.raises(InputError, match="which this index lacks"):
                index.search(QUERY, score_threshold=Percentile(50))
        index.calibration = calibration(index)
        assert index.search(QUERY)[0].percentile is not None


def test_a_file_from_another_index_is_not_used(engine: BGEM3, tmp_path: Path) -> None:
    with folder(tmp_path, engine) as index:
        calibration().save(tmp_path / NAME)
        with pytest.warns(CalibrationWarning, match="measured on the model 'f'"):
            assert index.search(QUERY)[0].percentile is None


def test_searches_while_it_changes_never_mix_two(engine: BGEM3, tmp_path: Path) -> None:
    """Each list of hits is read by one calibration: by value, or by ten times the value."""
    with folder(tmp_path, engine) as index:
        one = calibration(index)
        null = replace(one.unrelated, levels=one.unrelated.levels * 10)
        other = replace(one, unrelated=null)
        index.calibration = one
        plain = [h.percentile for h in index.search(QUERY)]
        index.calibration = other
        tenth = [h.percentile for h in index.search(QUERY)]
        seen: list[list[float | None]] = []
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                seen.append([hit.percentile for hit in index.search(QUERY)])

        threads = [threading.Thread(target=look) for _ in range(8)]
        for thread in threads:
            thread.start()
        for i in range(40):
            index.calibration = one if i % 2 else other
        stop.set()
        for thread in threads:
            thread.join()
    assert all(found in (plain, tenth) for found in seen)
    assert plain != tenth


def test_a_file_that_cannot_be_written_is_an_error(engine: BGEM3, tmp_path: Path) -> None:
    with folder(tmp_path, engine) as index:
        (tmp_path / NAME).mkdir()
        for value in (calibration(index), None):
            with pytest.raises(StoreError, match="cannot be changed"):
                index.calibration = value
    assert [path.name for path in tmp_path.glob("*.new")] == []


def test_a_calibration_can_be_taken_from_file_to_index(index: HybridIndex, tmp_path: Path) -> None:
    calibration(index).save(tmp_path / "mine.json")
    index.calibration = Calibration.load(tmp_path / "mine.json")
    assert index.search(QUERY)[0].percentile is not None


def test_an_index_that_was_emptied_finds_nothing(index: HybridIndex) -> None:
    index.calibration = calibration(index)
    index.delete(ids=[hit.id for hit in index.search(QUERY, limit=100, exact=True)])
    assert index.search(QUERY) == index.search(QUERY, score_threshold=Probability(0.5)) == []
    index.add(["ships"])
    assert index.search(QUERY)[0].percentile is not None
