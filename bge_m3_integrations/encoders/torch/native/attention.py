"""Attention by the compiled kernels."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import torch

from bge_m3_integrations.core.embeddings import IntArray
from bge_m3_integrations.encoders.torch.native.binding import (
    LINE,
    AttentionCall,
    KernelArgumentError,
    library,
    runs,
)

_ROWS = 192
"""Rows of one part, `MOST` in `kernels/attention.h`."""
_SPACE = 404 << 10
"""Bytes that each thread computes in, `ATTENTION_SPACE` in `kernels/kernels.h`."""
WIDTHS = (16, 32, 48, 64)


def takes(head_width: int, dtype: torch.dtype) -> bool:
    """Whether the kernel computes heads of a width in a dtype here."""
    return head_width in WIDTHS and runs(dtype)


@dataclass(frozen=True, slots=True)
class NativeAttention:
    """Blocks of keys at a time, over the product as it lies: nothing padded, nothing copied.

    Attributes:
        heads: Attention heads.
        tokens: Of all texts.
        parts: `(parts, 4) int64`: a text's first token and length, and which of its rows.
        space: `(threads, bytes)`, what each thread computes in.
    """

    heads: int
    tokens: int
    parts: IntArray
    space: torch.Tensor

    @classmethod
    def from_lengths(cls, lengths: IntArray, *, heads: int) -> NativeAttention:
        """Split texts of `(n,)` lengths, longest first, so that all threads end together."""
        parts, end = [], 0
        for length in lengths.tolist():
            for row in range(0, length, _ROWS):
                parts.append((end, length, row, min(length, row + _ROWS)))
            end += length
        parts.sort(key=itemgetter(1), reverse=True)
        space = torch.empty(torch.get_num_threads(), _SPACE, dtype=torch.uint8, device="cpu")
        return cls(heads, end, np.array(parts, np.int64), space)

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """See `Attention`."""
        width = qkv.shape[-1] // 3
        if not (
            qkv.shape == (len(qkv), 3 * width)
            and len(qkv) >= self.tokens
            and width % self.heads == 0
            and width // self.heads in WIDTHS
            and qkv.dtype in (torch.float32, torch.bfloat16)
            and qkv.is_cpu
            and qkv.stride(1) == 1
        ):
            raise KernelArgumentError(qkv)
        room = width + LINE // qkv.dtype.itemsize  # as `padded_rows`, without its call
        out = torch.empty(len(qkv), room, dtype=qkv.dtype, device="cpu")[:, :width]
        out[self.tokens :] = 0
        call = AttentionCall(
            qkv.data_ptr(),
            qkv.stride(0),
            out.data_ptr(),
            out.stride(0),
            self.parts.ctypes.data,
            len(self.parts),
            self.heads,
            width // self.heads,
            len(self.space),
            self.space.data_ptr(),
        )
        kernels, half = library(), qkv.dtype == torch.bfloat16
        run = kernels.attention_bfloat16 if half else kernels.attention_float32
        run(ctypes.byref(call))
        return out
