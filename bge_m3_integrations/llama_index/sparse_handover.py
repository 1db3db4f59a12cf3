"""Lexical weights computed before a vector store asks for them.

Stores ask for them inside their own methods: on the event loop's thread, one text at a time, or by
another text than the one that was embedded. An override encodes first and hands the rows over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from bge_m3_integrations.errors import StoreError

TokenWeights = dict[int, float]
"""Token id to lexical weight."""


@dataclass(frozen=True, slots=True)
class _Ready:
    owner: object
    rows: deque[tuple[str, TokenWeights]]


_ready: ContextVar[_Ready | None] = ContextVar("_ready", default=None)


@contextmanager
def ready(owner: object, texts: Sequence[str], rows: Sequence[TokenWeights]) -> Iterator[None]:
    """Hand `owner` the rows of texts that it will be asked for in this order, in this task."""
    token = _ready.set(_Ready(owner, deque(zip(texts, rows, strict=True))))
    try:
        yield
    finally:
        _ready.reset(token)


def taken(owner: object, texts: Sequence[str]) -> list[TokenWeights] | None:
    """The rows that were handed to `owner` for the next texts; None where none were.

    `StoreError` where other texts were expected: the store is of another version.
    """
    held = _ready.get()
    if held is None or held.owner is not owner:
        return None
    return [_next(held.rows, text) for text in texts]


def _next(rows: deque[tuple[str, TokenWeights]], text: str) -> TokenWeights:
    expected, row = rows.popleft() if rows else (None, {})
    if text != expected:
        raise StoreError(
            f"the vector store asks for the weights of {text[:80]!r} where "
            f"{'nothing' if expected is None else repr(expected[:80])} was expected; its package "
            "changed: install the version that bge-m3-integrations was tested with"
        )
    return row
