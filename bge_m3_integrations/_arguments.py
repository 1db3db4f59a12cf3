"""An engine or an index as callers hand them to an adapter: by itself, or inside another one."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, TypeGuard

from bge_m3_integrations.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index import HybridIndex


class HasEngine(Protocol):
    """An index, or an adapter over an engine."""

    @property
    def engine(self) -> BGEM3 | None:
        """None where a folder that is not open yet says it."""


class HasIndex(Protocol):
    """An adapter over an index."""

    @property
    def index(self) -> HybridIndex:
        """What it is over."""


EngineLike: TypeAlias = BGEM3 | HasEngine
IndexLike: TypeAlias = HybridIndex | HasIndex


def engine_of(value: object, *, name: str = "engine") -> BGEM3:
    """The engine that a caller hands over.

    Args:
        value: An engine, an index, or an adapter over one of them.
        name: What the caller knows it by.

    Returns:
        The engine.

    Raises:
        InputError: It is none of these.
    """
    if isinstance(value, BGEM3):
        return value
    engine = value.engine if isinstance(value, HybridIndex) else getattr(value, "engine", None)
    if engine is None and has_index(value):  # a folder that is not open yet says it
        engine = index_of(value).engine
    if not isinstance(engine, BGEM3):
        raise InputError(f"{name} must be a BGEM3, or an index or adapter over one{_not(value)}")
    return engine


def index_of(value: object, *, name: str = "index") -> HybridIndex:
    """The index that a caller hands over; that of a vector store in a folder is opened now.

    Args:
        value: An index, or an adapter over one.
        name: What the caller knows it by.

    Returns:
        The index.

    Raises:
        InputError: It is none of these.
    """
    if isinstance(value, HybridIndex):
        return value
    index = getattr(_owner(value), "index", None)
    if not isinstance(index, HybridIndex):
        raise InputError(f"{name} must be a HybridIndex{_not(value)}")
    return index


def has_index(value: object) -> TypeGuard[IndexLike]:
    """Whether a value is an index or an adapter over one; nothing is opened to tell."""
    return isinstance(value, HybridIndex) or isinstance(
        getattr(type(_owner(value)), "index", None), property
    )


def given_once(first: Any, also: Any, names: str) -> Any:
    """The one of two arguments for one thing that was given; an error where they are two."""
    if first is not None and also is not None and also is not first:
        raise InputError(f"{names} are two different things here; give one of them")
    return also if first is None else first


def _owner(value: object) -> object:
    """LlamaIndex's indexes lead to their vector store."""
    return getattr(value, "vector_store", value)


def _not(value: object) -> str:
    if isinstance(value, str):
        return f", not str {value[:60]!r}; a model goes by BGEM3({value[:60]!r})"
    return f", not {type(value).__name__}"
