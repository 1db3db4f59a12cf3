"""Linear layers, normalisation and levels by the compiled kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad

from bge_m3_integrations.encoders.torch.native.binding import (
    LevelsCall,
    LinearCall,
    Rows,
    in_rows,
    library,
    roomy,
)

_PANEL = 64
_VECTOR = 16
_KINDS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.int8: "levels"}


@dataclass(frozen=True, slots=True)
class NativeWeight:
    """A weight in the kernels' own layout, and what becomes of its products.

    Attributes:
        packed: `(panels, groups, 64) int32`: 64 channels side by side, group after group of inputs;
            a group is what one word holds.
        outputs: Channels, without those that fill the last panel.
        inputs: Numbers of a row.
        run: The kernel.
        takes: What rows are in.
        shift: `(out,) int32`, of levels only: what their zero adds to each channel's sums.
        scale: `(out,) float32`, of levels only: what a channel's integers are to be multiplied by.
    """

    packed: torch.Tensor
    outputs: int
    inputs: int
    run: Callable[[Any], None]
    takes: torch.dtype
    shift: torch.Tensor | None = None
    scale: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        weight: torch.Tensor,
        *,
        shift: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
    ) -> NativeWeight:
        """Lay out `(out, in)` of float32, bfloat16 or int8."""
        kernels = library()
        assert kernels is not None, "callers ask `runs` before"
        run = getattr(kernels, f"linear_{_KINDS[weight.dtype]}")
        outputs, inputs = weight.shape
        takes = torch.uint8 if weight.dtype == torch.int8 else weight.dtype
        return cls(_packed(weight), outputs, inputs, run, takes, shift, scale)

    def product(
        self,
        x: torch.Tensor,
        out: torch.Tensor,
        *,
        bias: torch.Tensor | None = None,
        row_scale: torch.Tensor | None = None,
        gelu: bool = False,
        add: bool = False,
    ) -> None:
        """Write, or add, `(m, in)` times the weight and what follows to `(m, out)`.

        Args:
            x: In the weight's dtype, or levels in uint8; rows may lie apart.
            out: In float32 or bfloat16; rows may lie apart.
            bias: `(out,) float32`.
            row_scale: `(m,) float32`, of levels only.
            gelu: Whether it follows.
            add: Whether `out`, in float32, is a summand; not with gelu.
        """
        assert x.dtype == self.takes
        assert x.shape == (len(out), self.inputs)
        assert out.shape[1] == self.outputs
        assert out.dtype == torch.float32 or (out.dtype == torch.bfloat16 and not add)
        assert not (add and gelu)
        assert (self.scale is None) == (row_scale is None)
        assert in_rows(x)
        assert in_rows(out)
        call = LinearCall(
            len(x),
            self.outputs,
            self.inputs,
            x.data_ptr(),
            x.stride(0),
            self.packed.data_ptr(),
            _address(bias),
            out.data_ptr(),
            out.stride(0),
            out.dtype == torch.bfloat16,
            gelu,
            add,
            torch.get_num_threads(),
            _address(self.shift),
            _address(self.scale),
            _address(row_scale),
        )
        self.run(ctypes.byref(call))


def _packed(weight: torch.Tensor) -> torch.Tensor:
    group = 4 // weight.element_size()
    outputs, inputs = weight.shape
    if outputs % _PANEL:
        weight = pad(weight, (0, 0, 0, -outputs % _PANEL))
    panels = weight.view(-1, _PANEL, inputs // group, group).transpose(1, 2)
    return panels.contiguous().view(torch.int32).squeeze(-1)


def _address(x: torch.Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


@dataclass(frozen=True, slots=True)
class NativeLinear:
    """A layer in float32 or bfloat16.

    Attributes:
        weight: Its weight.
        bias: `(out,) float32`.
        activated: Whether gelu follows.
    """

    weight: NativeWeight
    bias: torch.Tensor
    activated: bool = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Linear`."""
        out = roomy(len(x), self.weight.outputs, x.dtype)
        self.weight.product(x, out, bias=self.bias, gelu=self.activated)
        return out

    def add_to(self, states: torch.Tensor, x: torch.Tensor) -> None:
        """See `Adding`; for layers without gelu behind."""
        self.weight.product(x, states, bias=self.bias, gelu=self.activated, add=True)


@dataclass(frozen=True, slots=True)
class Levels:
    """Rows in 8 bits.

    Attributes:
        levels: `(m, in) uint8`.
        scale: `(m,) float32`: what a level is worth.
        rest: `(m, in) uint8`, what the levels leave in finer ones; empty where not wanted.
        rest_scale: `(m,) float32`: what one of those is worth.
    """

    levels: torch.Tensor
    scale: torch.Tensor
    rest: torch.Tensor
    rest_scale: torch.Tensor


def to_levels(
    x: torch.Tensor, *, zero: int, most: int, depth: float = 0.0, finer: int = 0
) -> Levels:
    """Each row to 8 bits by its own scale.

    Args:
        x: `(m, in)` in float32 or bfloat16; rows may lie apart.
        zero: The level of 0.
        most: Levels above it; so many below it too, unless there is a depth.
        depth: Numbers are nowhere below minus this, which is what the levels below zero are for.
        finer: Find the rest too, in so many parts of a level.

    Returns:
        The levels.
    """
    kernels = library()
    assert kernels is not None
    levels, rest = (roomy(n, x.shape[1], torch.uint8) for n in (len(x), len(x) if finer else 0))
    scale, rest_scale = (
        torch.empty(len(x), dtype=torch.float32, device="cpu") for x in (levels, rest)
    )
    call = LevelsCall(
        levels.data_ptr(),
        rest.data_ptr() if finer else None,
        levels.stride(0),
        scale.data_ptr(),
        rest_scale.data_ptr(),
        zero,
        most,
        depth,
        finer,
    )
    kernels.to_levels(ctypes.byref(_rows(x)), ctypes.byref(call))
    return Levels(levels, scale, rest, rest_scale)


def normalise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> None:
    """Layer normalisation (Ba et al. 2016) of `(m, width) float32`, in place."""
    kernels = library()
    assert kernels is not None
    assert x.dtype == weight.dtype == bias.dtype == torch.float32
    assert weight.shape == bias.shape == x.shape[1:]
    assert weight.is_contiguous()
    assert bias.is_contiguous()
    kernels.normalise(ctypes.byref(_rows(x)), weight.data_ptr(), bias.data_ptr(), eps)


def _rows(x: torch.Tensor) -> Rows:
    assert x.dtype in (torch.float32, torch.bfloat16)
    assert x.shape[1] % _VECTOR == 0
    assert in_rows(x)
    half, threads = x.dtype == torch.bfloat16, torch.get_num_threads()
    return Rows(*x.shape, x.data_ptr(), x.stride(0), half, threads)
