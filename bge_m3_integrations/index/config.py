"""Options of an index in a folder, and the part of an engine that its manifest keeps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from bge_m3_integrations.core.embeddings import Modes, as_modes
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.stores.validation import COLBERT_KINDS

if TYPE_CHECKING:
    from bge_m3_integrations.stores.edge import EncoderInfo, Manifest
    from bge_m3_integrations.stores.edge.folder.config import FolderConfig


class IndexOptions(TypedDict, total=False):
    """The keywords of `IndexConfig`, for signatures that pass them on."""

    modes: Modes | None
    colbert: str | None
    pooling: int | None
    filter_fields: Sequence[str] | None
    allow_dtype_mismatch: bool
    isolated: bool
    create: bool | None
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """Options to open an index in a folder with; see `HybridIndex.open`.

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
            check_int("pooling", self.pooling)
        if self.modes is not None:
            as_modes(self.modes)
        # by its type: 0 equals False, but is not it, and would begin an index
        if not isinstance(self.create, bool | None):
            raise InputError(f"create must be None, True or False, not {self.create!r}")
        for name in ("allow_dtype_mismatch", "isolated", "read_only"):
            if not isinstance(value := getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, not {value!r}")
        if self.create and self.read_only:
            raise InputError("no index begins with read_only=True; leave out create, or read_only")

    def wanted(self, engine: BGEM3 | None = None) -> FolderConfig:
        """The contents required of an index, as far as these options and an engine's say it."""
        from bge_m3_integrations.stores.edge.folder.config import FolderConfig

        return FolderConfig(
            modes=None if self.modes is None else as_modes(self.modes),
            colbert=self.colbert,
            pooling=self.pooling,
            filter_fields=self.filter_fields,
            encoder=None if engine is None else encoder_info(engine, fingerprint=False),
            allow_dtype_mismatch=self.allow_dtype_mismatch,
        )


def for_reading(path: Path) -> IndexConfig:
    """Return the options for searching alone: read only where the folder cannot be written to."""
    return IndexConfig(create=False, read_only=path.is_dir() and not os.access(path, os.W_OK))


def encoder_info(engine: BGEM3, *, fingerprint: bool = True) -> EncoderInfo:
    """Return the part of an engine that a manifest keeps.

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


def info_for(engine: BGEM3, held: Manifest | None) -> EncoderInfo:
    """The engine's note, under the fingerprint that an earlier version wrote if it is its own."""
    mine = encoder_info(engine)
    its = None if held is None or held.encoder is None else held.encoder.fingerprint
    same = its is not None and its != mine.fingerprint and engine.has_fingerprint(its)
    return replace(mine, fingerprint=its) if its is not None and same else mine


def _place_of(model: str) -> str:
    """A model's folder as it is found from anywhere; a hub id as it is."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def engine_of_manifest(held: Manifest | None, path: Path) -> BGEM3:
    """Make the engine that a manifest names; `StoreError` where it names none."""
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
