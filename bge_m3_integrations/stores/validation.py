"""Checks of every store before it changes anything: that a batch is sound in itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    IntArray,
    Mode,
    Modes,
    SparseRows,
    TokenVectors,
    as_modes,
    ordered_modes,
)
from bge_m3_integrations.core.metadata import brief
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.core.validation import as_list
from bge_m3_integrations.errors import InputError, StoreError

COLBERT_KINDS: Final = ("float16", "float32", "reencode", "turbo8")
"""How a folder may keep token vectors; here, so that it costs no import of the engine."""


def check_batch(records: Sequence[Record], embeddings: EmbeddingBatch) -> None:
    """Raise `InputError` for a batch that is not sound in itself.

    It has another number of rows than records, an id twice, no mode, a number that is not finite,
    lexical weights out of order, or a text without token vectors.
    """
    if len(records) != len(embeddings):
        raise InputError(f"{len(records)} records with {len(embeddings)} rows of embeddings")
    if twice := sorted(key for key, n in Counter(r.id for r in records).items() if n > 1):
        raise InputError(f"ids twice in one upsert: {twice[:5]}; keep one record of each")
    if records and not embeddings.modes:
        raise InputError(f"{len(records)} records with embeddings of no mode")
    check_numbers(embeddings, "records")


def check_numbers(embeddings: EmbeddingBatch, owner: str) -> None:
    """Check shapes, lengths, finiteness and order of each mode that is there."""
    if len(embeddings.truncated) != len(embeddings):
        raise InputError(
            f"{len(embeddings)} {owner} with {len(embeddings.truncated)} counts of dropped tokens"
        )
    for mode in ordered_modes(embeddings.modes):
        rows = len(getattr(embeddings, mode))
        if rows != len(embeddings):
            raise InputError(f"{len(embeddings)} {owner} with {rows} rows of {mode}")
    if embeddings.dense is not None:
        _check_finite("dense", owner, embeddings.dense, np.arange(len(embeddings)))
    if embeddings.sparse is not None:
        _check_sparse(embeddings.sparse, owner)
    if embeddings.colbert is not None:
        _check_colbert(embeddings.colbert, owner)


def _check_sparse(sparse: SparseRows, owner: str) -> None:
    _check_offsets("sparse", sparse.indptr, [len(sparse.token_ids), len(sparse.weights)])
    rows = np.repeat(np.arange(len(sparse)), np.diff(sparse.indptr))
    ids = sparse.token_ids
    if ids.dtype.kind not in "iu" or (ids.size and not 0 <= ids.min() <= ids.max() < 2**31):
        raise InputError(f"token ids of the {owner} must be int32 of at least 0, not {ids.dtype}")
    _check_finite("sparse", owner, sparse.weights[:, None], rows)
    if (sparse.weights <= 0).any():
        raise InputError(f"lexical weights of {owner} must be above 0; leave the others out")
    unordered = (np.diff(sparse.token_ids) <= 0) & (np.diff(rows) == 0)
    if unordered.any():
        row = int(rows[int(np.argmax(unordered))])
        raise InputError(
            f"token ids of row {row} of the {owner} must ascend without repeats; "
            "SparseRows.from_dicts sorts them"
        )


def _check_colbert(colbert: TokenVectors, owner: str) -> None:
    _check_offsets("colbert", colbert.offsets, [len(colbert.vectors)])
    lengths = np.diff(colbert.offsets)
    if (lengths < 1).any():
        row = int(np.argmin(lengths))
        raise InputError(f"row {row} of the {owner} has no token vectors; even '' has one")
    _check_finite("colbert", owner, colbert.vectors, np.repeat(np.arange(len(colbert)), lengths))


def _check_offsets(mode: Mode, offsets: IntArray, lengths: Sequence[int]) -> None:
    sound = offsets[0] == 0 and (np.diff(offsets) >= 0).all()
    if not sound or any(length != offsets[-1] for length in lengths):
        bad = int(np.argmin(np.diff(offsets, prepend=0)))
        raise InputError(
            f"{mode} offsets must ascend from 0 to {lengths}, but start at {offsets[0]}, end at "
            f"{offsets[-1]} and step least at row {bad}"
        )


def _check_finite(
    mode: Mode, owner: str, numbers: NDArray[np.floating[Any]], rows: IntArray
) -> None:
    if numbers.ndim != 2 or numbers.dtype.kind != "f":
        raise InputError(
            f"{mode} numbers of the {owner} must be floats, one row each, not {numbers.dtype} of "
            f"shape {numbers.shape}"
        )
    if numbers.dtype.itemsize > 4:
        with np.errstate(over="ignore"):  # what float32 cannot hold is inf, and refused
            numbers = numbers.astype(np.float32)
    bad = ~np.isfinite(numbers).all(axis=1)
    if bad.any():
        row = int(rows[int(np.argmax(bad))])
        raise InputError(f"{mode} numbers of row {row} of the {owner} are not finite")


def id_list(ids: Iterable[str], name: str = "ids") -> list[str]:
    """The ids, read once; one string, or what is no string, raises `InputError`."""
    if isinstance(ids, str):
        raise InputError(f"{name} must be a list, not the string {ids!r}")
    held = as_list(ids, name)
    if wrong := [one for one in held if not isinstance(one, str)]:
        raise InputError(f"{name} must be strings, not {brief(wrong[0])}; write str(...)")
    return held


def as_fields(paths: Iterable[str] | None) -> tuple[str, ...] | None:
    """Metadata paths in ascending order; None, for all, stays None."""
    return None if paths is None else tuple(sorted(id_list(paths, "filter_fields")))


def check_after(after: str | None) -> None:
    """Raise `InputError` for a page's beginning that is neither an id nor None."""
    if not isinstance(after, str | None):
        raise InputError(f"after must be an id or None, not {brief(after)}")


