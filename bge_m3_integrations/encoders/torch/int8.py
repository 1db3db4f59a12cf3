"""Linear layers in 8-bit integers on CPUs: per-token activation scales, per-channel weight scales.

Symmetric quantization as in Dettmers et al. 2022, "LLM.int8()", section 2.1 (vector-wise), without
outlier columns: x is about s_x q_x and w about s_w q_w, and x w' = s_x s_w q_x q_w' with sums in 32
bits. The product is oneDNN's, through an internal operator of torch that is probed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from bge_m3_integrations.encoders.torch.linear import Role

ARITHMETIC = 4
"""Version of what is computed here: another one gives other numbers, which a cache keeps apart."""
# Unsigned activations, since signed ones have no fast product on most CPUs; zero is in the middle.
ZERO = 128
# One below the most: a scale rounded to bfloat16 may lift a row's largest number by half a level.
ACTIVATION_LEVELS = 126
# What the levels leave is at most half a level: so many of these make a whole one.
REST_LEVELS = 254
# gelu's results are never below -0.17: zero is low, and nearly twice as many levels are above it.
GELU_DEPTH = 0.17
GELU_ZERO = 32
GELU_LEVELS = 222
_LAYOUT_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """A weight in 8 bits, in oneDNN's own layout.

    Attributes:
        packed: `(in, out) int8`.
        scales: `(out,) float32`, what a channel's integers are to be multiplied by.
        zeros: `(out,) int32`, all 0.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor

    @classmethod
    def from_weight(cls, weight: torch.Tensor) -> Int8Weight:
        """Take the nearest levels of `(out, in) float32`."""
        levels, scales = nearest_levels(weight)
        packed = torch.ops.onednn.qlinear_prepack(levels, [_LAYOUT_TOKENS, weight.shape[1]])
        return cls(packed, scales, torch.zeros(len(scales), dtype=torch.int32))

    def product(
        self, levels: torch.Tensor, dtype: torch.dtype, *, zero: int = ZERO
    ) -> torch.Tensor:
        """`(t, in) uint8` levels around `zero` to `(t, out)` in a dtype."""
        run = torch.ops.onednn.qlinear_pointwise.default
        weight = (self.packed, self.scales, self.zeros, None)
        out: torch.Tensor = run(levels, 1.0, zero, *weight, 1.0, 0, dtype, "none", [], "")
        return out


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """A product of rows in 8 bits.

    What lies between two products stays in float32: a CPU passes over it at half the cost of
    bfloat16, which it widens and rounds in every pass.

    Attributes:
        weight: Its weight.
        bias: `(out,) float32`.
        activated: Whether gelu follows.
        after_gelu: Whether it went before.
        residual: Whether what comes has twice the bits; not after gelu.
    """

    weight: Int8Weight
    bias: torch.Tensor
    activated: bool = False
    after_gelu: bool = False
    residual: bool = False

    @classmethod
    def from_weight(cls, weight: torch.Tensor, bias: torch.Tensor, role: Role) -> Int8Linear:
        """With its own 8-bit copy of `(out, in)` in any float dtype."""
        own = Int8Weight.from_weight(weight.float())
        return cls(own, bias.float(), role == "up", role == "down", role == "mix")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Linear`; the result is in float32."""
        if self.after_gelu:
            levels, scale = quantized_gelu(x.float())
            out = self.weight.product(levels, torch.float32, zero=GELU_ZERO)
        elif self.residual:
            both, scale = quantized_with_residual(x.float(), torch.float32)
            out = _sum_of_both(self.weight.product(both.flatten(0, 1), torch.float32))
        else:
            levels, scale = quantized_rows(x.float())
            out = self.weight.product(levels, torch.float32)
        torch.addcmul(self.bias, out, scale, out=out)
        return torch.ops.aten.gelu_(out) if self.activated else out

    def add_to(self, states: torch.Tensor, x: torch.Tensor) -> None:
        """See `Adding`."""
        states.add_(self(x))


@dataclass(frozen=True, slots=True)
class Int8QueryKeyValue:
    """Query, key and value of the same rows, values with twice the bits of the activations.

    Rounding queries and keys moves softmax a little; what it changes in values goes straight into
    the states, and cost three times as much (`docs/precision.md`).

    Attributes:
        pair: Query's and key's weight.
        value: Value's weight.
        bias: `(out,) float32` of all three.
        dtype: Of the result.
    """

    pair: Int8Weight
    value: Int8Weight
    bias: torch.Tensor
    dtype: torch.dtype

    @classmethod
    def from_weights(
        cls, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], *, dtype: torch.dtype
    ) -> Int8QueryKeyValue:
        """With their own 8-bit copy of three `(width, in)` in any float dtype."""
        query, key, value = (weight.float() for weight in weights)
        pair = Int8Weight.from_weight(torch.cat([query, key]))
        bias = torch.cat([b.float() for b in biases])
        return cls(pair, Int8Weight.from_weight(value), bias, dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Linear`; x is in float32, of which a half-precision dtype would keep no rest."""
        levels, scale = quantized_with_residual(x, self.dtype)
        pair = self.pair.product(levels[0], self.dtype)
        value = _sum_of_both(self.value.product(levels.flatten(0, 1), torch.float32))
        between = pair.shape[1]
        out = pair.new_empty(len(x), len(self.bias))
        # all of one dtype: with two, a sum takes three passes instead of one
        torch.addcmul(self.bias[:between].to(pair), pair, scale, out=out[:, :between])
        out[:, between:] = torch.addcmul(self.bias[between:], value, scale.float(), out=value)
        return out


def nearest_levels(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each channel to whole levels by its own scale.

    Args:
        weight: `(out, in) float32`.

    Returns:
        `(out, in) int8` and `(out,) float32`: weight is about scale * levels.
    """
    scales = weight.abs().amax(dim=1).clamp_min_(1e-12) / weight_levels()
    return (weight / scales[:, None]).round_().to(torch.int8), scales


