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

from bge_m3_integrations.encoders.torch.linear import Product, float32_product
from bge_m3_integrations.encoders.torch.native.attention import NativeAttention, takes
from bge_m3_integrations.encoders.torch.packing import Pack, Window, rounded, windows

# Texts share a window up to this many tokens: larger ones waste products on the mask, smaller ones
# waste calls (measured at 16 to 128 tokens a text).
_WINDOW = 128
# Scores held at once per thread: 2 MiB in bfloat16, about what its core's cache holds.
_SCORES = 1 << 20
# From so many tokens on, a float32 product per head is worth its call.
_LONG = 320
# Up to so many tokens in a pack, calls cost more than products.
_FEW = 64
# Windows are rounded up to a multiple of this many tokens at least.
_STEP = 32
# A bucket of padded texts ends where the next text would be shorter than this share of its longest.
_FILL = 0.8


class Attention(Protocol):
    """Attention over one pack."""

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """`(t, 3 * width)` to `(t, width)`."""
        ...


def plan(
    pack: Pack, *, heads: int, head_width: int, device: torch.device, dtype: torch.dtype
) -> Attention:
    """Prepare attention over a pack, for all layers.

    Args:
        pack: The texts.
        heads: Attention heads.
        head_width: Width of one.
        device: Where the model computes.
        dtype: The dtype it computes in.

    Returns:
        The fastest kernel that is exact there.
    """
    if device.type == "cpu":
        if takes(head_width, dtype):
            return NativeAttention.from_lengths(pack.lengths, heads=heads)
        parts = windows(pack.lengths, size=_WINDOW)
        # float32 products gain over torch's own blockwise kernel in long texts only, half-precision
        # ones do, except where a lone query's few tokens cost less than the calls
        if dtype == torch.float32 or len(pack.ids) <= _FEW:
            product = float32_product() if dtype == torch.float32 else None
            return Sdpa(heads, tuple(_whole(window, dtype, product) for window in parts), product)
        sizes = [rounded(window.length, least=_STEP) for window in parts]
        return Blockwise(
            heads,
            tuple(_Part(w, s, w.mask(dtype, size=s)) for w, s in zip(parts, sizes, strict=True)),
        )
    kernel = varlen_attention() if device.type == "cuda" and dtype != torch.float32 else None
    if kernel is not None and _takes_varlen(device, head_width):
        return Varlen(kernel, heads, _cumulative(pack, device), int(pack.lengths.max()))
    return Bucketed(heads, buckets(pack, device))


@dataclass(frozen=True, slots=True)
class _Part:
    """A window, what its length is rounded up to, and its mask at that size."""

    window: Window
    size: int
    mask: torch.Tensor | None


def _whole(window: Window, dtype: torch.dtype, product: Product | None) -> _Part:
    """A window as torch's kernel takes it, or rounded up where it will go through products."""
    if product is not None and _is_long(window):
        return _Part(window, rounded(window.length, least=_STEP), None)
    return _Part(window, window.length, window.mask(dtype, size=window.length))


def _is_long(window: Window) -> bool:
    return len(window.lengths) == 1 and window.length >= _LONG


