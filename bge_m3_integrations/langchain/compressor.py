"""All three of BGE-M3's scores as a LangChain document compressor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Annotated, Any, TypedDict

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import ConfigDict, Field, PlainValidator

from bge_m3_integrations.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.langchain.options import parsed_weights
from bge_m3_integrations.types import ALL_MODES, Weights, WeightsLike

_ROLE = "langchain.reranker"


class Relevance(TypedDict):
    """One reranked document, in the form that LangChain's rerankers share."""

    index: int
    relevance_score: float


class BGEM3Reranker(BaseDocumentCompressor):
    """Orders documents by their hybrid score for a query.

    Over the engine of a retriever, the query costs no second forward pass. The async twin runs in
    a thread. LangChain traces no compressor; `as_runnable` is traced.

    Attributes:
        engine: Encodes the query once and each distinct document once.
        top_n: Most documents that come back, 3 as in LangChain's other rerankers; None is all.
        weights: How much each mode counts; None is the default preset.
        score_threshold: Documents with a lower score are left out.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", validate_assignment=True
    )

    engine: BGEM3 = Field(exclude=True, repr=False)
    top_n: int | None = Field(default=3, ge=1)
    weights: Annotated[WeightsLike | None, PlainValidator(parsed_weights)] = None
    score_threshold: float | None = None

    def model_post_init(self, context: Any, /) -> None:
        """Declare the modes, so that a retriever's first question encodes for both."""
        del context
        chosen = self.weights
        modes = ALL_MODES if chosen is None else Weights.parse(chosen).modes
        self.engine.declare(_ROLE, query=modes)

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,
    ) -> list[Document]:
        """The best documents for a query.

        Args:
            documents: Any number of documents; they stay as they are.
            query: The query's text.
            callbacks: Part of LangChain's interface; there is nothing to report to them.

        Returns:
            Deep copies, best first, with the hybrid score as `metadata["relevance_score"]`.
        """
        del callbacks
        documents = list(documents)
        return [
            _scored(documents[found["index"]], found["relevance_score"])
            for found in self.rerank(documents, query)
        ]

    def rerank(
        self, documents: Sequence[str | Document], query: str, *, top_n: int | None = None
    ) -> list[Relevance]:
        """The order of documents for a query, without the documents.

        Args:
            documents: Texts or documents.
            query: The query's text.
            top_n: Most results; None is the reranker's own `top_n`.

        Returns:
            Positions in `documents` with their hybrid scores, best first, ties by position.
        """
        documents = list(documents)
        if not documents:
            return []
        texts = [d.page_content if isinstance(d, Document) else d for d in documents]
        limit = self.top_n if top_n is None else top_n
        ranked = self.engine.rerank(query, texts, limit=limit, weights=self.weights)
        least = self.score_threshold
        return [
            Relevance(index=one.index, relevance_score=one.score)
            for one in ranked
            if least is None or one.score >= least
        ]

    def as_runnable(self) -> Runnable[Mapping[str, Any], list[Document]]:
        """This reranker as a step of a chain: a dict of "query" and "documents" to documents."""

        def rerank(inputs: Mapping[str, Any]) -> list[Document]:
            query, documents = _question(inputs)
            return self.compress_documents(documents, query)

        return RunnableLambda(rerank, name=type(self).__name__)


def _question(inputs: Mapping[str, Any]) -> tuple[str, Sequence[Document]]:
    if not isinstance(inputs, Mapping) or not {"query", "documents"} <= inputs.keys():
        held = sorted(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError(f'the reranker takes a dict with "query" and "documents", not {held}')
    return inputs["query"], inputs["documents"]


def _scored(document: Document, score: float) -> Document:
    copy = deepcopy(document)
    copy.metadata["relevance_score"] = score
    return copy
