"""The steps of a search: candidates per mode, their exact scores, a ranking, the records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core.embeddings import EmbeddingBatch, Modes
from bge_m3_integrations.core.filters import And, Filter, Ids, matcher, operators
from bge_m3_integrations.core.fusion import Candidates
from bge_m3_integrations.core.learned import LearnedSum
from bge_m3_integrations.core.records import Hit, Hits, Record
from bge_m3_integrations.core.scores import Components
from bge_m3_integrations.core.scripts import script_of
from bge_m3_integrations.index.filter_paths import UnknownPaths
from bge_m3_integrations.index.reencode import Reencoder
from bge_m3_integrations.index.request import Scored, SearchRequest, ranking
from bge_m3_integrations.stores.base import Store

_ID = attrgetter("id")


@dataclass(frozen=True, slots=True)
class Searcher:
    """Runs searches over one store.

    Attributes:
        store: Finds and scores.
        reencoder: Scores by ColBERT where the store keeps no token vectors.
        pooling: How many token vectors of a document share one that is kept.
        unknown: Warns of filters on metadata that no record has.
    """

    store: Store
    reencoder: Reencoder | None = None
    pooling: int = 1
    unknown: UnknownPaths = field(default_factory=UnknownPaths, compare=False)

    def run(self, embeddings: EmbeddingBatch, request: SearchRequest) -> list[list[Hit]]:
        """The hits of each query.

        Args:
            embeddings: The queries, in every mode of the request.
            request: The search.

        Returns:
            One list of hits per query, best first.
        """
        candidates = self.candidates(embeddings, request)
        with request.step("rank") as counts:
            ranked = [ranking(held, request) for held in candidates]
            hits = self._hits(ranked, request)
            counts["hits"] = sum(map(len, hits))
        return hits

    def candidates(self, embeddings: EmbeddingBatch, request: SearchRequest) -> list[Candidates]:
        """The documents that each query looks up, with their exact scores in the weighted modes.

        Args:
            embeddings: The queries, in every mode of the request.
            request: The search; its fusion and limit do not matter yet.

        Returns:
            One entry per query.
        """
        embeddings = embeddings.only(request.modes)
        learned = request.fusion if isinstance(request.fusion, LearnedSum) else None
        looked = embeddings if learned is None else learned.reweighted(embeddings)
        with request.step("find") as counts:
            ids = self._pool(looked, request, self.resolve_filter(request.where))
            counts["candidates"] = sum(map(len, ids))
        if not any(ids):
            self.nothing_under(request.where)
        with request.step("score") as counts:
            scores = self.scores(embeddings, ids, request.weights.modes)
            counts["modes"] = len(request.weights.modes)
            found = [
                Candidates(held, parts, query_sparse_sum(embeddings, i))
                for i, (held, parts) in enumerate(zip(ids, scores, strict=True))
            ]
            if learned is not None and "sparse" in request.weights.modes:
                found = self._with_lexical(found, learned, embeddings, looked)
        return found

    def _with_lexical(
        self,
        found: Sequence[Candidates],
        fusion: LearnedSum,
        raw: EmbeddingBatch,
        looked: EmbeddingBatch,
    ) -> list[Candidates]:
        """Add the lexical values of learned weights; the sparse scores stay as they are."""
        scores = self.store.score(looked.only({"sparse"}), [held.ids for held in found], {"sparse"})
        out = []
        for i, (held, values) in enumerate(zip(found, scores, strict=True)):
            lexical = values.sparse
            if fusion.imputation is not None and fusion.idf is not None:
                own = fusion.idf.script_of(*raw.sparse.row(i))
                lexical = fusion.imputed(lexical, held.components, self._foreign(held.ids, own))
            out.append(replace(held, lexical=lexical))
        return out

    def _foreign(self, ids: Sequence[str], script: str | None) -> NDArray[np.bool_]:
        """Whether documents are of another script than a query's, as their texts tell."""
        if script is None:
            return np.zeros(len(ids), bool)
        found = [None if r is None else script_of(r.text) for r in self.store.get(ids)]
        return np.array([own not in (None, script) for own in found], bool)

    def scores(
        self, embeddings: EmbeddingBatch, ids: Sequence[Sequence[str]], modes: Modes
    ) -> list[Components]:
        """Exact component scores by id; see `Store.score`.

        Args:
            embeddings: The queries.
            ids: Those of query `i` are `ids[i]`.
            modes: What to score by; those that the index keeps.

        Returns:
            One entry per query; NaN for an unknown id.
        """
        if self.reencoder is None or "colbert" not in modes:
            return self.store.score(embeddings, ids, modes)
        kept = frozenset(modes) - {"colbert"}
        scores = self.store.score(embeddings, ids, kept) if kept else [Components() for _ in ids]
        distinct = list(dict.fromkeys(record_id for row in ids for record_id in row))
        held = dict(zip(distinct, self.store.get(distinct), strict=True))
        texts = {i: None if r is None else (r.text_hash, r.text) for i, r in held.items()}
        again = self.reencoder.scores(embeddings, [[texts[i] for i in row] for row in ids])
        return [
            replace(parts, colbert=colbert) for parts, colbert in zip(scores, again, strict=True)
        ]

    def resolve_filter(self, where: Filter | None) -> Filter | None:
        """The filter, or the ids that pass it where the store cannot run it itself."""
        if where is None or operators(where) <= self.store.capabilities.operators:
            return where
        passes = matcher(where)
        passed = (
            record.id
            for record in self._matching(self._part_that_runs(where))
            if passes(record.metadata, record.id, record)
        )
        return Ids(frozenset(passed))

    def nothing_under(self, where: Filter | None) -> None:
        """Warn, once for each, of metadata paths of a fruitless filter that no record has."""
        if where is not None:
            self.unknown.look(where, self.store, self.resolve_filter)

    def _part_that_runs(self, where: Filter) -> Filter | None:
        """A weaker filter that the store can run: fewer records to look at."""
        if not isinstance(where, And) or "$and" not in self.store.capabilities.operators:
            return None
        known = self.store.capabilities.operators
        return And([part for part in where.parts if operators(part) <= known])

    def _matching(self, where: Filter | None) -> Iterable[Record]:
        page = self.store.scroll(where)
        yield from page.records
        while page.after is not None:
            page = self.store.scroll(where, after=page.after)
            yield from page.records

    def _pool(
        self, embeddings: EmbeddingBatch, request: SearchRequest, where: Filter | None
    ) -> list[list[str]]:
        """The ids to score for each query: what its lookups found, or all that match."""
        if request.candidates is None:
            return [list(self.store.ids(where))] * len(embeddings)
        pools: list[dict[str, None]] = [{} for _ in range(len(embeddings))]
        for mode, count in request.candidates.items():
            found = self.store.find(embeddings, mode, limit=count, where=where)
            for pool, candidates in zip(pools, found, strict=True):
                pool.update(dict.fromkeys(map(_ID, candidates)))
        return [list(pool) for pool in pools]

    def _hits(self, ranked: Sequence[Sequence[Scored]], request: SearchRequest) -> list[list[Hit]]:
        """Fetch all records in one go; what was deleted meanwhile is left out."""
        ids = list(dict.fromkeys(scored.id for row in ranked for scored in row))
        records = dict(zip(ids, self.store.get(ids), strict=True))
        kind = self.colbert_kind if "colbert" in request.weights.modes else None
        most = request.fusion.max_score(request.weights)
        max_score = most if math.isfinite(most) else None  # JSON has no infinity
        return [
            Hits(
                Hit(
                    record,
                    scored.score,
                    request.fusion.name,
                    scored.components,
                    scored.hybrid,
                    request.weights,
                    kind,
                    max_score,
                    request.weighting,
                    scored.lexical,
                    scored.probability,
                    scored.percentile,
                )
                for scored in row
                if (record := records[scored.id]) is not None
            )
            for row in ranked
        ]

    @property
    def colbert_kind(self) -> str | None:
        """The way token vectors are kept, as `Hit.colbert_kind` has it."""
        kind = self.store.capabilities.colbert_kind
        if self.reencoder is not None:
            return "reencode"
        return kind if self.pooling == 1 else f"{kind or 'float'}, {self.pooling} tokens a vector"


def query_sparse_sum(embeddings: EmbeddingBatch, i: int) -> float:
    """The sum of one query's lexical weights; 0 where they are not asked for."""
    return 0.0 if embeddings.sparse is None else float(embeddings.sparse.row(i)[1].sum())
