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
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.encoders.torch.linear import onednn_product
from bge_m3_integrations.encoders.torch.packing import rounded
from bge_m3_integrations.errors import InputError

MAXSIM_ELEMENTS = 2 * 1024 * 1024
"""Most elements of any intermediate: 8 MiB of float32, 2,048 vectors of 1,024."""

PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)

_COLUMNS = 16
"""Query vectors come in multiples of this: a ragged edge costs more than zeros up to it."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedTensor:
    """Token vectors of `n` texts as a tensor on any device, packed end to end.

    Attributes:
        vectors: `(t, dim)` float32, float16, bfloat16 or int8.
        offsets: `(n + 1,) int64` on the host; text `i` owns `offsets[i]:offsets[i + 1]`.
        scales: `(t,) float32` on the same device: what an int8 vector is to be multiplied by; None
            for vectors that are meant as they are.
    """

    vectors: torch.Tensor
    offsets: IntArray
    scales: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_vectors(cls, vectors: TokenVectors) -> PackedTensor:
        """A view of numpy arrays."""
        return cls(_tensor(vectors.vectors), vectors.offsets)


@dataclass(frozen=True, slots=True)
class _Budget:
    """Where and how finely to compute.

    Attributes:
        device: Where products run.
        precision: The dtype of a product's inputs and of its result.
        elements: Most elements of any intermediate.
    """

    device: torch.device
    precision: torch.dtype
    elements: int


def maxsim(
    queries: TokenVectors,
    documents: TokenVectors,
    *,
    device: torch.device | None = None,
    precision: torch.dtype = torch.float32,
    max_elements: int = MAXSIM_ELEMENTS,
) -> FloatArray:
    """ColBERT scores of numpy arrays; see `scoring.maxsim`.

    Args:
        queries: Token vectors of `q` texts, each of at least one vector.
        documents: Token vectors of `n` texts, each of at least one vector.
        device: Where to compute; None is the CPU. Blocks are copied there one by one.
        precision: See `maxsim_packed`.
        max_elements: See `maxsim_packed`.

    Returns:
        `(q, n) float32`.

    Raises:
        InputError: The widths differ, a text has no vector, or an option is out of range.
    """
    scores: FloatArray = (
        maxsim_packed(
            PackedTensor.from_vectors(queries),
            PackedTensor.from_vectors(documents),
            device=device,
            precision=precision,
            max_elements=max_elements,
        )
        .cpu()
        .numpy()
    )
    return scores


def maxsim_packed(
    queries: PackedTensor,
    documents: PackedTensor,
    *,
    device: torch.device | None = None,
    precision: torch.dtype = torch.float32,
    max_elements: int = MAXSIM_ELEMENTS,
) -> torch.Tensor:
    """ColBERT scores of tensors: all queries' vectors against one block of documents at a time.

    Args:
        queries: `q` texts, each of at least one vector.
        documents: `n` texts, each of at least one vector.
        device: Where to compute; None is where the documents are.
        precision: What products are computed in; they are summed in float32 and rounded to this.
            bfloat16 and float16 are faster and round each similarity to 8 or 11 bits.
        max_elements: Most elements of any intermediate: of a block of vectors in another dtype or
            on another device, of its similarities, of the best of a stretch of documents. It is
            never below `16 * max(dim, 16)`. The scores themselves do not count.

    Returns:
        `(q, n) float32` on the device.

    Raises:
        InputError: The widths differ, a text has no vector, or an option is out of range.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {list(PRECISIONS)}, not {precision}")
    width = documents.vectors.shape[1]
    scoring.check_token_vectors(queries, documents)
    widest = max(width, _COLUMNS)
    elements = max(check_int("max_elements", max_elements), _COLUMNS * widest)
    budget = _Budget(documents.vectors.device if device is None else device, precision, elements)
    sums = torch.zeros((len(queries), len(documents)), device=budget.device)
    step = elements // widest // _COLUMNS * _COLUMNS
    with torch.no_grad():
        for span in _stretches(0, int(queries.offsets[-1]), step):
            _add(sums, queries, documents, span, budget)
        counts = torch.from_numpy(np.diff(queries.offsets).astype(np.float32))
        return sums.div_(counts.to(budget.device)[:, None])


