"""The retriever of `BGEM3VectorStore.as_retriever`: LangChain's, with more search types."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Unpack

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.runnables import RunnableConfig
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from pydantic import ConfigDict

from bge_m3_integrations._internal.keywords import checks_itself, public_class
from bge_m3_integrations._internal.pydantic_fields import refuse_fields
from bge_m3_integrations._internal.warn import from_here
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.engine.truncation import Cuts
from bge_m3_integrations.langchain.asking import refuse_unknown
from bge_m3_integrations.langchain.foreign import called
from bge_m3_integrations.langchain.keywords import (
    SEARCH_TYPES,
    AnySearch,
    StoreRetrieverOptions,
)
from bge_m3_integrations.langchain.together import TOGETHER, Together
from bge_m3_integrations.langchain.vectorstore_search import SearchingStore


@public_class
class BGEM3VectorStoreRetriever(VectorStoreRetriever):
    """LangChain's retriever over a `BGEM3VectorStore`, with one mode alone as a search type.

    `invoke` takes for one call what `search_kwargs` hold. `batch` and `abatch` encode all queries
    together and look them up in one search; over a foreign model each goes alone.

    Args:
        vectorstore: What is searched.
        **options: The fields; see `BGEM3VectorStore.as_retriever`.

    Attributes:
        include_scores: Put each document's scores into its metadata, as `BGEM3Retriever` does.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", hide_input_in_errors=True
    )

    include_scores: bool = False

    allowed_search_types: ClassVar[Collection[str]] = SEARCH_TYPES

    @checks_itself
    def __init__(self, vectorstore: VectorStore, **options: Unpack[StoreRetrieverOptions]) -> None:
        refuse_fields(type(self), options)
        if isinstance(vectorstore, SearchingStore):
            refuse_unknown(options.get("search_kwargs", {}), AnySearch)
        fields: dict[str, Any] = {"vectorstore": vectorstore, **options}
        super().__init__(**fields)

    def batch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any | None,
    ) -> list[list[Document]]:
        """Documents for each query; all queries are encoded in one call.

        Args:
            inputs: The queries.
            config: One for all, or one for each.
            return_exceptions: Put a query's exception in place of its documents.
            **kwargs: What `invoke` takes for one call.

        Returns:
            One list per query, in order.
        """
        shared = self._shared(inputs, kwargs)
        with from_here(), Cuts({"query": inputs}):  # one warning for all queries
            return super().batch(inputs, config, return_exceptions=return_exceptions, **shared)

    async def abatch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any | None,
    ) -> list[list[Document]]:
        """See `batch`."""
        shared = self._shared(inputs, kwargs)
        with from_here(), Cuts({"query": inputs}):  # one warning for all queries
            return await super().abatch(
                inputs, config, return_exceptions=return_exceptions, **shared
            )

    def _shared(self, queries: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of all queries of a batch; another store would not know the last of them."""
        ours = isinstance(self.vectorstore, SearchingStore)
        return {**given, TOGETHER: Together(queries)} if ours else dict(given)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        del run_manager
        return self.vectorstore.search(query, self.search_type, **self._asked(kwargs))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        del run_manager
        return await self.vectorstore.asearch(query, self.search_type, **self._asked(kwargs))

    def _asked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        scores = {"include_scores": True} if self.include_scores else {}
        return {**scores, **self.search_kwargs, **given}

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        # not the parent's, which asks for `embeddings`: that may open a folder
        params = BaseRetriever._get_ls_params(self, **(self.search_kwargs | kwargs))
        params["ls_vector_store_provider"] = type(self.vectorstore).__name__
        engine: BGEM3 | None = getattr(self.vectorstore, "engine", None)
        if engine is None:
            return params
        params["ls_embedding_provider"], params["ls_embedding_model"] = called(engine)
        return params
