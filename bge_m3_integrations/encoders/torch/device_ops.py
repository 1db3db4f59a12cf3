"""The differences in encoding between devices: the seam below the scheduling.

`encoders.pipeline` decides when; a `Device` knows which stages overlap there, how to bring numbers
back, and how to give memory back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from bge_m3_integrations._internal.forks import new_rlock
from bge_m3_integrations.encoders.pipeline import Overlap
from bge_m3_integrations.encoders.torch.modules import BatchOutput, PackOutput


class Device:
    """The CPU: numbers are where they are needed, and every core computes already."""

    overlap = Overlap()

    def alone(self) -> AbstractContextManager[Any]:
        """Held while a thread queues work on the device; any number at once, unless overridden."""
        return nullcontext()

    def fetch(self, output: PackOutput) -> Callable[[], BatchOutput]:
        """Begin to copy a pass's numbers to the host; the result waits for them."""
        return partial(output.map, torch.Tensor.numpy)

    def make_room(self) -> None:
        """Give cached memory back; nothing is cached here."""


# Of the process: torch's queue of commands for Apple's GPU kills it when two threads fill it.
_MPS = new_rlock()


class Mps(Device):
    """Apple's GPU: tokenizing ahead overlaps with it; copies wait, as memory is shared."""

    overlap = Overlap(ahead=True)

    def alone(self) -> AbstractContextManager[Any]:
        """One thread of the process at a time, from the first command to the numbers."""
        return _MPS

    def fetch(self, output: PackOutput) -> Callable[[], BatchOutput]:
        """The numbers once they are computed."""
        return super().fetch(output.map(torch.Tensor.cpu))

    def make_room(self) -> None:
        """Empty the allocator's cache."""
        with self.alone():
            torch.mps.empty_cache()


class Cuda(Device):
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
        return self.host.map(torch.Tensor.numpy)


def _pinned(values: torch.Tensor) -> torch.Tensor:
    room = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return room.copy_(values, non_blocking=True)


def device_of(device: torch.device) -> Device:
    """Return the operations to encode with on a device."""
    if device.type == "cuda":
        return Cuda(device)
    return Mps() if device.type == "mps" else Device()
