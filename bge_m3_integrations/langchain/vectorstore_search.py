"""The searches of `BGEM3VectorStore`: a query or a vector to hits, hits to documents."""

# LangChain's methods take any keyword, these only known ones
# mypy: disable-error-code="override"
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Unpack

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from bge_m3_integrations._internal.keywords import public_class
from bge_m3_integrations._internal.methods import HintingMeta
from bge_m3_integrations._internal.warn import in_thread
from bge_m3_integrations.core.embeddings import MODES, Mode
from bge_m3_integrations.core.fusion import WeightedSum
from bge_m3_integrations.core.records import Hit, relevance
from bge_m3_integrations.core.thresholds import Percentile, Probability
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.request import SearchOptions
from bge_m3_integrations.langchain.documents import shown
from bge_m3_integrations.langchain.keywords import (
    SEARCH_TYPES,
    AnySearch,
    SearchKeywords,
    SearchType,
    VectorKeywords,
)
from bge_m3_integrations.langchain.search_options import (
    MmrParams,
    mode_options,
    search_options,
    vector_batch,
    vector_options,
)


@public_class
class SearchingStore(VectorStore, metaclass=HintingMeta):
    """All that LangChain asks of a store for reading by query; a subclass has the index."""

    _ranking: SearchOptions

    @abstractmethod
    def _index(self) -> HybridIndex:
        """The index; the first call opens a folder."""

    @abstractmethod
    async def _aindex(self) -> HybridIndex:
        """See `_index`; the event loop is free meanwhile."""

    def search(self, query: str, search_type: str, **kwargs: Unpack[AnySearch]) -> list[Document]:
        """Documents by one of `SEARCH_TYPES`.

        Args:
            query: The query's text.
            search_type: LangChain's "similarity", "mmr" and "similarity_score_threshold"; one mode
                alone, "dense", "sparse" or "colbert"; or "hybrid", which is "similarity".
            **kwargs: Options of the search of that type.

        Returns:
            Documents, best first.

        Raises:
            InputError: An unknown type or keyword.
        """
        kind = _checked_type(search_type)
        if kind in MODES:
            return _shown(self._mode_hits(query, kind, kwargs), kwargs)
        return super().search(query, "similarity" if kind == "hybrid" else kind, **kwargs)

    async def asearch(
        self, query: str, search_type: str, **kwargs: Unpack[AnySearch]
    ) -> list[Document]:
        """See `search`."""
        kind = _checked_type(search_type)
        if kind in MODES:
            return _shown(await self._amode_hits(query, kind, kwargs), kwargs)
        return await super().asearch(query, "similarity" if kind == "hybrid" else kind, **kwargs)

    def similarity_search(
        self, query: str, k: int = 4, **options: Unpack[SearchKeywords]
    ) -> list[Document]:
        """The best documents for a query.

        Args:
            query: The query's text.
            k: Most documents; fewer where fewer match, pass the threshold, or share a token with a
                query that is searched for by lexical weights alone.
            **options: Those of a search; see the class.

        Returns:
            Documents, best first.

        Raises:
            InputError: An unknown keyword, or a number out of range.
            FilterError: The filter is malformed.
        """
        return _shown(self._hits(query, k, options), options)

    async def asimilarity_search(
        self, query: str, k: int = 4, **options: Unpack[SearchKeywords]
    ) -> list[Document]:
        """See `similarity_search`."""
        return _shown(await self._ahits(query, k, options), options)

    def similarity_search_with_score(
        self, query: str, k: int = 4, **options: Unpack[SearchKeywords]
    ) -> list[tuple[Document, float]]:
        """The best documents with the value they are ranked by, higher first; no distance.

        Args:
            query: The query's text.
            k: Most documents.
            **options: Those of a search; see the class.

        Returns:
            Documents with `Hit.score`: the weighted mean of the modes' scores, or the value of
            `fusion`. Lexical scores are unbounded, so it may be above 1.
        """
        return _scored(self._hits(query, k, options), options)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **options: Unpack[SearchKeywords]
    ) -> list[tuple[Document, float]]:
        """See `similarity_search_with_score`."""
        return _scored(await self._ahits(query, k, options), options)

    def similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **options: Unpack[SearchKeywords]
    ) -> list[tuple[Document, float]]:
        """The best documents with `Hit.relevance`, in [0, 1]; a number as threshold is of that."""
        if isinstance(options.get("score_threshold"), Probability | Percentile):
            return self._similarity_search_with_relevance_scores(query, k, **options)
        return super().similarity_search_with_relevance_scores(query, k, **options)

    async def asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **options: Unpack[SearchKeywords]
    ) -> list[tuple[Document, float]]:
        """See `similarity_search_with_relevance_scores`."""
        if isinstance(options.get("score_threshold"), Probability | Percentile):
            return await self._asimilarity_search_with_relevance_scores(query, k, **options)
        return await super().asimilarity_search_with_relevance_scores(query, k, **options)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **options: Unpack[VectorKeywords]
    ) -> list[Document]:
        """The nearest documents by dense score; takes `filter` and `score_threshold`."""
        return _shown(self._vector_hits(embedding, k, options), options)

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **options: Unpack[VectorKeywords]
    ) -> list[Document]:
        """See `similarity_search_by_vector`."""
        hits = await in_thread(self._vector_hits, embedding, k, options)
        return _shown(hits, options)

    def similarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, **options: Unpack[VectorKeywords]
    ) -> list[tuple[Document, float]]:
        """The nearest documents with their dense score, the cosine."""
        return _scored(self._vector_hits(embedding, k, options), options)

    async def asimilarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, **options: Unpack[VectorKeywords]
    ) -> list[tuple[Document, float]]:
        """See `similarity_search_with_score_by_vector`."""
        hits = await in_thread(self._vector_hits, embedding, k, options)
        return _scored(hits, options)

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **options: Unpack[SearchKeywords],
    ) -> list[Document]:
        """Documents that are relevant and unlike each other; see `diversity.mmr`.

        Args:
            query: The query's text.
            k: Most documents.
            fetch_k: How many of the best to choose from.
            lambda_mult: 1 is relevance alone, in the order of `similarity_search`; 0 unlikeness.
            **options: Those of a search; see the class.

        Returns:
            Documents in the order of choice.

        Raises:
            InputError: The index keeps no dense vectors, an unknown keyword, or a number out of
                range.
        """
        choice = MmrParams.checked(k, fetch_k, lambda_mult)
        return self._diverse(self._hits(query, choice.fetch_k, options), choice, options)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **options: Unpack[SearchKeywords],
    ) -> list[Document]:
        """See `max_marginal_relevance_search`."""
        choice = MmrParams.checked(k, fetch_k, lambda_mult)
        hits = await self._ahits(query, choice.fetch_k, options)
        return await in_thread(self._diverse, hits, choice, options)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **options: Unpack[VectorKeywords],
    ) -> list[Document]:
        """See `max_marginal_relevance_search`; relevance is the dense score."""
        choice = MmrParams.checked(k, fetch_k, lambda_mult)
        return self._diverse(self._vector_hits(embedding, choice.fetch_k, options), choice, options)

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **options: Unpack[VectorKeywords],
    ) -> list[Document]:
        """See `max_marginal_relevance_search_by_vector`."""
        search = partial(self.max_marginal_relevance_search_by_vector, **options)
        return await in_thread(search, embedding, k, fetch_k, lambda_mult)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """`Hit.relevance` of the store's own ranking; searches use that of the call's."""
        profile = self._index().weighting(self._ranking.get("weights"))
        fusion = self._ranking.get("fusion") or profile.fusion or WeightedSum()
        max_score = fusion.max_score(profile.weights)
        return lambda score: relevance(score, max_score)

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Unpack[SearchKeywords]
    ) -> list[tuple[Document, float]]:
        return _relevant(self._hits(query, k, kwargs), kwargs)

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Unpack[SearchKeywords]
    ) -> list[tuple[Document, float]]:
        return _relevant(await self._ahits(query, k, kwargs), kwargs)

    def _hits(self, query: str, k: int, given: SearchKeywords) -> list[Hit]:
        options = search_options(given, k, self._ranking)
        return self._index().search(query, **options)

    async def _ahits(self, query: str, k: int, given: SearchKeywords) -> list[Hit]:
        options = search_options(given, k, self._ranking)
        return await (await self._aindex()).asearch(query, **options)

    def _mode_hits(self, query: str, mode: Mode, given: AnySearch) -> list[Hit]:
        index = self._index()
        return index.search(query, **mode_options(given, mode, index))

    async def _amode_hits(self, query: str, mode: Mode, given: AnySearch) -> list[Hit]:
        index = await self._aindex()
        return await index.asearch(query, **mode_options(given, mode, index))

    def _vector_hits(self, embedding: Sequence[float], k: int, given: VectorKeywords) -> list[Hit]:
        options, batch = vector_options(given, k), vector_batch(embedding)
        return self._index().search_embedded(batch, **options)[0]

    def _diverse(
        self, hits: Sequence[Hit], choice: MmrParams, given: Mapping[str, Any]
    ) -> list[Document]:
        if not hits:
            return []
        chosen = self._index().diversify(hits, limit=choice.k, mmr_lambda=choice.lambda_mult)
        return _shown(chosen, given)


def _checked_type(search_type: str) -> SearchType:
    kind = next((known for known in SEARCH_TYPES if known == search_type), None)
    if kind is None:
        raise InputError(f"search_type {search_type!r} is none of {list(SEARCH_TYPES)}")
    return kind


def _shown(hits: Sequence[Hit], given: Mapping[str, Any]) -> list[Document]:
    return shown(hits, scores=bool(given.get("include_scores")))


def _scored(hits: Sequence[Hit], given: Mapping[str, Any]) -> list[tuple[Document, float]]:
    return list(zip(_shown(hits, given), [hit.score for hit in hits], strict=True))


def _relevant(hits: Sequence[Hit], given: Mapping[str, Any]) -> list[tuple[Document, float]]:
    return list(zip(_shown(hits, given), [hit.relevance for hit in hits], strict=True))
