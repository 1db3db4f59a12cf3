"""How an index in a folder meets an engine: the one given, or the one that its manifest names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_m3_integrations.core.display import path_name
from bge_m3_integrations.core.embeddings import (
    ALL_MODES,
    EmbeddingBatch,
    Mode,
    Modes,
    as_modes,
    ordered_modes,
)
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.core.validation import whole
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.stores.validation import COLBERT_KINDS

if TYPE_CHECKING:
    from bge_m3_integrations.index.index import HybridIndex
    from bge_m3_integrations.stores.base import Capabilities, Store
    from bge_m3_integrations.stores.edge import EdgeStore, EncoderInfo, Manifest, ProcessStore
    from bge_m3_integrations.stores.edge.folder.config import FolderConfig
    from bge_m3_integrations.stores.edge.folder.reservation import Reservation

_COPIED_AT_ONCE = 64
"""Records whose token vectors are in memory at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """How an index in a folder is opened; see `HybridIndex.open`.

    Attributes:
        modes: What a new index keeps.
        colbert: How token vectors are kept.
        pooling: How many of them are merged into one.
        filter_fields: Metadata paths that filters are to be fast on.
        allow_dtype_mismatch: Let int8 numbers meet float ones.
        isolated: In a process of its own, unless it is open in this one.
        create: Whether an index may begin: None with the first record, True now, False never.
        read_only: Change nothing in the folder.

    Raises:
        InputError: One of them cannot be meant, whatever the index.
    """

    modes: Modes | None = None
    colbert: str | None = None
    pooling: int | None = None
    filter_fields: Sequence[str] | None = None
    allow_dtype_mismatch: bool = False
    isolated: bool = False
    create: bool | None = None
    read_only: bool = False

    def __post_init__(self) -> None:
        if self.colbert is not None and self.colbert not in COLBERT_KINDS:
            raise InputError(f"colbert={self.colbert!r} is not one of {list(COLBERT_KINDS)}")
        if self.pooling is not None:
            whole("pooling", self.pooling)
        if self.modes is not None:
            as_modes(self.modes)
        if self.create not in {None, True, False}:
            raise InputError(f"create must be None, True or False, not {self.create!r}")
        if self.create and self.read_only:
            raise InputError("no index begins with read_only=True; leave out create, or read_only")

    def wanted(self, engine: BGEM3 | None = None) -> FolderConfig:
        """What an index must hold, as far as these choices and an engine's options say it."""
        from bge_m3_integrations.stores.edge.folder.config import FolderConfig

        return FolderConfig(
            modes=None if self.modes is None else as_modes(self.modes),
            colbert=self.colbert,
            pooling=self.pooling,
            filter_fields=self.filter_fields,
            encoder=None if engine is None else note_of(engine, fingerprint=False),
            allow_dtype_mismatch=self.allow_dtype_mismatch,
        )


def for_reading(path: Path) -> IndexConfig:
    """How a folder is opened for searching: read only where it cannot be written to anyway."""
    return IndexConfig(create=False, read_only=path.is_dir() and not os.access(path, os.W_OK))


class NotBegun:
    """A folder in which an index begins with the first record.

    Args:
        path: The folder.
        engine: Will encode.
        choices: How the index will begin.

    Raises:
        StoreError: None could begin there.
        InputError: The engine is known to lack a mode.
    """

    def __init__(self, path: Path, engine: BGEM3, choices: IndexConfig) -> None:
        from bge_m3_integrations.stores.edge.folder.discovery import check_place

        check_place(path)
        if engine.over_encoder:
            _check_modes(engine, choices)
        self.path, self._engine, self._choices = path, engine, choices

    @property
    def place(self) -> str:
        """The folder, as a `repr` has it."""
        return path_name(self.path)

    @cached_property
    def manifest(self) -> Manifest:
        """What the index will say of itself; the first look may read the model's files."""
        wanted = _wanted(self._engine, self._choices, held=None, fingerprint=False)
        return wanted.new_manifest()

    @property
    def capabilities(self) -> Capabilities:
        """What the store will be able to do."""
        return self.manifest.capabilities

    def opened(self, *, begin: bool) -> EdgeStore | ProcessStore | None:
        """The store, if there is an index by now; it begins where that is asked for."""
        if not begin and not holds_index(self.path):
            return None
        return open_store(self.path, self._engine, replace(self._choices, create=begin))[1]

    def close(self) -> None:
        """Nothing is open."""

    def error(self) -> StoreError:
        """What it means to look for something here."""
        from bge_m3_integrations.stores.edge.folder.discovery import no_index

        return no_index(self.path)

    def __getattr__(self, name: str) -> Any:
        raise self.error()