def _add(
    sums: torch.Tensor,
    queries: PackedTensor,
    documents: PackedTensor,
    span: tuple[int, int],
    budget: _Budget,
) -> None:
    """Add to each query's sums what its vectors in a span of rows find in the documents."""
    first, last = span
    vectors = _columns(queries, first, last, budget)
    texts = range(_text(queries.offsets, first), _text(queries.offsets, last - 1) + 1)
    for start, end in _stretches(0, len(documents), max(1, budget.elements // len(vectors))):
        best = _best(vectors, documents, start, end, budget)
        for i in texts:
            own = np.clip(queries.offsets[i : i + 2], first, last) - first
            sums[i, start:end] += best[:, own[0] : own[1]].sum(dim=1, dtype=torch.float32)


def _best(
    vectors: torch.Tensor, documents: PackedTensor, start: int, end: int, budget: _Budget
) -> torch.Tensor:
    """Each vector's best similarity in each of a stretch of documents: `(end - start, vectors)`.

    Blocks are cut without regard to documents, so that one long document is no larger block than
    many short ones; a document in two blocks gets the larger of two maxima.
    """
    width = documents.vectors.shape[1]
    room = max(1, budget.elements // max(width, len(vectors)))
    rows = 1 << room.bit_length() - 1  # what a product takes at once
    best = vectors.new_full((end - start, len(vectors)), -torch.inf)
    scratch = _scratch(documents, min(rows, len(documents.vectors)), budget)
    bounds = documents.offsets[[start, end]]
    for first, last in _stretches(int(bounds[0]), int(bounds[1]), rows):
        similar = _product(_block(documents, first, last, scratch), vectors)
        if documents.scales is not None:
            similar *= _scales(documents.scales, first, last, budget)
        owners = _owners(documents.offsets, first, last) - start
        index = torch.from_numpy(owners).to(budget.device)[:, None].expand_as(similar)
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
    on_cpu = block.device.type == "cpu" and block.dtype == torch.float32
    product = onednn_product() if on_cpu else None
    return block @ vectors.T if product is None else product(block, vectors)


def _columns(queries: PackedTensor, first: int, last: int, budget: _Budget) -> torch.Tensor:
    """Query vectors in the precision of products, with zeros up to a full number of columns."""
    width = queries.vectors.shape[1]
    most = budget.elements // max(width, _COLUMNS) // _COLUMNS * _COLUMNS
    vectors = torch.zeros(
        (min(rounded(last - first, least=_COLUMNS), most), width),
        dtype=budget.precision,
        device=budget.device,
    )
    vectors[: last - first].copy_(queries.vectors[first:last])
    if queries.scales is not None:
        vectors[: last - first] *= _scales(queries.scales, first, last, budget)
    return vectors


def _scales(scales: torch.Tensor, first: int, last: int, budget: _Budget) -> torch.Tensor:
    return scales[first:last, None].to(budget.device, budget.precision)


def _scratch(documents: PackedTensor, rows: int, budget: _Budget) -> torch.Tensor | None:
    """Room for one block in another dtype or on another device; None where none is needed.

    One buffer for all blocks: fresh memory for each costs more than the conversion.
    """
    held = documents.vectors
    if held.dtype == budget.precision and held.device == budget.device:
        return None
    return torch.empty((rows, held.shape[1]), dtype=budget.precision, device=budget.device)


def _block(
    documents: PackedTensor, first: int, last: int, scratch: torch.Tensor | None
) -> torch.Tensor:
    """Some of the document vectors, ready for a product."""
    held = documents.vectors[first:last]
    return held if scratch is None else scratch[: last - first].copy_(held)


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
