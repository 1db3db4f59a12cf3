"""Indexes that adapters open when they are first needed: a vector store's, and a retriever's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from bge_m3_integrations.core.display import Verbatim
from bge_m3_integrations.core.embeddings import as_modes
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.index.arguments import (
    EngineLike,
    IndexLike,
    given_once,
    has_index,
    index_of,
)
from bge_m3_integrations.index.config import IndexConfig, for_reading
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.opening import holds_index, reserve
from bge_m3_integrations.langchain.embeddings import BGEM3Embeddings, engine_of
from bge_m3_integrations.langchain.keywords import StoreOptions
from bge_m3_integrations.stores.base import Store
from bge_m3_integrations.stores.edge.folder.discovery import as_folder, no_index

if TYPE_CHECKING:
    from bge_m3_integrations.stores.edge import EncoderInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig(IndexConfig):
    """Options of a vector store's index: a folder and how to open it, or a store in its place."""

    path: str | Path | None = None
    store: Store | None = None

    @classmethod
    def from_options(cls, given: StoreOptions) -> Self:
        """Read the arguments of a store's constructor that are about its index."""
        values: dict[str, Any] = {**given}
        if values.get("modes") is not None:
            values["modes"] = as_modes(values["modes"])  # the caller may change a list later
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    @property
    def given(self) -> list[str]:
        """The names of the options that are not at their defaults."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not f.default]


class StoreIndex:
    """The index of a vector store: one that the user holds, or one that is opened once.

    A folder that holds an index is checked and reserved at once, and opened when it is needed.
    Arguments that contradict each other are an `InputError`. Thread-safe.

    Args:
        embedding: An engine or `BGEM3Embeddings`.
        index: An index that the user holds; it stays open.
        config: How to make one otherwise.
    """

    def __init__(
        self,
        embedding: BGEM3 | BGEM3Embeddings | None,
        index: HybridIndex | None,
        config: StoreConfig,
    ) -> None:
        self._engine = None if embedding is None else engine_of(embedding, name="embedding")
        _check(self._engine, index, config)
        self._folder = folder = None if config.path is None else as_folder(config.path)
        self._index, self._config = index, config
        self._reserved = None if folder is None else reserve(folder, self._engine, config)
        self._ours, self._closed = index is None, False
        self._lock = threading.Lock()

    @property
    def engine(self) -> BGEM3 | None:
        """The engine; None where a folder that is not open yet says it."""
        return self._engine if self._index is None else self._index.engine

    @property
    def folder(self) -> Path | None:
        """The folder of the index, which need not be open; None in memory."""
        return self._folder if self._index is None else self._index.path

    def shown(self) -> Iterator[str]:
        """The parts of a store's `repr`; nothing is opened for it."""
        if self._index is not None:
            yield repr(self._index)
            return
        yield "in memory" if self._config.path is None else repr(str(self._config.path))
        yield "closed" if self._closed else "not opened"
        if self._engine is not None:
            yield repr(self._engine)

    def get(self, *, begun: bool = False) -> HybridIndex:
        """Return the index, always the same one, opened by the first call.

        `begun` says that it is to be searched, so a folder in which none has begun is an error.
        """
        with self._lock:
            if self._closed:
                raise StoreError("this vector store is closed; make a new one")
            if self._index is None:
                self._index = self._open(begun=begun)
            return self._index

    def close(self) -> None:
        """Close an index that was made here."""
        with self._lock:
            if self._ours:
                self._closed = True
                if self._index is not None:
                    self._index.close()
                if self._reserved is not None:
                    self._reserved.release()

    def _open(self, *, begun: bool) -> HybridIndex:
        config, folder = self._config, self._folder
        if folder is None:
            engine, pooling = cast(BGEM3, self._engine), config.pooling or 1
            return HybridIndex(engine, config.store, modes=config.modes, pooling=pooling)
        if begun and not config.create and not holds_index(folder):
            raise no_index(folder)  # before the model's files are read
        given = {field.name: getattr(config, field.name) for field in fields(IndexConfig)}
        return HybridIndex.open(folder, self._engine, **given)


def _check(engine: BGEM3 | None, index: HybridIndex | None, config: StoreConfig) -> None:
    given = config.given
    if index is not None and not isinstance(index, HybridIndex):
        raise InputError(f"index must be a HybridIndex, not {type(index).__name__}")
    if index is not None and (given or engine not in {None, index.engine}):
        also = given or ["another engine"]
        raise InputError(f"an index brings its own engine and store, but {also} came with it")
    if index is None and engine is None and config.path is None:
        raise InputError("give an embedding, such as BGEM3(), or index=, or the path of an index")
    if config.path is not None and config.store is not None:
        raise InputError("path and store are two places to keep documents; give one of them")
    needs = set(given) - {"path", "store", "modes", "pooling"}
    if config.path is None and needs:
        raise InputError(f"{sorted(needs)} are for an index in a folder; give path= too")


