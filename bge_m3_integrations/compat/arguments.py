"""Constructor arguments of the other classes, put into the engine's words."""

from __future__ import annotations

from bge_m3_integrations.encoders.placement import TorchDevice
from bge_m3_integrations.errors import InputError


def one_device(devices: str | int | TorchDevice | list[str] | list[int] | None) -> str:
    """The engine's name for FlagEmbedding's devices."""
    if isinstance(devices, list):
        if len(devices) != 1:
            raise InputError(
                f"devices={devices!r}: one engine computes on one device; give one, or run one "
                "process per device"
            )
        return one_device(devices[0])
    if devices is None:
        return "auto"
    return f"cuda:{devices}" if isinstance(devices, int) else str(devices)


def dtype_name(device: str, *, use_fp16: bool, use_bf16: bool) -> str:
    """The engine's dtype for FlagEmbedding's two flags."""
    if use_bf16:
        return "auto"  # bfloat16 where it is native: naming it would emulate it elsewhere
    if not use_fp16:
        return "float32"
    from bge_m3_integrations.encoders.torch.devices import pick_device

    return "float32" if pick_device(device).type == "cpu" else "float16"
