"""Constructor arguments of the other classes: checked, and put into the engine's words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from bge_m3_integrations.errors import InputError


def refuse_unknown(unknown: Iterable[str], known: Sequence[str]) -> None:
    """Raise for names that FlagEmbedding would keep as dead attributes.

    Args:
        unknown: Names that were given.
        known: Names that there are.

    Raises:
        InputError: There is an unknown name; the message has the nearest known ones.
    """
    for name in unknown:
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"unknown argument {name!r}; {hint}")


def one_device(devices: str | int | list[str] | list[int] | None) -> str:
    """The engine's name for what FlagEmbedding calls devices."""
    if isinstance(devices, list):
        if len(devices) != 1:
            raise InputError(
                f"devices={devices!r}: one engine computes on one device; give one, or run one "
                "process per device"
            )
        return one_device(devices[0])
    if devices is None:
        return "auto"
    return f"cuda:{devices}" if isinstance(devices, int) else devices


def dtype_name(device: str, *, use_fp16: bool, use_bf16: bool) -> str:
    """The engine's dtype for FlagEmbedding's two flags."""
    if use_bf16:
        return "auto"  # bfloat16 where it is native: naming it would emulate it elsewhere
    if not use_fp16:
        return "float32"
    from bge_m3_integrations.encoders.torch.devices import pick_device

    return "float32" if pick_device(device).type == "cpu" else "float16"
