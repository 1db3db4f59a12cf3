"""Component scores of every query's candidates, computed once; weightings are then arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core.embeddings import MODES, FloatArray, IntArray, Mode
from bge_m3_integrations.core.fusion import Candidates, Fusion, WeightedSum
from bge_m3_integrations.core.scores import Components, Weights
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.evaluation.datasets import Dataset
from bge_m3_integrations.evaluation.runs import Run
from bge_m3_integrations.index.index import HybridIndex

_BATCH = 64
_ROWS = 64
"""Weightings ranked at once: 64 times 1,400 documents stay in the cache."""


@dataclass(frozen=True, eq=False)
class CandidateScores:
    """Scored candidates of judged queries: what every weighting is computed from.

    Attributes:
        name: Of the dataset.
        queries: Ids of the `q` queries that have a relevant document.
        candidates: One entry per query, ids ascending.
        qrels: Grades by query and document.
        texts: Of the queries, by id.
    """

    name: str
    queries: Sequence[str]
    candidates: Sequence[Candidates]
    qrels: Mapping[str, Mapping[str, int]] = field(repr=False)
    texts: Mapping[str, str] = field(repr=False)

    @property
    def modes(self) -> frozenset[Mode]:
        """The modes that were scored."""
        return self.candidates[0].components.modes

    def run(
        self, name: str, weights: Weights, fusion: Fusion | None = None, *, depth: int = 100
    ) -> Run:
        """Rank the candidates by a weighting.

        Args:
            name: Of the run.
            weights: How much each mode counts.
            fusion: How scores become one value; None is the raw weighted mean.
            depth: Most documents per query.

        Returns:
            The run; equal values are in ascending order of id, as searches have them.

        Raises:
            InputError: A weighted mode was not scored.
        """
        rule = fusion or WeightedSum()
        if missing := weights.modes - self.modes:
            raise InputError(f"weights {weights} need {sorted(missing)}, which were not scored")
        rankings, scores = {}, {}
        for query, held in zip(self.queries, self.candidates, strict=True):
            parts = Components(
                **{mode: a for mode, a in held.components.items() if weights.of(mode)}
            )
            values = rule.rank_values(parts, weights, query_sparse_sum=held.query_sparse_sum)
            if weights.modes == {"sparse"} and parts.sparse is not None:
                values = np.where(parts.sparse > 0, values, -np.inf)
            order = np.argsort(-values, kind="stable")[:depth]
            order = order[np.isfinite(values[order])]
            rankings[query] = [held.ids[i] for i in order.tolist()]
            scores[query] = values[order].tolist()
        return Run(name, rankings, scores, self.qrels)

    def tensor(self, *, scaled: bool = False) -> list[FloatArray]:
        """The component scores of each query as `(n, 3) float32` in the order of `MODES`.

        Args:
            scaled: Divide lexical scores by the sum of the query's lexical weights, as
                `ScaledSum` does.

        Returns:
            One array per query; a mode that was not scored is 0.
        """
        out = []
        for held in self.candidates:
            table = np.zeros((len(held.ids), len(MODES)), np.float32)
            for mode, scores in held.components.items():
                by = held.query_sparse_sum if scaled and mode == "sparse" else 1.0
                table[:, MODES.index(mode)] = scores / (by if by > 0 else 1.0)
            out.append(table)
        return out

    def ndcg(
        self, weightings: NDArray[np.floating], *, k: int = 10, scaled: bool = False
    ) -> NDArray[np.float64]:
        """The nDCG@k of many weightings at once, with linear gains, as `Run.values` has it.

        Args:
            weightings: `(w, 3)`, dense, sparse, colbert.
            k: Depth.
            scaled: See `tensor`.

        Returns:
            `(w, q) float64`.
        """
        columns = np.asarray(weightings, np.float32).reshape(-1, len(MODES))
        out = np.zeros((len(columns), len(self.queries)))
        discounts = 1 / np.log2(np.arange(2, k + 2))
        for i, table in enumerate(self.tensor(scaled=scaled)):
            gains, relevant = self._gains[i]
            ideal = float((np.sort(gains)[::-1][:k] * discounts[: len(gains)]).sum())
            if not len(relevant):
                continue
            for piece in _pieces(len(columns)):
                values = table @ columns[piece].T
                found = _ranks(values, relevant[:, 0])
                weight = np.where(found <= k, discounts[np.minimum(found, k) - 1], 0.0)
                out[piece, i] = relevant[:, 1] @ weight / ideal
        return out

    @cached_property
    def _gains(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """All relevant grades of each query, and `(place, grade)` of those that were found."""
        out = []
        for query, held in zip(self.queries, self.candidates, strict=True):
            grades = {document: g for document, g in self.qrels[query].items() if g > 0}
            place = {document: i for i, document in enumerate(held.ids)}
            found = [(place[document], g) for document, g in grades.items() if document in place]
            out.append(
                (np.array(list(grades.values()), float), np.array(found, float).reshape(-1, 2))
            )
        return out


def score_candidates(
    index: HybridIndex,
    dataset: Dataset,
    *,
    candidates: Mapping[Mode, int] | None = None,
    exact: bool = False,
    tell: Callable[[int, int | None], None] | None = None,
) -> CandidateScores:
    """Look up and score the candidates of a dataset's judged queries; each is encoded once.

    Args:
        index: Holds the documents.
        dataset: Its queries and judgements.
        candidates: How many documents each mode looks up; see `HybridIndex.search`.
        exact: Score every document instead.
        tell: Is told how many queries are done, and of how many.

    Returns:
        The scores, in every mode that the index keeps.

    Raises:
        InputError: The index lacks a judged document.
    """
    _check_judged(index, dataset)
    queries = dataset.judged
    found: list[Candidates] = []
    for at in range(0, len(queries), _BATCH):
        texts = [dataset.queries[query] for query in queries[at : at + _BATCH]]
        batch = index.score_candidates(texts, candidates=candidates, exact=exact)
        found += map(_sorted, batch)
        if tell is not None:
            tell(len(found), len(queries))
    return CandidateScores(dataset.name, queries, found, dataset.qrels, dataset.queries)


def _check_judged(index: HybridIndex, dataset: Dataset) -> None:
    judged = list({document for grades in dataset.qrels.values() for document in grades})
    known: set[str] = set()
    for piece in (judged[i : i + 1000] for i in range(0, len(judged), 1000)):
        known |= {
            one for one, text in zip(piece, index.store.text_hashes(piece), strict=True) if text
        }
    dataset.check_documents(known)


def _sorted(held: Candidates) -> Candidates:
    """By ascending id and without what is gone, so that stable sorts break ties as searches do."""
    gone = np.any([np.isnan(scores) for _, scores in held.components.items()], axis=0)
    order = [i for i in sorted(range(len(held.ids)), key=held.ids.__getitem__) if not gone[i]]
    parts = held.components.take(np.array(order, np.int64))
    return Candidates([held.ids[i] for i in order], parts, held.query_sparse_sum)


def _ranks(values: FloatArray, places: NDArray[np.float64]) -> IntArray:
    """The ranks, from 1, of some rows of `(n, w)` values in each column; ties go to lower rows.

    Args:
        values: A column per weighting.
        places: Rows, `(r,)`.

    Returns:
        `(r, w)` whole numbers.
    """
    out = np.empty((len(places), values.shape[1]), np.int64)
    for row, place in enumerate(places.astype(np.int64).tolist()):
        own = values[place]
        out[row] = 1 + (values[:place] >= own).sum(0) + (values[place + 1 :] > own).sum(0)
    return out


def _pieces(count: int) -> list[slice]:
    return [slice(at, at + _ROWS) for at in range(0, count, _ROWS)]