@dataclass(frozen=True, slots=True)
class Blockwise:
    """Three products per block of heads or query rows; the scores of a block stay in cache.

    Memory beside the result: four copies of a block's heads, and `_SCORES` numbers per thread (one
    row of scores, if that is more); never a square matrix of a long text.
    """

    heads: int
    parts: tuple[_Part, ...]

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """See `Attention`."""
        tokens, width = len(qkv), qkv.shape[1] // 3
        out = qkv.new_zeros(tokens, self.heads, width // self.heads)
        blocks = [_block(self.heads, part.size) for part in self.parts]
        held = zip(self.parts, blocks, strict=True)
        scores = qkv.new_empty(max(step * rows * part.size for part, (step, rows) in held))
        for part, (step, rows) in zip(self.parts, blocks, strict=True):
            own, length = slice(part.window.start, part.window.end), part.window.length
            heads = qkv[own].view(length, 3, self.heads, -1).permute(1, 2, 0, 3)
            for h in range(0, self.heads, step):
                some = slice(h, h + step)
                mixed = _attend(_apart(heads[:, some], part.size), part, rows, scores)
                out[own, some] = mixed[:, :length].transpose(0, 1)
        return out.flatten(1)


def _block(heads: int, size: int) -> tuple[int, int]:
    """Count the heads, and rows of each, that are multiplied with `size` columns at once.

    Their scores fit into `_SCORES` numbers per thread: at least one head each, or one row.
    """
    threads = min(heads, torch.get_num_threads())
    room = _SCORES * threads
    some = min(heads, max(threads, room // size**2))
    return some, min(size, max(1, room // (some * size)))


def _apart(heads: torch.Tensor, size: int) -> torch.Tensor:
    """`(3, some, length, head)` to `(3, some, size, head)`, rounded up by rows of zeros.

    Each head's rows lie together: products over other layouts would copy them every time.
    """
    length = heads.shape[2]
    apart = heads.new_empty(*heads.shape[:2], size, heads.shape[3])
    apart[:, :, :length] = heads
    apart[:, :, length:] = 0
    return apart


def _attend(apart: torch.Tensor, part: _Part, step: int, scores: torch.Tensor) -> torch.Tensor:
    """Attention of some heads over one window, `(3, some, size, head)`, so many rows at a time."""
    query, key, value = apart.unbind(0)
    out = torch.empty_like(query)
    for r in range(0, part.size, step):
        rows = slice(r, r + step)
        band = query[:, rows]
        found = scores[: band.shape[0] * band.shape[1] * part.size]
        found = found.view(band.shape[0], band.shape[1], part.size)
        scale = band.shape[-1] ** -0.5
        torch.baddbmm(found, band, key.transpose(1, 2), beta=0, alpha=scale, out=found)
        # take out other texts, and what the window was rounded up by
        if part.mask is not None:
            found.add_(part.mask[rows])
        else:
            found[..., part.window.length :] = -torch.inf
        torch.softmax(found, -1, out=found)
        torch.bmm(found, value, out=out[:, rows])
    return out


@dataclass(frozen=True, slots=True)
class Sdpa:
    """Torch's own kernel, window by window; long texts head by head where a product is given.

    Attributes:
        heads: Attention heads.
        parts: The windows.
        product: For texts of `_LONG` tokens and more; a block of `_SCORES` numbers at a time.
    """

    heads: int
    parts: tuple[_Part, ...]
    product: Product | None = None

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """See `Attention`."""
        out = qkv.new_zeros(len(qkv), self.heads, qkv.shape[1] // 3 // self.heads)
        for part in self.parts:
            own = slice(part.window.start, part.window.end)
            if self.product is not None and _is_long(part.window):
                apart = qkv[own].view(part.window.length, 3, self.heads, -1).permute(1, 2, 0, 3)
                for h in range(self.heads):
                    one = _apart(apart[:, h : h + 1], part.size)[:, 0]
                    out[own, h] = _by_products(one, part, self.product)[: part.window.length]
                continue
            query, key, value = (
                _split_heads(x, self.heads) for x in qkv[None, own].chunk(3, dim=2)
            )
            mixed = scaled_dot_product_attention(query, key, value, attn_mask=part.mask)
            out[own] = mixed[0].transpose(0, 1)
        return out.flatten(1)


def _by_products(apart: torch.Tensor, part: _Part, product: Product) -> torch.Tensor:
    """Attention of one head over one text, `(3, size, head)` to `(size, head)`."""
    query, key, value = apart.unbind(0)
    query.mul_(query.shape[1] ** -0.5)
    out = torch.empty_like(query)
    rows = max(1, _SCORES // part.size)
    for r in range(0, part.size, rows):
        scores = product(query[r : r + rows], key)
        scores[:, part.window.length :] = -torch.inf
        torch.softmax(scores, -1, out=scores)
        out[r : r + rows] = product(scores, value.T)
    return out


@dataclass(frozen=True, slots=True)
class Varlen:
    """Torch's packed kernel for CUDA; texts are told apart by their offsets."""

    kernel: Callable[..., Any]
    heads: int
    offsets: torch.Tensor
    longest: int

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """See `Attention`."""
        query, key, value = qkv.view(len(qkv), 3, self.heads, -1).unbind(1)
        ends = self.offsets
        out: torch.Tensor = self.kernel(query, key, value, ends, ends, self.longest, self.longest)
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


def _takes_varlen(device: torch.device, head_width: int) -> bool:
    """Whether torch's packed kernel runs on a CUDA device: its own checks, before it makes them."""
    return (
        torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and head_width % 8 == 0
        and head_width <= 256
    )


def _cumulative(pack: Pack, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(pack.offsets.astype(np.int32)).to(device)


def _split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """`(b, l, width)` to `(b, heads, l, head)`."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)
