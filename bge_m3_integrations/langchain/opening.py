"""The index of a vector store: one that the user holds, or one made when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_core.embeddings import Embeddings

from bge_m3_integrations.core.records import Record
from bge_m3_integrations.core.validation import chunks
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import EncodingError, InputError, StoreError
from bge_m3_integrations.index.arguments import not_that
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.opening import Choices as FolderChoices
from bge_m3_integrations.index.opening import holds_index, reserve
from bge_m3_integrations.langchain.embeddings import BGEM3Embeddings
from bge_m3_integrations.langchain.foreign import EmbeddingsEncoder, encoder_of, fingerprint_of
from bge_m3_integrations.stores.base import Store
from bge_m3_integrations.stores.edge.folder.discovery import as_folder, no_index

if TYPE_CHECKING:
    from bge_m3_integrations.stores.edge import EncoderInfo
    from bge_m3_integrations.stores.edge.folder.reservation import Reservation


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices(FolderChoices):
    """How an index is made or opened: a folder's choices, and where it is.

    Attributes:
        path: A folder; None is memory, or the store that is given.
        store: Keeps the documents.

    Raises:
        InputError: One of them cannot be meant, whatever the index.
    """

    path: str | Path | None = None
    store: Store | None = None

    @property
    def made(self) -> list[str]:
        """The names of those that were made."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        usual = {f.name: f.default for f in fields(self)}
        return [name for name, value in held.items() if value is not usual[name]]


class Opening:
    """Opens an index once; thread-safe.

    A folder that holds an index is checked and reserved at once, and opened when it is needed.

    Args:
        embedding: What encodes: an engine, an adapter over one, or any LangChain `Embeddings`.
        index: An index that the user holds; it stays open.
        choices: How to make one otherwise.
        embedding_id: See `EmbeddingsEncoder`.

    Raises:
        InputError: The arguments contradict each other, or there are none.
        StoreError: The folder cannot be used, or another process holds it.
    """

    def __init__(
        self,
        embedding: BGEM3 | Embeddings | None,
        index: HybridIndex | None,
        choices: Choices,
        *,
        embedding_id: str | None,
    ) -> None:
        self._engine = _engine_of(embedding, embedding_id)
        _check(self._engine, index, choices)
        self._folder = None if choices.path is None else as_folder(choices.path)
        self._index, self._choices = index, choices
        self._reserved = self._reservation()
        self._ours = index is None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def engine(self) -> BGEM3 | None:
        """What encodes; None where a folder that is not open yet says it."""
        return self._engine if self._index is None else self._index.engine

    def shown(self) -> Iterator[str]:
        """The parts of a store's `repr`; nothing is opened for it."""
        if self._index is not None:
            yield repr(self._index)
            return
        yield "in memory" if self._choices.path is None else repr(str(self._choices.path))
        yield "closed" if self._closed else "not opened"
        if self._engine is not None:
            yield repr(self._engine)

    def opened(self) -> HybridIndex | None:
        """The index, for looking something up in it.

        Returns:
            The index; None before the first document of a new folder of foreign vectors, whose
            width is written down with the folder, and only the first vectors tell it.

        Raises:
            StoreError: The folder holds no index, and nobody has asked for a new one.
        """
        return self._opened([], begun=True)

    def held(self) -> HybridIndex | None:
        """The index as `opened` gives it, also of a folder in which none has begun yet."""
        return self._opened([])

    def opened_for(self, records: Sequence[Record], *, batch_size: int) -> HybridIndex:
        """The index, begun where need be by the records that will be added next.

        Args:
            records: At least one.
            batch_size: How many of them are encoded at a time.

        Returns:
            The index; what was embedded to begin it is not embedded again.

        Raises:
            EncodingError: A record has no vector; the message has its id.
        """
        try:
            index = self._opened(records, batch_size)
        except EncodingError as error:
            name = f"record {records[error.position].id!r}"
            raise EncodingError(error.reason, error.position, name) from error
        assert index is not None
        return index

    def close(self) -> None:
        """Close an index that was made here."""
        with self._lock:
            if self._ours:
                self._closed = True
                if self._index is not None:
                    self._index.close()
                if self._reserved is not None:
                    self._reserved.release()

    def _opened(
        self, records: Sequence[Record], batch_size: int = 1, *, begun: bool = False
    ) -> HybridIndex | None:
        with self._lock:
            if self._closed:
                raise StoreError("this vector store is closed; make a new one")
            if begun:
                self._check_begun()
            if self._index is None:
                self._index = self._open(records, batch_size)
            return self._index

    def _open(self, records: Sequence[Record], batch_size: int) -> HybridIndex | None:
        made, engine, folder = self._choices, self._engine, self._folder
        if folder is None:
            assert engine is not None
            pooling = 1 if made.pooling is None else made.pooling
            return HybridIndex(engine, made.store, modes=made.modes, pooling=pooling)
        foreign = None if engine is None else encoder_of(engine)
        if foreign is not None and not _has_width(foreign, folder, records, batch_size):
            return None
        given = {field.name: getattr(made, field.name) for field in fields(FolderChoices)}
        return HybridIndex.open(folder, engine, **given)

    def _check_begun(self) -> None:
        """Refuse a search where there is nothing, before the model's files are read."""
        folder = self._folder
        if folder is None or self._index is not None or self._choices.create:
            return
        if not holds_index(folder):
            raise no_index(folder)

    def _reservation(self) -> Reservation | None:
        if self._folder is None:
            return None
        return reserve(self._folder, self._engine, self._choices)


