"""What makes a batch of queries one encoding, though LangChain invokes each by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from bge_m3_integrations.index import HybridIndex
from bge_m3_integrations.plan import SearchOptions
from bge_m3_integrations.types import Hit


class Together:
    """One search for a whole batch, done by the first of its queries that comes by.

    Args:
        index: What is searched.
        queries: All queries of the batch; what is no string is left to its own search.

    Attributes:
        turn: Held by the one query of an async batch that has a thread.
    """

    def __init__(self, index: HybridIndex, queries: Sequence[str]) -> None:
        self._index = index
        self._queries = list(dict.fromkeys(query for query in queries if isinstance(query, str)))
        self.turn = asyncio.Lock()
        self._lock = threading.Lock()
        self._found: dict[str, list[Hit]] | None = None

    def search(self, query: str, options: SearchOptions) -> list[Hit]:
        """The hits of one query; the options are the same for all of a batch."""
        with self._lock:
            if self._found is None:
                self._found = self._search_all(options)
            found = self._found
        if isinstance(query, str) and query in found:
            return found[query]
        return self._index.search(query, **options)

    def _search_all(self, options: SearchOptions) -> dict[str, list[Hit]]:
        try:
            hits = self._index.search_batch(self._queries, **options)
        except Exception:
            return {}  # each query is then searched alone, and only those at fault raise
        return dict(zip(self._queries, hits, strict=True))
