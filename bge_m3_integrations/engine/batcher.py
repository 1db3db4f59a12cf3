"""Calls of many threads and coroutines, gathered into batches.

The main thread runs its texts at once, and so does a large call: it gains nothing from company.
All other calls wait for a worker thread, one for each kind of text, so that a query never waits
behind documents. It runs those that wait together, however many callers there are: each thread
that computes has a team of OpenMP threads for as long as it lives.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from bge_m3_integrations._internal.shutdown import stop_at_exit
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind
from bge_m3_integrations.core.validation import ENCODED_CHARACTERS
from bge_m3_integrations.engine.batch_calls import Call, Run, here, run_together, serve, starts
from bge_m3_integrations.engine.request import EncodeRequest
from bge_m3_integrations.errors import InputError

MOST_TEXTS = 512
"""Most texts of one batch; its characters are bounded too, by `ENCODED_CHARACTERS`."""
IDLE_SECONDS = 5.0
"""How long a worker thread stays when nothing comes."""
_MOST_WINDOWS = 5


class Batcher:
    """Gathers calls that wait at the same time into batches; thread-safe.

    Args:
        batch_window_ms: How long a call may wait for others to join its batch, in milliseconds; 0
            gathers only calls that wait already. A lone call never waits.

    Raises:
        InputError: `batch_window_ms` is negative or not finite.
    """

    def __init__(self, *, batch_window_ms: float) -> None:
        self.batch_window_ms = _milliseconds(batch_window_ms)
        self._renew()

    def encode(self, texts: Sequence[str], request: EncodeRequest, run: Run) -> EmbeddingBatch:
        """Run texts, together with those of others where others wait.

        Args:
            texts: Checked texts.
            request: Of equal ones the texts run together.
            run: Turns any texts of an equal request into a row each.

        Returns:
            One row per text, in order.
        """
        call = Call(texts, request, run)
        if here.running or here.worker or call.large:
            return run_together([call])
        self._own_lanes()[request.kind, False].put(call)
        try:
            return call.future.result()
        finally:  # also where the caller was interrupted
            call.future.cancel()

    def submit(
        self, texts: Sequence[str], request: EncodeRequest, run: Run
    ) -> Future[EmbeddingBatch]:
        """Queue texts; see `encode`. The future can be canceled until its batch starts."""
        call = Call(texts, request, run)
        if here.running:
            call.future.set_running_or_notify_cancel()
            serve([call])
        else:
            self._own_lanes()[request.kind, call.large].put(call)
        return call.future

    def close(self) -> None:
        """End the worker threads once nothing waits; the next call that needs one starts one."""
        for lane in self._own_lanes().values():
            lane.close()

    def _own_lanes(self) -> dict[tuple[Kind, bool], _Lane]:
        if self._process != os.getpid():  # forked: the parent's threads and locks stayed there
            self._renew()
        return self._lanes

    def _renew(self) -> None:
        seconds = self.batch_window_ms / 1000
        kinds: tuple[Kind, ...] = ("query", "document")
        small = {(kind, False): _Lane(seconds, MOST_TEXTS) for kind in kinds}
        # large calls that nobody runs in a thread of his own: one after the other
        self._lanes = small | {(kind, True): _Lane(0.0, 0) for kind in kinds}
        self._process = os.getpid()


class _Lane:
    """Calls of one kind, run one batch at a time.

    Args:
        window: Most seconds without a new call that a batch waits for more.
        most_texts: Most texts of a batch of several calls.
    """

    def __init__(self, window: float, most_texts: int) -> None:
        self._window = window
        self._most_texts = most_texts
        self._waiting: deque[Call] = deque()
        self._busy = False  # the worker has calls to run, or runs some
        self._expected = 1
        self._worker: threading.Thread | None = None
        self._closing = False
        self._changed = threading.Condition()

    def put(self, call: Call) -> None:
        """Have the worker run a call."""
        with self._changed:
            self._waiting.append(call)
            if not self._busy:
                self._wake()
            elif self._complete():  # waking it before that costs more than a call
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closing = self._worker is not None
            self._changed.notify()

    def stop(self, seconds: float) -> None:
        """Cancel the calls that wait, and wait for the one that runs, as the interpreter ends."""
        with self._changed:
            for call in self._waiting:
                call.future.cancel()
            worker = self._worker
            self._closing = worker is not None
            self._changed.notify()
        if worker is not None and worker is not threading.current_thread():
            worker.join(seconds)

    def _wake(self) -> None:
        self._busy = True
        if self._worker is not None:
            self._changed.notify()
            return
        self._worker = threading.Thread(target=self._work, name="bge-m3-batcher", daemon=True)
        stop_at_exit(self)
        try:
            self._worker.start()
        except RuntimeError as error:  # the system gives no thread: say so to all who wait
            self._worker, self._busy = None, False
            failed = [call for call in self._waiting if starts(call)]
            self._waiting.clear()
            for call in failed:
                call.fail(error)

    def _work(self) -> None:
        here.worker = True
        try:
            while self._serve_next():
                pass
        finally:
            self._replace_worker()

    def _serve_next(self) -> bool:
        """Run one batch, if any; its texts and its model are let go before the next is awaited."""
        batch = self._next()
        if batch:
            serve(batch)
            with self._changed:
                self._expected = len(batch) + len(self._waiting)
        return bool(batch)

    def _next(self) -> list[Call]:
        """Await a batch; none when nothing came for long, and then the worker is forgotten."""
        with self._changed:
            while self._called() and self._busy:
                self._await_others()
                if batch := self._take():
                    return batch
                self._busy, self._expected = False, 1
            self._worker, self._closing = None, False
            return []

    def _called(self) -> bool:
        return self._changed.wait_for(lambda: self._busy or self._closing, IDLE_SECONDS)

    def _await_others(self) -> None:
        for _ in range(_MOST_WINDOWS):
            count = len(self._waiting)
            if self._complete():
                return
            woken = self._changed.wait(self._window)
            if not woken and count == len(self._waiting):
                return

    def _complete(self) -> bool:
        """Return whether the next batch need not wait: it is as large as the last one."""
        waiting = self._waiting
        count = len(waiting)
        if not self._window or count >= self._most_texts:
            return True
        if count and waiting[0].request != waiting[-1].request:
            return True  # others gather while this batch runs
        return count >= self._expected if self._expected > 1 else count <= 1

    def _take(self) -> list[Call]:
        """Take the oldest call and those that fit its batch; canceled ones are dropped."""
        batch: list[Call] = []
        rest: deque[Call] = deque()
        texts = characters = 0
        for call in self._waiting:
            more, longer = len(call.texts), sum(map(len, call.texts))
            fits = texts + more <= self._most_texts and characters + longer <= ENCODED_CHARACTERS
            if batch and not (fits and call.request == batch[0].request):
                rest.append(call)
            elif starts(call):
                batch.append(call)
                texts, characters = texts + more, characters + longer
        self._waiting = rest
        return batch

    def _replace_worker(self) -> None:
        """Replace a worker that died of an error in a future's callback."""
        with self._changed:
            if self._worker is threading.current_thread():
                self._worker, self._busy = None, False
                if self._waiting:
                    self._wake()


def _milliseconds(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise InputError(f"batch_window_ms must be a finite number of at least 0, not {value!r}")
    return float(value)
