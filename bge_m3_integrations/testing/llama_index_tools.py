"""Tools of the conformance tests: watching the event loop, events and errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index_instrumentation import get_dispatcher
from pydantic import PrivateAttr

from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Modes
from bge_m3_integrations.testing.fake import FakeEncoder


class GatedEncoder(FakeEncoder):
    """Waits inside `encode` until the event loop opens the gate; a blocked loop never does.

    Attributes:
        gate: Open at first.
        opened: Of each call, whether the gate was opened in time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.opened: list[bool] = []

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """See `FakeEncoder.encode`."""
        self.opened.append(self.gate.wait(timeout=2))
        return super().encode(texts, kind=kind, modes=modes, max_length=max_length)


def leaves_the_loop_free(encoder: GatedEncoder, work: Callable[[], Awaitable[object]]) -> bool:
    """Whether the event loop ran while the encoder of `work` was at work.

    False if the loop stood still, or nothing was encoded.
    """

    async def watched() -> bool:
        encoder.gate.clear()
        encoder.opened.clear()
        task = asyncio.ensure_future(work())
        await asyncio.sleep(0)
        encoder.gate.set()
        await task
        return bool(encoder.opened) and all(encoder.opened)

    return asyncio.run(watched())


def refusal(work: Callable[[], object]) -> str:
    """The message of the `ValueError` that a call must raise."""
    try:
        found = work()
    except ValueError as error:
        return str(error)
    raise AssertionError(f"no error, but {found!r}")


class _Collector(BaseEventHandler):
    _names: list[str] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex wants of every handler."""
        return "ConformanceCollector"

    def handle(self, event: BaseEvent, **_: Any) -> None:
        """Keep the event's name."""
        self._names.append(event.class_name())


@contextmanager
def collected_events() -> Iterator[list[str]]:
    """The class names of all events that LlamaIndex's dispatcher sees, as they come."""
    collector, root = _Collector(), get_dispatcher()
    root.add_event_handler(collector)
    try:
        yield collector._names
    finally:
        root.event_handlers.remove(collector)


def descendants(cls: Any) -> Iterator[Any]:
    """All classes below one that are known to this process."""
    for child in cls.__subclasses__():
        yield child
        yield from descendants(child)