class IndexSource:
    """A retriever's index: one that was given, or one in a folder, opened when it is first used.

    All copies of a retriever share it, so a retriever that is configured anew for each call opens
    nothing again. A folder is checked and reserved at once. Two are equal that stand for one
    folder, or for one index in memory.

    Args:
        index: The index; None for one in a folder.
        folder: The folder.
        store: A vector store whose index it is, which may not be open yet.

    Attributes:
        loaded: The index, if it is open.
        prepared: The index, once its engine knows the modes that it will need.
    """

    def __init__(
        self,
        index: HybridIndex | None = None,
        folder: Path | None = None,
        store: IndexLike | None = None,
    ) -> None:
        self.loaded = index
        self.prepared: HybridIndex | None = None
        self._folder, self._store = folder, store
        self._reserved = None if folder is None else reserve(folder, None, for_reading(folder))
        self._lock = threading.Lock()

    @property
    def shown(self) -> object:
        """The index, the store or the folder, as part of a `repr`; nothing is opened."""
        if self.loaded is not None:
            return Verbatim(repr(self.loaded).removeprefix("HybridIndex(").removesuffix(")"))
        return str(self._folder) if self._store is None else self._store

    @property
    def path(self) -> Path | None:
        """The index's folder; None in memory."""
        if self._folder is not None:
            return self._folder
        return None if self.loaded is None else self.loaded.path

    def index(self) -> HybridIndex:
        """The index, always the same one, opened by the first call."""
        with self._lock:
            if self.loaded is None and self._store is not None:
                self.loaded = index_of(self._store)
            if self.loaded is None:
                self.loaded = _opened(cast(Path, self._folder))  # one of the three is there
            return self.loaded

    def prepare(self) -> HybridIndex:
        """The index, whose engine knows the modes that it will need; may read the model's files."""
        if self.prepared is None:
            index = self.index()
            index.engine.declare("langchain.retriever", query=index.modes)
            self.prepared = index
        return self.prepared

    @property
    def serializable_path(self) -> Path | None:
        """The folder that stands for this index elsewhere; None where no folder says it all."""
        path = self.path if self._store is None else self.index().path
        if path is None or self.loaded is None:
            return path
        note = _note(path)
        mine = self.loaded.engine.options["query_instruction"]
        # two engines of one index may differ in it: elsewhere the index is opened as it was made
        return path if note is None or (note.query_instruction or "") == (mine or "") else None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reserved is not None:  # it goes where it will be opened
            self._reserved.release()
        if self.serializable_path is None:
            raise InputError(
                "a retriever over an index in memory, or over an engine with another query "
                "instruction than its index was made with, cannot be pickled; keep the index in a "
                "folder and make the retriever where it is needed: "
                "BGEM3Retriever(index=HybridIndex.open(path, engine))"
            )
        return IndexSource, (None, self.serializable_path)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IndexSource):
            return NotImplemented
        if self._store is not None and self._store is other._store:
            return True
        if (path := self.path) is not None:
            return path == other.path
        return self.loaded is not None and self.loaded is other.loaded

    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> Self:
        return self  # as the index is: a handle on one collection

    def __deepcopy__(self, memo: object) -> Self:
        return self


def source_of(value: Any) -> IndexSource:
    """Read a user's index: an index, a folder's path, an adapter over an index, or a source."""
    if isinstance(value, IndexSource):
        return value
    if isinstance(value, HybridIndex):
        return IndexSource(value)
    if isinstance(value, str | Path):
        return IndexSource(folder=as_folder(value, name="index"))
    if has_index(value):
        return IndexSource(store=value)
    raise InputError(
        f"index must be a HybridIndex or the folder of one, not {type(value).__name__} {value!r}"
    )


def searched(first: object, engine: EngineLike | None) -> object | None:
    """Choose the index of a retriever, for `source_of`; None where neither argument is given.

    The first one may be an engine, for a new index in memory; an engine beside an index is its own.
    """
    if first is None:
        return None if engine is None else HybridIndex(engine_of(engine))
    if isinstance(first, BGEM3) or (hasattr(first, "engine") and not has_index(first)):
        only: Any = given_once(engine_of(first), engine, "the first argument and engine=")
        return HybridIndex(engine_of(only))
    if engine is not None and (not has_index(first) or engine_of(first) is not engine_of(engine)):
        raise InputError(
            f"engine= is over {engine_of(engine).name}, and an index has an engine of its own; "
            "leave engine out, or open a folder with it: HybridIndex.open(path, engine)"
        )
    return first


def _note(folder: Path) -> EncoderInfo | None:
    from bge_m3_integrations.stores.edge import Manifest

    held = Manifest.read(folder)
    if held is None:
        raise no_index(folder)
    return held.encoder


def _opened(folder: Path) -> HybridIndex:
    note = _note(folder)
    if note is None or note.model is None:
        raise StoreError(
            f"the index in {folder} does not say by which model it was made; assign one that is "
            f"open: retriever.index = HybridIndex.open({str(folder)!r}, engine)"
        )
    return HybridIndex.open(folder, create=False, read_only=for_reading(folder).read_only)
