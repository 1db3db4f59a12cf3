"""One caller's texts on their way through a shared batch: run, and answered by rows or an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.engine.request import EncodeRequest
from bge_m3_integrations.errors import EncodingError

LARGE_TEXTS = 64
LARGE_CHARACTERS = 65_536
"""A call of more texts or characters fills the model's passes by itself (some 16,000 tokens): it
gains nothing from company, and would hold up those who wait for one text."""

Run: TypeAlias = Callable[[Sequence[str], EncodeRequest], EmbeddingBatch]


@dataclass(slots=True, eq=False)
class Call:
    """One caller's texts, and how they are run.

    It holds the way to the model, so that a lane, and its idle thread, hold none.
    """

    texts: Sequence[str]
    request: EncodeRequest
    run: Run
    future: Future[EmbeddingBatch] = field(default_factory=Future)

    @property
    def large(self) -> bool:
        """Return whether it fills the model's passes by itself."""
        too_many = len(self.texts) > LARGE_TEXTS
        return too_many or sum(map(len, self.texts)) > LARGE_CHARACTERS

    def fail(self, error: BaseException) -> None:
        """Give the caller an error, unless it was answered already."""
        if isinstance(error, StopIteration):  # no coroutine can be given one: it would hang
            error = RuntimeError(f"the encoder raised {error!r}")
        if not self.future.done():
            self.future.set_exception(error)


class _Here(threading.local):
    """The work of the current thread: a call from inside the encoder must wait for nobody."""

    running = False
    worker = False


here = _Here()


def starts(call: Call) -> bool:
    """Return whether a call may run now; from here on it cannot be canceled."""
    return call.future.set_running_or_notify_cancel()


def serve(calls: list[Call]) -> None:
    """Give every call its rows or its error."""
    try:
        error = _together(calls)
        if error is not None and len(calls) > 1 and isinstance(error, Exception):
            _serve_apart(calls, error)
        elif error is not None:
            for call in calls:
                call.fail(error)
    except BaseException as raised:  # by a callback of a future
        for call in calls:
            call.fail(raised)
        raise


def _serve_apart(calls: list[Call], error: Exception) -> None:
    """After a batch that failed: the call at fault is left out; failing that, each runs alone."""
    left = _without_culprit(calls, error) if isinstance(error, EncodingError) else calls
    # only one such attempt: a model that breaks on every text would take one per call
    if len(left) < len(calls) and _together(left) is None:
        return
    for call in left:
        again = _together([call])
        if again is not None:
            call.fail(again)


def _without_culprit(calls: list[Call], error: EncodingError) -> list[Call]:
    position = error.position
    for call in calls:
        if 0 <= position < len(call.texts):
            own = EncodingError(error.reason, position, error.name)
            own.__cause__ = error
            call.fail(own)
            return [other for other in calls if other is not call]
        position -= len(call.texts)
    return calls


def _together(calls: list[Call]) -> BaseException | None:
    """Run calls as one batch and hand out the rows; return the error if there is one."""
    try:
        parts = _split(run_together(calls), calls)
    except BaseException as error:  # whatever it is, those who wait get it
        return error
    for call, part in zip(calls, parts, strict=True):
        call.future.set_result(part)
    return None


def run_together(calls: list[Call]) -> EmbeddingBatch:
    """Run the texts of all calls at once, as those of the first one."""
    before, here.running = here.running, True
    try:
        first = calls[0]
        texts = first.texts if len(calls) == 1 else [t for call in calls for t in call.texts]
        return first.run(texts, first.request)
    finally:
        here.running = before


def _split(batch: EmbeddingBatch, calls: list[Call]) -> list[EmbeddingBatch]:
    if len(calls) == 1:
        return [batch]
    parts, start = [], 0
    for call in calls:
        parts.append(batch.take(range(start, start + len(call.texts))))
        start += len(call.texts)
    return parts
