"""Inverse document frequencies of a collection's lexical tokens, and the scripts they occur in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core.embeddings import FloatArray, SparseRows

_SURE = 0.9
"""The share of a token's documents in one script from which the token stands for it."""


@dataclass(frozen=True, slots=True, eq=False)
class IdfTable:
    """Document frequencies of a collection's tokens.

    Attributes:
        token_ids: `(t,) int32`, ascending.
        counts: `(t,) int32`, documents that hold the token.
        documents: How many documents were counted.
        scripts: Names of the scripts among them.
        script: `(t,) int8`, the place in `scripts` of a token that occurs in one script almost
            only; -1 for all others.
    """

    token_ids: NDArray[np.int32]
    counts: NDArray[np.int32]
    documents: int
    scripts: tuple[str, ...]
    script: NDArray[np.int8]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IdfTable):
            return NotImplemented
        return (self.documents, self.scripts) == (other.documents, other.scripts) and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("token_ids", "counts", "script")
        )

    def __hash__(self) -> int:
        return hash((self.documents, self.scripts, len(self.token_ids)))

    @classmethod
    def of(cls, rows: SparseRows, scripts: Sequence[str | None]) -> Self:
        """Count a collection's tokens.

        Args:
            rows: Lexical weights of `n` documents.
            scripts: Of each document; None is not known.

        Returns:
            The table.
        """
        names = tuple(sorted({name for name in scripts if name is not None}))
        tokens, places = np.unique(rows.token_ids, return_inverse=True)
        owner = np.repeat(np.arange(len(rows)), np.diff(rows.indptr))
        counts = np.bincount(places, minlength=len(tokens)).astype(np.int32)
        by_document = np.array([names.index(s) if s in names else -1 for s in scripts], np.int64)
        script = np.full(len(tokens), -1, np.int8)
        for i in range(len(names)):
            inside = np.bincount(places[by_document[owner] == i], minlength=len(tokens))
            script[inside >= _SURE * counts] = i
        return cls(tokens.astype(np.int32), counts, len(rows), names, script)

    @classmethod
    def empty(cls) -> Self:
        """The table of no documents, by which all tokens count alike."""
        none = np.zeros(0, np.int32)
        return cls(none, none, 0, (), np.zeros(0, np.int8))

    def factors(self, token_ids: NDArray[np.int32], power: float) -> FloatArray:
        """`log(1 + N / max(df, 0.5)) ** power` of tokens (Robertson and Sparck Jones 1976).

        Args:
            token_ids: `(n,)`, any.
            power: 0 gives ones.

        Returns:
            `(n,) float32`, above 0.
        """
        at, known = self._find(token_ids)
        held = np.where(known, self.counts[at], 0) if len(self.counts) else np.zeros(len(at))
        idf = np.log1p(max(self.documents, 1) / np.maximum(held, 0.5))
        return (idf**power).astype(np.float32)

    def script_of(self, token_ids: NDArray[np.int32], weights: FloatArray) -> str | None:
        """The script that most of the weight of some tokens stands for; None where none does."""
        at, known = self._find(token_ids)
        if not len(self.script):
            return None
        found = np.where(known, self.script[at], -1)
        total: Counter[int] = Counter()
        for place, weight in zip(found.tolist(), weights.tolist(), strict=True):
            if place >= 0:
                total[place] += weight
        return self.scripts[total.most_common(1)[0][0]] if total else None

    def _find(self, token_ids: NDArray[np.int32]) -> tuple[Any, Any]:
        if not len(self.token_ids):
            return np.zeros(len(token_ids), np.int64), np.zeros(len(token_ids), bool)
        at = np.minimum(np.searchsorted(self.token_ids, token_ids), len(self.token_ids) - 1)
        return at, self.token_ids[at] == token_ids
