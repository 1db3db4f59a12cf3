"""Embeddings: packed arrays of many texts, and their modes.

Shapes use `n` for texts, `nnz` for non-zero lexical weights and `t` for token vectors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core.display import Shown, counted, shape_name
from bge_m3_integrations.core.export import Exported, plain_array, plain_number
from bge_m3_integrations.errors import InputError

# A mode that was not computed is None. Its type is written `X | Any` all the same, as typeshed
# does it: whoever asked for a mode may use its numbers without an assertion.
Mode: TypeAlias = Literal["dense", "sparse", "colbert"]
Kind: TypeAlias = Literal["query", "document"]
Modes: TypeAlias = Collection[Mode]

MODES: tuple[Mode, ...] = get_args(Mode)
ALL_MODES: frozenset[Mode] = frozenset(MODES)

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]


def as_modes(modes: Modes | Mode) -> frozenset[Mode]:
    """Check a choice of modes.

    Args:
        modes: One mode's name or a collection of names.

    Returns:
        The modes as a frozen set.

    Raises:
        InputError: The choice is empty or holds a name that is no mode.
    """
    if isinstance(modes, frozenset) and modes and modes <= ALL_MODES:
        return modes  # checked before
    try:
        chosen = frozenset([modes] if isinstance(modes, str) else modes)
    except TypeError:
        chosen = frozenset()
    if not chosen or not chosen <= ALL_MODES or not isinstance(modes, Collection):
        raise InputError(f"modes must be one or more of {list(MODES)}, not {modes!r}")
    return chosen


def ordered_modes(modes: Modes) -> list[Mode]:
    """The given modes in the one order that this package uses: dense, sparse, colbert."""
    return [mode for mode in MODES if mode in modes]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SparseRows(Shown):
    """Lexical weights of `n` texts in compressed sparse row form.

    Attributes:
        indptr: `(n + 1,) int64`; row `i` is `indptr[i]:indptr[i + 1]`.
        token_ids: `(nnz,) int32`, sorted and unique within a row.
        weights: `(nnz,) float32`, greater than 0.
    """

    indptr: IntArray
    token_ids: NDArray[np.int32]
    weights: FloatArray

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def _parts(self) -> Iterable[str]:
        return counted(len(self), "text"), counted(len(self.token_ids), "weight")

    def row(self, i: int) -> tuple[NDArray[np.int32], FloatArray]:
        """The token ids and weights of text `i`, as views."""
        start, end = int(self.indptr[i]), int(self.indptr[i + 1])
        return self.token_ids[start:end], self.weights[start:end]

    def as_dict(self, i: int) -> dict[int, float]:
        """Text `i` as plain Python: token id to weight, in order of id."""
        ids, weights = self.row(i)
        return dict(zip(ids.tolist(), weights.tolist(), strict=True))

    def take(self, rows: IntArray) -> SparseRows:
        """The given rows, in the given order, as a copy."""
        picked, indptr = _ranges(self.indptr, rows)
        return SparseRows(indptr, self.token_ids[picked], self.weights[picked])

    @classmethod
    def from_dicts(cls, rows: Iterable[Mapping[int, float]]) -> SparseRows:
        """Pack one mapping of token id to weight per text; weights that are not positive go."""
        kept = [sorted((i, w) for i, w in row.items() if w > 0) for row in rows]
        flat = [pair for row in kept for pair in row]
        return cls(
            offsets_of([len(row) for row in kept]),
            np.array([i for i, _ in flat], dtype=np.int32),
            np.array([w for _, w in flat], dtype=np.float32),
        )

    @classmethod
    def concat(cls, parts: Sequence[SparseRows]) -> SparseRows:
        """Lay parts end to end; no parts give zero rows."""
        if not parts:
            return cls.from_dicts([])
        lengths = np.concatenate([np.diff(part.indptr) for part in parts])
        return cls(
            offsets_of(lengths),
            np.concatenate([part.token_ids for part in parts]),
            np.concatenate([part.weights for part in parts]),
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TokenVectors(Shown):
    """ColBERT vectors of `n` texts, packed end to end without padding.

    Attributes:
        vectors: `(t, colbert_dim)` float32 or float16, every row of L2 norm 1.
        offsets: `(n + 1,) int64`; text `i` owns the rows `offsets[i]:offsets[i + 1]`.
    """

    vectors: NDArray[np.floating[Any]]
    offsets: IntArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def _parts(self) -> Iterable[str]:
        return counted(len(self), "text"), f"vectors {shape_name(self.vectors.shape)}"

    def row(self, i: int) -> NDArray[np.floating[Any]]:
        """The token vectors of text `i`, as a view."""
        return self.vectors[int(self.offsets[i]) : int(self.offsets[i + 1])]

    def take(self, rows: IntArray) -> TokenVectors:
        """The given texts, in the given order, as a copy."""
        picked, offsets = _ranges(self.offsets, rows)
        return TokenVectors(self.vectors[picked], offsets)

    @classmethod
    def concat(cls, parts: Sequence[TokenVectors], dim: int) -> TokenVectors:
        """Lay parts end to end; no parts give zero texts of width `dim`."""
        if not parts:
            return cls(np.zeros((0, dim), np.float32), offsets_of([]))
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(np.concatenate([part.vectors for part in parts]), offsets_of(lengths))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Embedding(Shown, Exported):
    """One text's view of a batch; a mode that was not requested is None.

    Attributes:
        dense: `(dim,) float32` of L2 norm 1.
        sparse: Token id to lexical weight.
        colbert: `(tokens - 1, colbert_dim)`, every row of L2 norm 1.
        tokens: Number of tokens encoded, special tokens included.
        truncated: Number of tokens dropped at the length limit.
    """

    dense: FloatArray | Any
    sparse: dict[int, float] | Any
    colbert: NDArray[np.floating[Any]] | Any
    tokens: int
    truncated: int

    def _parts(self) -> Iterable[str]:
        yield counted(self.tokens, "token")
        if self.truncated:
            yield f"{self.truncated:,} cut off"
        if self.dense is not None:
            yield f"dense {len(self.dense)}"
        if self.sparse is not None:
            yield f"sparse {counted(len(self.sparse), 'weight')}"
        if self.colbert is not None:
            yield f"colbert {shape_name(self.colbert.shape)}"

    def to_dict(self) -> dict[str, Any]:
        """The embedding as plain Python, which `json.dumps` takes.

        Returns:
            "tokens", "truncated", and the modes that were computed: "dense", a list; "sparse", a
            dict of token id, as a string, to weight; "colbert", a list of lists.
        """
        made: dict[str, Any] = {"tokens": self.tokens, "truncated": self.truncated}
        if self.dense is not None:
            made["dense"] = plain_array(self.dense)
        if self.sparse is not None:
            made["sparse"] = {str(i): plain_number(w) for i, w in self.sparse.items()}
        if self.colbert is not None:
            made["colbert"] = plain_array(self.colbert)
        return made


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EmbeddingBatch(Shown, Exported):
    """Embeddings of `n` texts, packed; a mode that was not requested is None.

    Attributes:
        dense: `(n, dim) float32`, rows of L2 norm 1.
        sparse: Lexical weights.
        colbert: Token vectors.
        tokens: `(n,) int64`, tokens encoded per text, special tokens included.
        truncated: `(n,) int64`, tokens dropped per text at the length limit.
    """

    dense: FloatArray | Any
    sparse: SparseRows | Any
    colbert: TokenVectors | Any
    tokens: IntArray
    truncated: IntArray

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> Embedding:
        if not -len(self) <= i < len(self):
            raise IndexError(f"text {i} of a batch of {len(self)}")
        i %= len(self)
        return Embedding(
            None if self.dense is None else self.dense[i],
            None if self.sparse is None else self.sparse.as_dict(i),
            None if self.colbert is None else self.colbert.row(i),
            int(self.tokens[i]),
            int(self.truncated[i]),
        )

    def __iter__(self) -> Iterator[Embedding]:
        return (self[i] for i in range(len(self)))

    def _parts(self) -> Iterable[str]:
        yield counted(len(self), "text")
        yield counted(int(self.tokens.sum()), "token")
        if self.truncated.any():
            yield f"{int(self.truncated.sum()):,} cut off"
        if self.dense is not None:
            yield f"dense {self.dense.shape[1]}"
        if self.sparse is not None:
            yield f"sparse {counted(len(self.sparse.token_ids), 'weight')}"
        if self.colbert is not None:
            yield f"colbert {shape_name(self.colbert.vectors.shape)}"

    def to_dict(self) -> dict[str, Any]:
        """The batch as plain Python, which `json.dumps` takes; large with token vectors.

        `batch.only(["dense", "sparse"]).to_dict()` leaves them out.

        Returns:
            Lists of one entry per text: "tokens", "truncated", and the modes that the batch holds;
            see `Embedding.to_dict`.
        """
        texts = [text.to_dict() for text in self]
        names = ["tokens", "truncated", *ordered_modes(self.modes)]
        return {name: [text[name] for text in texts] for name in names}

    @property
    def modes(self) -> frozenset[Mode]:
        """The modes that this batch holds."""
        return frozenset([mode for mode in MODES if getattr(self, mode) is not None])

    def only(self, modes: Modes) -> EmbeddingBatch:
        """The same texts with the other modes dropped; nothing is copied.

        Args:
            modes: The modes to keep.

        Returns:
            A batch over the same arrays.

        Raises:
            InputError: A wanted mode is not in the batch.
        """
        if missing := set(modes) - self.modes:
            raise InputError(
                f"{ordered_modes(missing)} not in this batch, which holds "
                f"{ordered_modes(self.modes)}; encode with modes={ordered_modes(modes)}"
            )
        return EmbeddingBatch(
            self.dense if "dense" in modes else None,
            self.sparse if "sparse" in modes else None,
            self.colbert if "colbert" in modes else None,
            self.tokens,
            self.truncated,
        )

    def take(self, rows: Sequence[int] | IntArray) -> EmbeddingBatch:
        """The texts at the given positions, in the given order, as a copy."""
        index = np.asarray(rows, dtype=np.int64)
        return EmbeddingBatch(
            None if self.dense is None else self.dense[index],
            None if self.sparse is None else self.sparse.take(index),
            None if self.colbert is None else self.colbert.take(index),
            self.tokens[index],
            self.truncated[index],
        )

    @classmethod
    def empty(cls, modes: Modes, *, dim: int, colbert_dim: int) -> EmbeddingBatch:
        """A batch of no texts that holds the given modes."""
        none = np.zeros(0, np.int64)
        return cls(
            np.zeros((0, dim), np.float32) if "dense" in modes else None,
            SparseRows.from_dicts([]) if "sparse" in modes else None,
            TokenVectors.concat([], colbert_dim) if "colbert" in modes else None,
            none,
            none,
        )

    @classmethod
    def concat(cls, parts: Sequence[EmbeddingBatch]) -> EmbeddingBatch:
        """Lay batches of the same modes end to end; a single one is itself.

        Args:
            parts: At least one batch.

        Returns:
            One batch of all the texts, in order.

        Raises:
            InputError: There are no parts, or their modes differ.
        """
        if not parts or len({part.modes for part in parts}) > 1:
            raise InputError(
                f"concat needs parts of one set of modes, not {len(parts)} mixed parts"
            )
        if len(parts) == 1:
            return parts[0]
        dense = [part.dense for part in parts if part.dense is not None]
        sparse = [part.sparse for part in parts if part.sparse is not None]
        colbert = [part.colbert for part in parts if part.colbert is not None]
        return cls(
            np.concatenate(dense) if dense else None,
            SparseRows.concat(sparse) if sparse else None,
            TokenVectors.concat(colbert, 0) if colbert else None,
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.truncated for part in parts]),
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TokenBatch(Shown):
    """The tokens of `n` texts, packed end to end; text `i` owns `offsets[i]:offsets[i + 1]`.

    Attributes:
        ids: `(t,) int32`, special tokens included.
        spans: `(t, 2) int32`, start and end character in the user's text; (-1, -1) for a token
            that does not come from it (special tokens, the instruction).
        colbert_rows: `(t,) int32`, the token's row among the text's ColBERT vectors, or -1.
        offsets: `(n + 1,) int64`.
        truncated: `(n,) int64`, tokens dropped at the length limit.
    """

    ids: NDArray[np.int32]
    spans: NDArray[np.int32]
    colbert_rows: NDArray[np.int32]
    offsets: IntArray
    truncated: IntArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def _parts(self) -> Iterable[str]:
        return counted(len(self), "text"), counted(len(self.ids), "token")

    def row(self, i: int) -> NDArray[np.int32]:
        """The token ids of text `i`, as a view."""
        return self.ids[int(self.offsets[i]) : int(self.offsets[i + 1])]


def offsets_of(lengths: Sequence[int] | IntArray) -> IntArray:
    """Running ends of consecutive rows: `(n,)` lengths to `(n + 1,) int64` offsets from 0."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.asarray(lengths, dtype=np.int64), out=offsets[1:])
    return offsets


def _ranges(offsets: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """The flat positions of the given rows, laid end to end, and their new offsets."""
    lengths = offsets[rows + 1] - offsets[rows]
    new = offsets_of(lengths)
    shift = np.repeat(offsets[rows] - new[:-1], lengths)
    return np.arange(new[-1], dtype=np.int64) + shift, new