def open_folder(
    path: str | Path, engine: BGEM3 | None, choices: IndexConfig
) -> tuple[BGEM3, EdgeStore | ProcessStore | NotBegun]:
    """Open a folder's store, or wait for the first record; see `HybridIndex.open`.

    Args:
        path: The folder.
        engine: None is the model that made the index.
        choices: How.

    Returns:
        The engine, made from the manifest where none was given, and the store.

    Raises:
        StoreError: See `HybridIndex.open`.
        InputError: See `HybridIndex.open`.
    """
    from bge_m3_integrations.stores.edge.folder.discovery import as_folder, no_index

    place = as_folder(path)
    if holds_index(place) or (choices.create and engine is not None):
        return open_store(place, engine, choices)
    if choices.create:
        raise InputError(
            f"a new index in {place} needs an engine, which encodes its documents: "
            "HybridIndex.open(path, BGEM3(...), create=True)"
        )
    if engine is None or choices.create is False or choices.read_only:
        raise no_index(place)
    return engine, NotBegun(place, engine, choices)


def holds_index(path: str | Path) -> bool:
    """Whether a folder says that it is an index.

    Args:
        path: The folder, which need not exist.

    Returns:
        Whether its manifest is there.

    Raises:
        StoreError: It is a file, or holds a manifest that is none of ours.
    """
    from bge_m3_integrations.stores.edge.folder.discovery import as_folder
    from bge_m3_integrations.stores.edge.folder.manifest import Manifest

    return Manifest.read(as_folder(path)) is not None


def reserve(path: Path, engine: BGEM3 | None, choices: IndexConfig) -> Reservation | None:
    """Check a folder that will be opened later, and keep other processes from it until then.

    It is cheap: neither torch nor the search engine is imported, and no weights are read.

    Args:
        path: The folder.
        engine: What will encode; None is the model that made the index.
        choices: How it will be opened.

    Returns:
        Holds the folder; None where no index has begun there yet, and `create` is not True.

    Raises:
        StoreError: No index is there and none may begin, another process holds it, or it is
            another index than is asked for.
        InputError: See `IndexConfig`.
    """
    from bge_m3_integrations.stores.edge.folder.discovery import check_place, no_index
    from bge_m3_integrations.stores.edge.folder.manifest import Manifest
    from bge_m3_integrations.stores.edge.folder.reservation import Reservation

    held = Manifest.read(path)
    if held is not None:
        choices.wanted(engine).check(held, path)
        return Reservation(path, shared=choices.read_only)
    if engine is None or choices.create is False or choices.read_only:
        raise no_index(path)
    check_place(path)
    # one process begins a folder that was asked for; a path that may be mistyped is not made
    return Reservation(path) if choices.create else None


def open_store(
    path: Path, engine: BGEM3 | None, choices: IndexConfig
) -> tuple[BGEM3, EdgeStore | ProcessStore]:
    """Open a folder's store for an engine, now.

    Args:
        path: The folder.
        engine: None is the model that made the index.
        choices: How; an index begins unless `create` is False.

    Returns:
        The engine, made from the manifest where none was given, and the store.

    Raises:
        StoreError: See `EdgeStore.open`; also an index whose model cannot be loaded by name.
        InputError: The engine lacks a mode.
    """
    from bge_m3_integrations.stores.edge import EdgeStore, Manifest, ProcessStore

    held = Manifest.read(path)
    its_own = engine is None
    engine = _engine_of(held, path) if engine is None else engine
    # before the model's files are read, which may take minutes
    reservation = None if held is None else reserve(path, engine, choices)
    try:
        # an index's own model is compared before it encodes: it may not be on this machine yet
        wanted = choices.wanted(engine) if its_own else _wanted(engine, choices, held=held)
        isolated = ProcessStore.is_open(path) or (choices.isolated and not EdgeStore.is_open(path))
        return engine, (ProcessStore if isolated else EdgeStore).open(
            path, wanted, create=choices.create is not False, read_only=choices.read_only
        )
    finally:
        if reservation is not None:
            reservation.release()


def check_own_model(engine: BGEM3, store: EdgeStore | ProcessStore) -> None:
    """Compare the model that a manifest names with the one that made the index.

    Args:
        engine: Made from the manifest; the model's files are read, and downloaded if they must be.
        store: The index's.

    Raises:
        StoreError: By that name there is another model now.
    """
    from bge_m3_integrations.stores.edge.folder.config import FolderConfig

    FolderConfig(encoder=note_of(engine)).check(store.manifest, store.path)


def _wanted(
    engine: BGEM3, choices: IndexConfig, *, held: Manifest | None, fingerprint: bool = True
) -> FolderConfig:
    """What an index must hold to be searched by an engine; reads the model's files."""
    from bge_m3_integrations.stores.edge.folder.manifest import REENCODE

    modes = None if choices.modes is None else as_modes(choices.modes)
    if held is None:
        modes = modes or engine.default_modes & ALL_MODES
    _check_modes(engine, replace(choices, modes=modes))
    keeps = choices.colbert != REENCODE and "colbert" in (engine.modes if modes is None else modes)
    encoder = engine.encoder
    return replace(
        choices.wanted(),
        modes=modes,
        dim=encoder.dim if modes is None or "dense" in modes else None,
        colbert_dim=encoder.colbert_dim if keeps else None,
        encoder=_note_for(engine, held) if fingerprint else note_of(engine, fingerprint=False),
    )


