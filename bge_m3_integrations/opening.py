"""How an index in a folder meets an engine: the one given, or the one that its manifest names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bge_m3_integrations.engine import BGEM3
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.types import (
    ALL_MODES,
    EmbeddingBatch,
    Modes,
    Record,
    as_modes,
    ordered_modes,
)

if TYPE_CHECKING:
    from bge_m3_integrations.index import HybridIndex
    from bge_m3_integrations.stores.base import Store
    from bge_m3_integrations.stores.edge import ApartStore, EdgeStore, EncoderNote, Manifest

_COPIED_AT_ONCE = 64
"""Records whose token vectors are in memory at once."""


def open_store(
    path: str | Path,
    engine: BGEM3 | None,
    *,
    modes: Modes | None,
    colbert: str | None,
    pooling: int | None,
    filter_fields: Sequence[str] | None,
    other_dtype: bool,
    apart: bool = False,
) -> tuple[BGEM3, EdgeStore | ApartStore]:
    """Open a folder's store for an engine; see `HybridIndex.open`.

    Args:
        path: The folder.
        engine: None is the model that made the index, or the default one.
        modes: What a new index keeps.
        colbert: How token vectors are kept.
        pooling: How many of them are merged into one.
        filter_fields: Metadata paths that filters are to be fast on.
        other_dtype: Let int8 numbers meet float ones.
        apart: In a process of its own, unless it is open in this one.

    Returns:
        The engine, made from the manifest where none was given, and the store.

    Raises:
        StoreError: See `EdgeStore.open`; also an index whose model cannot be loaded by name.
        InputError: The engine lacks a mode.
    """
    from bge_m3_integrations.stores.edge import REENCODE, ApartStore, EdgeStore, Manifest

    held = Manifest.read(Path(path))
    engine = _engine_of(held, path) if engine is None else engine
    wanted = None if modes is None else as_modes(modes)
    if held is None:
        wanted = wanted or engine.modes & ALL_MODES
    if missing := (wanted or frozenset()) - engine.modes:
        raise InputError(
            f"an index by {ordered_modes(wanted or ())} needs {ordered_modes(missing)}, which the "
            f"engine lacks: it has {ordered_modes(engine.modes)}"
        )
    keeps = colbert != REENCODE and (wanted is None or "colbert" in wanted)
    encoder = engine.encoder
    apart = ApartStore.is_open(path) or (apart and not EdgeStore.is_open(path))
    return engine, (ApartStore if apart else EdgeStore).open(
        path,
        modes=wanted,
        dim=encoder.dim if wanted is None or "dense" in wanted else None,
        colbert_dim=encoder.colbert_dim if keeps else None,
        colbert=colbert,
        pooling=pooling,
        filter_fields=filter_fields,
        encoder=note_of(engine),
        other_dtype=other_dtype,
    )


def copy_to_folder(index: HybridIndex, path: Path, *, colbert: str) -> None:
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
    from bge_m3_integrations.stores.edge.home import making

    with making(path) as place:
        _, store = open_store(
            place,
            index.engine,
            modes=index.modes,
            colbert=colbert if "colbert" in index.modes else None,
            pooling=index.pooling,
            filter_fields=None,
            other_dtype=False,
        )
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


def note_of(engine: BGEM3) -> EncoderNote:
    """What a manifest keeps of an engine; reads every weight file of a checkpoint once."""
    from bge_m3_integrations.stores.edge import EncoderNote

    options = engine.options
    return EncoderNote(
        fingerprint=engine.fingerprint,
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


def _place_of(model: str) -> str:
    """A model's folder as it is found from anywhere; a hub id as it is."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def _engine_of(held: Manifest | None, path: str | Path) -> BGEM3:
    if held is None:
        return BGEM3()
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
