"""Linear layers, normalization and levels by the compiled kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad

from bge_m3_integrations.encoders.torch.native.binding import (
    LINE,
    KernelArgumentError,
    LevelsCall,
    LinearCall,
    Rows,
    library,
    padded_rows,
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
        takes: The dtype of rows.
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
    def from_weight(
        cls,
        weight: torch.Tensor,
        *,
        shift: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
    ) -> NativeWeight:
        """Lay out `(out, in)` of float32, bfloat16 or int8."""
        run = getattr(library(), f"linear_{_KINDS[weight.dtype]}")
        outputs, inputs = weight.shape
        takes = torch.uint8 if weight.dtype == torch.int8 else weight.dtype
        return cls(_packed(weight), outputs, inputs, run, takes, shift, scale)

    def product(
        self,
        x: torch.Tensor,
        out: torch.Tensor | None = None,
        *,
        bias: torch.Tensor | None = None,
        row_scale: torch.Tensor | None = None,
        gelu: bool = False,
        add: bool = False,
    ) -> torch.Tensor:
        """Write, or add, `(m, in)` times the weight, the bias and gelu to `(m, out)`.

        Args:
            x: In the weight's dtype, or levels in uint8; rows may lie apart.
            out: In float32 or bfloat16; rows may lie apart. None makes it, in `x`'s dtype.
            bias: `(out,) float32`.
            row_scale: `(m,) float32`, of levels only.
            gelu: Whether it follows.
            add: Whether `out`, in float32, is a summand; not with gelu.

        Returns:
            `out`.

        Raises:
            KernelArgumentError: The kernel would read or write other memory.
        """
        if out is None:  # as `padded_rows`, without its call: this runs four times a layer
            room = self.outputs + LINE // x.dtype.itemsize
            out = torch.empty(len(x), room, dtype=x.dtype, device="cpu")[:, : self.outputs]
        shapes = (len(out), self.inputs), (len(out), self.outputs)
        if not (
            (x.dtype, (x.shape, out.shape)) == (self.takes, shapes)
            and (out.dtype == torch.float32 or (out.dtype == torch.bfloat16 and not add))
            and not (add and gelu)
            and (self.scale is None) == (row_scale is None)
            and (x.is_cpu and (x.stride(1) == 1 or self.inputs == 1))
            and (out.is_cpu and (out.stride(1) == 1 or self.outputs == 1))
        ):
            raise KernelArgumentError(x, out)
        call = LinearCall(
            *(len(x), self.outputs, self.inputs, x.data_ptr(), x.stride(0)),
            *(self.packed.data_ptr(), None if bias is None else bias.data_ptr()),
            *(out.data_ptr(), out.stride(0), out.dtype == torch.bfloat16, gelu, add),
            torch.get_num_threads(),
            None if self.shift is None else self.shift.data_ptr(),
            None if self.scale is None else self.scale.data_ptr(),
            None if row_scale is None else row_scale.data_ptr(),
        )
        self.run(ctypes.byref(call))
        return out


def _packed(weight: torch.Tensor) -> torch.Tensor:
    group = 4 // weight.element_size()
    outputs, inputs = weight.shape
    if outputs % _PANEL:
        weight = pad(weight, (0, 0, 0, -outputs % _PANEL))
    panels = weight.view(-1, _PANEL, inputs // group, group).transpose(1, 2)
    return panels.contiguous().view(torch.int32).squeeze(-1)


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
        return self.weight.product(x, bias=self.bias, gelu=self.activated)

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
    levels, rest = (
        padded_rows(n, x.shape[1], torch.uint8) for n in (len(x), len(x) if finer else 0)
    )
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
    library().to_levels(ctypes.byref(_rows(x)), ctypes.byref(call))
    return Levels(levels, scale, rest, rest_scale)


@dataclass(frozen=True, slots=True)
class NativeNorm:
    """Layer normalization (Ba et al. 2016), rows at a time, each while it is in cache.

    Attributes:
        weight: `(width,) float32`.
        bias: The same.
        eps: Added to the variance.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def normalize_(self, states: torch.Tensor) -> None:
        """Normalize `(m, width) float32` in place; see `Norm`."""
        weight, bias = self.weight, self.bias
        if not (
            states.dtype == weight.dtype == bias.dtype == torch.float32
            and states.dim() == 2
            and weight.shape == bias.shape == states.shape[1:]
            and weight.is_contiguous()
            and bias.is_contiguous()
            and states.shape[1] % _VECTOR == 0
            and (states.is_cpu and states.stride(1) == 1)
        ):
            raise KernelArgumentError(states, weight, bias)
        threads = torch.get_num_threads()
        rows = Rows(*states.shape, states.data_ptr(), states.stride(0), False, threads)
        library().normalise(ctypes.byref(rows), weight.data_ptr(), bias.data_ptr(), self.eps)


def _rows(x: torch.Tensor) -> Rows:
    if not (
        x.dtype in (torch.float32, torch.bfloat16)
        and x.dim() == 2
        and x.shape[1] % _VECTOR == 0
        and x.is_cpu
        and x.stride(1) == 1
    ):
        raise KernelArgumentError(x)
    half, threads = x.dtype == torch.bfloat16, torch.get_num_threads()
    return Rows(*x.shape, x.data_ptr(), x.stride(0), half, threads)
