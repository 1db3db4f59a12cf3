"""Thresholds on a calibrated scale: their ranges, their form in JSON, the names of the scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BANDS, InputError, Percentile, Probability, band
from bge_m3_integrations.core.thresholds import (
    as_threshold,
    threshold_as_json,
    threshold_of_json,
)


@pytest.mark.parametrize("value", [0, -0.1, 1.1, 80, math.nan, math.inf, "0.8", None, True, [0.8]])
def test_a_probability_is_above_0_and_at_most_1(value: Any) -> None:
    with pytest.raises(InputError, match="Probability"):
        Probability(value)


@pytest.mark.parametrize("value", [0, 100, 101, -1, 0.99, math.nan, math.inf, "99", None, True])
def test_a_percentile_is_in_percent_and_below_100(value: Any) -> None:
    with pytest.raises(InputError, match="Percentile"):
        Percentile(value)


def test_the_error_of_the_wrong_unit_says_what_was_meant() -> None:
    with pytest.raises(InputError, match=r"write Probability\(0.8\)"):
        Probability(80)
    with pytest.raises(InputError, match=r"did you mean Percentile\(99\)"):
        Percentile(0.99)


def test_thresholds_are_values() -> None:
    assert Probability(np.float32(0.5)) == Probability(0.5)
    assert len({Percentile(99), Percentile(99.0), Probability(0.99)}) == 2
    assert type(Probability(1).value) is float
    assert str(Percentile(99.9)) == "Percentile(99.9)"


def test_a_threshold_is_a_finite_number_or_one_of_the_two() -> None:
    assert as_threshold(0.5) == 0.5
    assert as_threshold(np.float32(0.5)) == 0.5
    assert as_threshold(Percentile(99)) == Percentile(99)
    for bad in (math.nan, "0.5", True, {"probability": 0.5}):
        with pytest.raises(InputError, match="score_threshold"):
            as_threshold(bad)


@pytest.mark.parametrize("held", [0.3, None, Probability(0.8), Percentile(99)])
def test_json_gives_a_threshold_back(held: Any) -> None:
    assert threshold_of_json(threshold_as_json(held)) == held


def test_json_that_is_no_threshold_stays_for_others_to_refuse() -> None:
    assert threshold_of_json({"chance": 1}) == {"chance": 1}
    with pytest.raises(InputError, match="Probability"):
        threshold_of_json({"probability": 8})


def test_the_bands_cover_the_scale_and_say_what_they_mean() -> None:
    assert [one.least for one in BANDS] == [0.85, 0.6, 0.3, 0.0]
    assert band(0.85).name == "near-duplicate"
    assert band(0.8499).name == "related"
    assert band(0.0).name == "unrelated"
    assert all("of 100 such hits" in one.meaning for one in BANDS)


@pytest.mark.parametrize("value", [None, 1.2, -0.1, math.nan, "0.9"])
def test_a_raw_score_has_no_band(value: Any) -> None:
    with pytest.raises(InputError, match=r"calibrated scale|a probability"):
        band(value)