def widths_of(embeddings: EmbeddingBatch) -> dict[Mode, int]:
    """The width of a vector, for each mode that has one."""
    widths: dict[Mode, int] = {}
    if embeddings.dense is not None:
        widths["dense"] = embeddings.dense.shape[1]
    if embeddings.colbert is not None:
        widths["colbert"] = embeddings.colbert.vectors.shape[1]
    return widths


def check_fits(embeddings: EmbeddingBatch, modes: Modes, widths: Mapping[Mode, int]) -> None:
    """Raise `StoreError`, which names both sides, for other modes or widths than the store's."""
    if embeddings.modes != set(modes):
        raise StoreError(
            f"this store keeps {ordered_modes(modes)}, the batch holds "
            f"{ordered_modes(embeddings.modes)}; encode with modes of the store"
        )
    check_widths(embeddings, widths)


def check_widths(embeddings: EmbeddingBatch, widths: Mapping[Mode, int]) -> None:
    """Raise `StoreError` where vectors have another width than the store's."""
    for mode, width in widths_of(embeddings).items():
        if width != widths.get(mode, width):
            raise StoreError(
                f"{mode} vectors here are {widths[mode]} wide, the given ones {width}: "
                "they come from different models"
            )


def check_holds(wanted: Modes, modes: Modes) -> None:
    """Raise `StoreError` for modes that a store does not keep."""
    if missing := set(wanted) - set(modes):
        raise StoreError(
            f"this store does not keep {ordered_modes(missing)}, only {ordered_modes(modes)}"
        )


def checked_queries(
    queries: EmbeddingBatch, wanted: Modes, modes: Modes, widths: Mapping[Mode, int]
) -> EmbeddingBatch:
    """Return the wanted modes of queries, and nothing else, which fit a store's modes and widths.

    It raises `InputError` where the queries lack a mode or hold numbers that are not finite, and
    `StoreError` where the store lacks a mode or has another width.
    """
    chosen = as_modes(wanted)
    check_holds(chosen, modes)
    checked = queries.only(chosen)
    check_numbers(checked, "queries")
    check_widths(checked, widths)
    return checked


def check_same_texts(records: Sequence[Record], held: Sequence[str | None]) -> None:
    """Raise `StoreError` for a record whose text hash is not the one that is held under its id."""
    for record, known in zip(records, held, strict=True):
        if record.text_hash != known:
            raise StoreError(
                f"record {record.id!r} is unknown or was encoded from another text; upsert it "
                "with its embeddings"
            )
