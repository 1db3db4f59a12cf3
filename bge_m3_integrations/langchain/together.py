"""Batches of queries as one search, although LangChain invokes each query by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from bge_m3_integrations.core.records import Hit
from bge_m3_integrations.errors import EncodingError, FilterError, InputError
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.plan import SearchOptions, Stage
from bge_m3_integrations.langchain.events import Found, watched

TOGETHER: Final = "_together"
"""The keyword by which a retriever hands the batch to each of its queries."""


class Together:
    """One search for a whole batch, done by the first of its queries that comes by.

    The options are the same for all queries of a batch. Where it fails for one query's sake, each
    is left to a search of its own, so that only those at fault raise; any other failure is all of
    theirs.

    Args:
        queries: All queries of the batch; what is no string is left to its own search.
    """

    def __init__(self, queries: Sequence[str]) -> None:
        self._queries = list(dict.fromkeys(query for query in queries if isinstance(query, str)))
        self._lock = threading.Lock()
        self._turn = asyncio.Lock()  # coroutines wait for the first of them without a thread
        self._found: Mapping[str, Found] | None = None
        self._error: Exception | None = None

    def search(self, index: HybridIndex, query: str, options: SearchOptions) -> Found | None:
        """What the batch's search found for one query; None if it is to be searched alone."""
        with self._lock:
            if self._found is None:
                self._found = self._search_all(index, options)
        return self._of(query)

    async def asearch(self, index: HybridIndex, query: str, options: SearchOptions) -> Found | None:
        """See `search`."""
        async with self._turn:
            if self._found is None:
                self._found = await self._asearch_all(index, options)
        return self._of(query)

    def _search_all(self, index: HybridIndex, options: SearchOptions) -> Mapping[str, Found]:
        options, stages = watched(options)
        try:
            hits = index.search_batch(self._queries, **options)
        except Exception as error:
            return self._failed(error)
        return self._each(hits, stages)

    async def _asearch_all(self, index: HybridIndex, options: SearchOptions) -> Mapping[str, Found]:
        options, stages = watched(options)
        try:
            hits = await index.asearch_batch(self._queries, **options)
        except Exception as error:
            return self._failed(error)
        return self._each(hits, stages)

    def _each(self, hits: Sequence[Sequence[Hit]], stages: Sequence[Stage]) -> Mapping[str, Found]:
        found = (Found(held, stages, len(self._queries)) for held in hits)
        return dict(zip(self._queries, found, strict=True))

    def _failed(self, error: Exception) -> Mapping[str, Found]:
        of_one_text = isinstance(error, InputError | EncodingError)
        if not of_one_text or isinstance(error, FilterError):
            self._error = error
        return {}

    def _of(self, query: object) -> Found | None:
        if self._error is not None and query in self._queries:
            raise self._error
        found = self._found or {}
        return found.get(query) if isinstance(query, str) else None
