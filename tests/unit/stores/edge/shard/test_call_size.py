from __future__ import annotations

import pytest

from bge_m3_integrations.stores.edge.shard.call_size import AdaptiveCallSize, parts


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def grown(first: int, to: int) -> AdaptiveCallSize:
    """After fast calls of the whole size."""
    call_size = AdaptiveCallSize(first)
    while call_size.now < to:
        call_size.observe(call_size.now, 0.0001)
    return call_size


def test_it_begins_with_the_first_size_and_never_asks_for_nothing() -> None:
    assert AdaptiveCallSize(8).now == 8
    assert AdaptiveCallSize(0).now == 1


def test_a_fast_call_allows_twice_its_size_and_no_more_than_fits_the_aim() -> None:
    call_size = AdaptiveCallSize(8)
    call_size.observe(8, 0.0)
    assert call_size.now == 16
    call_size.observe(16, 0.008)
    assert call_size.now == 20


def test_a_small_fast_call_does_not_make_the_next_ones_smaller() -> None:
    call_size = grown(8, 512)
    call_size.observe(3, 0.001)
    assert call_size.now == 512


@pytest.mark.parametrize("seconds", [0.010, 0.015, 0.020])
def test_between_aim_and_slow_nothing_changes(seconds: float) -> None:
    call_size = AdaptiveCallSize(8)
    call_size.observe(8, seconds)
    assert call_size.now == 8


def test_one_slow_call_costs_no_more_than_the_way_up_again() -> None:
    call_size = grown(8, 512)
    call_size.observe(512, 0.050)
    assert call_size.now == 102
    for size in (204, 408, 816):
        call_size.observe(call_size.now, 0.0001)
        assert call_size.now == size


def test_a_slow_call_of_a_small_size_halves_it_at_most_and_one_is_the_least() -> None:
    call_size = AdaptiveCallSize(8)
    sizes = []
    for _ in range(5):
        call_size.observe(call_size.now, 10.0)
        sizes.append(call_size.now)
    assert sizes == [4, 2, 1, 1, 1]


def test_a_very_slow_call_leads_back_to_the_first_size() -> None:
    call_size = grown(100, 1600)
    call_size.observe(1600, 2.0)
    assert call_size.now == 100


def test_a_slow_remainder_leaves_no_less_either() -> None:
    call_size = grown(100, 1600)
    call_size.observe(3, 0.03)
    assert call_size.now == 100


def test_after_a_while_without_calls_it_begins_again() -> None:
    clock = Clock()
    call_size = AdaptiveCallSize(8, clock)
    for _ in range(4):
        call_size.observe(call_size.now, 0.0001)
        clock.now += 9.0
    assert call_size.now == 128
    clock.now += 2.0
    assert call_size.now == 8
    call_size.observe(8, 0.0001)
    assert call_size.now == 16


def test_a_size_below_the_first_is_kept_without_calls() -> None:
    clock = Clock()
    call_size = AdaptiveCallSize(8, clock)
    call_size.observe(8, 1.0)
    clock.now += 100.0
    assert call_size.now == 4


def test_parts_follow_the_size_of_the_moment_and_what_is_longer_comes_alone() -> None:
    sizes = iter([5, 2, 9, 3])
    lengths = dict(zip("abcdefghi", [2, 3, 1, 1, 1, 9, 3, 4, 1], strict=True))
    found = list(parts(lengths, lambda: next(sizes, 10)))
    assert found == [["a", "b"], ["c", "d"], ["e"], ["f"], ["g", "h", "i"]]


def test_nothing_has_no_parts() -> None:
    assert list(parts({}, lambda: 1)) == []
