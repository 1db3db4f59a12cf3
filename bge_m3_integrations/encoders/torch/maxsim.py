"""MaxSim over packed token vectors in torch, in blocks that stay in cache.

`scoring.maxsim` is the reference; in float32 both agree to 1e-5.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import FloatArray, IntArray, TokenVectors
from bge_m3_integrations.encoders.torch.linear import onednn_product
from bge_m3_integrations.encoders.torch.packing import rounded

MAXSIM_ELEMENTS = 2 * 1024 * 1024
"""Most elements of any intermediate: 8 MiB of float32, 2,048 vectors of 1,024."""

_COLUMNS = 16
"""Query vectors come in multiples of this: a ragged edge costs more than zeros up to it."""


@dataclass(frozen=True, slots=True)
class _Packed:
    """Token vectors of `n` texts as a tensor on the host, packed end to end.

    Attributes:
        vectors: `(t, dim)` float32 or float16.
        offsets: `(n + 1,) int64`; text `i` owns `offsets[i]:offsets[i + 1]`.
    """

    vectors: torch.Tensor
    offsets: IntArray


def maxsim(
    queries: TokenVectors,
    documents: TokenVectors,
    *,
    device: torch.device | None = None,
    max_elements: int = MAXSIM_ELEMENTS,
) -> FloatArray:
    """ColBERT scores in float32, all queries' vectors against a block of documents at a time.

    Args:
        queries: Token vectors of `q` texts, each of at least one vector.
        documents: Token vectors of `n` texts, each of at least one vector.
        device: Where to compute; None is the CPU. Blocks are copied there one by one.
        max_elements: Most elements of any intermediate: of a block of vectors in another dtype or
            on another device, of its similarities, of the best of a stretch of documents. It is
            never below `16 * max(dim, 16)`. The scores themselves do not count.

    Returns:
        `(q, n) float32`; see `scoring.maxsim`.

    Raises:
        InputError: The widths differ, or a text has no vector.
    """
    scoring.check_token_vectors(queries, documents)
    left, right = (_Packed(_tensor(side.vectors), side.offsets) for side in (queries, documents))
    widest = max(right.vectors.shape[1], _COLUMNS)
    elements = max(max_elements, _COLUMNS * widest)
    sums = torch.zeros((len(queries), len(documents)), device=device or "cpu")
    step = elements // widest // _COLUMNS * _COLUMNS
    with torch.no_grad():
        for span in _stretches(0, int(queries.offsets[-1]), step):
            _add(sums, left, right, span, elements)
        counts = torch.from_numpy(np.diff(queries.offsets).astype(np.float32))
        scores: FloatArray = sums.div_(counts.to(sums.device)[:, None]).cpu().numpy()
        return scores


def _add(
    sums: torch.Tensor, queries: _Packed, documents: _Packed, span: tuple[int, int], elements: int
) -> None:
    """Add to each query's sums what its vectors in a span of rows find in the documents."""
    first, last = span
    vectors = _columns(queries.vectors[first:last], sums.device, elements)
    texts = range(_text(queries.offsets, first), _text(queries.offsets, last - 1) + 1)
    for start, end in _stretches(0, len(documents.offsets) - 1, max(1, elements // len(vectors))):
        best = _best(vectors, documents, start, end, elements)
        for i in texts:
            own = np.clip(queries.offsets[i : i + 2], first, last) - first
            sums[i, start:end] += best[:, own[0] : own[1]].sum(dim=1)


def _best(
    vectors: torch.Tensor, documents: _Packed, start: int, end: int, elements: int
) -> torch.Tensor:
    """Each vector's best similarity in each of a stretch of documents: `(end - start, vectors)`.

    Blocks are cut without regard to documents, so that one long document is no larger block than
    many short ones; a document in two blocks gets the larger of two maxima.
    """
    room = max(1, elements // max(vectors.shape[1], len(vectors)))
    rows = 1 << room.bit_length() - 1  # what a product takes at once
    best = vectors.new_full((end - start, len(vectors)), -torch.inf)
    held, scratch = documents.vectors, None
    if (held.dtype, held.device) != (vectors.dtype, vectors.device):
        # one buffer for all blocks: fresh memory for each costs more than the conversion
        scratch = vectors.new_empty(min(rows, len(held)), held.shape[1])
    bounds = documents.offsets[[start, end]]
    for first, last in _stretches(int(bounds[0]), int(bounds[1]), rows):
        block = held[first:last]
        similar = _product(
            block if scratch is None else scratch[: last - first].copy_(block), vectors
        )
        owners = _owners(documents.offsets, first, last) - start
        index = torch.from_numpy(owners).to(vectors.device)[:, None].expand_as(similar)
        # A segmented maximum: on CPU a scatter by an expanded index is the fastest of torch's
        # (segment_reduce takes 5 times as long), and it runs on every device.
        best.scatter_reduce_(0, index, similar, "amax")
    return best


def _product(block: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """`block @ vectors.T`, `(rows, vectors)`; on a CPU by products of few numbers of rows.

    OneDNN keeps a kernel for each number of rows, so a block is cut into powers of two.
    """
    rows = len(block)
    if block.device.type != "cpu" or rows.bit_count() == 1:
        return _multiplied(block, vectors)
    found, start = block.new_empty(rows, len(vectors)), 0
    while start < rows:
        end = start + (1 << (rows - start).bit_length() - 1)
        found[start:end] = _multiplied(block[start:end], vectors)
        start = end
    return found


def _multiplied(block: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    # on a CPU torch gives float32 to MKL, which takes 1.7 times as long for this shape: many rows,
    # few columns
    product = onednn_product() if block.device.type == "cpu" else None
    return block @ vectors.T if product is None else product(block, vectors)


def _columns(vectors: torch.Tensor, device: torch.device, elements: int) -> torch.Tensor:
    """Query vectors in float32 on a device, with zeros up to a full number of columns."""
    rows, width = vectors.shape
    most = elements // max(width, _COLUMNS) // _COLUMNS * _COLUMNS
    columns = torch.zeros((min(rounded(rows, least=_COLUMNS), most), width), device=device)
    columns[:rows].copy_(vectors)
    return columns


def _stretches(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + size, last)) for start in range(first, last, size))


def _text(offsets: IntArray, row: int) -> int:
    """The text that owns a row."""
    return int(np.searchsorted(offsets, row, side="right")) - 1


def _owners(offsets: IntArray, first: int, last: int) -> IntArray:
    """The text that owns each of some rows."""
    start, end = _text(offsets, first), _text(offsets, last - 1) + 1
    bounds: IntArray = np.clip(offsets[start : end + 1], first, last)
    return np.repeat(np.arange(start, end), bounds[1:] - bounds[:-1])


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """A tensor over the memory of an array, which is never written to."""
    if not array.flags.writeable:
        with suppress(BufferError):  # numpy 1 hands out no read-only memory this way
            return torch.utils.dlpack.from_dlpack(array)
    return torch.from_numpy(array)
