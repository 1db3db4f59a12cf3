from __future__ import annotations

import pytest

from bge_m3_integrations.stores.edge.shard.pace import Pace, parts


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def grown(first: int, to: int) -> Pace:
    """After fast calls of the whole size."""
    pace = Pace(first)
    while pace.size < to:
        pace.took(pace.size, 0.0001)
    return pace


def test_it_begins_with_the_first_size_and_never_asks_for_nothing() -> None:
    assert Pace(8).size == 8
    assert Pace(0).size == 1


def test_a_fast_call_allows_twice_its_size_and_no_more_than_fits_the_aim() -> None:
    pace = Pace(8)
    pace.took(8, 0.0)
    assert pace.size == 16
    pace.took(16, 0.008)
    assert pace.size == 20


def test_a_small_fast_call_does_not_make_the_next_ones_smaller() -> None:
    pace = grown(8, 512)
    pace.took(3, 0.001)
    assert pace.size == 512


@pytest.mark.parametrize("seconds", [0.010, 0.015, 0.020])
def test_between_aim_and_slow_nothing_changes(seconds: float) -> None:
    pace = Pace(8)
    pace.took(8, seconds)
    assert pace.size == 8


def test_one_slow_call_costs_no_more_than_the_way_up_again() -> None:
    pace = grown(8, 512)
    pace.took(512, 0.050)
    assert pace.size == 102
    for size in (204, 408, 816):
        pace.took(pace.size, 0.0001)
        assert pace.size == size


def test_a_slow_call_of_a_small_size_halves_it_at_most_and_one_is_the_least() -> None:
    pace = Pace(8)
    sizes = []
    for _ in range(5):
        pace.took(pace.size, 10.0)
        sizes.append(pace.size)
    assert sizes == [4, 2, 1, 1, 1]


def test_a_very_slow_call_leads_back_to_the_first_size() -> None:
    pace = grown(100, 1600)
    pace.took(1600, 2.0)
    assert pace.size == 100


def test_a_slow_remainder_leaves_no_less_either() -> None:
    pace = grown(100, 1600)
    pace.took(3, 0.03)
    assert pace.size == 100


def test_after_a_while_without_calls_it_begins_again() -> None:
    clock = Clock()
    pace = Pace(8, clock)
    for _ in range(4):
        pace.took(pace.size, 0.0001)
        clock.now += 9.0
    assert pace.size == 128
    clock.now += 2.0
    assert pace.size == 8
    pace.took(8, 0.0001)
    assert pace.size == 16


def test_a_size_below_the_first_is_kept_without_calls() -> None:
    clock = Clock()
    pace = Pace(8, clock)
    pace.took(8, 1.0)
    clock.now += 100.0
    assert pace.size == 4


def test_parts_follow_the_size_of_the_moment_and_what_is_longer_comes_alone() -> None:
    sizes = iter([5, 2, 9, 3])
    lengths = dict(zip("abcdefghi", [2, 3, 1, 1, 1, 9, 3, 4, 1], strict=True))
    found = list(parts(lengths, lambda: next(sizes, 10)))
    assert found == [["a", "b"], ["c", "d"], ["e"], ["f"], ["g", "h", "i"]]


def test_nothing_has_no_parts() -> None:
    assert list(parts({}, lambda: 1)) == []
