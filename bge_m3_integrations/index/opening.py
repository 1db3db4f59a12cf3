"""Open an index in a folder with an engine: the given one, or the one that its manifest names."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_m3_integrations.core.display import path_name
from bge_m3_integrations.core.embeddings import (
    ALL_MODES,
    Mode,
    Modes,
    as_modes,
    ordered_modes,
)
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.index.config import (
    IndexConfig,
    encoder_info,
    engine_of_manifest,
    info_for,
)
from bge_m3_integrations.stores.copy import copy_records

if TYPE_CHECKING:
    from bge_m3_integrations.stores.base import Capabilities, Store
    from bge_m3_integrations.stores.edge import EdgeStore, Manifest, ProcessStore
    from bge_m3_integrations.stores.edge.folder.config import FolderConfig
    from bge_m3_integrations.stores.edge.folder.reservation import Reservation


class NotBegun:
    """A folder in which an index begins with the first record.

    Args:
        path: The folder.
        engine: Will encode.
        config: How the index will begin.

    Raises:
        StoreError: None could begin there.
        InputError: The engine is known to lack a mode.
    """

    def __init__(self, path: Path, engine: BGEM3, config: IndexConfig) -> None:
        from bge_m3_integrations.stores.edge.folder.discovery import check_place

        check_place(path)
        if engine.over_encoder:
            _check_modes(engine, config)
        self.path, self._engine, self._config = path, engine, config

    @property
    def place(self) -> str:
        """The folder, as a `repr` has it."""
        return path_name(self.path)

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest of the index to come; the first look may read the model's files."""
        wanted = _wanted(self._engine, self._config, held=None, fingerprint=False)
        return wanted.new_manifest()

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the store to come."""
        return self.manifest.capabilities

    def opened(self, *, begin: bool) -> EdgeStore | ProcessStore | None:
        """The store, if there is an index by now; it begins where that is asked for."""
        if not begin and not holds_index(self.path):
            return None
        return open_store(self.path, self._engine, replace(self._config, create=begin))[1]

    def close(self) -> None:
        """Nothing is open."""

    def error(self) -> StoreError:
        """The error of searching here."""
        from bge_m3_integrations.stores.edge.folder.discovery import no_index

        return no_index(self.path)

    def __getattr__(self, name: str) -> Any:
        raise self.error()


def open_folder(
    path: str | Path, engine: BGEM3 | None, config: IndexConfig
) -> tuple[BGEM3, EdgeStore | ProcessStore | NotBegun]:
    """Open a folder's store, or wait for the first record; see `HybridIndex.open`.

    Args:
        path: The folder.
        engine: None is the model that made the index.
        config: How.

    Returns:
        The engine, made from the manifest where none was given, and the store.

    Raises:
        StoreError: See `HybridIndex.open`.
        InputError: See `HybridIndex.open`.
    """
    from bge_m3_integrations.stores.edge.folder.discovery import as_folder, no_index

    place = as_folder(path)
    if holds_index(place) or (config.create and engine is not None):
        return open_store(place, engine, config)
    if config.create:
        raise InputError(
            f"a new index in {place} needs an engine, which encodes its documents: "
            "HybridIndex.open(path, BGEM3(...), create=True)"
        )
    if engine is None or config.create is False or config.read_only:
        raise no_index(place)
    return engine, NotBegun(place, engine, config)


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


def reserve(path: Path, engine: BGEM3 | None, config: IndexConfig) -> Reservation | None:
    """Check a folder that will be opened later, and keep other processes from it until then.

    It is cheap: neither torch nor the search engine is imported, and no weights are read.

    Args:
        path: The folder.
        engine: What will encode; None is the model that made the index.
        config: How it will be opened.

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
        config.wanted(engine).check(held, path)
        return Reservation(path, shared=config.read_only)
    if engine is None or config.create is False or config.read_only:
        raise no_index(path)
    check_place(path)
    # one process begins a folder that was asked for; a path that may be mistyped is not made
    return Reservation(path) if config.create else None


