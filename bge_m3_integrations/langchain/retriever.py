"""A `HybridIndex` as a LangChain retriever."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Annotated, Any, Self, TypedDict, Unpack

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.runnables import RunnableConfig, run_in_executor
from pydantic import ConfigDict, Field, PlainValidator

from bge_m3_integrations.engine import BGEM3
from bge_m3_integrations.filters import FilterLike, as_filter
from bge_m3_integrations.fusion import Fusion
from bge_m3_integrations.index import HybridIndex
from bge_m3_integrations.langchain.documents import (
    same_length,
    to_document,
    to_records,
    with_scores,
)
from bge_m3_integrations.langchain.options import checked_fusion, parsed_weights
from bge_m3_integrations.langchain.together import Together
from bge_m3_integrations.plan import SearchOptions
from bge_m3_integrations.stores.base import Store
from bge_m3_integrations.types import Hit, Mode, WeightsLike

_ROLE = "langchain.retriever"


class RetrieverOptions(TypedDict, total=False):
    """The fields of `BGEM3Retriever` besides the index."""

    k: int
    weights: WeightsLike | None
    filter: FilterLike | None
    score_threshold: float | None
    candidates: Mapping[Mode, int] | None
    fusion: Fusion | None
    include_scores: bool
    name: str | None
    tags: list[str] | None
    metadata: dict[str, Any] | None


class BGEM3Retriever(BaseRetriever):
    """Finds documents by dense, sparse and ColBERT scores, one forward pass per query.

    `invoke` and its relatives take `k`, `filter`, `weights` and `score_threshold` for one call;
    they stand in place of the fields, a filter too. `batch` and `abatch` encode all queries
    together, and each query has its own callbacks. The async methods search in a thread.

    Attributes:
        index: What is searched.
        k: Most documents per query; fewer only where fewer match, or pass the threshold.
        weights: How much each mode counts; None is the default preset.
        filter: Which documents may be found: a dict such as `{"year": {"$gte": 2020}}`, a
            function over metadata, or a filter tree.
        score_threshold: Documents with a lower ranking value are left out.
        candidates: How many documents each mode looks up; see `HybridIndex.search`.
        fusion: How scores become one ranking value; None is the weighted sum.
        include_scores: Put each document's scores in its metadata, under "bge_m3_scores";
            see `documents.with_scores`.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", validate_assignment=True
    )

    index: HybridIndex = Field(exclude=True, repr=False)
    k: int = Field(default=4, ge=1)
    weights: Annotated[WeightsLike | None, PlainValidator(parsed_weights)] = None
    filter: Annotated[FilterLike | None, PlainValidator(as_filter)] = None
    score_threshold: float | None = None
    candidates: Mapping[Mode, int] | None = None
    fusion: Annotated[Fusion | None, PlainValidator(checked_fusion)] = None
    include_scores: bool = False

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        engine: BGEM3,
        *,
        ids: Iterable[str | None] | None = None,
        store: Store | None = None,
        **options: Unpack[RetrieverOptions],
    ) -> Self:
        """A retriever over a new index of documents.

        Args:
            documents: Each is encoded once; they stay as they are.
            engine: Encodes documents and queries.
            ids: One per document; None is the document's own id, or a new one.
            store: Keeps the documents; None keeps them in memory.
            **options: The retriever's fields.

        Returns:
            The retriever; its `index` takes further documents.
        """
        retriever = cls(index=HybridIndex(engine, store), **options)
        retriever._declare()
        retriever.index.add(to_records(documents, ids=ids))
        return retriever

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        engine: BGEM3,
        *,
        metadatas: Iterable[dict[str, Any]] | None = None,
        ids: Iterable[str | None] | None = None,
        store: Store | None = None,
        **options: Unpack[RetrieverOptions],
    ) -> Self:
        """A retriever over a new index of texts; see `from_documents`.

        Args:
            texts: Read to the end at once.
            engine: Encodes documents and queries.
            metadatas: One per text.
            ids: One per text.
            store: Keeps the documents.
            **options: The retriever's fields.

        Returns:
            The retriever.

        Raises:
            InputError: There are more or fewer ids or metadatas than texts.
        """
        held = list(texts)
        about = (
            [{} for _ in held] if metadatas is None else same_length(held, metadatas, "metadatas")
        )
        documents = [
            Document(page_content=text, metadata=metadata)
            for text, metadata in zip(held, about, strict=True)
        ]
        return cls.from_documents(documents, engine, ids=ids, store=store, **options)

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
        together = Together(self.index, inputs)
        return super().batch(
            inputs, config, return_exceptions=return_exceptions, _together=together, **kwargs
        )

    async def abatch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any | None,
    ) -> list[list[Document]]:
        """See `batch`."""
        together = Together(self.index, inputs)
        return await super().abatch(
            inputs, config, return_exceptions=return_exceptions, _together=together, **kwargs
        )

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun | None = None,
        k: int | None = None,
        filter: FilterLike | None = None,
        weights: WeightsLike | None = None,
        score_threshold: float | None = None,
        _together: Together | None = None,
    ) -> list[Document]:
        del run_manager
        self._declare()
        options = SearchOptions(
            limit=_first(k, self.k),
            where=_first(filter, self.filter),
            weights=_first(weights, self.weights),
            score_threshold=_first(score_threshold, self.score_threshold),
            candidates=self.candidates,
            fusion=self.fusion,
        )
        if _together is None:
            return self._documents(self.index.search(query, **options))
        return self._documents(_together.search(query, options))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun | None = None,
        k: int | None = None,
        filter: FilterLike | None = None,
        weights: WeightsLike | None = None,
        score_threshold: float | None = None,
        _together: Together | None = None,
    ) -> list[Document]:
        del run_manager
        # a batch takes one thread at a time: the rest would only wait there for the first
        async with nullcontext() if _together is None else _together.turn:
            return await run_in_executor(
                None,
                self._get_relevant_documents,
                query,
                k=k,
                filter=filter,
                weights=weights,
                score_threshold=score_threshold,
                _together=_together,
            )

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = type(self.index.store).__name__
        params["ls_embedding_provider"] = type(self.index.engine).__name__
        params["ls_embedding_model"] = self.index.engine.name
        return params

    def _declare(self) -> None:
        """Not in the constructor: the index's modes may come from the model's files."""
        self.index.engine.declare(_ROLE, query=self.index.modes)

    def _documents(self, hits: Sequence[Hit]) -> list[Document]:
        documents = [to_document(hit.record) for hit in hits]
        if not self.include_scores:
            return documents
        return [with_scores(d, hit) for d, hit in zip(documents, hits, strict=True)]


def _first(value: Any, default: Any) -> Any:
    """What a call gave, or the field where it gave None."""
    return default if value is None else value
