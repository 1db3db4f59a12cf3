"""Batches of queries: a text that comes twice is encoded once, and a warning told once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig

from bge_m3_integrations._internal.warn import from_here, in_thread
from bge_m3_integrations.engine.truncation import Cuts
from bge_m3_integrations.index.index import HybridIndex


class BatchRetriever(BaseRetriever):
    """A retriever whose batches LangChain runs in threads or tasks, each query for itself."""

    def _searched(self) -> HybridIndex | None:
        """Return the index, opened; None where another store is searched."""
        raise NotImplementedError

    def _share(self, queries: Sequence[object]) -> None:
        """Have the engine remember queries, if one comes twice."""
        texts = [query for query in queries if isinstance(query, str)]
        if len(set(texts)) == len(texts):
            return
        with suppress(Exception):  # each query's own run tells why its index cannot be opened
            if (index := self._searched()) is not None:
                index.engine.declare("langchain.batch")

    def batch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any | None,
    ) -> list[list[Document]]:
        """Retrieve documents for each query; queries that wait at once are encoded together.

        Args:
            inputs: The queries.
            config: One for all, or one for each.
            return_exceptions: Put a query's exception in place of its documents.
            **kwargs: Options of `invoke` for one call.

        Returns:
            One list per query, in order.
        """
        self._share(inputs)
        with from_here(), Cuts({"query": inputs}):
            return super().batch(inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any | None,
    ) -> list[list[Document]]:
        """See `batch`."""
        await in_thread(self._share, inputs)  # it may open a folder
        with from_here(), Cuts({"query": inputs}):
            return await super().abatch(
                inputs, config, return_exceptions=return_exceptions, **kwargs
            )
