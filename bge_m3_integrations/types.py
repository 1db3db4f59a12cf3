"""The values that pass between encoder, store, index and adapter: frozen, packed, framework-free.

Shapes use `n` for texts, `nnz` for non-zero lexical weights and `t` for token vectors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.errors import InputError
from bge_m3_integrations.metadata import plain

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
    given: Collection[Any] = [modes] if isinstance(modes, str) else modes
    if not isinstance(given, Collection) or not given or not all(m in MODES for m in given):
        raise InputError(f"modes must be one or more of {list(MODES)}, not {modes!r}")
    return frozenset(given)


def ordered_modes(modes: Modes) -> list[Mode]:
    """The given modes in the one order that this package uses: dense, sparse, colbert."""
    return [mode for mode in MODES if mode in modes]


@dataclass(frozen=True, slots=True, eq=False)
class SparseRows:
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
    def of(cls, rows: Iterable[Mapping[int, float]]) -> SparseRows:
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
            return cls.of([])
        lengths = np.concatenate([np.diff(part.indptr) for part in parts])
        return cls(
            offsets_of(lengths),
            np.concatenate([part.token_ids for part in parts]),
            np.concatenate([part.weights for part in parts]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class TokenVectors:
    """ColBERT vectors of `n` texts, packed end to end without padding.

    Attributes:
        vectors: `(t, colbert_dim)` float32 or float16, every row of L2 norm 1.
        offsets: `(n + 1,) int64`; text `i` owns the rows `offsets[i]:offsets[i + 1]`.
    """

    vectors: NDArray[np.floating[Any]]
    offsets: IntArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

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


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """One text's view of a batch; a mode that was not asked for is None.

    Attributes:
        dense: `(dim,) float32` of L2 norm 1.
        sparse: Token id to lexical weight.
        colbert: `(tokens - 1, colbert_dim)`, every row of L2 norm 1.
        tokens: Number of tokens encoded, special tokens included.
        truncated: Number of tokens dropped at the length limit.
    """

    dense: FloatArray | None
    sparse: dict[int, float] | None
    colbert: NDArray[np.floating[Any]] | None
    tokens: int
    truncated: int


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingBatch:
    """Embeddings of `n` texts, packed; a mode that was not asked for is None.

    Attributes:
        dense: `(n, dim) float32`, rows of L2 norm 1.
        sparse: Lexical weights.
        colbert: Token vectors.
        tokens: `(n,) int64`, tokens encoded per text, special tokens included.
        truncated: `(n,) int64`, tokens dropped per text at the length limit.
    """

    dense: FloatArray | None
    sparse: SparseRows | None
    colbert: TokenVectors | None
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

    @property
    def modes(self) -> frozenset[Mode]:
        """The modes that this batch holds."""
        return frozenset(mode for mode in MODES if getattr(self, mode) is not None)

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
            SparseRows.of([]) if "sparse" in modes else None,
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


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
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

    def row(self, i: int) -> NDArray[np.int32]:
        """The token ids of text `i`, as a view."""
        return self.ids[int(self.offsets[i]) : int(self.offsets[i + 1])]


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each mode counts in the hybrid score; only the ratios matter.

    Attributes:
        dense: Weight of the dense score, at least 0.
        sparse: Weight of the lexical score, at least 0.
        colbert: Weight of the ColBERT score, at least 0.
    """

    dense: float = 0.4
    sparse: float = 0.2
    colbert: float = 0.4

    def __post_init__(self) -> None:
        values = (self.dense, self.sparse, self.colbert)
        for value in values:
            bad = isinstance(value, bool) or not isinstance(value, int | float | np.number)
            if bad or not math.isfinite(value) or value < 0:
                raise InputError(f"weights must be finite numbers of at least 0, not {values}")
        if not 0 < sum(values) < math.inf:
            raise InputError(
                f"weights must have a positive, finite sum, not {values}; give one mode a "
                "positive weight"
            )

    @property
    def modes(self) -> frozenset[Mode]:
        """The modes whose weight is not 0: the only ones worth computing."""
        return frozenset(mode for mode in MODES if getattr(self, mode) > 0)

    def of(self, mode: Mode) -> float:
        """The weight of one mode."""
        return float(getattr(self, mode))

    def restricted(self, modes: Modes) -> Weights:
        """These weights with the modes that are not given set to 0.

        Args:
            modes: The modes that may count.

        Returns:
            New weights.

        Raises:
            InputError: No mode with a positive weight is left.
        """
        kept = self.modes & set(modes)
        if not kept:
            raise InputError(f"weights {self} leave nothing to score by among {sorted(modes)}")
        return Weights(**{mode: self.of(mode) if mode in kept else 0.0 for mode in MODES})

    @classmethod
    def only(cls, mode: Mode) -> Self:
        """All the weight on one mode."""
        return cls(**{m: float(m == mode) for m in MODES})

    @classmethod
    def parse(cls, value: WeightsLike) -> Weights:
        """Read weights in any of the forms that users write.

        Args:
            value: Weights, a preset's name, three numbers (dense, sparse, colbert), or a mapping
                of all three modes.

        Returns:
            Checked weights.

        Raises:
            InputError: An unknown preset, a missing or unknown mode, a bad number.
        """
        if isinstance(value, Weights):
            return value
        if isinstance(value, str):
            if value not in PRESETS:
                raise InputError(f"unknown weights preset {value!r}; there are {sorted(PRESETS)}")
            return PRESETS[value]
        if isinstance(value, Mapping):
            if set(value) != ALL_MODES:
                raise InputError(f"weights need all of {list(MODES)}, not {sorted(value)}")
            return cls(**value)
        numbers = tuple(value) if isinstance(value, Iterable) else ()
        if len(numbers) != len(MODES):
            raise InputError(f"weights need three numbers, {list(MODES)}, not {value!r}")
        return cls(*numbers)


