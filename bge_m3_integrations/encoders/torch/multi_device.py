"""Several devices as one encoder: a worker process on each, work split by tokens."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Self

import numpy as np
import torch

from bge_m3_integrations._internal.channel import Failure
from bge_m3_integrations._internal.forks import new_lock
from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    IntArray,
    Kind,
    Mode,
    Modes,
    as_modes,
    offsets_of,
)
from bge_m3_integrations.encoders.batching import shares
from bge_m3_integrations.encoders.config import ModelConfig
from bge_m3_integrations.encoders.pipeline import prepared
from bge_m3_integrations.encoders.torch.devices import default_budget, pick_device
from bge_m3_integrations.encoders.torch.encode_job import Stretch
from bge_m3_integrations.encoders.torch.encoder import TorchEncoder
from bge_m3_integrations.encoders.torch.load import CheckpointSource
from bge_m3_integrations.encoders.torch.output import Results
from bge_m3_integrations.encoders.torch.tokenizer import PackedIds
from bge_m3_integrations.encoders.torch.worker import Job, WorkerConfig
from bge_m3_integrations.encoders.torch.workers import Lane, Workers
from bge_m3_integrations.encoders.wrapper import EncoderWrapper
from bge_m3_integrations.errors import EncodingError, WorkerError

# Below this a second device would wait for its share longer than it would compute.
_LEAST_SHARE = 1024
# A job is so many of a worker's passes: enough to overlap, few enough to even out at the end.
_PASSES = 2


class SeveralDevices(EncoderWrapper):
    """An encoder whose forward passes run in worker processes, one per device.

    Workers start with the first text and end with `close`, with this object, or with the
    interpreter. The caller's process tokenizes and never loads the weights.

    Args:
        model: A folder or a hub id.
        config: How to load it; a device that is named twice gets two workers.
    """

    encoder: TorchEncoder

    def __init__(self, model: str | Path, config: ModelConfig) -> None:
        self._source, self._config = CheckpointSource(model, config), config
        super().__init__(TorchEncoder(self._source, config))
        self._workers: Workers | None = None
        self._lock = new_lock()

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """See `Encoder.encode`; after a `WorkerError` the next call starts new workers."""
        modes = as_modes(modes)
        stretches = self.encoder.stretches(texts, kind=kind, max_length=max_length)
        if not len(texts):
            return EmbeddingBatch.empty(modes, dim=self.dim, colbert_dim=self.colbert_dim)
        results = Results(len(texts), modes, dim=self.dim, colbert_dim=self.colbert_dim)
        found = prepared(stretches.tokenized, stretches.pieces())
        with closing(found), _Call(self._running(), results, modes) as call:
            for stretch in found:
                results.extend(stretch.tokens)
                for rows in shares(stretch.lengths, tokens=self._share(stretch)):
                    call.give(stretch, rows)
            call.wait()
        return results.batch()

    @property
    def loaded_as(self) -> tuple[str, str] | None:
        """See `encoders.base.TellsLoaded`; the weights are in the workers."""
        running = self._workers is not None and self._workers.running
        return (" + ".join(self._config.devices), self._config.dtype_name) if running else None

    def close(self) -> None:
        """End the workers; a call that waits for one fails. The next call starts new ones."""
        with self._lock:
            workers, self._workers = self._workers, None
        if workers is not None:
            workers.end(WorkerError("the workers were ended by close()"))

    def _running(self) -> Workers:
        with self._lock:
            if self._workers is None or not self._workers.running:
                self._workers = Workers(self._configs())
            return self._workers

    def _configs(self) -> list[WorkerConfig]:
        devices = [pick_device(name) for name in self._config.devices]
        threads = torch.get_num_threads() // max(1, sum(d.type == "cpu" for d in devices))
        return [
            WorkerConfig(
                folder=self._source.files.folder,
                model=ModelConfig(
                    device=str(device),
                    dtype=self._config.dtype,
                    pooling=self._source.pooling,
                    token_budget=self._config.token_budget,
                    trust_remote_code=self._config.trust_remote_code,
                ),
                threads=max(1, threads) if device.type == "cpu" else None,
                # on a GPU one job comes back while the next computes
                lanes=1 if device.type == "cpu" else 2,
            )
            for device in devices
        ]

    def _share(self, stretch: Stretch) -> int:
        """Tokens of a job."""
        even = -(-int(stretch.lengths.sum()) // len(self._config.devices))
        most = _PASSES * (self._config.token_budget or default_budget(self._source.device))
        return max(_LEAST_SHARE, min(even, most))


class _Call:
    """The jobs of one encode call.

    A thread asks each and stores its answer, so that Ctrl-C in the caller never leaves a lane in
    the middle of a conversation.
    """

    def __init__(self, workers: Workers, results: Results, modes: frozenset[Mode]) -> None:
        self._workers, self._results, self._modes = workers, results, modes
        self._jobs: set[Future[None]] = set()
        self._threads = ThreadPoolExecutor(workers.size, "bge-m3-lane")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def give(self, stretch: Stretch, rows: IntArray) -> None:
        """Hand texts of a stretch to the next free worker; raises what an earlier job raised."""
        lane = self._workers.acquire()
        try:
            self._raise_failed()
        except BaseException:
            self._workers.release(lane)
            raise
        self._jobs.add(self._threads.submit(self._run, lane, stretch, rows))

    def wait(self) -> None:
        """Wait for all jobs; raises what one raised, without waiting for the others."""
        wait(self._jobs, return_when=FIRST_EXCEPTION)
        self._raise_failed()

    def _raise_failed(self) -> None:
        done = {job for job in self._jobs if job.done()}
        self._jobs -= done
        for job in done:
            job.result()

    def _run(self, lane: Lane, stretch: Stretch, rows: IntArray) -> None:
        places = stretch.first + rows
        answer = self._asked(lane, Job(_taken(stretch.tokens, rows), self._modes))
        if isinstance(answer, Failure):
            raise _placed(answer.error, places)
        vectors = None if answer.colbert is None else answer.colbert.vectors
        self._results.write(places, answer.dense, answer.sparse, vectors)

    def _asked(self, lane: Lane, job: Job) -> EmbeddingBatch | Failure:
        """A job's answer; a lane whose conversation broke off is never used again."""
        try:
            answer = lane.ask(job)
        except WorkerError as error:
            first = self._workers.end(error)
            if first is error:
                raise
            raise first from error
        except BaseException as error:
            self._workers.end(WorkerError(f"the workers were ended after {error!r}"))
            raise
        self._workers.release(lane)
        return answer


def _placed(error: Exception, places: IntArray) -> Exception:
    """A worker's error with the caller's position in the place of the job's."""
    if not isinstance(error, EncodingError):
        return error
    placed = EncodingError(error.reason, int(places[error.position]))
    placed.__cause__ = error
    return placed


def _taken(tokens: PackedIds, rows: IntArray) -> PackedIds:
    """Some of the texts."""
    ids = np.concatenate([tokens.row(int(i)) for i in rows])
    return PackedIds(ids, offsets_of(tokens.lengths[rows]), tokens.truncated[rows])


def checkpoint_encoder(model: str | Path, config: ModelConfig) -> TorchEncoder | SeveralDevices:
    """Make an encoder over a checkpoint on one device or on several; nothing is read yet.

    Args:
        model: A folder or a hub id.
        config: How to load it.

    Returns:
        The encoder.
    """
    if len(config.devices) == 1:
        return TorchEncoder(CheckpointSource(model, config), config)
    return SeveralDevices(model, config)
