"""Component scores of every query's candidates, computed once; weightings are then arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core.embeddings import MODES, FloatArray, IntArray, Mode
from bge_m3_integrations.core.fusion import Candidates, Fusion, WeightedSum
from bge_m3_integrations.core.scores import Components, Weights
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.core.weighting import WeightsLike
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.evaluation.datasets import Dataset
from bge_m3_integrations.evaluation.metrics import metric_depth
from bge_m3_integrations.evaluation.runs import Run
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.request import SearchOptions

Matrix = NDArray[np.float64]
_OfRanks = Callable[[IntArray, Matrix, Matrix], Matrix]
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
        depth = check_int("depth", depth)
        if missing := weights.modes - self.modes:
            raise InputError(f"weights {weights} need {sorted(missing)}, which were not scored")
        rankings, scores = {}, {}
        for query, held in zip(self.queries, self.candidates, strict=True):
            parts = Components(
                **{mode: a for mode, a in held.components.items() if weights.of(mode)}
            )
            values = replace(held, components=parts).values(rule, weights)
            if weights.modes == {"sparse"} and parts.sparse is not None:
                values = np.where(parts.sparse > 0, values, -np.inf)
            order = np.argsort(-values, kind="stable")[:depth]
            order = order[np.isfinite(values[order])]
            rankings[query] = [held.ids[i] for i in order.tolist()]
            scores[query] = values[order].tolist()
        return Run(name, rankings, scores, self.qrels)

    def only(self, rows: Sequence[int]) -> CandidateScores:
        """The queries of some places, in this order."""
        queries = [self.queries[row] for row in rows]
        return replace(self, queries=queries, candidates=[self.candidates[row] for row in rows])

    def tensor(self, *, scaled: bool = False) -> list[FloatArray]:
        """The scores of each query's candidates, `(n, 3) float32` in the order of `MODES`.

        Args:
            scaled: Divide lexical scores by the sum of the query's lexical weights, as
                `ScaledSum` does.

        Returns:
            One array per query; a mode that was not scored is 0. Lexical values of learned
            weights stand in place of lexical scores, where candidates have them.
        """
        out = []
        for held in self.candidates:
            table = np.zeros((len(held.ids), len(MODES)), np.float32)
            for mode, scores in held.components.items():
                table[:, MODES.index(mode)] = scores
            if held.lexical is not None:
                table[:, 1] = held.lexical
            elif scaled and held.query_sparse_sum > 0:
                table[:, 1] /= held.query_sparse_sum
            out.append(table)
        return out

    def measure(
        self,
        weightings: NDArray[np.floating],
        metric: str = "ndcg@10",
        *,
        scaled: bool = False,
    ) -> NDArray[np.float64]:
        """Measure many weightings at once, as `Run.values` measures one.

        Args:
            weightings: `(w, 3)`, dense, sparse, colbert; not negative, no row all 0.
            metric: "ndcg@k", "recall@k", "mrr@k" or "hit@k".
            scaled: See `tensor`.

        Returns:
            `(w, q) float64`.

        Raises:
            InputError: Another metric, or the weightings have another shape or are no weights.
        """
        of_ranks, columns = _metric(metric), _columns(weightings)
        alone = (columns[:, [0, 2]] == 0).all(axis=1)
        out = np.zeros((len(columns), len(self.queries)))
        for i, table in enumerate(self.tensor(scaled=scaled)):
            every, found = self._gains[i]
            if not len(found):
                continue
            sparse = self.candidates[i].components.sparse
            apart = np.zeros(len(table), bool) if sparse is None else sparse <= 0
            for piece in _pieces(len(columns)):
                values = table @ columns[piece].T
                # as in searches: by lexical scores alone, what shares no token is not found
                values[np.ix_(apart, alone[piece])] = -np.inf
                out[piece, i] = of_ranks(_ranks(values, found[:, 0]), found[:, 1], every)
        return out

    @cached_property
    def _gains(self) -> list[tuple[Matrix, Matrix]]:
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
    depth: int = 10,
    weights: WeightsLike | None = None,
    tell: Callable[[int, int | None], None] | None = None,
) -> CandidateScores:
    """Look up and score the candidates of a dataset's judged queries; each is encoded once.

    Args:
        index: Holds the documents.
        dataset: Its queries and judgements.
        candidates: How many documents each mode looks up; see `HybridIndex.search`.
        exact: Score every document instead.
        depth: Most documents that will be ranked: the usual number of candidates is no less.
        weights: Look up as searches by these weights do; None scores every mode of the index.
        tell: Is told how many queries are done, and of how many.

    Returns:
        The scores, in every mode that the index keeps.

    Raises:
        InputError: The index lacks a judged document.
    """
    _check_judged(index, dataset)
    queries = dataset.judged
    options: SearchOptions = {"candidates": candidates, "exact": exact, "weights": weights}
    if candidates is None:
        options["limit"] = depth
    found: list[Candidates] = []
    for at in range(0, len(queries), _BATCH):
        texts = [dataset.queries[query] for query in queries[at : at + _BATCH]]
        batch = index.score_candidates(texts, **options)
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
    rows = np.array(order, np.int64)
    lexical = None if held.lexical is None else held.lexical[rows]
    ids = [held.ids[i] for i in order]
    return Candidates(ids, held.components.take(rows), held.query_sparse_sum, lexical)


def _columns(weightings: NDArray[np.floating]) -> FloatArray:
    columns = np.asarray(weightings, np.float32)
    if columns.ndim != 2 or columns.shape[1] != len(MODES):
        raise InputError(
            f"weightings must be an array of shape (w, 3), {list(MODES)}, not {columns.shape}"
        )
    bad = ~np.isfinite(columns).all(1) | (columns < 0).any(1) | ~(columns > 0).any(1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"weighting {row} is {columns[row].tolist()}; weights are finite, not negative, and "
            "not all 0"
        )
    return columns


def _metric(metric: str) -> _OfRanks:
    """The function of a metric: ranks `(r, w)`, their grades and all grades, to `(w,)`."""
    name, depth = metric.partition("@")[0], metric_depth(metric)
    if name not in _OF_RANKS or not depth:
        raise InputError(
            f"weights are tuned by {[f'{known}@k' for known in _OF_RANKS]}, not {metric!r}"
        )
    return partial(_OF_RANKS[name], depth)


def _ndcg(k: int, ranks: IntArray, grades: Matrix, every: Matrix) -> Matrix:
    discounts = 1 / np.log2(np.arange(2, k + 2))
    best = np.sort(every)[::-1][:k]
    ideal = float((best * discounts[: len(best)]).sum())
    share = np.where(ranks <= k, discounts[np.minimum(ranks, k) - 1], 0.0)
    found: Matrix = grades @ share / ideal
    return found


def _recall(k: int, ranks: IntArray, grades: Matrix, every: Matrix) -> Matrix:
    del grades
    found: Matrix = (ranks <= k).sum(axis=0) / len(every)
    return found


def _reciprocal(k: int, ranks: IntArray, grades: Matrix, every: Matrix) -> Matrix:
    del grades, every
    first = ranks.min(axis=0)
    return np.where(first <= k, 1 / first, 0.0)


def _hit(k: int, ranks: IntArray, grades: Matrix, every: Matrix) -> Matrix:
    del grades, every
    found: Matrix = (ranks.min(axis=0) <= k).astype(np.float64)
    return found


_OF_RANKS = {"ndcg": _ndcg, "recall": _recall, "mrr": _reciprocal, "hit": _hit}


def _ranks(values: FloatArray, places: Matrix) -> IntArray:
    """The ranks, from 1, of some rows of `(n, w)` values in each column; ties go to lower rows.

    Args:
        values: A column per weighting; minus infinity is not found.
        places: Rows, `(r,)`.

    Returns:
        `(r, w)` whole numbers.
    """
    out = np.empty((len(places), values.shape[1]), np.int64)
    for row, place in enumerate(places.astype(np.int64).tolist()):
        own = values[place]
        out[row] = 1 + (values[:place] >= own).sum(0) + (values[place + 1 :] > own).sum(0)
        out[row, np.isneginf(own)] = np.iinfo(np.int64).max
    return out


def _pieces(count: int) -> list[slice]:
    return [slice(at, at + _ROWS) for at in range(0, count, _ROWS)]
