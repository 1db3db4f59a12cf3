"""Objects over a pipe between processes; their arrays travel as raw bytes, never as lists."""

from __future__ import annotations

import io
import pickle
import signal
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Larger messages make the receiver allocate more for each read than the pipe holds: 1 MiB passes
# 2.3 GB/s, one message of 256 MiB 0.6 GB/s.
_MESSAGE = 1 << 20


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer.

    Attributes:
        error: As it was raised, or in words.
    """

    error: Exception

    @classmethod
    def from_error(cls, error: Exception) -> Failure:
        """Return the error itself where it survives the way, else one that says what it was."""
        trace = "".join(traceback.format_exception(error))
        try:
            copy = pickle.loads(pickle.dumps(error))
        except Exception:
            copy = None
        if type(copy) is not type(error):
            copy = RuntimeError(f"{type(error).__name__}: {error}")
        copy.add_note(f"In the other process:\n{trace}")
        return cls(copy)


def how_ended(code: int) -> str:
    """Say how a process ended, by its exit code, as the end of a sentence that names it."""
    if code >= 0:
        return f"ended with exit code {code}; its own output may say why"
    known = {number.value: number.name for number in signal.Signals}
    killed = known.get(-code, f"signal {-code}")
    by = " (the system kills processes when memory is full)" if killed == "SIGKILL" else ""
    return f"was killed by {killed}{by}"


def send(
    connection: Connection, message: object, *, pickler: type[pickle.Pickler] = pickle.Pickler
) -> None:
    """Send an object, its contiguous arrays outside of the pickle (protocol 5, PEP 574).

    Args:
        connection: A duplex pipe's end.
        message: Anything that pickles.
        pickler: Makes the pickle.

    Raises:
        OSError: The other end is closed.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = io.BytesIO()
    pickler(head, protocol=5, buffer_callback=buffers.append).dump(message)
    views = [buffer.raw() for buffer in buffers]
    connection.send((head.getvalue(), [view.nbytes for view in views]))
    for view in views:
        for start in range(0, view.nbytes, _MESSAGE):
            connection.send_bytes(view[start : start + _MESSAGE])


def receive(connection: Connection) -> Any:
    """Wait for an object that `send` sent; its arrays own what they were received into.

    Args:
        connection: A duplex pipe's end.

    Returns:
        The object.

    Raises:
        EOFError: The other end is closed.
        OSError: It was closed in the middle of an object.
    """
    head, sizes = connection.recv()
    return pickle.loads(head, buffers=[_filled(connection, size) for size in sizes])


def _filled(connection: Connection, size: int) -> NDArray[np.uint8]:
    room = np.empty(size, np.uint8)
    view, start = room.data, 0
    while start < size:
        start += connection.recv_bytes_into(view[start:])
    return room
