"""Linear layers in 8-bit integers on CPUs: per-token activation scales, per-channel weight scales.

Symmetric quantisation as in Dettmers et al. 2022, "LLM.int8()", section 2.1 (vector-wise), without
outlier columns: x is about s_x q_x and w about s_w q_w, and x w' = s_x s_w q_x q_w' with sums in 32
bits. The product is oneDNN's, through an internal operator of torch that is probed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from bge_m3_integrations.encoders.torch.linear import Linear

# Unsigned activations, since signed ones have no fast product on most CPUs; zero is in the middle.
_ZERO = 128
# One below the most: a row's largest number, multiplied in bfloat16, may round up by half a level.
_ACTIVATION_LEVELS = 126
# gelu's results are never below -0.17: zero is low, and nearly twice as many levels are above it.
_GELU_DEPTH = 0.17
_GELU_ZERO = 32
_GELU_LEVELS = 222
_LAYOUT_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """A weight in 8 bits, in oneDNN's own layout.

    Attributes:
        packed: `(in, out) int8`.
        scales: `(out,) float32`, what a channel's integers are to be multiplied by.
        zeros: `(out,) int32`, all 0.
        bias: `(out,)`; the result has its dtype.
        activated: Whether gelu follows.
        after_gelu: Whether it went before.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    bias: torch.Tensor
    activated: bool = False
    after_gelu: bool = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Linear`."""
        levels, scale = quantised_gelu(x) if self.after_gelu else quantised_rows(x)
        zero = _GELU_ZERO if self.after_gelu else _ZERO
        out = _product(levels, self.packed, self.scales, self.zeros, self.bias.dtype, zero=zero)
        # the scale is in the result's dtype: another one would cost three passes instead of one
        torch.addcmul(self.bias, out, scale, out=out)
        return torch.ops.aten.gelu_(out) if self.activated else out


def make_int8_linear(
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    *,
    dtype: torch.dtype,
    activated: bool = False,
    after_gelu: bool = False,
) -> Linear:
    """A layer with its own 8-bit copy of the weights.

    Args:
        weights: `(out_i, in)` each, in any float dtype; laid side by side.
        biases: `(out_i,)` each.
        dtype: Of the result.
        activated: Whether gelu follows.
        after_gelu: Whether what comes are gelu's results.

    Returns:
        The layer.
    """
    weight = torch.cat([w.float() for w in weights])
    bias = torch.cat([b.to(dtype) for b in biases])
    most = weight.abs().amax(dim=1).clamp_min_(1e-12)
    scales = most / weight_levels()
    levels = (weight / scales[:, None]).round_().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(levels, [_LAYOUT_TOKENS, weight.shape[1]])
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    return Int8Linear(packed, scales, zeros, bias, activated, after_gelu)


def quantised_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row to 8 bits by its own scale.

    Args:
        x: `(t, in)`, float.

    Returns:
        `(t, in) uint8` around 128 and `(t, 1)` scales in x's dtype: x is about
        scale * (levels - 128).
    """
    most = x.abs().amax(dim=1, keepdim=True).clamp_min_(1e-12)
    inverse = _ACTIVATION_LEVELS / most
    levels = (x * inverse).round_().to(torch.int8)
    # wraps around: the bytes of -127..127 become those of 1..255
    return levels.view(torch.uint8).add_(_ZERO), inverse.reciprocal_()


def quantised_gelu(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row of gelu's results to 8 bits by its own scale.

    Args:
        x: `(t, in)`, float, nowhere below -0.17.

    Returns:
        `(t, in) uint8` around 32 and `(t, 1)` scales in x's dtype: x is about
        scale * (levels - 32).
    """
    most = x.amax(dim=1, keepdim=True)
    inverse = _GELU_LEVELS / most.clamp_min_(_GELU_DEPTH / _GELU_ZERO * _GELU_LEVELS)
    # by way of signed bytes, to which torch converts six times faster; the last sum wraps around
    levels = (x * inverse).round_().sub_(_ZERO - _GELU_ZERO).to(torch.int8)
    return levels.view(torch.uint8).add_(_ZERO), inverse.reciprocal_()


def _product(
    levels: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    dtype: torch.dtype,
    *,
    zero: int,
) -> torch.Tensor:
    run = torch.ops.onednn.qlinear_pointwise.default
    out: torch.Tensor = run(
        levels, 1.0, zero, packed, scales, zeros, None, 1.0, 0, dtype, "none", [], ""
    )
    return out


def can_int8() -> bool:
    """Whether this torch has the operators and they compute right on this CPU."""
    return weight_levels() > 0


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
        ones, zeros = torch.ones(32), torch.zeros(32, dtype=torch.int32)
        out = _product(x, packed, ones, zeros, torch.float32, zero=_ZERO)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    exact = (x.long() - _ZERO) @ weight.long().T
    return torch.equal(out.long(), exact)