def _check_modes(engine: BGEM3, choices: IndexConfig) -> None:
    wanted = frozenset[Mode]() if choices.modes is None else as_modes(choices.modes)
    if missing := wanted - engine.modes:
        engine.check_heads(missing)
        raise InputError(
            f"an index with {ordered_modes(wanted)} needs {ordered_modes(missing)}, which the "
            f"engine lacks: it has {ordered_modes(engine.modes)}"
        )


def copy_to_folder(index: HybridIndex, path: str | Path, *, colbert: str) -> None:
    """Copy an index's numbers into a new folder; see `HybridIndex.copy_to`.

    Args:
        index: Any.
        path: The folder.
        colbert: How the copy keeps token vectors.

    Raises:
        StoreError: See `HybridIndex.copy_to`.
    """
    kept = index.modes & index.store.capabilities.score
    if lacking := kept - index.store.capabilities.vectors:
        raise StoreError(
            f"a {type(index.store).__name__} keeps {ordered_modes(kept)}, but does not give "
            f"{ordered_modes(lacking)} back as numbers; copy its folder by backup()"
        )
    from bge_m3_integrations.stores.edge.folder.discovery import as_folder
    from bge_m3_integrations.stores.edge.lifecycle import atomic_target

    with atomic_target(as_folder(path)) as place:
        choices = IndexConfig(
            modes=index.modes,
            colbert=colbert if "colbert" in index.modes else None,
            pooling=index.pooling,
        )
        _, store = open_store(place, index.engine, choices)
        try:
            _copy(index, store, kept)
        finally:
            store.close()


def _copy(index: HybridIndex, store: Store, modes: Modes) -> None:
    after = None
    while True:
        page = index.scroll(after=after, limit=_COPIED_AT_ONCE)
        found = _with_numbers(index.store, page.records, modes)
        if found is not None:
            store.upsert(*found)
        if page.after is None:
            break
        after = page.after
    store.flush()


def _with_numbers(
    source: Store, records: Sequence[Record], modes: Modes
) -> tuple[Sequence[Record], EmbeddingBatch] | None:
    """Records and the numbers of their own texts, whatever is written meanwhile.

    None where all of them were deleted.
    """
    while records:
        ids = [record.id for record in records]
        try:
            numbers = source.vectors(ids, modes)
        except StoreError:
            if None not in source.text_hashes(ids):
                raise
        else:
            if source.text_hashes(ids) == [record.text_hash for record in records]:
                return records, numbers
        records = [record for record in source.get(ids) if record is not None]
    return None


def note_of(engine: BGEM3, *, fingerprint: bool = True) -> EncoderInfo:
    """What a manifest keeps of an engine.

    Args:
        engine: Any.
        fingerprint: Reads every weight file of a checkpoint once; else it is left out.

    Returns:
        The note.
    """
    from bge_m3_integrations.stores.edge import EncoderInfo

    options = engine.options
    return EncoderInfo(
        fingerprint=engine.fingerprint if fingerprint else "",
        model=None if engine.over_encoder else _place_of(engine.name),
        revision=options["revision"],
        dtype=None if engine.over_encoder else options["dtype"],
        max_length=options["max_length"],
        pooling=options["pooling"],
        document_instruction=options["document_instruction"],
        query_instruction=options["query_instruction"],
        clean=options["clean"],
        name=engine.name if engine.over_encoder else None,
    )


def _note_for(engine: BGEM3, held: Manifest | None) -> EncoderInfo:
    """The engine's note, under the fingerprint that an earlier version wrote if it is its own."""
    mine = note_of(engine)
    its = None if held is None or held.encoder is None else held.encoder.fingerprint
    same = its is not None and its != mine.fingerprint and engine.has_fingerprint(its)
    return replace(mine, fingerprint=its) if its is not None and same else mine


def _place_of(model: str) -> str:
    """A model's folder as it is found from anywhere; a hub id as it is."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def _engine_of(held: Manifest | None, path: Path) -> BGEM3:
    from bge_m3_integrations.stores.edge.folder.discovery import no_index

    if held is None:
        raise no_index(path)
    note = held.encoder
    if note is None or note.model is None:
        raise StoreError(
            f"the index in {path} does not say by which model it was made; pass engine=BGEM3(...)"
        )
    return BGEM3(
        note.model,
        revision=note.revision,
        dtype=note.dtype or "auto",
        max_length=note.max_length,
        pooling=note.pooling or "auto",
        document_instruction=note.document_instruction,
        query_instruction=note.query_instruction,
        clean=note.clean,
    )
