"""Options of loading a checkpoint: the one place of their defaults and checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypedDict

from bge_m3_integrations.encoders.placement import TorchDevice, TorchDtype, as_devices, as_dtype
from bge_m3_integrations.errors import InputError

DEFAULT_MODEL: Final = "BAAI/bge-m3"
POOLINGS: Final = ("auto", "cls", "mean", "last_token")


class ModelOptions(TypedDict, total=False):
    """The keywords of `ModelConfig`, for signatures that pass them on."""

    device: str | TorchDevice | Sequence[str | TorchDevice]
    dtype: str | TorchDtype
    pooling: str
    query_instruction: str | None
    document_instruction: str | None
    max_length: int | None
    token_budget: int | None
    revision: str | None
    cache_dir: str | Path | None
    token: str | bool | None
    offline: bool
    trust_remote_code: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The options of `BGEM3` that decide how a checkpoint is loaded and read.

    Attributes:
        device: "auto", a torch device, or several as a tuple.
        dtype: One of `placement.DTYPES`.
        pooling: One of `POOLINGS`; "auto" reads the checkpoint's own, else cls.
        query_instruction: Put in front of every query; None is the checkpoint's prompt.
        document_instruction: Put in front of every document; None likewise.
        max_length: Default limit in tokens per text; None is all that the model takes.
        token_budget: Most tokens of one pass; None chooses by device.
        revision: Branch, tag or commit on the hub.
        cache_dir: Where downloads are kept.
        token: Access token for the hub.
        offline: Use downloaded files only.
        trust_remote_code: Allow code that comes with the checkpoint to run.

    Raises:
        InputError: No such device, dtype or pooling can be meant.
    """

    device: str | TorchDevice | Sequence[str | TorchDevice] = "auto"
    dtype: str | TorchDtype = "auto"
    pooling: str = "auto"
    query_instruction: str | None = None
    document_instruction: str | None = None
    max_length: int | None = None
    token_budget: int | None = None
    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = field(default=None, repr=False)
    offline: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", as_devices(self.device))
        object.__setattr__(self, "dtype", as_dtype(self.dtype))
        if self.pooling not in POOLINGS:
            raise InputError(f"pooling={self.pooling!r} is not one of {list(POOLINGS)}")

    @property
    def devices(self) -> tuple[str, ...]:
        """The names of the devices, at least one."""
        given: Any = self.device
        return (given,) if isinstance(given, str) else given

    @property
    def dtype_name(self) -> str:
        """The dtype's name."""
        return str(self.dtype)

    @property
    def hub(self) -> dict[str, Any]:
        """The options of `hub.resolve_checkpoint`."""
        names = ("revision", "cache_dir", "token", "offline", "trust_remote_code")
        return {name: getattr(self, name) for name in names}

    def shown(self) -> Iterator[str]:
        """Device and dtype as they were asked for: "auto" is decided when the model is loaded."""
        device = " + ".join(self.devices)
        yield "device auto" if device == "auto" else device
        yield "dtype auto" if self.dtype == "auto" else self.dtype_name
        yield "not loaded"
