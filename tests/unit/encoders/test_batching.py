from __future__ import annotations

import numpy as np
import pytest

from bge_m3_integrations.core.embeddings import IntArray
from bge_m3_integrations.encoders.batching import TokenBudget, shares
from bge_m3_integrations.encoders.pipeline import Overlap, RunOptions, run_stages
from bge_m3_integrations.errors import InputError


class Device:
    """Records the batches that ran, and has room for so many tokens, padding included."""

    def __init__(self, lengths: IntArray, room: int = 10**9) -> None:
        self.lengths, self.room = lengths, room
        self.ran: list[list[int]] = []
        self.tried = 0

    def prepare(self, piece: object) -> Device:
        return self

    def start(self, stretch: Device, rows: IntArray) -> IntArray:
        return rows

    def finish(self, rows: IntArray) -> None:
        self.tried += 1
        if len(rows) * int(self.lengths[rows].max()) > self.room:
            raise MemoryError("full")
        self.ran.append(rows.tolist())


def is_memory_error(error: BaseException) -> bool:
    return isinstance(error, MemoryError)


def go(device: Device, budget: TokenBudget, *, padded: bool = True) -> None:
    options = RunOptions(budget, padded, Overlap(), is_memory_error, lambda: None)
    run_stages(device, [None], options)


def test_every_text_runs_once_and_no_batch_is_larger_than_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, 200)
    device = Device(lengths)
    go(device, TokenBudget(1000))
    assert sorted(i for batch in device.ran for i in batch) == list(range(200))
    assert all(len(b) * lengths[b].max() <= 1000 for b in device.ran)


def test_texts_of_similar_length_run_together() -> None:
    lengths = np.array([5, 100, 6, 99, 5, 101])
    device = Device(lengths)
    go(device, TokenBudget(303))
    assert [sorted(batch) for batch in device.ran] == [[1, 3, 5], [0, 2, 4]]


def test_without_padding_a_batch_costs_its_own_tokens_only() -> None:
    lengths = np.array([500, 10, 300, 20, 200, 470])
    device = Device(lengths)
    go(device, TokenBudget(1000), padded=False)
    assert device.ran == [[0, 5, 3, 1], [2, 4]]
    assert all(lengths[batch].sum() <= 1000 for batch in device.ran)


def test_without_padding_no_text_that_is_left_would_fit_into_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, 200)
    device = Device(lengths)
    go(device, TokenBudget(1000), padded=False)
    left = set(range(200))
    for batch in device.ran:
        assert lengths[batch[0]] == max(lengths[i] for i in left)
        assert lengths[batch].tolist() == sorted(lengths[batch], reverse=True)
        left -= set(batch)
        room = 1000 - lengths[batch].sum()
        assert 0 <= room < min((lengths[i] for i in left), default=1001)
    assert not left
    assert len(device.ran) == -(-lengths.sum() // 1000)


def test_a_text_longer_than_the_budget_runs_alone() -> None:
    device = Device(np.array([500, 10, 10]))
    go(device, TokenBudget(100))
    assert device.ran == [[0], [1, 2]]


def test_out_of_memory_halves_the_budget_and_loses_nothing() -> None:
    device, budget = Device(np.full(64, 10), room=100), TokenBudget(640)
    go(device, budget)
    assert sorted(i for batch in device.ran for i in batch) == list(range(64))
    assert budget.tokens == 80
    assert device.tried == len(device.ran) + 3  # 640, 320 and 160 tokens did not fit


def test_a_smaller_budget_stays_for_the_next_call() -> None:
    budget = TokenBudget(640)
    go(Device(np.full(64, 10), room=100), budget)
    second = Device(np.full(64, 10), room=100)
    go(second, budget)
    assert second.tried == len(second.ran)


def test_a_small_batch_that_fails_once_leaves_room_for_large_ones() -> None:
    class FullOnce(Device):
        def finish(self, rows: IntArray) -> None:
            if not self.tried:
                self.tried += 1
                raise MemoryError("full of another call's numbers")
            super().finish(rows)

    budget = TokenBudget(65_536)
    go(FullOnce(np.array([6, 6])), budget, padded=False)
    assert budget.tokens == 32_768


def test_a_budget_keeps_a_part_of_itself_however_often_small_batches_fail() -> None:
    budget = TokenBudget(6_400)
    for _ in range(20):
        assert budget.after_failure(12).tokens == 6
    assert budget.tokens == 100


def test_out_of_memory_at_one_text_is_the_original_error() -> None:
    with pytest.raises(MemoryError, match="full"):
        go(Device(np.array([10, 10]), room=5), TokenBudget(100))


def test_any_other_error_is_raised_at_once() -> None:
    class Broken(Device):
        def finish(self, rows: IntArray) -> None:
            self.tried += 1
            raise RuntimeError("wrong shape")

    device = Broken(np.full(9, 3))
    with pytest.raises(RuntimeError, match="wrong shape"):
        go(device, TokenBudget(100), padded=False)
    assert device.tried == 1


@pytest.mark.parametrize("tokens", [0, -1, 2.5, True])
def test_a_budget_that_is_no_positive_integer_is_refused(tokens: object) -> None:
    with pytest.raises(InputError, match="token_budget"):
        TokenBudget(tokens)  # type: ignore[arg-type]


# -- shares ------------------------------------------------------------------------------------


def test_shares_hold_every_text_once_and_equal_tokens() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, 200)
    found = shares(lengths, tokens=5000)
    assert len(found) == -(-lengths.sum() // 5000)
    assert sorted(np.concatenate(found).tolist()) == list(range(200))
    sums = [int(lengths[rows].sum()) for rows in found]
    assert max(sums) - min(sums) <= lengths.max()


def test_shares_go_by_tokens_not_by_texts() -> None:
    lengths = np.array([1000, *[10] * 100])
    assert [len(rows) for rows in shares(lengths, tokens=1000)] == [1, 100]


@pytest.mark.parametrize(("lengths", "count"), [([5], 1), ([900, 5], 2), ([900], 1)])
def test_there_are_never_more_shares_than_texts(lengths: list[int], count: int) -> None:
    assert len(shares(np.array(lengths), tokens=100)) == count


def test_texts_of_a_share_keep_their_order() -> None:
    lengths = np.random.default_rng(1).integers(1, 50, 40)
    assert all((np.diff(rows) > 0).all() for rows in shares(lengths, tokens=200))
