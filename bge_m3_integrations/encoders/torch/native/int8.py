"""The products of `encoders/torch/int8.py`, by the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bge_m3_integrations.encoders.torch import int8
from bge_m3_integrations.encoders.torch.linear import Role
from bge_m3_integrations.encoders.torch.native.binding import padded_rows
from bge_m3_integrations.encoders.torch.native.linear import NativeWeight, to_levels


@dataclass(frozen=True, slots=True)
class NativeInt8Linear:
    """A product of rows in 8 bits, its results in float32.

    Attributes:
        weight: Its weight.
        bias: `(out,) float32`.
        activated: Whether gelu follows.
        after_gelu: Whether it went before.
        residual: Whether what comes has twice the bits; with neither of the two.
    """

    weight: NativeWeight
    bias: torch.Tensor
    activated: bool = False
    after_gelu: bool = False
    residual: bool = False

    @classmethod
    def from_weight(cls, weight: torch.Tensor, bias: torch.Tensor, role: Role) -> NativeInt8Linear:
        """With its own 8-bit copy of `(out, in)` in any float dtype."""
        own = _in_levels(weight, zero=int8.GELU_ZERO if role == "down" else int8.ZERO)
        return cls(own, bias.float(), role == "up", role == "down", role == "mix")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Linear`."""
        out = padded_rows(len(x), self.weight.outputs, torch.float32)
        self._into(out, x, add=False)
        return out

    def add_to(self, states: torch.Tensor, x: torch.Tensor) -> None:
        """See `Adding`; for layers without gelu behind."""
        self._into(states, x, add=True)

    def _into(self, out: torch.Tensor, x: torch.Tensor, *, add: bool) -> None:
        if self.after_gelu:
            of_gelu = {"zero": int8.GELU_ZERO, "most": int8.GELU_LEVELS}
            found = to_levels(x, depth=int8.GELU_DEPTH, **of_gelu)
        else:
            finer = int8.REST_LEVELS if self.residual else 0
            found = to_levels(x, zero=int8.ZERO, most=int8.ACTIVATION_LEVELS, finer=finer)
        self.weight.product(
            found.levels, out, bias=self.bias, row_scale=found.scale, gelu=self.activated, add=add
        )
        if self.residual:
            self.weight.product(found.rest, out, row_scale=found.rest_scale, add=True)


@dataclass(frozen=True, slots=True)
class NativeInt8QueryKeyValue:
    """Query, key and value of the same rows, values with twice the bits of the activations.

    Attributes:
        pair: Query's and key's weight.
        value: Value's weight.
        bias: `(out,) float32` of all three.
        dtype: Of the result.
    """

    pair: NativeWeight
    value: NativeWeight
    bias: torch.Tensor
    dtype: torch.dtype

    @classmethod
    def from_weights(
        cls, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], *, dtype: torch.dtype
    ) -> NativeInt8QueryKeyValue:
        """With their own 8-bit copy of three `(width, in)` in any float dtype."""
        query, key, value = weights
        pair = _in_levels(torch.cat([query.float(), key.float()]), zero=int8.ZERO)
        bias = torch.cat([b.float() for b in biases])
        return cls(pair, _in_levels(value, zero=int8.ZERO), bias, dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Linear`."""
        found = to_levels(x, zero=int8.ZERO, most=int8.ACTIVATION_LEVELS, finer=int8.REST_LEVELS)
        between = self.pair.outputs
        out = padded_rows(len(x), len(self.bias), self.dtype)
        self.pair.product(
            found.levels, out[:, :between], bias=self.bias[:between], row_scale=found.scale
        )
        value = padded_rows(len(x), self.value.outputs, torch.float32)
        self.value.product(found.levels, value, bias=self.bias[between:], row_scale=found.scale)
        self.value.product(found.rest, value, row_scale=found.rest_scale, add=True)
        out[:, between:] = value
        return out


def _in_levels(weight: torch.Tensor, *, zero: int) -> NativeWeight:
    levels, scales = int8.nearest_levels(weight.float())
    shift = (levels.sum(dim=1, dtype=torch.int64) * zero).int()
    return NativeWeight.from_weight(levels, shift=shift, scale=scales)
