"""The retriever of `BGEM3VectorStore.as_retriever`: LangChain's, with more search types."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Unpack

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from pydantic import ConfigDict, model_validator

from bge_m3_integrations._internal.keywords import checks_itself, public_class
from bge_m3_integrations._internal.pydantic_fields import refuse_fields
from bge_m3_integrations.core.thresholds import Percentile, Probability
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.langchain.batches import BatchRetriever
from bge_m3_integrations.langchain.keywords import (
    SEARCH_TYPES,
    AnySearch,
    StoreRetrieverOptions,
)
from bge_m3_integrations.langchain.search_options import refuse_unknown
from bge_m3_integrations.langchain.vectorstore_search import SearchingStore


@public_class
class BGEM3VectorStoreRetriever(BatchRetriever, VectorStoreRetriever):
    """LangChain's retriever over a `BGEM3VectorStore`, with one mode alone as a search type.

    `invoke` takes the keys of `search_kwargs` for one call. Queries that wait at once, as those of
    a `batch`, are encoded together.

    Args:
        vectorstore: The store that is searched.
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

    @model_validator(mode="before")
    @classmethod
    def validate_search_type(cls, values: dict[str, Any]) -> Any:
        """Check the search type as LangChain does, which knows thresholds as floats only."""
        check: Any = super().validate_search_type
        asked = values.get("search_kwargs", {})
        if not isinstance(asked.get("score_threshold"), Probability | Percentile):
            return check(values)
        check({**values, "search_kwargs": {**asked, "score_threshold": 0.0}})
        return values

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

    def _searched(self) -> HybridIndex | None:
        return self.vectorstore._index() if isinstance(self.vectorstore, SearchingStore) else None

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
        params["ls_embedding_provider"] = type(engine).__name__
        params["ls_embedding_model"] = engine.name
        return params