WeightsLike: TypeAlias = Weights | str | Mapping[str, float] | Sequence[float]

PRESETS: Mapping[str, Weights] = MappingProxyType(
    {
        "default": Weights(0.4, 0.2, 0.4),
        "cross-lingual": Weights(0.6, 0.1, 0.3),
        "keyword": Weights(0.3, 0.5, 0.2),
        "long-document": Weights(0.3, 0.2, 0.5),
        "training": Weights(1.0, 0.3, 1.0),
    }
)
"""Starting points from practice; "training" is the ensemble that FlagEmbedding trains with.
None of them is right for every collection: measure on your own."""


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """Component scores; a mode that was not asked for is None.

    Each array has one shape, `(n,)` or `(n_queries, n_documents)`, float32. No shared token is a
    sparse score of 0; NaN says that the id is gone.
    """

    dense: FloatArray | None = None
    sparse: FloatArray | None = None
    colbert: FloatArray | None = None

    def __post_init__(self) -> None:
        shapes = {mode: array.shape for mode, array in self.items()}
        if len(set(shapes.values())) > 1:
            raise InputError(f"component scores differ in shape: {shapes}")

    def items(self) -> list[tuple[Mode, FloatArray]]:
        """The modes that are there, with their scores, in the order dense, sparse, colbert."""
        pairs: list[tuple[Mode, FloatArray | None]] = [
            ("dense", self.dense),
            ("sparse", self.sparse),
            ("colbert", self.colbert),
        ]
        return [(mode, array) for mode, array in pairs if array is not None]

    @property
    def modes(self) -> frozenset[Mode]:
        """The modes that are there."""
        return frozenset(mode for mode, _ in self.items())

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that all present arrays share."""
        return self.items()[0][1].shape

    def take(self, index: Any) -> Components:
        """Index every present array with the same numpy index."""
        return Components(**{mode: np.asarray(array[index]) for mode, array in self.items()})

    def as_dict(self, i: int) -> dict[Mode, float]:
        """The scores of one document as Python floats; for arrays of one axis."""
        return {mode: float(array[i]) for mode, array in self.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Component scores, their raw weighted mean, and the weights that made it.

    Attributes:
        components: The scores per mode.
        hybrid: `(wd * dense + ws * sparse + wc * colbert) / (wd + ws + wc)`, float32, of the
            components' shape.
        weights: The weights used.
    """

    components: Components
    hybrid: FloatArray
    weights: Weights

    @property
    def dense(self) -> FloatArray | None:
        """The dense scores: dot products of unit vectors, in [-1, 1]."""
        return self.components.dense

    @property
    def sparse(self) -> FloatArray | None:
        """The lexical scores: dot products over shared token ids, 0 and up, unbounded."""
        return self.components.sparse

    @property
    def colbert(self) -> FloatArray | None:
        """The ColBERT scores: means over query vectors of the best document vector, in [-1, 1]."""
        return self.components.colbert


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document of a reranked list.

    Attributes:
        index: Position in the list that was given.
        score: The hybrid score, which the list is ranked by.
        components: The score of each mode that was computed.
    """

    index: int
    score: float
    components: Mapping[Mode, float]


def text_hash(text: str) -> str:
    """The sha256 of a text in UTF-8, in hex: what `Record.text_hash` is."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Record:
    """A document as the index keeps it.

    Attributes:
        id: Any non-empty string.
        text: Exactly what is encoded, and hashed.
        metadata: What filters see; JSON values. What is nearly one becomes one, such as a numpy
            integer or a tuple; `metadata.plain` is the rule.
        content: What a reader sees; None stands for `text`.
        payload: Opaque JSON that belongs to one adapter; by the same rule.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    content: str | None = None
    payload: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise InputError(f"a record's id must be a non-empty string, not {self.id!r}")
        if not isinstance(self.text, str):
            raise InputError(
                f"record {self.id!r}: text must be str, not {type(self.text).__name__}"
            )
        if not isinstance(self.metadata, Mapping):
            raise InputError(
                f"record {self.id!r}: metadata must be a mapping, not "
                f"{type(self.metadata).__name__}; leave it out for none"
            )
        if not isinstance(self.content, str | None):
            raise InputError(
                f"record {self.id!r}: content must be str or None, not "
                f"{type(self.content).__name__}"
            )
        for name in ("metadata", "payload"):
            held = plain(getattr(self, name), f"record {self.id!r}: {name}")
            object.__setattr__(self, name, held)

    @property
    def shown(self) -> str:
        """The text for a reader: `content`, or `text` where there is none."""
        return self.text if self.content is None else self.content

    @property
    def text_hash(self) -> str:
        """The sha256 of the encoded text, in hex: tells whether stored vectors still fit."""
        return text_hash(self.text)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that one mode found.

    Attributes:
        id: The record's id.
        score: That mode's component score.
    """

    id: str
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a search, best first.

    Attributes:
        record: The document.
        score: The value that the list is ranked by.
        fusion: The name of the rule that made `score`.
        components: The score of each mode that was computed.
        hybrid: The raw weighted mean of the components.
        weights: The weights used.
        colbert_kind: How the index keeps the token vectors that were scored, such as "turbo8",
            "turbo8, 3 tokens a vector" or "reencode"; None where they are kept as they are, or
            were not scored.
        greatest: The score that stands for full relevance; infinite where none does.
    """

    record: Record
    score: float
    fusion: str
    components: Mapping[Mode, float]
    hybrid: float
    weights: Weights
    colbert_kind: str | None = None
    greatest: float = 1.0

    @property
    def id(self) -> str:
        """The record's id."""
        return self.record.id

    @property
    def score_details(self) -> dict[str, Any]:
        """All scores and what made them, as JSON values.

        "score", the value ranked by; "fusion", the rule that made it; "hybrid", the raw weighted
        mean; "weights", a mapping of the three modes; and each mode's own score by its name.
        """
        about = {"score": self.score, "fusion": self.fusion, "hybrid": self.hybrid}
        modes = {str(mode): score for mode, score in self.components.items()}
        return {**about, "weights": asdict(self.weights), **modes}

    @property
    def relevance(self) -> float:
        """The score in [0, 1], for callers that want that: uncalibrated, no probability.

        It is the share of the greatest score, cut off at 0 and 1. Lexical scores alone have no
        greatest one: `s / (1 + s)`.
        """
        return relevance(self.score, self.greatest)


def relevance(score: float, greatest: float) -> float:
    """See `Hit.relevance`; `greatest` is a fusion's."""
    if math.isinf(greatest):
        return max(score, 0.0) / (1 + max(score, 0.0))
    return min(max(score / greatest, 0.0), 1.0)


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
