"""The compiled kernels, as far as this processor runs them.

Their numbers are those of the torch code beside them, to rounding; where the library was not built
or the processor lacks the instructions, that code computes.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from functools import cache
from typing import Any

import torch

from bge_m3_integrations.encoders.torch.native import build
from bge_m3_integrations.encoders.torch.native.build import LIBRARY

_BASE, _BFLOAT16, _TILES = 1, 2, 4
LINE = 64


class LinearCall(Structure):
    """`struct linear` of `kernels/kernels.h`."""

    _fields_ = (
        ("m", c_int64),
        ("n", c_int64),
        ("k", c_int64),
        ("x", c_void_p),
        ("x_stride", c_int64),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("out", c_void_p),
        ("out_stride", c_int64),
        ("half", c_int32),
        ("gelu", c_int32),
        ("add", c_int32),
        ("threads", c_int32),
        ("shift", c_void_p),
        ("channel_scale", c_void_p),
        ("row_scale", c_void_p),
    )


class AttentionCall(Structure):
    """`struct attention`."""

    _fields_ = (
        ("qkv", c_void_p),
        ("stride", c_int64),
        ("out", c_void_p),
        ("out_stride", c_int64),
        ("parts", c_void_p),
        ("count", c_int64),
        ("heads", c_int32),
        ("head", c_int32),
        ("threads", c_int32),
        ("space", c_void_p),
    )


class Rows(Structure):
    """`struct rows`."""

    _fields_ = (
        ("count", c_int64),
        ("width", c_int64),
        ("x", c_void_p),
        ("stride", c_int64),
        ("half", c_int32),
        ("threads", c_int32),
    )


class LevelsCall(Structure):
    """`struct levels`."""

    _fields_ = (
        ("levels", c_void_p),
        ("rest", c_void_p),
        ("stride", c_int64),
        ("scale", c_void_p),
        ("rest_scale", c_void_p),
        ("zero", c_float),
        ("most", c_float),
        ("depth", c_float),
        ("finer", c_float),
    )


def padded_rows(rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """An empty `(rows, width)` whose rows lie a cache line further apart than they are long.

    Rows that are a power of two apart share a few places of a cache, and push each other out.
    """
    room = width + LINE // dtype.itemsize
    return torch.empty(rows, room, dtype=dtype, device="cpu")[:, :width]


class KernelArgumentError(ValueError):
    """A tensor whose memory a kernel would misread: a fault of this package, not of a caller."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        shown = ", ".join(f"{tuple(x.shape)} {x.dtype} {x.device}" for x in tensors)
        super().__init__(f"a compiled kernel cannot read {shown}; please report this")


@cache
def library() -> ctypes.CDLL:
    """Load the library; an error where it cannot be used, which `runs` tells before."""
    if reason := unavailable_reason():
        raise RuntimeError(f"the compiled kernels do not run: {reason}")
    return _loaded()


@cache
def unavailable_reason() -> str:
    """Why torch computes instead, empty where the kernels do."""
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return "torch sees no AVX-512"
    if not LIBRARY.exists():
        return f"they were not built; `python -m {build.__name__}` builds them, or says why not"
    try:
        found = _loaded()
        same = found.digest() == build.digest()
    except (OSError, AttributeError) as error:
        return f"{LIBRARY} does not load: {error}"
    if not same:
        return f"{LIBRARY} is not of these sources; `python -m {build.__name__}` builds it again"
    return "" if found.supported() & _BASE else "the processor has no AVX-512 with VNNI"


@cache
def _loaded() -> ctypes.CDLL:
    # it names no OpenMP library: the symbols are found in the one that torch has loaded, which some
    # builds of torch keep to themselves
    with suppress(OSError):
        ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | ctypes.RTLD_GLOBAL)
    found = ctypes.CDLL(str(LIBRARY))
    for name, arguments in _SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, None
    return found


def runs(dtype: torch.dtype) -> bool:
    """Whether kernels compute in a dtype here, int8 for levels, and nothing else is faster.

    Processors that multiply tiles (AMX) do so through oneDNN.
    """
    if unavailable_reason() or dtype not in (torch.float32, torch.bfloat16, torch.int8):
        return False
    has = library().supported()
    if dtype == torch.bfloat16 and not has & _BFLOAT16:
        return False
    return dtype == torch.float32 or not has & _TILES


_SIGNATURES: dict[str, list[Any]] = {
    **{f"linear_{kind}": [POINTER(LinearCall)] for kind in ("float32", "bfloat16", "levels")},
    **{f"attention_{kind}": [POINTER(AttentionCall)] for kind in ("float32", "bfloat16")},
    "normalise": [POINTER(Rows), c_void_p, c_void_p, c_float],
    "to_levels": [POINTER(Rows), POINTER(LevelsCall)],
}
