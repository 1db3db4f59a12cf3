"""Which texts go through the model together: groups of similar length under a token budget."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from bge_m3_integrations.checks import whole
from bge_m3_integrations.types import IntArray


class TokenBudget:
    """The most padded tokens of one batch; shrinks when the device runs out of memory.

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
        """After a batch of `cost` padded tokens did not fit: at most half of it from now on."""
        with self._lock:
            self._tokens = max(1, min(self._tokens, cost // 2))


def run_in_batches(
    lengths: IntArray,
    budget: TokenBudget,
    run: Callable[[IntArray], None],
    *,
    is_out_of_memory: Callable[[BaseException], bool],
) -> None:
    """Run every text once, longest first, in batches whose padded size fits the budget.

    Longest first, so that a device too small for the work says so at once.

    Args:
        lengths: `(n,)` tokens per text.
        budget: Shared by all calls of an encoder; only running out of memory shrinks it.
        run: Takes the positions of one batch. Must leave no trace when it raises.
        is_out_of_memory: Tells a full device from every other error, which is raised at once.
            Out of memory at a single text is raised too: the original error.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        count = max(1, budget.tokens // longest)
        batch = order[start : start + count]
        try:
            run(batch)
        except Exception as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
            budget.shrink_below(len(batch) * longest)
            continue
        start += len(batch)
