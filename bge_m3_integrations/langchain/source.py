"""The source of a retriever's index."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bge_m3_integrations.core.display import Verbatim
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.index.arguments import (
    EngineLike,
    IndexLike,
    engine_of,
    given_once,
    has_index,
    index_of,
)
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.opening import for_reading, reserve
from bge_m3_integrations.stores.edge.folder.discovery import as_folder, no_index

if TYPE_CHECKING:
    from bge_m3_integrations.stores.edge import EncoderInfo


class Source:
    """An index that was given, or one in a folder that is opened when it is first used.

    All copies of a retriever share it, so that what is configured anew for each call opens nothing
    again. A folder is checked and reserved at once. Two are equal that stand for one folder, or for
    one index in memory.

    Args:
        index: The index; None for one in a folder.
        folder: The folder.
        store: A vector store whose index it is, which may not be open yet.
        role: Under which the engine is told what is needed of it.

    Raises:
        StoreError: The folder holds no index, or another process holds it.
    """

    def __init__(
        self,
        index: HybridIndex | None = None,
        *,
        folder: Path | None = None,
        store: IndexLike | None = None,
        role: str,
    ) -> None:
        self._held = index
        self._folder = folder
        self._reserved = None if folder is None else reserve(folder, None, for_reading(folder))
        self._store = store
        self._role = role
        self._lock = threading.Lock()
        self.ready: HybridIndex | None = None

    @classmethod
    def of(cls, value: Any, *, role: str) -> Self | Source:
        """Read what a user gives as an index.

        Args:
            value: An index, a folder's path, an adapter over an index, or a source.
            role: See `Source`.

        Returns:
            The source.

        Raises:
            InputError: It is none of these.
        """
        if isinstance(value, Source):
            return value
        if isinstance(value, HybridIndex):
            return cls(value, role=role)
        if isinstance(value, str | Path):
            return cls(folder=as_folder(value, name="index"), role=role)
        if has_index(value):
            return cls(store=value, role=role)
        raise InputError(
            f"index must be a HybridIndex or the folder of one, not {type(value).__name__} "
            f"{value!r}"
        )

    @property
    def held(self) -> HybridIndex | None:
        """The index, if it is open."""
        return self._held

    @property
    def shown(self) -> object:
        """The index, the store or the folder, as part of a `repr`; nothing is opened."""
        if self._held is not None:
            return Verbatim(repr(self._held).removeprefix("HybridIndex(").removesuffix(")"))
        return str(self._folder) if self._store is None else self._store

    @property
    def path(self) -> Path | None:
        """The index's folder; None in memory."""
        if self._folder is not None:
            return self._folder
        return None if self._held is None else self._held.path

    def index(self) -> HybridIndex:
        """The index, opened by the first call.

        Returns:
            The same index every time.

        Raises:
            StoreError: The folder holds no index, or does not say by which model it was made.
        """
        with self._lock:
            if self._held is None and self._store is not None:
                self._held = index_of(self._store)
            if self._held is None:
                assert self._folder is not None  # `of` gives one of the three
                self._held = _opened(self._folder)
            return self._held

    def prepare(self) -> HybridIndex:
        """The index, whose engine knows what will be asked of it; may read the model's files."""
        if self.ready is None:
            index = self.index()
            index.engine.declare(self._role, query=index.modes)
            self.ready = index
        return self.ready

    @property
    def written(self) -> Path | None:
        """The folder that stands for this index elsewhere; None where no folder says it all."""
        path = self.path if self._store is None else self.index().path
        if path is None or self._held is None:
            return path
        note = _note(path)
        mine = self._held.engine.options["query_instruction"]
        # two engines of one index may differ in it: elsewhere the index is opened as it was made
        return path if note is None or (note.query_instruction or "") == (mine or "") else None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reserved is not None:  # it goes where it will be opened
            self._reserved.release()
        if self.written is None:
            raise InputError(
                "a retriever over an index in memory, or over an engine with another query "
                "instruction than its index was made with, cannot be pickled; keep the index in a "
                "folder and make the retriever where it is needed: "
                "BGEM3Retriever(index=HybridIndex.open(path, engine))"
            )
        return _in_folder, (self.written, self._role)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Source):
            return NotImplemented
        if self._store is not None and self._store is other._store:
            return True
        if (path := self.path) is not None:
            return path == other.path
        return self._held is not None and self._held is other._held

    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> Self:
        return self  # as the index is: a handle on one collection

    def __deepcopy__(self, memo: object) -> Self:
        return self


def searched(first: object, engine: EngineLike | None) -> object | None:
    """What a retriever searches, of its arguments; None where neither is given.

    Args:
        first: An index, a folder, an adapter, or an engine, for a new index in memory.
        engine: An engine; beside an index, that of the index.

    Returns:
        What `Source.of` reads.

    Raises:
        InputError: The engine is not the index's, or this is none of these.
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


def _in_folder(folder: Path, role: str) -> Source:
    return Source(folder=folder, role=role)


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
