"""An engine or an index as callers hand them to an adapter: by itself, or inside another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeGuard

from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.config import IndexOptions
from bge_m3_integrations.index.index import HybridIndex


class HasEngine(Protocol):
    """An index, or an adapter over an engine."""

    @property
    def engine(self) -> BGEM3 | None:
        """None where a folder that is not open yet says it."""


class HasIndex(Protocol):
    """An adapter over an index."""

    @property
    def index(self) -> HybridIndex:
        """The index it is over."""


EngineLike: TypeAlias = BGEM3 | HasEngine
IndexLike: TypeAlias = HybridIndex | HasIndex


def engine_of(value: object, *, name: str = "engine") -> BGEM3:
    """The engine that a caller hands over.

    Args:
        value: An engine, an index, or an adapter over one of them.
        name: The caller's name for it.

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
        raise InputError(
            f"{name} must be a BGEM3, or an index or adapter over one{not_that(value)}"
        )
    return engine


def index_of(value: object, *, name: str = "index") -> HybridIndex:
    """The index that a caller hands over; that of a vector store in a folder is opened now.

    Args:
        value: An index, or an adapter over one.
        name: The caller's name for it.

    Returns:
        The index.

    Raises:
        InputError: It is none of these.
    """
    if isinstance(value, HybridIndex):
        return value
    index = getattr(_owner(value), "index", None)
    if not isinstance(index, HybridIndex):
        raise InputError(f"{name} must be a HybridIndex{not_that(value)}")
    return index


def has_index(value: object) -> TypeGuard[IndexLike]:
    """Whether a value is an index or an adapter over one; nothing is opened to tell."""
    return isinstance(value, HybridIndex) or isinstance(
        getattr(type(_owner(value)), "index", None), property
    )


def index_for(
    first: object,
    *,
    engine: EngineLike | None = None,
    index: IndexLike | None = None,
    path: str | Path | None = None,
    options: IndexOptions | None = None,
) -> HybridIndex:
    """The index that an adapter is over: one that is handed over, one in a folder, or a new one.

    Args:
        first: The first argument: an index, an engine, or an adapter over one of them.
        engine: What came as `engine=`; beside an index, that of the index.
        index: What came as `index=`.
        path: What came as `path=`.
        options: What `HybridIndex.open` takes besides; None stands for none of them.

    Returns:
        The index; one in a folder was opened here.

    Raises:
        InputError: They contradict each other, or there are none.
        StoreError: See `HybridIndex.open`.
    """
    chosen: Any = {name: value for name, value in (options or {}).items() if value is not None}
    if has_index(first):
        index = given_once(first, index, "the first argument and index=")
    elif first is not None:
        engine = given_once(engine_of(first), engine, "the first argument and engine=")
    encodes = None if engine is None else engine_of(engine)
    if index is not None:
        held = index_of(index)
        if also := [*chosen, *(["path"] if path is not None else [])]:
            raise InputError(f"an index brings its own store, but {also} came with it")
        _check_engine(held, encodes)
        return held
    if path is not None:
        return HybridIndex.open(path, encodes, **chosen)
    if encodes is None:
        raise InputError("give an engine, such as BGEM3(), or index=, or path= of an index")
    if folder := chosen.keys() - {"modes", "pooling"}:
        raise InputError(f"{sorted(folder)} are for an index in a folder; give path= too")
    return HybridIndex(encodes, **chosen)


def _check_engine(index: HybridIndex, engine: BGEM3 | None) -> None:
    if engine is not None and engine is not index.engine:
        raise InputError(
            f"the engine over {engine.name} is not the index's, over {index.engine.name}; give "
            "the index alone"
        )


def given_once(first: Any, also: Any, names: str) -> Any:
    """The one of two arguments for one thing that was given; an error where they are two."""
    if first is not None and also is not None and also is not first:
        raise InputError(f"{names} are two different things here; give one of them")
    return also if first is None else first


def _owner(value: object) -> object:
    """LlamaIndex's indexes lead to their vector store."""
    return getattr(value, "vector_store", value)


def not_that(value: object) -> str:
    """The end of an error: the value that was given, and where a name or a path goes instead."""
    if not isinstance(value, str | Path):
        return f", not {type(value).__name__}"
    said = str(value)[:60]
    return (
        f", not {type(value).__name__} {said!r}; a model goes by BGEM3({said!r}), the folder of an "
        f"index by path={said!r}"
    )
