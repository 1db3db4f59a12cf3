"""Where and in what numbers a model computes, as callers name it; checked without loading torch."""

from __future__ import annotations

import re
from typing import Any, Final, Protocol

from bge_m3_integrations.errors import InputError

DTYPES: Final = ("auto", "float32", "bfloat16", "float16", "int8")
_DEVICE = re.compile(r"auto|(cpu|cuda|mps)(:\d+)?")


class TorchDevice(Protocol):
    """A `torch.device`, as far as it is looked at; nothing here imports torch."""

    @property
    def type(self) -> str:
        """Such as "cuda"."""
        ...

    @property
    def index(self) -> int | None:
        """Which of them."""
        ...


class TorchDtype(Protocol):
    """A `torch.dtype`, likewise."""

    @property
    def is_floating_point(self) -> bool:
        """Whether its numbers are floats."""
        ...

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        ...


def as_devices(device: Any) -> str | tuple[str, ...]:
    """One device, or several; whether they are there is known when the model is loaded.

    Args:
        device: As `BGEM3` takes it, or a `torch.device`; a list of one is that one.

    Returns:
        A name, or a tuple of at least two.

    Raises:
        InputError: It is neither a device's name nor a list of them.
    """
    several = list(device) if isinstance(device, list | tuple) else [device]
    names = [_torch_name(name, "device") for name in several]
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"device={device!r} is neither a torch device nor a list of them; use 'auto', "
            "'cuda:1' or ['cuda:0', 'cuda:1']"
        )
    for name in names:
        if not _DEVICE.fullmatch(name):
            raise InputError(
                f"device={name!r} is no torch device that this package computes on; use "
                "auto, cpu, cuda or mps, with a number as in 'cuda:1' where there are several"
            )
    return names[0] if len(names) == 1 else tuple(names)


def as_dtype(dtype: Any) -> str:
    """Return the name of a dtype.

    Args:
        dtype: As `BGEM3` takes it, or a `torch.dtype`.

    Returns:
        One of `DTYPES`.

    Raises:
        InputError: It is none of them.
    """
    name = _torch_name(dtype, "dtype")
    if name not in DTYPES:
        raise InputError(f"dtype={dtype!r} is not one of {list(DTYPES)}")
    return str(name)


def _torch_name(value: Any, kind: str) -> Any:
    """The name of one of torch's own objects; anything else as it is."""
    theirs = type(value).__module__ == "torch" and type(value).__name__ == kind
    return str(value).removeprefix("torch.") if theirs else value
