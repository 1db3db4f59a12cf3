"""Learning weights from an index alone: which mode finds a document by a part taken out of it."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    FloatArray,
    Mode,
    Modes,
    SparseRows,
    ordered_modes,
)
from bge_m3_integrations.core.idf import IdfTable
from bge_m3_integrations.core.learned import LearnedSum
from bge_m3_integrations.core.pooling import pooled
from bge_m3_integrations.core.scores import PRESETS, Components, Weights
from bge_m3_integrations.core.scripts import script_of
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.index.learning.curve import (
    Contest,
    Curve,
    Matrix,
    curve_of,
    gain_of,
    imputation,
)
from bge_m3_integrations.index.learning.questions import Question, questions_of
from bge_m3_integrations.index.search import Searcher

POWERS: Final = (1.0, 0.5, 0.0)
LEAST_DOCUMENTS: Final = 40
_SAMPLE = 5_000
_LOOKED_UP, _LOOKED_UP_TO_REENCODE = 100, 10
"""Rivals of each lookup. Where each costs a forward pass, ten: at most 6,000 documents to encode
and not 60,000. On Cranfield and CACM, nDCG@10 of what was learned was 0.004 lower."""
_UNRELATED = 100
_BATCH = 512
_SHARE = 0.02
"""The share of documents from which a script counts as one of the collection's."""

