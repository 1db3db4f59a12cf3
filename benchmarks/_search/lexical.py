"""Lexical weights of made-up texts: tokens as rare as words are, rare ones weighing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

VOCABULARY = 250_002
_SPECIAL = 5
_COMMON, _COMMON_IN_QUERY, _OWN_IN_QUERY = 50, 4, 7


@dataclass(frozen=True, slots=True, eq=False)
class Lexical:
    """Lexical weights of `n` texts: text `i` owns `indptr[i]:indptr[i + 1]`, ids ascending."""

    indptr: np.ndarray
    token_ids: np.ndarray
    weights: np.ndarray

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and weights of one text."""
        owned = slice(int(self.indptr[i]), int(self.indptr[i + 1]))
        return self.token_ids[owned], self.weights[owned]

    def part(self, start: int, stop: int) -> Lexical:
        """Consecutive texts."""
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        return Lexical(
            self.indptr[start : stop + 1] - first,
            self.token_ids[first:last],
            self.weights[first:last],
        )

    def as_dict(self, i: int) -> dict[int, float]:
        """One text's weights by token id, as Python numbers."""
        ids, weights = self.row(i)
        return dict(zip(ids.tolist(), weights.tolist(), strict=True))


def token_id(rank: np.ndarray) -> np.ndarray:
    """The id of the token of a rank (0 is the most frequent): frequent ones lie anywhere."""
    words = VOCABULARY - _SPECIAL
    return _SPECIAL + rank * 154_549 % words


def _rank(ids: np.ndarray) -> np.ndarray:
    words = VOCABULARY - _SPECIAL
    return (ids.astype(np.int64) - _SPECIAL) * pow(154_549, -1, words) % words


def zipf(shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Token ids whose ranks are log-uniform: rank r comes up in proportion to 1/r."""
    words = VOCABULARY - _SPECIAL
    ranks = np.exp(generator.random(shape) * np.log(words + 1)).astype(np.int64) - 1
    return token_id(np.minimum(ranks, words - 1))


def weights(ids: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Rare tokens weigh more, as a trained head has it: 0.01 to 0.35."""
    rarity = np.log1p(_rank(ids)) / np.log(VOCABULARY)
    drawn = 0.01 + 0.34 * rarity * generator.uniform(0.4, 1.0, len(ids))
    return drawn.astype(np.float32)


def asked(ids: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Some tokens of a document and some frequent ones."""
    own = generator.choice(ids, size=min(_OWN_IN_QUERY, len(ids)), replace=False)
    common = token_id(generator.choice(_COMMON, size=_COMMON_IN_QUERY, replace=False))
    return np.unique(np.concatenate([own, common]).astype(np.int32))


def packed(ids: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> Lexical:
    """Texts laid end to end."""
    indptr = np.cumsum([0, *(len(row) for row in ids)])
    return Lexical(indptr, np.concatenate(ids), np.concatenate(weights))
