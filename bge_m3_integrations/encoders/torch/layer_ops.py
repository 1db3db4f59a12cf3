"""Operations of a packed backbone's layers: products and normalization.

By torch's own functions or oneDNN's products, in floats or in 8 bits; `native/layer_ops.py` has the
same by compiled kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import layer_norm

from bge_m3_integrations.encoders.torch.int8 import (
    Int8Linear,
    Int8QueryKeyValue,
    weight_levels,
)
from bge_m3_integrations.encoders.torch.linear import (
    Adding,
    Linear,
    PlainLinear,
    Role,
    make_linear,
    with_rounded_rows,
)

# Rows of states that are normalized while they are in cache: 2 MiB at 1,024 wide.
_ROWS_IN_CACHE = 512


class Norm(Protocol):
    """Layer normalization (Ba et al. 2016)."""

    def normalize_(self, states: torch.Tensor) -> None:
        """Normalize `(t, width) float32` in place."""
        ...


class LayerOps(Protocol):
    """Makes them from a checkpoint's tensors."""

    def layout(self, states: torch.Tensor) -> torch.Tensor:
        """`(t, width) float32` as products like it; there may be more rows behind."""
        ...

    def qkv(self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]) -> Linear:
        """Attention's first product: `(width, in)` and `(width,)` of query, key and value."""
        ...

    def linear(self, weight: torch.Tensor, bias: torch.Tensor, role: Role) -> Adding:
        """A product of `(out, in)` and `(out,)`."""
        ...

    def norm(self, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> Norm:
        """A normalization of `(width,) float32` each."""
        ...


@dataclass(frozen=True, slots=True)
class TorchNorm:
    """Torch's own."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def normalize_(self, states: torch.Tensor) -> None:
        """See `Norm`."""
        step = _ROWS_IN_CACHE if states.device.type == "cpu" else max(1, len(states))
        for rows in torch.split(states, step):
            rows.copy_(layer_norm(rows, rows.shape[-1:], self.weight, self.bias, self.eps))


class _TorchOps:
    def layout(self, states: torch.Tensor) -> torch.Tensor:
        """On the CPU with rows of zeros behind, up to one of few sizes."""
        return with_rounded_rows(states)

    def norm(self, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> Norm:
        """See `LayerOps`."""
        return TorchNorm(weight, bias, eps)


class SharedOps(_TorchOps):
    """Products over the tensors themselves, without a copy."""

    def qkv(self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]) -> Linear:
        """See `LayerOps`."""
        return PlainLinear(tuple(weights), tuple(biases))

    def linear(self, weight: torch.Tensor, bias: torch.Tensor, role: Role) -> Adding:
        """See `LayerOps`."""
        return PlainLinear((weight,), (bias,), activated=role == "up")


@dataclass(frozen=True)
class CopiedOps(_TorchOps):
    """Products with their own copy of the weights, in the fastest layout."""

    dtype: torch.dtype
    device: torch.device

    def qkv(self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]) -> Linear:
        """See `LayerOps`."""
        return make_linear(weights, biases, dtype=self.dtype, device=self.device)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor, role: Role) -> Adding:
        """See `LayerOps`."""
        up = role == "up"
        return make_linear([weight], [bias], dtype=self.dtype, device=self.device, activated=up)


@dataclass(frozen=True)
class Int8Ops(_TorchOps):
    """Products with their own copy of the weights in 8 bits, on the CPU.

    Attention computes in the dtype, everything else in float32. With weights of 7 bits only the
    feed-forward part is in integers: more of it fails the quality gate (`docs/precision.md`).
    """

    dtype: torch.dtype

    def qkv(self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]) -> Linear:
        """See `LayerOps`."""
        if weight_levels() < 127:
            return _Narrowing(self._float(weights, biases), self.dtype)
        return Int8QueryKeyValue.from_weights(weights, biases, dtype=self.dtype)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor, role: Role) -> Adding:
        """See `LayerOps`."""
        if weight_levels() < 127 and role == "mix":
            return _Narrowing(self._float([weight], [bias]), self.dtype)
        return Int8Linear.from_weight(weight, bias, role)

    def _float(self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]) -> Adding:
        return make_linear(weights, biases, dtype=self.dtype, device=torch.device("cpu"))


@dataclass(frozen=True, slots=True)
class _Narrowing:
    """A product that takes its input in a dtype."""

    product: Adding
    dtype: torch.dtype

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(x.to(self.dtype))

    def add_to(self, states: torch.Tensor, x: torch.Tensor) -> None:
        self.product.add_to(states, x.to(self.dtype))
