"""Which texts go through the model together: groups of similar length under a token budget."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from bge_m3_integrations.checks import whole
from bge_m3_integrations.types import IntArray


class TokenBudget:
    """The most tokens of one batch; shrinks when the device runs out of memory.

    Args:
        tokens: Starting budget. A single longer text still goes through, alone.

    Raises:
        InputError: The budget is not a positive integer.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = whole("token_budget", tokens)
        self._lock = threading.Lock()

    @property
    def tokens(self) -> int:
        """The budget now."""
        return self._tokens

    def shrink_below(self, cost: int) -> None:
        """After a batch of `cost` tokens did not fit: at most half of it from now on."""
        with self._lock:
            self._tokens = max(1, min(self._tokens, cost // 2))


def run_in_batches(
    lengths: IntArray,
    budget: TokenBudget,
    run: Callable[[IntArray], None],
    *,
    padded: bool,
    is_out_of_memory: Callable[[BaseException], bool],
) -> None:
    """Run every text once, longest first, in batches that fit the budget.

    Longest first, so that a device too small for the work says so at once.

    Args:
        lengths: `(n,)` tokens per text.
        budget: Shared by all calls of an encoder; only running out of memory shrinks it.
        run: Takes the positions of one batch. Must leave no trace when it raises.
        padded: Whether a batch costs its longest text times its texts, or the sum of its tokens.
        is_out_of_memory: Tells a full device from every other error, which is raised at once.
            Out of memory at a single text is raised too: the original error.
    """
    order = np.argsort(-lengths, kind="stable")
    ordered = np.maximum(lengths[order], 1)
    start = 0
    while start < len(order):
        costs = _costs(ordered[start : start + budget.tokens], padded=padded)
        count = max(1, int(np.searchsorted(costs, budget.tokens, side="right")))
        batch = order[start : start + count]
        try:
            run(batch)
        except Exception as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
            budget.shrink_below(int(costs[count - 1]))
            continue
        start += len(batch)


def _costs(lengths: IntArray, *, padded: bool) -> IntArray:
    """What a batch of the first text costs, of the first two, and so on; longest first."""
    costs: IntArray = np.arange(1, len(lengths) + 1) * lengths[0] if padded else lengths.cumsum()
    return costs
