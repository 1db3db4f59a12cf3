"""One text's embeddings as bytes, a value per mode, and back with every bit."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core.embeddings import (
    MODES,
    EmbeddingBatch,
    Mode,
    SparseRows,
    TokenVectors,
    offsets_of,
)

_HEAD = struct.Struct("<4sIIIqq")
"""Of each value: numpy's name of the type, rows, columns, 0, the text's tokens and truncated."""


def packed(batch: EmbeddingBatch, i: int) -> dict[Mode, bytes]:
    """The modes of one text.

    Args:
        batch: Any modes.
        i: The text's row.

    Returns:
        A value for each mode of the batch.
    """
    return {mode: pack(batch, i) for mode, pack in _PACK.items() if mode in batch.modes}


def unpacked(values: Mapping[str, bytes]) -> EmbeddingBatch:
    """A batch of one text.

    Args:
        values: As `packed` makes them, at least one.

    Returns:
        Writable arrays, equal bit by bit to those packed.

    Raises:
        struct.error: A value is shorter than its head.
        ValueError: A value is not as long as its head says.
        TypeError: It names no type of numpy's.
    """
    tokens, truncated = _HEAD.unpack_from(next(iter(values.values())))[-2:]
    dense = sparse = colbert = None
    if "dense" in values:
        dense = _array(values["dense"])
    if "sparse" in values:
        weights = _array(values["sparse"], before=4)[:, 0]
        ids = np.frombuffer(values["sparse"], "<i4", len(weights), offset=_HEAD.size)
        sparse = SparseRows(offsets_of([len(ids)]), ids.astype(np.int32), weights)
    if "colbert" in values:
        vectors = _array(values["colbert"])
        colbert = TokenVectors(vectors, offsets_of([len(vectors)]))
    counts = (np.array([n], np.int64) for n in (tokens, truncated))
    return EmbeddingBatch(dense, sparse, colbert, *counts)


def _packed(batch: EmbeddingBatch, i: int, array: NDArray[Any], before: bytes = b"") -> bytes:
    rows, columns = array.shape
    name = array.dtype.str.encode()
    head = _HEAD.pack(name, rows, columns, 0, int(batch.tokens[i]), int(batch.truncated[i]))
    return b"".join([head, before, array.tobytes()])


def _packed_dense(batch: EmbeddingBatch, i: int) -> bytes:
    return _packed(batch, i, batch.dense[i][None])


def _packed_sparse(batch: EmbeddingBatch, i: int) -> bytes:
    ids, weights = batch.sparse.row(i)
    return _packed(batch, i, weights[:, None].astype("<f4"), ids.astype("<i4").tobytes())


def _packed_colbert(batch: EmbeddingBatch, i: int) -> bytes:
    return _packed(batch, i, batch.colbert.row(i))


_PACK: dict[Mode, Callable[[EmbeddingBatch, int], bytes]] = dict(
    zip(MODES, (_packed_dense, _packed_sparse, _packed_colbert), strict=True)
)


def _array(value: bytes, *, before: int = 0) -> NDArray[Any]:
    """The array of a value, writable; `before` bytes per row lie in front of it."""
    name, rows, columns, _, _, _ = _HEAD.unpack_from(value)
    dtype, start = np.dtype(name.rstrip(b"\0").decode()), _HEAD.size + before * rows
    if dtype.kind != "f" or len(value) != start + rows * columns * dtype.itemsize:
        raise ValueError(f"{len(value)} bytes are not {rows} x {columns} {dtype}")
    return np.frombuffer(value, dtype, offset=start).reshape(rows, columns).copy()