def quantized_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row to 8 bits by its own scale.

    Args:
        x: `(t, in) float32`.

    Returns:
        `(t, in) uint8` around 128 and `(t, 1) float32` scales: x is about scale * (levels - 128).
    """
    scale = _scale(x)
    return _low_bytes(torch.addcmul(_whole(x.shape[1], ZERO), x, scale.reciprocal())), scale


def quantized_with_residual(
    x: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row to 8 bits by its own scale, and what they leave to 8 bits more.

    Args:
        x: `(t, in) float32`.
        dtype: Of the scales. Levels are found by the rounded ones: nothing of that is lost.

    Returns:
        `(2, t, in) uint8` levels and rest, both around 128, and `(t, 1)` scales: x is about
        scale * (levels - 128 + (rest - 128) / 254).
    """
    scale = _scale(x).to(dtype)
    whole, both = _whole(x.shape[1], ZERO), torch.empty(2, *x.shape, dtype=torch.uint8)
    scaled = x * scale.float().reciprocal()
    levels = scaled + whole
    both[0] = levels.view(torch.int32)
    rest = scaled.sub_(levels.sub_(whole))
    both[1] = torch.add(whole, rest, alpha=REST_LEVELS, out=rest).view(torch.int32)
    return both, scale


def quantized_gelu(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row of gelu's results to 8 bits by its own scale.

    Args:
        x: `(t, in) float32`, nowhere below -0.17.

    Returns:
        `(t, in) uint8` around 32 and `(t, 1) float32` scales: x is about scale * (levels - 32).
    """
    most = x.amax(dim=1, keepdim=True)
    inverse = GELU_LEVELS / most.clamp_min_(GELU_DEPTH / GELU_ZERO * GELU_LEVELS)
    whole = torch.addcmul(_whole(x.shape[1], GELU_ZERO), x, inverse)
    return _low_bytes(whole), inverse.reciprocal_()


def _sum_of_both(both: torch.Tensor) -> torch.Tensor:
    """`(2 t, out)`, products of levels and of rests behind them, to `(t, out)`."""
    found, rest = torch.split(both, len(both) // 2)
    return found.add_(rest, alpha=1 / REST_LEVELS)


def _scale(x: torch.Tensor) -> torch.Tensor:
    """`(t, 1)`: what a level of each row is worth."""
    most = torch.maximum(x.amax(dim=1, keepdim=True), x.amin(dim=1, keepdim=True).neg_())
    return most.div_(ACTIVATION_LEVELS).clamp_min_(1e-12)


@cache
def _whole(width: int, zero: int) -> torch.Tensor:
    """`(width,) float32`: adding it rounds to whole numbers, which lie in the sum's low byte.

    Above 2^23 a float32 has no fraction: one pass adds, rounds and moves the zero. A row of them,
    because torch has fast loops for one broadcast column (the scales) and no second.
    """
    with torch.inference_mode(False):
        return torch.full((width,), 3.0 * 2**22 + zero)


def _low_bytes(sums: torch.Tensor) -> torch.Tensor:
    return sums.view(torch.int32).to(torch.uint8)


@cache
def weight_levels() -> int:
    """The largest weight level whose products stay exact: 127, 63, or 0 where none does.

    CPUs without VNNI add pairs of products in 16 bits, which overflow above 2 * 255 * 64.
    """
    return next((levels for levels in (127, 63) if _is_exact(levels)), 0)


def _is_exact(levels: int) -> bool:
    x = torch.full((16, 256), 255, dtype=torch.uint8)
    weight = torch.full((32, 256), levels, dtype=torch.int8)
    weight[::2] *= -1
    try:
        packed = torch.ops.onednn.qlinear_prepack(weight, [16, 256])
        own = Int8Weight(packed, torch.ones(32), torch.zeros(32, dtype=torch.int32))
        out = own.product(x, torch.float32, zero=ZERO)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    exact = (x.long() - ZERO) @ weight.long().T
    return torch.equal(out.long(), exact)