Tell = Callable[[int, int | None], object]


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """The result of learning; see `LearnedWeights` for the fields of the same names.

    Attributes:
        weights: Of unscaled scores, of sum 1.
        fusion: The ranking that they are for.
        curve: By which they were chosen.
        gains: DCG@10 by name.
        null: Ascending values of unrelated pairs.
        documents: How many questions were taken out of.
        queries: How many questions.
        records: Documents in the index.
    """

    weights: Weights
    fusion: LearnedSum
    curve: Curve
    gains: dict[str, float]
    null: FloatArray
    documents: int
    queries: int
    records: int


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Documents chosen by their ids, whatever their order in the store."""

    ids: Sequence[str]
    scripts: Sequence[str | None]
    idf: IdfTable | None
    several: bool

    def of_script(self, script: str | None) -> list[str]:
        if not self.several:
            return list(self.ids)
        return [i for i, own in zip(self.ids, self.scripts, strict=True) if own == script]


def learn(
    searcher: Searcher, engine: BGEM3, modes: Modes, *, documents: int, seed: int, tell: Tell
) -> Lesson:
    """Learn weights from an index; see `HybridIndex.learn_weights`.

    Args:
        searcher: Over the index.
        engine: Encodes the questions and the rests: the only forward passes.
        modes: What the index keeps, at least two.
        documents: Most documents that questions are taken out of.
        seed: Of all sampling.
        tell: Is told how many of five steps are done.

    Returns:
        The lesson, the same for a seed.

    Raises:
        InputError: There is one mode only, or fewer than 40 documents can be split.
    """
    kept = ordered_modes(modes)
    if len(kept) < 2:
        raise InputError(f"there are no weights to learn: this index keeps {kept} alone")
    chosen = list(sampled(searcher.store.ids(), _SAMPLE, seed))
    questions = _questions(searcher, chosen, documents=documents, seed=seed)
    tell(1, 5)
    queries = engine.encode_queries([q.text for q in questions], modes=kept)
    rests = engine.encode_documents([q.rest for q in questions], modes=kept)
    if rests.colbert is not None:
        rests = replace(rests, colbert=pooled(rests.colbert, searcher.pooling))
    tell(2, 5)
    sample = _sample(searcher, chosen, lexical="sparse" in kept)
    tell(3, 5)
    scoring_ = _Scoring(searcher, engine, kept, sample, questions, queries, rests)
    lesson = scoring_.lesson(seed)
    tell(5, 5)
    return lesson


@dataclass(frozen=True, slots=True, eq=False)
class _Scoring:
    """The questions with all that they are scored by."""

    searcher: Searcher
    engine: BGEM3
    modes: Sequence[Mode]
    sample: _Sample
    questions: Sequence[Question]
    queries: EmbeddingBatch
    rests: EmbeddingBatch

    def lesson(self, seed: int) -> Lesson:
        rivals = self._rivals()
        raw = self.searcher.scores(self.queries, rivals, frozenset(self.modes))
        own = [
            scoring.components(
                self.queries.take([i]), self.rests.take([i]), self.modes, maxsim=self.engine.maxsim
            ).take((0,))
            for i in range(len(self.questions))
        ]
        value, fusion, curve, contests = self._best(rivals, raw, own)
        weights = curve.weights(curve.best)
        if self.sample.several and "sparse" in self.modes:
            lists = [contest.scores[1:] for contest in contests]
            fusion = replace(fusion, imputation=imputation(lists, self.modes))
        return Lesson(
            weights=weights,
            fusion=fusion,
            curve=curve,
            gains={"learned": value, **self._gains(contests, self._contests(raw, own))},
            null=self._null(fusion, weights, seed),
            documents=len({question.record_id for question in self.questions}),
            queries=len(self.questions),
            records=self.searcher.store.count(),
        )

    def _best(
        self,
        rivals: Sequence[Sequence[str]],
        raw: Sequence[Components],
        own: Sequence[Components],
    ) -> tuple[float, LearnedSum, Curve, list[Contest]]:
        """The power of the idf that finds most, with its DCG@10 and what it was learned from."""
        powers = POWERS if "sparse" in self.modes else (0.0,)
        best: tuple[float, LearnedSum, Curve, list[Contest]] | None = None
        for power in powers:
            fusion = LearnedSum(self.sample.idf, power)
            contests = self._contests(self._lexical(fusion, rivals, raw), self._own(fusion, own))
            curve = curve_of(contests, self.modes)
            value = gain_of(contests, self.modes, curve.weights(curve.best))
            if best is None or value > best[0] + 1e-9:
                best = value, fusion, curve, contests
        rivalled = any(map(len, rivals))  # else any weights put the rest first
        if best is None or best[2].gains.max() <= 0 or not rivalled:
            raise InputError(
                f"nothing can be learned here: none of {len(self.questions)} questions tells "
                "weights apart; are the documents copies of each other, or their sentences "
                "unrelated? Judge 20 queries and use tune(), or give weights"
            )
        return best

    def _rivals(self) -> list[list[str]]:
        """Documents that a search would find, of the question's script, without its own.

        A copy of its own, another version or a chunk that overlaps with it is none either: it
        still holds the question, and would come before the rest by any weights.
        """
        store, pools = self.searcher.store, [dict[str, None]() for _ in self.questions]
        looked: list[tuple[Mode, EmbeddingBatch]] = []
        if "dense" in store.capabilities.find and "dense" in self.modes:
            looked.append(("dense", self.queries))
        if "sparse" in store.capabilities.find and "sparse" in self.modes:
            looked.append(("sparse", self.queries))
            looked.append(("sparse", LearnedSum(self.sample.idf, 1.0).reweighted(self.queries)))
        limit = _LOOKED_UP if self.searcher.reencoder is None else _LOOKED_UP_TO_REENCODE
        for mode, queries in looked or [("colbert", self.queries)]:
            found = store.find(queries.only({mode}), mode, limit=limit)
            for pool, candidates in zip(pools, found, strict=True):
                pool.update(dict.fromkeys(candidate.id for candidate in candidates))
        texts = dict(_texts(self.searcher, {one for pool in pools for one in pool}))
        scripts = {one: script_of(text) for one, text in texts.items() if self.sample.several}
        return [
            [
                one
                for one in pool
                if one in texts
                and one != question.record_id
                and scripts.get(one, question.script) == question.script
                and not question.is_in(texts[one])
            ]
            for pool, question in zip(pools, self.questions, strict=True)
        ]

    def _lexical(
        self, fusion: LearnedSum, ids: Sequence[Sequence[str]], raw: Sequence[Components]
    ) -> list[Components]:
        """The scores with lexical values in place of lexical scores."""
        if "sparse" not in self.modes:
            return list(raw)
        queries = fusion.reweighted(self.queries.only({"sparse"}))
        values = self.searcher.store.score(queries, ids, {"sparse"})
        return [replace(one, sparse=two.sparse) for one, two in zip(raw, values, strict=True)]

    def _own(self, fusion: LearnedSum, own: Sequence[Components]) -> list[Components]:
        if "sparse" not in self.modes:
            return list(own)
        queries = fusion.reweighted(self.queries.only({"sparse"}))
        return [
            replace(
                one,
                sparse=scoring.lexical(
                    queries.take([i]).sparse, self.rests.only({"sparse"}).take([i]).sparse
                )[0],
            )
            for i, one in enumerate(own)
        ]

    def _contests(self, rivals: Sequence[Components], own: Sequence[Components]) -> list[Contest]:
        out = []
        for question, right, wrong in zip(self.questions, own, rivals, strict=True):
            scores = np.concatenate([_columns(right, self.modes), _columns(wrong, self.modes)])
            known = ~np.isnan(scores).any(axis=1)
            if known[0]:
                out.append(Contest(question.kind, scores[known]))
        return out

    def _gains(self, learned: Sequence[Contest], raw: Sequence[Contest]) -> dict[str, float]:
        """The DCG@10 of what one could have taken instead."""
        out = {str(m): gain_of(raw, self.modes, Weights.only(m)) for m in self.modes}
        for name, preset in PRESETS.items():
            if preset.modes <= set(self.modes):
                out[name] = gain_of(raw, self.modes, preset)
        del learned
        return out

    def _null(self, fusion: LearnedSum, weights: Weights, seed: int) -> FloatArray:
        """Ascending values of questions and random other documents of their script."""
        rng = random.Random(seed)
        fewer = self.searcher.reencoder is not None  # each of them costs a forward pass
        pools = {
            script: _some(rng, self.sample.of_script(script), _UNRELATED if fewer else _SAMPLE)
            for script in sorted({q.script for q in self.questions}, key=str)
        }
        ids = [
            [i for i in _some(rng, pools[q.script], _UNRELATED) if i != q.record_id]
            for q in self.questions
        ]
        scores = self.searcher.scores(self.queries, ids, weights.modes)
        parts = self._lexical(fusion, ids, scores) if "sparse" in weights.modes else scores
        values = [
            fusion.rank_values(one.take(np.arange(one.shape[0])), weights, query_sparse_sum=1.0)
            for one in parts
            if one.shape[0]
        ]
        found = np.concatenate(values) if values else np.zeros(0, np.float32)
        return np.sort(found[np.isfinite(found)]).astype(np.float32)


def scripts_of(searcher: Searcher, ids: Iterable[str]) -> dict[str, str | None]:
    """The scripts of documents by id, read from their texts; what is gone is left out."""
    return {one: script_of(text) for one, text in _texts(searcher, ids)}


def _texts(searcher: Searcher, ids: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The documents that are there, in the order of their ids, with their texts."""
    for some in _batches(sorted(ids)):
        for one, record in zip(some, searcher.store.get(some), strict=True):
            if record is not None:
                yield one, record.text


