"""Batches of queries: their warnings are told once, at the user's line."""

from __future__ import annotations

from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig

from bge_m3_integrations._internal.warn import from_here
from bge_m3_integrations.engine.truncation import Cuts


class WarnsOnce(BaseRetriever):
    """A retriever whose batches LangChain runs in threads or tasks, which know no user's line."""

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
        with from_here(), Cuts({"query": inputs}):
            return await super().abatch(
                inputs, config, return_exceptions=return_exceptions, **kwargs
            )
