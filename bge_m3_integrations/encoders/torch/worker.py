"""A process that encodes: what it is given, what it does, what it answers.

It answers one job at a time on each of its lanes. It never sees texts: the caller tokenizes, for
only that tells how much work a text is.
"""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from bge_m3_integrations._internal.channel import Failure, receive, send
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode
from bge_m3_integrations.encoders.config import ModelConfig
from bge_m3_integrations.encoders.torch.tokenizer import PackedIds
from bge_m3_integrations.errors import PoolingWarning

READY = "ready"
"""The first message of a lane."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The configuration of a worker's encoder.

    Attributes:
        folder: The checkpoint, on this machine.
        model: How to load it, on one device.
        threads: CPU threads of the worker; None leaves torch's choice.
        lanes: Jobs that it answers at once.
    """

    folder: Path
    model: ModelConfig
    threads: int | None
    lanes: int


@dataclass(frozen=True, slots=True)
class Job:
    """Texts to encode.

    Attributes:
        tokens: Their ids.
        modes: The modes to compute.
    """

    tokens: PackedIds
    modes: frozenset[Mode]


def work(config: WorkerConfig, connections: Sequence[Connection]) -> None:
    """A worker's whole life: answer jobs until the caller's ends are closed.

    Args:
        config: How to make the encoder.
        connections: One for each lane.
    """
    import torch

    from bge_m3_integrations.encoders.torch.encoder import TorchEncoder
    from bge_m3_integrations.encoders.torch.load import CheckpointSource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends workers
    warnings.simplefilter("ignore", PoolingWarning)  # the caller has warned
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    encoder = TorchEncoder(CheckpointSource(config.folder, config.model), config.model)
    device = config.model.devices[0]

    def encode(job: Job) -> EmbeddingBatch:
        if device.startswith("cuda"):
            torch.cuda.set_device(device)  # of this thread; else it also opens the first one
        return encoder.encode_tokens(job.tokens, modes=job.modes)

    lanes = [
        threading.Thread(target=_serve, args=(connection, encode)) for connection in connections
    ]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()


def _serve(connection: Connection, encode: Callable[[Job], EmbeddingBatch]) -> None:
    # however it ends, the caller is told: a closed lane is an error there, a silent one a deadlock
    with connection, suppress(EOFError, OSError):  # the caller is gone
        send(connection, READY)
        while True:
            job: Job = receive(connection)
            send(connection, _answer(job, encode))
            del job


def _answer(job: Job, encode: Callable[[Job], EmbeddingBatch]) -> EmbeddingBatch | Failure:
    try:
        return encode(job)
    except Exception as error:
        return Failure.from_error(error)
