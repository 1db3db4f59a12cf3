"""A packed backbone's products and normalization by the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bge_m3_integrations.encoders.torch.int8 import weight_levels
from bge_m3_integrations.encoders.torch.layer_ops import LayerOps, Norm
from bge_m3_integrations.encoders.torch.linear import Adding, Linear, Role
from bge_m3_integrations.encoders.torch.native.binding import padded_rows, runs
from bge_m3_integrations.encoders.torch.native.int8 import (
    NativeInt8Linear,
    NativeInt8QueryKeyValue,
)
from bge_m3_integrations.encoders.torch.native.linear import NativeLinear, NativeNorm, NativeWeight

_VECTOR = 16


class _NativeOps:
    def layout(self, states: torch.Tensor) -> torch.Tensor:
        """See `LayerOps`."""
        rows, width = states.shape
        return padded_rows(rows, width, states.dtype).copy_(states)

    def norm(self, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> Norm:
        """See `LayerOps`."""
        return NativeNorm(weight.contiguous(), bias.contiguous(), eps)


@dataclass(frozen=True)
class NativeFloat(_NativeOps):
    """In float32 or bfloat16."""

    dtype: torch.dtype

    def qkv(self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]) -> Linear:
        """See `LayerOps`."""
        weight = torch.cat([weight.to(self.dtype) for weight in weights])
        return NativeLinear(
            NativeWeight.from_weight(weight), torch.cat([b.float() for b in biases])
        )

    def linear(self, weight: torch.Tensor, bias: torch.Tensor, role: Role) -> Adding:
        """See `LayerOps`."""
        own = NativeWeight.from_weight(weight.to(self.dtype))
        return NativeLinear(own, bias.float(), activated=role == "up")


@dataclass(frozen=True)
class NativeInt8(_NativeOps):
    """In 8 bits; attention computes in the dtype, everything else in float32."""

    dtype: torch.dtype

    def qkv(self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]) -> Linear:
        """See `LayerOps`."""
        return NativeInt8QueryKeyValue.from_weights(weights, biases, dtype=self.dtype)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor, role: Role) -> Adding:
        """See `LayerOps`."""
        return NativeInt8Linear.from_weight(weight, bias, role)


def native_ops(config: Any, *, dtype: torch.dtype, int8: bool) -> LayerOps | None:
    """The compiled way to compute a backbone's layers.

    Args:
        config: The backbone's config.
        dtype: The dtype of attention, and of the products unless `int8`.
        int8: Whether the products are in 8 bits.

    Returns:
        None where the kernels do not run, are not the fastest, or do not fit the widths.
    """
    fits = config.hidden_size % _VECTOR == 0 and config.intermediate_size % _VECTOR == 0
    if not fits or not runs(torch.int8 if int8 else dtype):
        return None
    if int8:
        return NativeInt8(dtype) if weight_levels() == 127 else None
    return NativeFloat(dtype)
