"""The searches of an index, and rankings of documents that a caller holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Unpack

import numpy as np

from bge_m3_integrations._internal.keywords import NoMore, checks_itself, public_class, refuse
from bge_m3_integrations._internal.warn import in_thread
from bge_m3_integrations.core.embeddings import EmbeddingBatch, FloatArray, Mode
from bge_m3_integrations.core.filters import FilterLike
from bge_m3_integrations.core.fusion import Candidates, Fusion
from bge_m3_integrations.core.mmr import mmr
from bge_m3_integrations.core.records import Hit, Hits
from bge_m3_integrations.core.scores import Ranked, Weights
from bge_m3_integrations.core.thresholds import Threshold
from bge_m3_integrations.core.validation import as_list, check_int
from bge_m3_integrations.core.weighting import WeightProfile, WeightsLike
from bge_m3_integrations.engine.profiles import by_profile
from bge_m3_integrations.engine.truncation import Cuts
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.index.request import SearchOptions, SearchRequest, Stage, search_request
from bge_m3_integrations.index.rerank import RerankDocument, ranked_batch
from bge_m3_integrations.index.weighted import WeightedIndex


@public_class
class SearchableIndex(WeightedIndex):
    """An index for reading by query."""

    @checks_itself
    def search(
        self,
        query: str,
        *,
        limit: int = 10,
        weights: WeightsLike | None = None,
        candidates: Mapping[Mode, int] | None = None,
        fusion: Fusion | None = None,
        where: FilterLike | None = None,
        score_threshold: Threshold | None = None,
        exact: bool = False,
        observe: Callable[[Stage], None] | None = None,
        **unknown: Unpack[NoMore],
    ) -> list[Hit]:
        """Search the best documents for one query.

        Args:
            query: The query's text.
            limit: Most hits. There are fewer where fewer documents match, pass the threshold, or
                are looked up: a lexical lookup finds only documents that share a token with the
                query, and by lexical scores alone no other is a hit.
            weights: How much each mode counts; a mode of weight 0 is not scored. Weights, three
                numbers, the name of a preset or of a weight profile, or a function that is given
                the query's text and returns one of these; `docs/weights.md` tells which are right.
                None is the default preset without the modes that the index lacks.
            candidates: How many documents each mode looks up, at least `limit`; everything found
                is scored by every weighted mode. None is 100 dense and 100 sparse, or 100
                colbert where the index has neither.
            fusion: How scores become one ranking value; None is `WeightedSum()`.
            where: Which documents may be found: a dict, a function over metadata, or a filter.
            score_threshold: Hits with a lower ranking value are left out; `Probability(0.8)` and
                `Percentile(99)` are about the calibrated scale, see `calibration`.
            exact: Score every matching document instead of candidates, also those that share no
                token with the query.
            observe: Is told of each finished step of the search.
            **unknown: None: a keyword that comes here is an error, which names the right one.

        Returns:
            Hits, best first, ties by ascending id.

        Raises:
            InputError: A mode that the index lacks, a number out of range, or a threshold on the
                calibrated scale without a calibration of this search.
            FilterError: The filter is malformed.
        """
        if unknown:
            refuse(unknown, self.search)
        return self.search_batch(
            [query],
            limit=limit,
            weights=weights,
            candidates=candidates,
            fusion=fusion,
            where=where,
            score_threshold=score_threshold,
            exact=exact,
            observe=observe,
        )[0]

    @checks_itself
    async def asearch(self, query: str, **options: Unpack[SearchOptions]) -> list[Hit]:
        """See `search`; the event loop is free meanwhile, and no thread waits for the encoder."""
        return (await self.asearch_batch([query], **options))[0]

    @checks_itself
    def search_batch(
        self, queries: Sequence[str], **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """Search the best documents for each query; all queries are encoded together.

        Args:
            queries: The queries' texts.
            **options: Those of `search`.

        Returns:
            One list of hits per query, in order.

        Raises:
            InputError: As `search` does; also for one string in place of a list.
        """
        queries = _listed(queries)
        plan = self._plan(queries, options)
        if not queries:
            return []
        with Cuts({"query": queries}):
            with plan[0][0].step("encode") as counts:
                embeddings = self._engine.encode_queries(queries, modes=_modes(plan))
                counts["queries"] = len(queries)
            return self._run(embeddings, plan)

    @checks_itself
    async def asearch_batch(
        self, queries: Sequence[str], **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """See `search_batch` and `asearch`."""
        queries = _listed(queries)
        plan = await in_thread(self._plan, queries, options)  # may read the model's files
        if not queries:
            return []
        with Cuts({"query": queries}):
            with plan[0][0].step("encode") as counts:
                embeddings = await self._engine.aencode_queries(queries, modes=_modes(plan))
                counts["queries"] = len(queries)
            return await in_thread(self._run, embeddings, plan)

    @checks_itself
    def search_embedded(
        self, embeddings: EmbeddingBatch, **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """Search with queries that are encoded already; nothing is encoded here.

        Args:
            embeddings: Queries encoded by the index's engine, in every mode that the search
                looks up or scores by.
            **options: Those of `search`.

        Returns:
            One list of hits per query, in order.

        Raises:
            InputError: As `search` does; also for a mode that the embeddings lack.
        """
        request = self._request(self.weighting(options.get("weights")), options)
        return self._searcher.run(embeddings, request) if len(embeddings) else []

    @checks_itself
    def score_candidates(
        self, queries: Sequence[str], **options: Unpack[SearchOptions]
    ) -> list[Candidates]:
        """Look up and score the documents that searches would rank, for any number of weightings.

        Args:
            queries: The queries' texts.
            **options: Those of `search`; weights say which modes are scored, by default all that
                the index keeps.

        Returns:
            One entry per query, in order.

        Raises:
            InputError: As `search` does.
        """
        queries = _listed(queries)
        weights = options.get("weights") or Weights(1, 1, 1).restricted(self.modes)
        request = self._request(self.weighting(weights), options)
        if not queries:
            return []
        with Cuts({"query": queries}):
            embeddings = self._engine.encode_queries(queries, modes=request.modes)
            return self._searcher.candidates(embeddings, request)

    def search_diverse(
        self,
        query: str,
        *,
        fetch: int = 50,
        mmr_lambda: float = 0.5,
        **options: Unpack[SearchOptions],
    ) -> list[Hit]:
        """Search relevant documents that differ from each other: maximal marginal relevance.

        Args:
            query: The query's text.
            fetch: How many of the best hits to choose from.
            mmr_lambda: 1 ranks by relevance alone, 0 by unlikeness alone; see
                `diversity.mmr`.
            **options: Those of `search`.

        Returns:
            Hits in the order of choice; their scores are those of `search`.

        Raises:
            InputError: As `search` does; also where the index keeps no dense vectors.
        """
        limit = check_int("limit", options.get("limit", 10))
        options["limit"] = max(limit, check_int("fetch", fetch))
        hits = self.search(query, **options)
        return self.diversify(hits, limit=limit, mmr_lambda=mmr_lambda)

    def diversify(self, hits: Sequence[Hit], *, limit: int, mmr_lambda: float = 0.5) -> list[Hit]:
        """Choose among hits of this index by maximal marginal relevance; see `search_diverse`.

        Args:
            hits: Of one search.
            limit: Most hits chosen.
            mmr_lambda: 1 ranks by `Hit.relevance` alone, 0 by unlikeness alone.

        Returns:
            Hits in the order of choice.

        Raises:
            InputError: The index keeps no dense vectors, or a number is out of range.
        """
        if "dense" not in self._store.capabilities.vectors:
            raise InputError("diversity compares dense vectors, which this index lacks")
        hits, vectors = self._with_vectors(hits)
        relevance = np.array([hit.relevance for hit in hits], np.float32)
        chosen = mmr(relevance, vectors, limit=limit, mmr_lambda=mmr_lambda)
        return Hits(hits[i] for i in chosen)

    def _with_vectors(self, hits: Sequence[Hit]) -> tuple[Sequence[Hit], FloatArray]:
        """The hits and their dense vectors; what was deleted meanwhile is left out."""
        try:
            vectors = self._store.vectors([hit.id for hit in hits], ["dense"]).dense
        except StoreError:
            held = self._store.text_hashes([hit.id for hit in hits])
            hits = [hit for hit, text in zip(hits, held, strict=True) if text is not None]
            vectors = self._store.vectors([hit.id for hit in hits], ["dense"]).dense
        return hits, vectors

    def rerank(
        self,
        query: str,
        documents: Sequence[str | RerankDocument],
        *,
        limit: int | None = None,
        weights: WeightsLike | None = None,
    ) -> list[Ranked]:
        """Order any documents by their hybrid score, with their stored numbers if there are any.

        A document whose id is in the index with the very same text costs no forward pass: its
        stored numbers are used, in the precision of their kind. All others are encoded, also
        those of an id whose text was edited.

        Args:
            query: One text.
            documents: Texts, or texts with the ids that they may have in the index.
            limit: Most results; None is all.
            weights: How much each mode counts; None is the default preset, restricted to the
                model's modes. A mode that the index lacks has every document encoded.

        Returns:
            Best first, ties by position.

        Raises:
            InputError: Something is no text, or a number is out of range.
        """
        if not isinstance(query, str):
            raise InputError(f"query must be str, not {type(query).__name__}")
        return self.rerank_batch([query], [documents], limit=limit, weights=weights)[0]

    def rerank_batch(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str | RerankDocument]],
        *,
        limit: int | None = None,
        weights: WeightsLike | None = None,
    ) -> list[list[Ranked]]:
        """Order each query's own documents; queries and documents are each encoded together.

        Args:
            queries: `q` texts.
            documents: `q` lists; see `rerank`.
            limit: See `rerank`.
            weights: See `rerank`.

        Returns:
            One ranking per query, in order.

        Raises:
            InputError: As `rerank` does; also where there are more or fewer lists than queries.
        """
        queries = _listed(queries)
        self._prove()
        return ranked_batch(
            self._engine,
            queries,
            documents,
            weights,
            limit=limit,
            searcher=self._searcher,
            kept=self.modes,
            weighting=partial(
                self._engine.weighting, folder=self.path, learned=self._learned_profile
            ),
        )

    def _plan(
        self, queries: Sequence[str], options: SearchOptions
    ) -> list[tuple[SearchRequest, list[int]]]:
        """Check a search: one request, or several with their queries where a function weighs."""
        return [
            (self._request(profile, options), rows)
            for profile, rows in by_profile(queries, options.get("weights"), self.weighting)
        ]

    def _request(self, profile: WeightProfile, options: SearchOptions) -> SearchRequest:
        if unknown := options.keys() - SearchOptions.__annotations__.keys():
            refuse(sorted(unknown), SearchOptions.__annotations__)
        findable = self._searcher.store.capabilities.find & self.modes  # no model is read in vain
        self._prove()
        file = self._calibration_file
        held = self._calibration if file is None else file.now()
        known = {"modes": self.modes, "findable": findable}
        return search_request(options, profile, calibration=held, **known)

    def _run(
        self, embeddings: EmbeddingBatch, plan: Sequence[tuple[SearchRequest, list[int]]]
    ) -> list[list[Hit]]:
        if len(plan) == 1:
            return self._searcher.run(embeddings, plan[0][0])
        hits: dict[int, list[Hit]] = {}
        for request, rows in plan:
            found = self._searcher.run(embeddings.take(rows), request)
            hits |= zip(rows, found, strict=True)
        return [hits[i] for i in range(len(embeddings))]


def _modes(plan: Sequence[tuple[SearchRequest, list[int]]]) -> frozenset[Mode]:
    """All modes that the queries of a plan are encoded by."""
    return frozenset[Mode]().union(*(request.modes for request, _ in plan))


def _listed(queries: Sequence[str]) -> list[str]:
    if isinstance(queries, str):
        raise InputError(f"queries must be a list of strings, not {queries!r}; see search()")
    return as_list(queries, "queries")
