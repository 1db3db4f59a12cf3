"""Calibrations as values: percentiles, probabilities, thresholds, files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bge_m3_integrations import (
    Calibration,
    InputError,
    Probability,
    ReciprocalRank,
    ScaledSum,
    WeightedSum,
    Weights,
)
from bge_m3_integrations.core.calibration_parts import (
    Relevance,
    Rule,
    Unrelated,
    candidate_z,
    wilson_bound,
)
from tests.calibrations import MEASURED, calibration, relevance

VALUES = st.lists(st.floats(-2, 2, allow_nan=False, width=32), min_size=1, max_size=3000).map(
    np.array
)


@given(VALUES)
def test_a_percentile_is_the_share_of_lower_values(values: Any) -> None:
    held = Unrelated.from_values(values, queries=1)
    exact = 100 * np.array([(values < v).sum() for v in values[:50]]) / (values.size + 1)
    # between two of 1,000 quantiles it is interpolated
    assert np.abs(held.percentile(values[:50]) - exact).max() <= 100 / 900


@given(VALUES, st.floats(-3, 3), st.floats(-3, 3))
def test_a_greater_value_has_no_lower_percentile(values: Any, a: float, b: float) -> None:
    low, high = Unrelated.from_values(values, queries=1).percentile(np.array(sorted([a, b])))
    assert 0 <= low <= high < 100


def test_many_equal_values_are_not_spread_over_the_scale() -> None:
    """Most unrelated pairs share no token: their lexical score is 0."""
    held = Unrelated.from_values(
        np.concatenate([np.zeros(6000), np.linspace(0.1, 1, 4000)]), queries=1
    )
    assert held.percentile(np.array([0.0]))[0] == 0
    assert held.percentile(np.array([0.05]))[0] == pytest.approx(60, abs=0.1)


def test_no_percentile_claims_more_than_the_pairs_can_tell() -> None:
    held = Unrelated.from_values(np.linspace(0, 1, 10_000), queries=1)
    assert held.percentile(np.array([5.0]))[0] == pytest.approx(100 * 10_000 / 10_001)
    assert math.isnan(held.percentile(np.array([np.nan]))[0])


def test_the_greatest_pairs_are_kept_one_by_one() -> None:
    values = np.sort(np.random.default_rng(0).normal(size=20_000))
    held = Unrelated.from_values(values, queries=1)
    assert held.percentile(values[-5:]) == pytest.approx(
        100 * np.arange(19_995, 20_000) / 20_001, abs=1e-9
    )


def test_candidate_z_is_over_the_best_hundred_whatever_else_was_found() -> None:
    values = np.random.default_rng(0).normal(size=300)
    best = np.sort(values)[-100:]
    expected = (values - best.mean()) / best.std()
    assert candidate_z(values) == pytest.approx(expected)
    order = np.argsort(-values)
    assert candidate_z(values[order[:100]]) == pytest.approx(expected[order[:100]])


@pytest.mark.parametrize("values", [[], [1.0], [0.5] * 19 + [1.0] * 0, [0.5] * 200])
def test_few_or_equal_candidates_have_no_z(values: list[float]) -> None:
    assert np.isnan(candidate_z(np.array(values))).all()


def test_a_value_without_z_is_read_alone() -> None:
    rule = Rule(1.0, 2.0, 3.0, (4.0, -2.0))
    with_z, alone = rule.probability(np.array([0.5, 0.5]), np.array([0.25, np.nan]))
    assert with_z == pytest.approx(1 / (1 + math.exp(-4)))
    assert alone == pytest.approx(0.5)


def test_steps_are_read_over_the_curve() -> None:
    rule = Rule(0.0, 0.0, 0.0, (0.0, 0.0), steps=np.array([[0.0, 1.0], [0.2, 0.4]]))
    assert rule.probability(np.zeros(1), np.zeros(1))[0] == pytest.approx(0.3)


def test_extreme_values_overflow_nothing() -> None:
    with np.errstate(all="raise"):
        found = Rule(1e3, 1e3, 0, (1e3, 0)).probability(
            np.array([1e6, -1e6]), np.array([1e6, -1e6])
        )
    assert found.tolist() == [1.0, 0.0]


def test_the_bound_is_wilsons() -> None:
    """0.7135: 80 of 100 with z = 1.2816, computed by hand from Wilson's formula."""
    z, p, n = 1.2815515655446004, 0.8, 100
    by_hand = (p + z * z / 2 / n - z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)) / (
        1 + z * z / n
    )
    assert wilson_bound(80, 100) == pytest.approx(by_hand)
    assert wilson_bound(0, 10) == pytest.approx(0, abs=1e-12)
    assert wilson_bound(10, 10) < 1