def open_store(
    path: Path, engine: BGEM3 | None, config: IndexConfig
) -> tuple[BGEM3, EdgeStore | ProcessStore]:
    """Open a folder's store for an engine, now.

    Args:
        path: The folder.
        engine: None is the model that made the index.
        config: How; an index begins unless `create` is False.

    Returns:
        The engine, made from the manifest where none was given, and the store.

    Raises:
        StoreError: See `EdgeStore.open`; also an index whose model cannot be loaded by name.
        InputError: The engine lacks a mode.
    """
    from bge_m3_integrations.stores.edge import EdgeStore, Manifest, ProcessStore

    held = Manifest.read(path)
    its_own = engine is None
    engine = engine_of_manifest(held, path) if engine is None else engine
    # before the model's files are read, which may take minutes
    reservation = None if held is None else reserve(path, engine, config)
    try:
        # an index's own model is compared before it encodes: it may not be on this machine yet
        wanted = config.wanted(engine) if its_own else _wanted(engine, config, held=held)
        isolated = ProcessStore.is_open(path) or (config.isolated and not EdgeStore.is_open(path))
        return engine, (ProcessStore if isolated else EdgeStore).open(
            path, wanted, create=config.create is not False, read_only=config.read_only
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

    FolderConfig(encoder=encoder_info(engine)).check(store.manifest, store.path)


def _wanted(
    engine: BGEM3, config: IndexConfig, *, held: Manifest | None, fingerprint: bool = True
) -> FolderConfig:
    """The contents required of an index to be searched by an engine; reads the model's files."""
    from bge_m3_integrations.stores.edge.folder.manifest import REENCODE

    modes = None if config.modes is None else as_modes(config.modes)
    if held is None:
        modes = modes or engine.default_modes & ALL_MODES
    _check_modes(engine, replace(config, modes=modes))
    keeps = config.colbert != REENCODE and "colbert" in (engine.modes if modes is None else modes)
    encoder = engine.encoder
    return replace(
        config.wanted(),
        modes=modes,
        dim=encoder.dim if modes is None or "dense" in modes else None,
        colbert_dim=encoder.colbert_dim if keeps else None,
        encoder=info_for(engine, held) if fingerprint else encoder_info(engine, fingerprint=False),
    )


def _check_modes(engine: BGEM3, config: IndexConfig) -> None:
    wanted = frozenset[Mode]() if config.modes is None else as_modes(config.modes)
    if missing := wanted - engine.modes:
        engine.check_heads(missing)
        raise InputError(
            f"an index with {ordered_modes(wanted)} needs {ordered_modes(missing)}, which the "
            f"engine lacks: it has {ordered_modes(engine.modes)}"
        )


def copy_to_folder(
    source: Store, engine: BGEM3, path: str | Path, *, modes: Modes, colbert: str, pooling: int
) -> None:
    """Copy a store's numbers into a new folder; see `HybridIndex.copy_to`.

    Args:
        source: Gives its numbers back.
        engine: Encoded them.
        path: The folder.
        modes: Those of the index.
        colbert: How the copy keeps token vectors.
        pooling: How many of them share one that is kept.

    Raises:
        StoreError: See `HybridIndex.copy_to`.
    """
    from bge_m3_integrations.stores.edge.folder.discovery import as_folder
    from bge_m3_integrations.stores.edge.lifecycle import atomic_target

    kept = frozenset(modes) & source.capabilities.score
    if lacking := kept - source.capabilities.vectors:
        raise StoreError(
            f"a {type(source).__name__} keeps {ordered_modes(kept)}, but does not give "
            f"{ordered_modes(lacking)} back as numbers; copy its folder by backup()"
        )
    with atomic_target(as_folder(path)) as place:
        kind = colbert if "colbert" in modes else None
        config = IndexConfig(modes=modes, colbert=kind, pooling=pooling)
        _, store = open_store(place, engine, config)
        try:
            copy_records(source, store, kept)
        finally:
            store.close()
