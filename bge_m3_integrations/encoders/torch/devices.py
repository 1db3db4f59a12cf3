"""Which device and dtype to compute in, and what running out of memory looks like there."""

from __future__ import annotations

import torch

from bge_m3_integrations.errors import InputError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Tokens per batch. A GPU wants big products. So does a CPU, until an activation (28 MiB here, in
# float32 at BGE-M3's size) passes 32 MiB: glibc then takes fresh pages for it at every layer.
_BUDGETS = {"cpu": 1792, "mps": 8192, "cuda": 65536}
# What the allocators of CPU and MPS say, and CUDA where it is not torch's allocator that asks: for
# pinned memory and for cuBLAS's own.
_MEMORY_PHRASES = (
    "can't allocate memory",
    "MPS backend out of memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def pick_device(name: str) -> torch.device:
    """The device for a name.

    Args:
        name: "auto" (CUDA, else MPS, else CPU) or a torch device such as "cpu" or "cuda:1".

    Returns:
        A device that is there.

    Raises:
        InputError: No such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"device={name!r} is no torch device; use auto, cpu, cuda or mps"
        ) from error
    if not _is_there(device):
        raise InputError(f"device={name!r} is not on this machine; use device='auto' or 'cpu'")
    if name == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype for a name: "auto" is what the device computes fast and natively.

    Args:
        name: "auto", "float32", "bfloat16" or "float16". Auto is bfloat16 where the hardware has
            it (CPU and CUDA; never emulated), float16 on older CUDA devices, float32 elsewhere.
        device: Where the model will run.

    Returns:
        A floating torch dtype.

    Raises:
        InputError: An unknown name.
    """
    if name in _DTYPES:
        return _DTYPES[name]
    if name != "auto":
        raise InputError(f"dtype={name!r} is not one of {['auto', *_DTYPES]}")
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX-512 BF16 or AMX), and torch lets it."""
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False  # an older CPU, or one that ATEN_CPU_CAPABILITY holds back
    # mkldnn's own check also answers yes for AVX-512 without BF16, where it emulates.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def default_budget(device: torch.device) -> int:
    """Tokens per batch to start with on a device."""
    return _BUDGETS.get(device.type, _BUDGETS["cpu"])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device (or this machine) has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(p in str(error) for p in _MEMORY_PHRASES)


def _is_there(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"
