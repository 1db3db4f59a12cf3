"""What the LlamaIndex tests share; none of them reaches the network or an LLM."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.schema import TextNode
from llama_index.core.settings import _Settings

from bge_m3_integrations import BGEM3
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Modes
from bge_m3_integrations.testing import FakeEncoder

TEXTS = {
    "cat": "the cat sat on the mat",
    "dog": "the dog barks at the cat",
    "bird": "a bird sings in the tree",
    "fish": "the fish swims in the lake",
}


class GatedEncoder(FakeEncoder):
    """Waits inside `encode` until the event loop opens the gate; a blocked loop never does."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.opened: list[bool] = []

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        self.opened.append(self.gate.wait(timeout=5))
        return super().encode(texts, kind=kind, modes=modes, max_length=max_length)


class _Collector(BaseEventHandler):
    names: list[str] = []  # noqa: RUF012  # pydantic copies it

    @classmethod
    def class_name(cls) -> str:
        return "Collector"

    def handle(self, event: BaseEvent, **_: Any) -> None:
        self.names.append(event.class_name())


@pytest.fixture(autouse=True)
def _no_network_and_no_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError(f"a test wanted the network or Settings.llm: {args}, {kwargs}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(_Settings, "llm", property(refuse))
    monkeypatch.setattr(_Settings, "embed_model", property(refuse))


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def engine(encoder: FakeEncoder) -> BGEM3:
    return BGEM3(encoder)


@pytest.fixture
def gated() -> GatedEncoder:
    return GatedEncoder()


@pytest.fixture
def nodes() -> list[TextNode]:
    return [
        TextNode(id_=name, text=text, metadata={"name": name, "legs": {"cat": 4, "dog": 4}})
        for name, text in TEXTS.items()
    ]


@pytest.fixture
def event_names() -> Iterator[list[str]]:
    collector, root = _Collector(), get_dispatcher()
    root.add_event_handler(collector)
    yield collector.names
    root.event_handlers.remove(collector)
