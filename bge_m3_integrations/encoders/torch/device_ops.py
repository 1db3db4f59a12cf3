"""The differences in encoding between devices: the seam below the scheduling.

`encoders.pipeline` decides when; a `Device` knows how to bring indices there, how to bring numbers
back, and what a full memory looks like.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

from bge_m3_integrations._internal.forks import new_rlock
from bge_m3_integrations.encoders.pipeline import Overlap
from bge_m3_integrations.encoders.torch.devices import is_out_of_memory
from bge_m3_integrations.encoders.torch.modules import BatchOutput, PackOutput
from bge_m3_integrations.encoders.torch.packing import Pack


class Device(Protocol):
    """A kind of device, as far as encoding is concerned."""

    @property
    def overlap(self) -> Overlap:
        """The stages worth running at once."""
        ...

    def alone(self) -> AbstractContextManager[Any]:
        """Held while a thread queues work on the device: some take one thread at a time only."""
        ...

    def place(self, pack: Pack) -> Pack:
        """A pack whose index tensors are on the device, or on their way there."""
        ...

    def fetch(self, output: PackOutput) -> Callable[[], BatchOutput]:
        """Begin to copy a pass's numbers to the host; the result waits for them."""
        ...

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an error says that memory is full."""
        ...

    def make_room(self) -> None:
        """Give cached memory back."""
        ...


class Host:
    """The CPU: numbers are where they are needed, and every core computes already."""

    overlap = Overlap()

    def alone(self) -> AbstractContextManager[Any]:
        """Any number of threads compute at once."""
        return nullcontext()

    def place(self, pack: Pack) -> Pack:
        """The pack itself."""
        return pack

    def fetch(self, output: PackOutput) -> Callable[[], BatchOutput]:
        """The numbers, without a copy."""
        return output.numpy

    def is_out_of_memory(self, error: BaseException) -> bool:
        """See `devices.is_out_of_memory`."""
        return is_out_of_memory(error)

    def make_room(self) -> None:
        """Nothing is cached."""


# Of the process: torch's queue of commands for Apple's GPU kills it when two threads fill it.
_MPS = new_rlock()


class Mps(Host):
    """Apple's GPU: tokenizing ahead overlaps with it; copies wait, as memory is shared."""

    overlap = Overlap(ahead=True)

    def alone(self) -> AbstractContextManager[Any]:
        """One thread of the process at a time, from the first command to the numbers."""
        return _MPS

    def fetch(self, output: PackOutput) -> Callable[[], BatchOutput]:
        """The numbers once they are computed."""
        return output.cpu().numpy

    def make_room(self) -> None:
        """Empty the allocator's cache."""
        with self.alone():
            torch.mps.empty_cache()


class Cuda(Host):
    """An NVIDIA or AMD GPU: passes are queued, and copied back on a stream of their own.

    Args:
        device: Which one.
    """

    overlap = Overlap(ahead=True, in_flight=2)

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @cached_property
    def _copies(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def place(self, pack: Pack) -> Pack:
        """Index tensors from pinned memory, so that no copy waits for the passes before it."""
        return PlacedPack.placed(pack, self._move)

    def _move(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory().to(self._device, non_blocking=True)

    @torch.inference_mode()
    def fetch(self, output: PackOutput) -> Callable[[], BatchOutput]:
        """Copies to pinned memory, behind the pass and beside the next one."""
        copies = self._copies  # once: two threads that come first may each make one
        copies.wait_stream(torch.cuda.current_stream(self._device))
        # blocking: a thread that waits sleeps
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(copies):
            host = output.map(_pinned)
            done.record(copies)
        return _Copying(output, host, done)

    def make_room(self) -> None:
        """Give cached blocks back, so that smaller ones can be cut."""
        with torch.cuda.device(self._device):
            torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class _Copying:
    """Numbers on their way to the host; those on the device are kept until they have arrived."""

    source: PackOutput
    host: PackOutput
    done: torch.cuda.Event

    def __call__(self) -> BatchOutput:
        self.done.synchronize()
        return self.host.numpy()


def _pinned(values: torch.Tensor) -> torch.Tensor:
    room = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return room.copy_(values, non_blocking=True)


@dataclass(frozen=True, slots=True)
class PlacedPack(Pack):
    """A pack whose index tensors are on a device.

    Attributes:
        host: The same texts on the CPU.
        move: Brings a tensor to the device.
    """

    host: Pack
    move: Callable[[torch.Tensor], torch.Tensor]

    @classmethod
    def placed(cls, pack: Pack, move: Callable[[torch.Tensor], torch.Tensor]) -> PlacedPack:
        """Bring a pack's ids to a device."""
        return cls(move(pack.ids), pack.lengths, pack.offsets, pack, move)

    @property
    def first(self) -> torch.Tensor:
        """See `Pack.first`."""
        return self.move(self.host.first)

    def after_first(self) -> torch.Tensor:
        """See `Pack.after_first`."""
        return self.move(self.host.after_first())

    def positions(self, pad_token_id: int | None) -> torch.Tensor:
        """See `Pack.positions`."""
        return self.move(self.host.positions(pad_token_id))


def device_of(device: torch.device) -> Device:
    """Return the operations to encode with on a device."""
    if device.type == "cuda":
        return Cuda(device)
    return Mps() if device.type == "mps" else Host()
