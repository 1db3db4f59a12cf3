"""The caller's side of worker processes: starting them, asking them, noticing that they died."""

from __future__ import annotations

import multiprocessing
import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from bge_m3_integrations._internal.channel import Failure, how_ended, receive, send
from bge_m3_integrations._internal.subprocesses import spawning
from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.encoders.torch.worker import Job, WorkerConfig, work
from bge_m3_integrations.errors import WorkerError

_GRACE = 5.0
_UNGUARDED = (
    "; it had not started yet: a script that gives several devices must begin its work under "
    '`if __name__ == "__main__":`, because workers import it'
)


class Lane:
    """One conversation with a worker: a job, then its answer; for one thread at a time.

    Args:
        process: The worker.
        connection: The caller's end of the pipe.
        device: What the worker computes on.
    """

    def __init__(self, process: BaseProcess, connection: Connection, device: str) -> None:
        self._process, self._connection, self._device = process, connection, device
        self._started = False

    def ask(self, job: Job) -> EmbeddingBatch | Failure:
        """Have a job done.

        Args:
            job: Texts to encode.

        Returns:
            Their embeddings, or what the worker raised.

        Raises:
            WorkerError: The worker ended. After this or any other error the lane is of no use.
        """
        try:
            if not self._started:
                self._answer()
                self._started = True
            send(self._connection, job)
            return self._answer()
        except (EOFError, OSError) as error:
            raise WorkerError(self._obituary()) from error

    def _answer(self) -> EmbeddingBatch | Failure:
        # the process too: a pipe that another child of the caller inherited never says its end
        if self._connection not in wait([self._connection, self._process.sentinel]):
            raise EOFError
        found: EmbeddingBatch | Failure = receive(self._connection)
        return found

    def _obituary(self) -> str:
        self._process.join(_GRACE)
        name = f"the worker process of {self._device} (pid {self._process.pid})"
        code = self._process.exitcode
        how = "closed its connection" if code is None else how_ended(code)
        return f"{name} {how}{'' if self._started else _UNGUARDED}"


class Workers:
    """Running workers, and which of their lanes are free.

    Starts a process for every config, by spawning: a forked one could not use CUDA.

    Args:
        configs: What each worker is.
    """

    def __init__(self, configs: Sequence[WorkerConfig]) -> None:
        self.pid = os.getpid()
        self._changed = threading.Condition()
        self._reason: WorkerError | None = None
        self._processes: list[BaseProcess] = []
        # also at the interpreter's exit, and when the engine is dropped without a word
        self._stop = weakref.finalize(self, _stop, self._processes, self.pid)
        lanes = [self._start(config) for config in configs]
        self.size = sum(len(own) for own in lanes)
        # the workers' first lanes first
        depth = max(len(own) for own in lanes)
        self._free = deque(own[i] for i in range(depth) for own in lanes if i < len(own))

    def _start(self, config: WorkerConfig) -> list[Lane]:
        context = multiprocessing.get_context("spawn")
        ends = [context.Pipe() for _ in range(config.lanes)]
        theirs = [end for _, end in ends]
        name = f"bge-m3 on {config.model.devices[0]}"
        process = context.Process(target=work, args=(config, theirs), name=name, daemon=True)
        with spawning():
            process.start()
        self._processes.append(process)
        for end in theirs:
            end.close()  # theirs alone: so their end is seen here
        return [Lane(process, end, config.model.devices[0]) for end, _ in ends]

    @property
    def running(self) -> bool:
        """Whether jobs can be given, by this very process."""
        return self._reason is None and self.pid == os.getpid()

    def acquire(self) -> Lane:
        """Wait for a free lane, to be given back with `release`.

        Returns:
            The lane that has been free the longest.

        Raises:
            WorkerError: The workers were ended meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._reason)
            if self._reason is not None:
                raise self._reason
            return self._free.popleft()

    def release(self, lane: Lane) -> None:
        """Give a lane back whose last job was answered."""
        with self._changed:
            self._free.append(lane)
            self._changed.notify()

    def end(self, reason: WorkerError) -> WorkerError:
        """End all workers; whoever waits for one gets the reason.

        Args:
            reason: Why.

        Returns:
            The first reason ever given.
        """
        with self._changed:
            if self._reason is None:
                self._reason = reason
            self._changed.notify_all()
        self._stop()
        return self._reason


def _stop(processes: list[BaseProcess], owner: int) -> None:
    if os.getpid() != owner:  # a fork has the objects, but the processes are not its children
        return
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_GRACE)
        if process.is_alive():
            process.kill()
            process.join()
