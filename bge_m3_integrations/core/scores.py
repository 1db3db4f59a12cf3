"""Weights and scores: of each mode, and their weighted mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Self, TypeAlias

import numpy as np

from bge_m3_integrations.core.display import Shown, numbers, shape_name
from bge_m3_integrations.core.embeddings import ALL_MODES, MODES, FloatArray, Mode, Modes
from bge_m3_integrations.core.export import (
    Exported,
    ExportedFields,
    plain_array,
    plain_number,
    plain_scores,
)
from bge_m3_integrations.errors import InputError


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight of each mode in the hybrid score; only the ratios matter.

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
        return frozenset([mode for mode in MODES if getattr(self, mode) > 0])

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
    def parse(cls, value: FixedWeights) -> Weights:
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


FixedWeights: TypeAlias = Weights | str | Mapping[str, float] | Sequence[float]

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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Components(Shown, Exported):
    """Component scores; a mode that was not requested is None.

    Each array has one shape, `(n,)` or `(n_queries, n_documents)`, float32. No shared token is a
    sparse score of 0; NaN says that the id is gone.
    """

    dense: FloatArray | Any = None
    sparse: FloatArray | Any = None
    colbert: FloatArray | Any = None

    def __post_init__(self) -> None:
        shapes = {mode: array.shape for mode, array in self.items()}
        if len(set(shapes.values())) > 1:
            raise InputError(f"component scores differ in shape: {shapes}")

    def _parts(self) -> Iterable[str]:
        return (f"{mode} {numbers(array)}" for mode, array in self.items())

    def to_dict(self) -> dict[str, Any]:
        """The modes that are there as nested lists, which `json.dumps` takes; NaN is None."""
        return {mode: plain_array(array) for mode, array in self.items()}

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
        return frozenset([mode for mode in MODES if getattr(self, mode) is not None])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that all present arrays share."""
        array: FloatArray = next(
            x for x in (self.dense, self.sparse, self.colbert) if x is not None
        )
        return array.shape

    def take(self, index: Any) -> Components:
        """Index every present array with the same numpy index."""
        return Components(**{mode: np.asarray(array[index]) for mode, array in self.items()})

    def as_dict(self, i: int) -> dict[Mode, float]:
        """The scores of one document as Python floats; for arrays of one axis."""
        return {mode: float(array[i]) for mode, array in self.items()}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Scores(Shown, Exported):
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

    def _parts(self) -> Iterable[str]:
        yield shape_name(self.hybrid.shape)
        yield f"hybrid {numbers(self.hybrid)}"
        yield from self.components._parts()
        yield f"weights {_ratio(self.weights)}"

    def to_dict(self) -> dict[str, Any]:
        """All scores as plain Python, which `json.dumps` takes.

        Returns:
            "hybrid" and the modes that were computed, as nested lists of the scores' shape (NaN is
            None), and "weights", a dict of the three modes.
        """
        parts = {"hybrid": plain_array(self.hybrid), **self.components.to_dict()}
        return {**parts, "weights": plain_scores(asdict(self.weights))}

    @property
    def dense(self) -> FloatArray | Any:
        """The dense scores: dot products of unit vectors, in [-1, 1]."""
        return self.components.dense

    @property
    def sparse(self) -> FloatArray | Any:
        """The lexical scores: dot products over shared token ids, 0 and up, unbounded."""
        return self.components.sparse

    @property
    def colbert(self) -> FloatArray | Any:
        """The ColBERT scores: means over query vectors of the best document vector, in [-1, 1]."""
        return self.components.colbert


@dataclass(frozen=True, slots=True, repr=False)
class Ranked(Shown, ExportedFields):
    """One document of a reranked list.

    Attributes:
        index: Position in the list that was given.
        score: The value that the list is ranked by; the hybrid score if nothing else is said.
        components: The score of each mode that was computed.
        weights: The weights used.
        hybrid: The raw weighted mean of the components.
        fusion: The name of the rule that made `score`.
        weighting: The name of the weight profile or preset; None for weights given as numbers.
        lexical: The lexical value of learned weights, see `Hit`; None by other weights.
    """

    index: int
    score: float
    components: Mapping[Mode, float]
    weights: Weights = field(default=Weights(), kw_only=True)
    hybrid: float = field(default=math.nan, kw_only=True)
    fusion: str = field(default="weighted_sum", kw_only=True)
    weighting: str | None = field(default=None, kw_only=True)
    lexical: float | None = field(default=None, kw_only=True)

    def __hash__(self) -> int:
        return hash((self.index, self.score))

    def _parts(self) -> Iterable[str]:
        yield f"index={self.index}"
        yield from scores_shown(self.score, self.components)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain Python, which `json.dumps` takes, under the names of its fields."""
        return {
            "index": int(self.index),
            "score": plain_number(self.score),
            "components": plain_scores(self.components),
            "weights": plain_scores(asdict(self.weights)),
            "hybrid": plain_number(self.hybrid),
            "fusion": self.fusion,
            "weighting": self.weighting,
            **({} if self.lexical is None else {"lexical": plain_number(self.lexical)}),
        }

    @property
    def score_details(self) -> dict[str, Any]:
        """All scores and what made them, as `Hit.score_details` has them."""
        modes = {str(mode): score for mode, score in self.components.items()}
        return {
            "score": self.score,
            "fusion": self.fusion,
            "hybrid": self.hybrid,
            "weighting": self.weighting,
            "weights": asdict(self.weights),
            **modes,
            **({} if self.lexical is None else {"lexical": self.lexical}),
        }


def _ratio(weights: Weights) -> str:
    return "/".join(f"{weights.of(mode):g}" for mode in MODES)


def scores_shown(score: float, components: Mapping[Mode, float]) -> Iterable[str]:
    """The parts of a `repr` that speak of scores."""
    yield f"score={score:.4f}"
    for mode, value in components.items():
        yield f"{mode}={value:.4f}"