def test_a_threshold_for_precision_is_the_lowest_that_is_proved() -> None:
    held = calibration()
    chosen = held.threshold(precision=0.6)
    level, kept, right = relevance().curve
    good = [p for p, k, r in zip(level, kept, right, strict=True) if wilson_bound(r, k) >= 0.6]
    assert chosen == Probability(min(good))


def test_a_threshold_for_recall_is_the_highest_that_is_proved() -> None:
    chosen = calibration().threshold(recall=0.7)
    level, _, right = relevance().curve
    good = [p for p, r in zip(level, right, strict=True) if wilson_bound(r, 45) >= 0.7]
    assert chosen == Probability(max(good))


def test_where_there_is_no_threshold_the_best_is_said() -> None:
    with pytest.raises(InputError, match=r"precision of 0.99 .* best lower bound .* keeps 20 hits"):
        calibration().threshold(precision=0.99)


def test_a_few_good_hits_prove_nothing() -> None:
    few = np.array([0.9] * 9 + [0.1] * 9)
    curve = Relevance.curve_of(few, few > 0.5)
    held = relevance(pairs=18, relevant=9, curve=curve)
    with pytest.raises(InputError, match="no threshold"):
        replace(calibration(), relevance=held).threshold(precision=0.8)
    short = relevance(pairs=9, curve=curve[:, :1])
    with pytest.raises(InputError, match="too few"):
        replace(calibration(), relevance=short).threshold(precision=0.1)


@pytest.mark.parametrize(
    "wanted", [{}, {"precision": 0.8, "recall": 0.8}, {"precision": 80}, {"recall": math.nan}]
)
def test_a_threshold_is_for_one_share(wanted: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"precision|recall"):
        calibration().threshold(**wanted)


def test_without_judgements_there_is_no_probability() -> None:
    held = calibration(judged=False)
    for ask in (
        lambda: held.threshold(precision=0.5),
        lambda: held.probability(np.zeros(1), np.zeros(1)),
    ):
        with pytest.raises(InputError, match="without judgements"):
            ask()
    assert held.percentile(np.array([0.5]))[0] == pytest.approx(50, abs=0.2)


def test_the_ratios_of_weights_count_and_the_scale_of_the_fusion() -> None:
    assert MEASURED.is_of_search(Weights(4, 2, 4), WeightedSum())
    assert not MEASURED.is_of_search(Weights(0.3, 0.5, 0.2), WeightedSum())
    assert not MEASURED.is_of_search(Weights(), ScaledSum())
    assert not MEASURED.is_of_search(Weights(), ReciprocalRank())


def test_a_file_gives_the_calibration_back(tmp_path: Path) -> None:
    rule = Rule(1.5, 2.5, 3.5, (4.5, 5.5), steps=np.array([[0.1, 0.9], [0.2, 0.7]]))
    held = replace(calibration(), relevance=relevance(rule))
    held.save(tmp_path / "c.json")
    again = Calibration.load(tmp_path / "c.json")
    assert again.to_dict() == held.to_dict()
    assert again.measured == held.measured
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def changed(**parts: Any) -> str:
    held = json.loads(json.dumps(calibration().to_dict()))
    for path, value in parts.items():
        *way, last = path.split("__")
        place = held
        for step in way:
            place = place[step]
        place[last] = value
    return json.dumps(held)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"kind": "something"}',
        "[" * 100_000,
        changed(format=2),
        changed(measured__weights=[0, 0, 0]),
        changed(measured__color="red"),
        changed(unrelated__levels=[0.0, math.nan]),
        changed(unrelated__levels=[1.0, 0.0], unrelated__below=[0, 1], unrelated__upto=[1, 2]),
        changed(unrelated__levels=[]),
        changed(unrelated__upto=["a"]),
        changed(relevance__rule__value=math.inf),
        changed(relevance__rule__alone=[1.0]),
        changed(relevance__bins=[[0.0, 0.0, 0.0]]),
        changed(relevance={}),
        changed()[:-40],
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(text: str, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"calibration\.json holds no calibration"):
        Calibration.load(file)


def test_a_file_that_is_not_there_or_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no calibration"):
        Calibration.load(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be written"):
        calibration().save(tmp_path / "no folder" / "c.json")


def test_a_reader_learns_what_it_rests_on() -> None:
    said = str(calibration())
    for part in (
        "tests",
        "100 documents",
        "0.4/0.2/0.4",
        "1,000 unrelated pairs",
        "0.050",
        "0.200",
    ):
        assert part in said
    assert "no judgements" in str(calibration(judged=False))
    assert repr(calibration()).startswith("Calibration('tests'")


def test_its_arrays_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        calibration().unrelated.levels[0] = 5
