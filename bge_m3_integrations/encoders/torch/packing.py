"""The input of one forward pass: the tokens of several texts, end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bge_m3_integrations.core.embeddings import IntArray, offsets_of


@dataclass(frozen=True, slots=True)
class Pack:
    """The token ids of `n` texts without padding.

    Attributes:
        ids: `(t,) int64` on the CPU, special tokens included.
        lengths: `(n,) int64`, tokens per text, each at least 1.
        offsets: `(n + 1,) int64`; text `i` owns `offsets[i]:offsets[i + 1]`.
    """

    ids: torch.Tensor
    lengths: IntArray
    offsets: IntArray

    @classmethod
    def from_rows(cls, rows: Sequence[NDArray[np.int32]]) -> Pack:
        """Lay texts end to end.

        Args:
            rows: Token ids of each text.

        Returns:
            The pack.
        """
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ids = torch.from_numpy(np.concatenate(rows).astype(np.int64))
        return cls(ids, lengths, offsets_of(lengths))

    def after_first(self) -> torch.Tensor:
        """`(t - n,) int64`, where all tokens but each text's first stand."""
        keep = np.ones(len(self.ids), bool)
        keep[self.offsets[:-1]] = False
        return torch.from_numpy(np.flatnonzero(keep))

    def positions(self, pad_token_id: int | None) -> torch.Tensor:
        """The row of the position table for each token.

        Args:
            pad_token_id: None counts from 0, as BERT does. An id counts from the one behind it and
                gives it to every such token typed in a text, without counting it, as RoBERTa does.

        Returns:
            `(t,) int64`.
        """
        lengths, first = torch.from_numpy(self.lengths), torch.from_numpy(self.offsets[:-1])
        if pad_token_id is None:
            return torch.arange(len(self.ids)) - first.repeat_interleave(lengths)
        counted = (self.ids != pad_token_id).long()
        total = counted.cumsum(0)
        before = (total - counted)[first].repeat_interleave(lengths)
        return (total - before) * counted + pad_token_id


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive texts of a pack whose attention is computed together.

    Attributes:
        start: First token.
        end: Behind the last token.
        lengths: Tokens of each text.
    """

    start: int
    end: int
    lengths: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens."""
        return self.end - self.start

    def mask(self, dtype: torch.dtype, *, size: int) -> torch.Tensor | None:
        """`(size, size)`: 0 between tokens of one text, -inf elsewhere; None for a single text.

        Rows and columns behind the window's tokens count as one more text.
        """
        if len(self.lengths) == 1:
            return None
        counts = torch.tensor([*self.lengths, size - self.length])
        owner = torch.arange(len(counts)).repeat_interleave(counts)
        other = owner[:, None] != owner[None, :]
        return torch.zeros(other.shape, dtype=dtype).masked_fill_(other, -torch.inf)


def moved(indices: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Indices on a device; for CUDA from pinned memory, so no copy waits for the passes before."""
    if device.type == "cuda":
        return indices.pin_memory().to(device, non_blocking=True)
    return indices.to(device)


def rounded(count: int, *, least: int) -> int:
    """The next of few sizes: at most 8 between a power of two and the next.

    Each shape of a product costs oneDNN a kernel that it keeps, of 0.7 to 2 MiB, and the time to
    make it. Few shapes keep a process that meets texts of all lengths small.

    Args:
        count: A size, at least 1.
        least: The smallest step.

    Returns:
        A multiple of `least`, at most `count` + max(`least`, `count` / 8).
    """
    step = max(least, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


def windows(lengths: IntArray, *, size: int) -> list[Window]:
    """Group short texts, so that each product is worth its call.

    Args:
        lengths: `(n,)` tokens per text.
        size: Most tokens of a window of several texts; a longer text has one of its own.

    Returns:
        Windows that cover the pack in order.
    """
    found: list[Window] = []
    start, members = 0, list[int]()
    for length in lengths.tolist():
        if members and sum(members) + length > size:
            found.append(Window(start, start + sum(members), tuple(members)))
            start, members = start + sum(members), []
        members.append(length)
    found.append(Window(start, start + sum(members), tuple(members)))
    return found