def _has_width(
    foreign: EmbeddingsEncoder, path: Path, records: Sequence[Record], batch_size: int
) -> bool:
    """Let the folder tell the width, or else the first batch; False where there is neither."""
    from bge_m3_integrations.stores.edge import Manifest

    held = Manifest.read(path)
    if held is not None and held.dim is None:
        raise StoreError(f"the index in {path} keeps no dense vectors, and there are no others")
    if held is not None and held.dim is not None:
        foreign.expect(held.dim)
        if held.encoder is not None:
            _check_name(foreign, held.encoder, path)
    elif records:
        texts = [record.text for record in records]
        foreign.embed_ahead(texts[next(chunks(texts, most=batch_size))])
    else:
        return False
    return True


def _check_name(foreign: EmbeddingsEncoder, its: EncoderInfo, path: Path) -> None:
    """Refuse a folder of foreign vectors by another name, and say how to keep that name."""
    mine = foreign.fingerprint
    if its.name is not None and mine != its.fingerprint == fingerprint_of(its.name, foreign.dim):
        raise StoreError(
            f"the index in {path} was made by {its.name!r}, but {foreign.name!r} is to search it: "
            "their numbers cannot be compared; open it with its own model, or build another "
            "index. If it is the same model, which only has another name or place now, pass "
            f"embedding_id={its.name!r}"
        )


def _engine_of(embedding: BGEM3 | Embeddings | None, embedding_id: str | None) -> BGEM3 | None:
    if isinstance(embedding, Embeddings) and not isinstance(embedding, BGEM3Embeddings):
        return BGEM3(EmbeddingsEncoder(embedding, embedding_id=embedding_id))
    if embedding_id is not None:
        raise InputError(
            f"embedding_id={embedding_id!r} names a foreign model; an engine of BGE-M3 has its "
            "fingerprint"
        )
    if isinstance(embedding, BGEM3Embeddings):
        return embedding.engine
    if embedding is None or isinstance(embedding, BGEM3):
        return embedding
    raise InputError(f"embedding must be a BGEM3 or LangChain Embeddings{not_that(embedding)}")


def _check(engine: BGEM3 | None, index: HybridIndex | None, choices: Choices) -> None:
    made = choices.made
    if index is not None and not isinstance(index, HybridIndex):
        raise InputError(f"index must be a HybridIndex, not {type(index).__name__}")
    if index is not None and (made or engine not in {None, index.engine}):
        also = made or ["another engine"]
        raise InputError(f"an index brings its own engine and store, but {also} came with it")
    if index is None and engine is None and choices.path is None:
        raise InputError("give an embedding, such as BGEM3(), or index=, or the path of an index")
    if choices.path is not None and choices.store is not None:
        raise InputError("path and store are two places to keep documents; give one of them")
    in_memory = {"path", "store", "modes", "pooling"}
    needs = set(made) - in_memory
    if choices.path is None and needs:
        raise InputError(f"{sorted(needs)} are for an index in a folder; give path= too")
