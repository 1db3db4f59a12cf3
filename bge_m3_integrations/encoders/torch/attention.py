"""Attention among the tokens of each text of a pack, without padding where that is possible.

Every kernel takes the packed product `(t, 3 * width)`, query, key and value side by side and heads
within each, and gives `(t, width)`: softmax(q k / sqrt(head width)) v (Vaswani et al. 2017,
"Attention is all you need", section 3.2.1), each text by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from bge_m3_integrations.encoders.torch.packing import Pack, Window, windows

# Texts share a window up to this many tokens: larger ones waste products on the mask, smaller ones
# waste calls (measured at 16 to 128 tokens a text).
_WINDOW = 128
# Scores held at once: 2 MiB in bfloat16, which stays in the cache of two cores.
_SCORES = 1 << 20
# A bucket of padded texts ends where the next text would be shorter than this share of its longest.
_FILL = 0.8


class Attention(Protocol):
    """Attention over one pack."""

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """`(t, 3 * width)` to `(t, width)`."""
        ...


def plan(pack: Pack, *, heads: int, device: torch.device, dtype: torch.dtype) -> Attention:
    """Prepare attention over a pack, for all layers.

    Args:
        pack: The texts.
        heads: Attention heads.
        device: Where the model computes.
        dtype: What it computes in.

    Returns:
        The fastest kernel that is exact there.
    """
    if device.type == "cpu":
        parts = windows(pack.lengths, size=_WINDOW)
        masks = [window.mask(dtype) for window in parts]
        # float32 products gain nothing over torch's own blockwise kernel, half-precision ones do
        kernel = Sdpa if dtype == torch.float32 else Blockwise
        return kernel(heads, tuple(zip(parts, masks, strict=True)))
    if device.type == "cuda" and dtype != torch.float32 and varlen_attention() is not None:
        return Varlen(heads, _cumulative(pack, device), int(pack.lengths.max()))
    return Bucketed(heads, buckets(pack, device))


@dataclass(frozen=True, slots=True)
class Blockwise:
    """Three products per block of heads or query rows; the scores of a block stay in cache.

    Memory beside the result: four copies of a window's input, and `_SCORES` numbers (one row of
    scores, if that is more); never a square matrix of a long text.
    """

    heads: int
    parts: tuple[tuple[Window, torch.Tensor | None], ...]

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """See `Attention`."""
        tokens, width = len(qkv), qkv.shape[1] // 3
        qkv[:, :width].mul_((width // self.heads) ** -0.5)
        out = qkv.new_empty(tokens, self.heads, width // self.heads)
        longest = max(window.end - window.start for window, _ in self.parts)
        scores = qkv.new_empty(max(_SCORES, longest))
        for window, mask in self.parts:
            own = slice(window.start, window.end)
            # each head's rows together: products over other layouts would copy them every time
            apart = qkv[own].view(-1, 3, self.heads, width // self.heads).permute(1, 2, 0, 3)
            query, key, value = apart.contiguous().unbind(0)
            mixed = _attend(query, key, value, mask=mask, scores=scores)
            out[own] = mixed.transpose(0, 1)
        return out.flatten(1)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    mask: torch.Tensor | None,
    scores: torch.Tensor,
) -> torch.Tensor:
    """Attention over one window, `(heads, l, head)` each: several heads at once, or some rows."""
    out = torch.empty_like(query)
    heads, length, _ = query.shape
    some = max(1, len(scores) // length**2)
    rows = min(length, len(scores) // length)
    for h in range(0, heads, some):
        left, right, mixed = (
            query[h : h + some],
            key[h : h + some].transpose(1, 2),
            value[h : h + some],
        )
        for r in range(0, length, rows):
            part = left[:, r : r + rows]
            block = scores[: part.shape[0] * part.shape[1] * length]
            block = block.view(part.shape[0], part.shape[1], length)
            torch.bmm(part, right, out=block)
            if mask is not None:
                block.add_(mask[r : r + rows])
            torch.softmax(block, -1, out=block)
            torch.bmm(block, mixed, out=out[h : h + some, r : r + rows])
    return out


@dataclass(frozen=True, slots=True)
class Sdpa:
    """Torch's own kernel, window by window."""

    heads: int
    parts: tuple[tuple[Window, torch.Tensor | None], ...]

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """See `Attention`."""
        out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        for window, mask in self.parts:
            own = qkv[None, window.start : window.end].chunk(3, dim=2)
            query, key, value = (_split_heads(x, self.heads) for x in own)
            mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
            out[window.start : window.end] = mixed[0].transpose(0, 1).flatten(1)
        return out


@dataclass(frozen=True, slots=True)
class Varlen:
    """Torch's packed kernel for CUDA; texts are told apart by their offsets."""

    heads: int
    offsets: torch.Tensor
    longest: int

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """See `Attention`."""
        kernel = varlen_attention()
        assert kernel is not None, "plan() chooses this kernel only where torch has it"
        query, key, value = qkv.view(len(qkv), 3, self.heads, -1).unbind(1)
        ends = self.offsets
        out: torch.Tensor = kernel(query, key, value, ends, ends, self.longest, self.longest)
        return out.flatten(1)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Texts of similar length, padded together.

    Attributes:
        places: `(b, l) int64`, tokens in the pack; padding repeats a text's last token.
        real: `(b, l) bool`.
    """

    places: torch.Tensor
    real: torch.Tensor


@dataclass(frozen=True, slots=True)
class Bucketed:
    """Torch's own kernel over padded buckets, for devices without a packed one."""

    heads: int
    buckets: tuple[Bucket, ...]

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """See `Attention`."""
        out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        for bucket in self.buckets:
            padded = qkv[bucket.places].chunk(3, dim=2)
            query, key, value = (_split_heads(x, self.heads) for x in padded)
            mask = bucket.real[:, None, None, :]
            mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
            out[bucket.places[bucket.real]] = mixed.transpose(1, 2).flatten(2)[bucket.real]
        return out


def buckets(pack: Pack, device: torch.device) -> tuple[Bucket, ...]:
    """Group a pack's texts by length.

    Args:
        pack: The texts, in any order.
        device: Where the model computes.

    Returns:
        Buckets that hold each text once.
    """
    order = np.argsort(-pack.lengths, kind="stable")
    lengths = pack.lengths[order]
    found = []
    start = 0
    while start < len(order):
        end = start + int((lengths[start:] >= _FILL * lengths[start]).sum())
        found.append(_bucket(pack.offsets[order[start:end]], lengths[start:end], device))
        start = end
    return tuple(found)


def _bucket(starts: Any, lengths: Any, device: torch.device) -> Bucket:
    column = np.arange(lengths[0])
    places = starts[:, None] + np.minimum(column, lengths[:, None] - 1)
    real = column < lengths[:, None]
    return Bucket(torch.from_numpy(places).to(device), torch.from_numpy(real).to(device))


@cache
def varlen_attention() -> Callable[..., Any] | None:
    """Torch's packed attention, or None where this torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def _cumulative(pack: Pack, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(pack.offsets.astype(np.int32)).to(device)


def _split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """`(b, l, width)` to `(b, heads, l, head)`."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)
