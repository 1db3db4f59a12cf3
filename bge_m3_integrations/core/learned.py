"""Weights that an index has learned from its own documents, and the ranking by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import EmbeddingBatch, FloatArray, SparseRows
from bge_m3_integrations.core.idf import IdfTable
from bge_m3_integrations.core.scores import Components, Weights
from bge_m3_integrations.core.weighting import LEARNED, WeightProfile
from bge_m3_integrations.errors import InputError


@dataclass(frozen=True, slots=True)
class LearnedSum:
    """The weighted mean with a lexical value that knows the collection.

    The query's lexical weights are multiplied by `idf ** power` and divided by their sum, before
    the lookup and for the score. So a rare word counts more, and a long query no more than a short
    one. In a collection of several scripts, a document of another script than the query shares no
    token with it whatever it says: its lexical value is estimated from its other scores.

    Attributes:
        idf: Of the collection; None where it keeps no lexical weights, and in a profile of a file,
            which takes that of the index.
        power: Of the idf.
        imputation: Intercept and factors of the dense and the ColBERT score that estimate the
            lexical value across scripts; None where all documents are of one script.
        name: Reported in the hits.
    """

    idf: IdfTable | None = field(default=None, repr=False)
    power: float = 1.0
    imputation: tuple[float, float, float] | None = None
    name: str = "learned_sum"

    def reweighted(self, queries: EmbeddingBatch) -> EmbeddingBatch:
        """The queries with lexical weights times `idf ** power`, each query's sum being 1.

        Args:
            queries: With or without lexical weights.

        Returns:
            New lexical weights; the other modes are the same arrays.
        """
        if queries.sparse is None or self.idf is None:
            return queries
        rows: SparseRows = queries.sparse
        weights = rows.weights * self.idf.factors(rows.token_ids, self.power)
        owner = np.repeat(np.arange(len(rows)), np.diff(rows.indptr))
        total = np.bincount(owner, weights, minlength=len(rows))
        total = np.maximum(total, np.finfo(np.float32).tiny)  # weights of 0, given by a caller
        scaled = (weights / total[owner]).astype(np.float32)
        return replace(queries, sparse=SparseRows(rows.indptr, rows.token_ids, scaled))

    def imputed(
        self, lexical: FloatArray, parts: Components, foreign: NDArray[np.bool_]
    ) -> FloatArray:
        """Lexical values with an estimate where the document is of another script.

        Args:
            lexical: `(n,)`.
            parts: The scores of the same documents.
            foreign: `(n,)`, whether a document is of another script than the query.

        Returns:
            `(n,) float32`.
        """
        if self.imputation is None or not foreign.any():
            return lexical
        start, by_dense, by_colbert = self.imputation
        guess = np.full(len(lexical), start, np.float32)
        if parts.dense is not None:
            guess += np.float32(by_dense) * parts.dense
        if parts.colbert is not None:
            guess += np.float32(by_colbert) * parts.colbert
        return np.where(foreign, guess, lexical).astype(np.float32)

    def rank_values(
        self, parts: Components, weights: Weights, *, query_sparse_sum: float
    ) -> FloatArray:
        """See `Fusion.rank_values`; the sparse scores are lexical values already."""
        del query_sparse_sum
        return scoring.hybrid(parts, weights).hybrid

    def max_score(self, weights: Weights) -> float:
        """See `Fusion.max_score`: 1."""
        del weights
        return 1.0


@dataclass(frozen=True, slots=True)
class LearnedWeights(WeightProfile):
    """The result of `HybridIndex.learn_weights`; `print` shows it as a table.

    A `WeightProfile` whose fusion is a `LearnedSum`: `weights=` of a search takes it.

    Attributes:
        documents: How many documents questions were taken out of.
        queries: How many questions those were.
        records: Documents in the index then.
        seed: Of the sampling.
        gains: DCG@10 of the learned weights, each mode and the presets on the questions; 1 would
            find every rest first.
        scale: `(m,)`, the deviation of each mode's scores within a question.
        curve: `(w,)`, the DCG@10 of each point of the simplex in steps of 0.05, of scores that
            were divided by `scale`: the prior of `tune`.
        null: Ascending values of unrelated pairs of question and document, for percentiles.
        date: Of learning, as YYYY-MM-DD.
    """

    documents: int = 0
    queries: int = 0
    records: int = 0
    seed: int = 0
    gains: Mapping[str, float] = field(default_factory=dict)
    scale: tuple[float, ...] = ()
    curve: FloatArray | None = field(default=None, repr=False, compare=False)
    null: FloatArray | None = field(default=None, repr=False, compare=False)
    date: str = ""

    def __hash__(self) -> int:
        return hash((self.weights, self.documents, self.queries, self.records, self.seed))

    def __str__(self) -> str:
        weights = self.weights
        power = self.fusion.power if isinstance(self.fusion, LearnedSum) else 0.0
        lines = [
            f"Weights learned on {self.date} from {self.queries} questions that were taken out of "
            f"{self.documents} of {self.records:,} documents",
            f"  dense {weights.dense:.3f}   lexical {weights.sparse:.3f}   ColBERT "
            f"{weights.colbert:.3f}   (idf power {power:g})",
            "  DCG@10 on these questions:",
        ]
        best = max(self.gains.values(), default=0.0)
        for name, gain in self.gains.items():
            bar = "█" * round(24 * gain / best) if best > 0 else ""
            lines.append(f"    {name:16} {gain:.3f}  {bar}")
        return "\n".join(lines)


def check_learned(profile: WeightProfile | None, path: object) -> WeightProfile:
    """The learned weights of an index; an error that names the call where there are none."""
    if profile is None:
        raise InputError(
            f'weights="{LEARNED}" needs weights that this index has learned, and it has none'
            f"{'' if path is None else f' in {path}'}; call index.learn_weights(), or run: "
            "bge-m3 weights learn INDEX"
        )
    return profile
