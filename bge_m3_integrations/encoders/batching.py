"""Which texts go through the model together, under a token budget."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

from bge_m3_integrations._internal.forks import new_lock
from bge_m3_integrations.core.embeddings import IntArray
from bge_m3_integrations.core.validation import check_int

# A budget never falls below this part of what it was at first.
_LEAST_PART = 64


class TokenBudget:
    """The most tokens of one batch; shrinks when the device runs out of memory.

    Args:
        tokens: Starting budget. A single longer text still goes through, alone.
        behind: The budget that this one is a part of; it shrinks too.

    Raises:
        InputError: The budget is not a positive integer.
    """

    def __init__(self, tokens: int, *, behind: TokenBudget | None = None) -> None:
        self._tokens = check_int("token_budget", tokens)
        self._least = max(1, self._tokens // _LEAST_PART)
        self._behind = behind
        self._lock = new_lock()

    @property
    def tokens(self) -> int:
        """The budget now."""
        return self._tokens

    def after_failure(self, cost: int) -> TokenBudget:
        """The bound after a batch of `cost` tokens did not fit: half of that.

        This budget becomes as small too, but by half at most: a few tokens fail for what the device
        holds beside them, and say little of how many fit.
        """
        self._shrink(cost)
        return TokenBudget(max(1, cost // 2), behind=self)

    def _shrink(self, cost: int) -> None:
        with self._lock:
            half = max(cost // 2, self._tokens // 2, self._least)
            self._tokens = min(self._tokens, half)
        if self._behind is not None:
            self._behind._shrink(cost)


def batches(lengths: IntArray, budget: TokenBudget, *, padded: bool) -> Iterator[IntArray]:
    """Every text once, the longest first, in batches that fit what the budget is at the moment.

    Longest first, so that a device too small for the work says so at once. With padding, the texts
    of a batch are of similar length. Without, each next one is the longest that fits into what is
    left of the budget: full batches are all of one size, which is worth rounding up to.

    Args:
        lengths: `(n,)` tokens per text.
        budget: Read before each batch.
        padded: Whether a batch costs its longest text times its texts, or the sum of its tokens.

    Yields:
        Positions of the texts of one batch, longest first.
    """
    order = np.argsort(-lengths, kind="stable")
    ordered = np.maximum(lengths[order], 1)
    yield from (_similar if padded else _filled)(order, ordered, budget)


def _similar(order: IntArray, lengths: IntArray, budget: TokenBudget) -> Iterator[IntArray]:
    start = 0
    while start < len(order):
        tokens = budget.tokens
        costs = _costs(lengths[start : start + tokens], padded=True)
        count = max(1, int(np.searchsorted(costs, tokens, side="right")))
        yield order[start : start + count]
        start += count


def _filled(order: IntArray, lengths: IntArray, budget: TokenBudget) -> Iterator[IntArray]:
    left, sizes = order[::-1].tolist(), lengths[::-1].tolist()  # shortest first
    while left:
        room = budget.tokens - sizes.pop()
        batch = [left.pop()]
        while fit := bisect_right(sizes, room):
            room -= sizes.pop(fit - 1)
            batch.append(left.pop(fit - 1))
        yield np.array(batch)


def smaller_for(lengths: IntArray, budget: TokenBudget, *, padded: bool) -> TokenBudget:
    """The bound to run under after a batch of texts of these lengths did not fit."""
    longest_first = np.maximum(np.sort(lengths)[::-1], 1)
    return budget.after_failure(int(_costs(longest_first, padded=padded)[-1]))


def shares(lengths: IntArray, *, tokens: int) -> list[IntArray]:
    """Split texts into shares of about equal work, counted in tokens.

    Args:
        lengths: `(n,)` tokens per text.
        tokens: About how many a share holds; a longer text is a share of its own.

    Returns:
        Positions of each share's texts, in order; together every text once. Two shares' sums
        differ by at most the longest text.
    """
    count = min(len(lengths), max(1, -(-int(lengths.sum()) // tokens)))
    if count == 1:
        return [np.arange(len(lengths))]
    owner = np.zeros(len(lengths), np.int64)
    lightest = [(0, share) for share in range(count)]
    for text in np.argsort(-lengths, kind="stable"):
        held, share = lightest[0]
        owner[text] = share
        heapq.heapreplace(lightest, (held + int(lengths[text]), share))
    return [np.flatnonzero(owner == share) for share in range(count)]


def _costs(lengths: IntArray, *, padded: bool) -> IntArray:
    """The cost of a batch of the first text, of the first two, and so on; longest first."""
    costs: IntArray = np.arange(1, len(lengths) + 1) * lengths[0] if padded else lengths.cumsum()
    return costs
