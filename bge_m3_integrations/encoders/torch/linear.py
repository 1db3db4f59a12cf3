"""Linear layers: torch's own, or with weights laid out beforehand for the CPU's oneDNN.

The layout is worth a factor of 2 in float32 and some percent in bfloat16, and its operators are
torch's internal ones (what `torch.compile` emits on CPUs), so they are probed once per dtype and
left alone where they fail or give other numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol, TypeAlias

import torch
from torch.nn.functional import gelu, linear, pad

from bge_m3_integrations.encoders.torch.packing import rounded

# Rows of a product are rounded up to a multiple of this many at least.
_STEP = 8
# Tokens that a layout is chosen for; others work with it too.
_LAYOUT_TOKENS = 1024


Role: TypeAlias = Literal["mix", "up", "down"]
"""A product's place in a layer: behind attention; before gelu, and behind it."""


class Linear(Protocol):
    """`(t, in)` to `(t, out)`: x W' + b, then gelu where the layer was made with it."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        ...


class Adding(Linear, Protocol):
    """A layer that knows a way to add its results."""

    def add_to(self, states: torch.Tensor, x: torch.Tensor) -> None:
        """Add the layer's output to `(t, out) float32`."""
        ...


@dataclass(frozen=True, slots=True)
class PlainLinear:
    """One or more weights side by side, used where they lie.

    An input in float32 on half-precision weights is computed in float32, the weights upcast for
    the call. On a CPU rows are rounded up to one of few counts: see `rounded`.

    Attributes:
        weights: `(out_i, in)` each.
        biases: `(out_i,)` each.
        activated: Whether gelu follows.
    """

    weights: tuple[torch.Tensor, ...]
    biases: tuple[torch.Tensor, ...]
    activated: bool = False

    def to(self, device: torch.device, dtype: torch.dtype) -> PlainLinear:
        """The same layer elsewhere, or in another dtype."""
        weights, biases = (
            tuple(t.to(device, dtype) for t in held) for held in (self.weights, self.biases)
        )
        return PlainLinear(weights, biases, self.activated)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Linear`."""
        rows, parts, x = len(x), [], with_rounded_rows(x)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            parts.append(linear(x, weight.to(x), bias.to(x)))
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return (gelu(out) if self.activated else out)[:rows]

    def add_to(self, states: torch.Tensor, x: torch.Tensor) -> None:
        """See `Adding`."""
        states.add_(self(x).float())


@dataclass(frozen=True, slots=True)
class PrepackedLinear:
    """A weight in oneDNN's own layout; gelu is fused into the product."""

    packed: torch.Tensor
    bias: torch.Tensor
    activated: bool = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Linear`."""
        name, kind = ("gelu", "none") if self.activated else ("none", "")
        run = torch.ops.mkldnn._linear_pointwise
        out: torch.Tensor = run(x, self.packed, self.bias, name, [], kind)
        return out

    def add_to(self, states: torch.Tensor, x: torch.Tensor) -> None:
        """See `Adding`."""
        states.add_(self(x).float())


def with_rounded_rows(x: torch.Tensor) -> torch.Tensor:
    """On a CPU, `(t, width)` with rows of zeros behind, up to one of few sizes: see `rounded`."""
    if x.device.type != "cpu":
        return x
    return pad(x, (0, 0, 0, rounded(len(x), least=_STEP) - len(x)))


class Product(Protocol):
    """`(m, k)` and `(n, k)` to `(m, n)`: x w'. Fast where w or w' is contiguous."""

    def __call__(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        ...


def _onednn_product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
    return out


@cache
def float32_product() -> Product | None:
    """OneDNN's product in float32 where it pays for matrices of about one size, else None.

    Torch gives float32 products to MKL. With AVX-512, oneDNN's take half of the time of MKL's on
    some CPUs (AMD's); with less than that they are level.
    """
    return onednn_product() if "AVX512" in torch.backends.cpu.get_cpu_capability() else None


@cache
def onednn_product() -> Product | None:
    """OneDNN's product in float32 of a matrix that is used once, or None where it is not right."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, 48, generator=generator) for n in (24, 40))
    try:
        found = _onednn_product(x[:, :32], w.T.contiguous().T[:, :32])
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return None
    exact = x[:, :32] @ w[:, :32].T
    return _onednn_product if torch.allclose(found, exact, atol=1e-5) else None


def make_linear(
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    *,
    dtype: torch.dtype,
    device: torch.device,
    activated: bool = False,
) -> Adding:
    """A layer with its own copy of the weights, in the fastest layout.

    Args:
        weights: `(out_i, in)` each, in any float dtype; laid side by side, so that query, key and
            value are one product.
        biases: `(out_i,)` each.
        dtype: The dtype to compute in.
        device: Where to compute.
        activated: Whether gelu follows.

    Returns:
        The layer.
    """
    weight = torch.cat([w.to(dtype) for w in weights]).to(device)
    bias = torch.cat([b.to(dtype) for b in biases]).to(device)
    if device.type == "cpu" and can_prepack(dtype):
        return PrepackedLinear(_prepacked(weight), bias, activated)
    return PlainLinear((weight,), (bias,), activated)


@cache
def can_prepack(dtype: torch.dtype) -> bool:
    """Whether this torch has the operators and they give `F.linear`'s numbers in a dtype."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((5, 64), (32, 64), (32,))
    )
    try:
        ours = PrepackedLinear(_prepacked(weight), bias, activated=True)(x)
        plain = PlainLinear((weight,), (bias,), activated=True)(x)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    size = float(plain.abs().max())
    return torch.allclose(ours.float(), plain.float(), atol=8 * torch.finfo(dtype).eps * size)


def _prepacked(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _LAYOUT_TOKENS)
    return packed