def sampled(ids: Iterable[str], count: int, seed: int) -> Iterator[str]:
    """A sample by the hashes of ids: the same whatever their order, and nearly so as it grows."""

    def place(record_id: str) -> bytes:
        return hashlib.blake2b(f"{seed}:{record_id}".encode(), digest_size=8).digest()

    return iter(heapq.nsmallest(count, ids, key=place))


def _questions(
    searcher: Searcher, ids: Sequence[str], *, documents: int, seed: int
) -> list[Question]:
    found: list[Question] = []
    used = 0
    for some in _batches(ids):
        records = [record for record in searcher.store.get(some) if record is not None]
        found += questions_of(records, documents=documents - used, seed=seed)
        used = len({question.record_id for question in found})
        if used >= documents:
            break
    if used < LEAST_DOCUMENTS:
        raise InputError(
            f"weights are learned from at least {LEAST_DOCUMENTS} documents that have three "
            f"sentences or more, and this index has {used} such documents among {len(ids)}; judge "
            "20 queries and use tune(), or give weights"
        )
    return found


def _sample(searcher: Searcher, ids: Sequence[str], *, lexical: bool) -> _Sample:
    """The scripts of sampled documents, and their tokens' frequencies."""
    counted = lexical and "sparse" in searcher.store.capabilities.vectors
    scripts: dict[str, str | None] = {}
    rows: list[SparseRows] = []
    for some in _batches(ids):
        for read, held in _stored(searcher, some, lexical=counted):
            scripts |= read
            rows += held
    counts = Counter(script for script in scripts.values() if script is not None)
    several = sum(count >= _SHARE * len(scripts) for count in counts.values()) > 1
    names = list(scripts.values())
    table = None
    if lexical:  # of a store that gives no numbers back: no document counted, all tokens alike
        table = IdfTable.of(SparseRows.concat(rows), names) if rows else IdfTable.empty()
    return _Sample(list(scripts), names, table, several)


def _stored(
    searcher: Searcher, ids: Sequence[str], *, lexical: bool
) -> Iterator[tuple[dict[str, str | None], list[SparseRows]]]:
    """The scripts and lexical weights of documents, without those that are deleted meanwhile."""
    read = scripts_of(searcher, ids)
    if not lexical or not read:
        yield read, []
        return
    try:
        yield read, [searcher.store.vectors(list(read), ["sparse"]).sparse]
    except StoreError:  # one of them is gone by now: those beside it are not
        if len(ids) > 1:
            for half in (ids[::2], ids[1::2]):
                yield from _stored(searcher, half, lexical=True)


def _columns(parts: Components, modes: Sequence[Mode]) -> Matrix:
    return np.stack([np.asarray(getattr(parts, mode), np.float64) for mode in modes], axis=1)


def _some(rng: random.Random, ids: Sequence[str], count: int) -> list[str]:
    return list(ids) if len(ids) <= count else rng.sample(list(ids), count)


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[at : at + _BATCH] for at in range(0, len(ids), _BATCH))
