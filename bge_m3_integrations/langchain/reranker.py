"""All three of BGE-M3's scores as a LangChain document compressor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Annotated, Any, Self, TypedDict, Unpack

from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator
from pydantic.json_schema import SkipJsonSchema

from bge_m3_integrations._internal.keywords import checks_itself, public_class
from bge_m3_integrations._internal.pydantic_fields import CheckedCopies, refuse_fields
from bge_m3_integrations._internal.warn import in_thread
from bge_m3_integrations.core.metadata import deep_copy
from bge_m3_integrations.core.scores import Ranked
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.core.weighting import WeightsLike, as_weights, modes_of
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.engine.profiles import check_name
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.arguments import (
    EngineLike,
    IndexLike,
    given_once,
    has_index,
    index_of,
)
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.rerank import RerankDocument, ranked_batch
from bge_m3_integrations.langchain.documents import SCORES_KEY, as_list
from bge_m3_integrations.langchain.embeddings import engine_of
from bge_m3_integrations.langchain.keywords import RerankerOptions

_ROLE = "langchain.reranker"


class Relevance(TypedDict):
    """One reranked document, in the form that LangChain's rerankers share."""

    index: int
    relevance_score: float


Request = Mapping[str, Any]
"""The input of the reranker as a step of a chain: "query", a text, and "documents"."""


class RerankerInput(BaseModel):
    """Documents to order, best first, for a query.

    Attributes:
        query: A text.
        documents: The documents to order.
    """

    query: str
    documents: list[Document]


def _of_index(given: dict[str, Any]) -> BGEM3:
    index = given.get("index")
    if index is None:
        raise InputError("a reranker needs engine=BGEM3(...), or index=, whose engine it uses")
    engine: BGEM3 = index.engine
    return engine


def _index_of(value: Any) -> HybridIndex | None:
    return None if value is None else index_of(value)


@public_class
class BGEM3Reranker(
    CheckedCopies,
    RunnableSerializable[Request, list[Document]],
    BaseDocumentCompressor,
    BaseCrossEncoder,
):
    """Orders documents by their hybrid score for a query.

    It is a compressor, a step of a chain that takes `{"query": ..., "documents": ...}`, and a
    cross-encoder. `batch` encodes the queries of all its inputs together, and their documents
    together. Over the engine of a retriever, the query costs no second forward pass; over its
    `index`, nor do documents that the index keeps with the same id and text. The async methods
    run in a thread.

    Args:
        engine: An engine, or an index or adapter over one: see the attributes.
        index: An index, or an adapter over one.
        **options: The other attributes.

    Attributes:
        index: Its stored numbers are used for documents that it keeps; None encodes all.
        engine: Encodes the query once and each distinct document once; by default the index's.
            A `BGEM3Embeddings` stands for its own.
        top_n: Most documents that come back, 3 as in LangChain's other rerankers; None is all.
        weights: How much each mode counts; None is the default preset.
        score_threshold: Documents with a lower score are left out.
        include_scores: Put the scores of each mode and the weights used into each document's
            metadata, under "bge_m3_scores", as a retriever does.
    """

    # frozen: an assignment that is refused would take effect all the same
    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    index: Annotated[SkipJsonSchema[HybridIndex | None], BeforeValidator(_index_of)] = Field(
        default=None, exclude=True, repr=False
    )
    engine: Annotated[SkipJsonSchema[BGEM3], BeforeValidator(engine_of)] = Field(
        default_factory=_of_index, exclude=True, repr=False
    )
    top_n: int | None = Field(default=3, ge=1)
    weights: Annotated[WeightsLike | None, PlainValidator(as_weights)] = None
    score_threshold: float | None = Field(default=None, allow_inf_nan=False)
    include_scores: bool = False

    @checks_itself
    def __init__(
        self,
        engine: EngineLike | IndexLike | None = None,
        *,
        index: IndexLike | None = None,
        **options: Unpack[RerankerOptions],
    ) -> None:
        refuse_fields(type(self), options, more=["engine", "index"])
        if engine is not None and has_index(engine):
            index = given_once(engine, index, "the first argument and index=")
            engine = None
        given: dict[str, Any] = {"engine": engine, "index": index}
        fields: dict[str, Any] = {**{n: v for n, v in given.items() if v is not None}, **options}
        super().__init__(**fields)

    @model_validator(mode="after")
    def _one_engine(self) -> Self:
        """Refuse an engine beside an index of another: their numbers would not compare."""
        if self.index is not None and self.engine is not self.index.engine:
            raise InputError(
                f"engine is {self.engine.name}, but the index has an engine of its own, "
                f"{self.index.engine.name}; leave out engine, or index"
            )
        check_name(self.weights, None if self.index is None else self.index.path)
        return self

    def model_post_init(self, context: Any, /) -> None:
        """Declare the modes, so that a retriever's first question encodes for both."""
        del context
        self.engine.declare(_ROLE, query=modes_of(self.weights))

    def __getstate__(self) -> dict[Any, Any]:
        if self.index is not None:
            raise InputError(
                "a BGEM3Reranker over an index cannot be pickled: one process at a time holds an "
                "index; make it in the other process, BGEM3Reranker(index=HybridIndex.open(path)), "
                "or pickle one without index, BGEM3Reranker(engine=...)"
            )
        return super().__getstate__()

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self.model_post_init(None)  # the engine is a new one, which knows of nobody

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield None, self.engine if self.index is None else self.index
        yield from ((n, v) for n, v in super().__repr_args__() if n in self.model_fields_set)

    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """Describe the input for servers of chains, and for agents with `as_tool`."""
        del config
        return RerankerInput

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,
    ) -> list[Document]:
        """Rerank documents and return the best ones.

        Args:
            documents: Any number of documents; they stay as they are.
            query: The query's text.
            callbacks: Who is told of it, as a run of its own.

        Returns:
            Deep copies, best first, with the hybrid score as `metadata["relevance_score"]`.
        """
        return self.invoke({"query": query, "documents": documents}, {"callbacks": callbacks})

    async def acompress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,
    ) -> list[Document]:
        """See `compress_documents`."""
        question = {"query": query, "documents": documents}
        return await self.ainvoke(question, {"callbacks": callbacks})

    def rerank(
        self, documents: Sequence[str | Document], query: str, *, top_n: int | None = None
    ) -> list[Relevance]:
        """Rank documents for a query by position, without returning the documents.

        Args:
            documents: Texts or documents.
            query: The query's text.
            top_n: Most results; None is the reranker's own `top_n`.

        Returns:
            Positions in `documents` with their hybrid scores, best first, ties by position.

        Raises:
            InputError: `documents` is one text, or `top_n` is no whole number of at least 1.
        """
        if isinstance(documents, str):
            raise InputError(
                f"documents is one text, {documents[:60]!r}; rerank takes the documents first, in "
                "a list, and then the query"
            )
        [ranked] = self._ranked([query], [documents], top_n=top_n)
        return [Relevance(index=one.index, relevance_score=one.score) for one in ranked]

    def score(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Score pairs of query and document, as a `BaseCrossEncoder` of LangChain does.

        Args:
            text_pairs: Any number of pairs; each distinct text is encoded once.

        Returns:
            One score per pair, in order; neither `top_n` nor the threshold applies.
        """
        pairs = list(text_pairs)
        if not pairs:
            return []
        scores: list[float] = self.engine.score_pairs(pairs, weights=self.weights).hybrid.tolist()
        return scores

    def invoke(
        self, input: Request, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """Rerank the documents of a dict; see `compress_documents`.

        Args:
            input: A dict of "query" and "documents".
            config: Callbacks, tags and the like.
            **kwargs: There are none; any is refused.

        Returns:
            Deep copies, best first.

        Raises:
            InputError: The dict lacks a key, something is no document, or an unknown keyword.
        """
        _refuse_keywords(kwargs)
        return self._call_with_config(self._best, input, config)

    async def ainvoke(
        self, input: Request, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """See `invoke`."""
        _refuse_keywords(kwargs)
        return await self._acall_with_config(self._abest, input, config)

    def batch(
        self,
        inputs: list[Request],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any | None,
    ) -> list[list[Document]]:
        """Rerank the documents of each input; all are encoded together.

        Args:
            inputs: Dicts of "query" and "documents".
            config: One for all, or one for each.
            return_exceptions: Put an input's exception in place of its documents.
            **kwargs: There are none; any is refused.

        Returns:
            One list per input, in order.
        """
        _refuse_keywords(kwargs)
        return self._batch_with_config(
            self._best_of_each, inputs, config, return_exceptions=return_exceptions
        )

    async def abatch(
        self,
        inputs: list[Request],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any | None,
    ) -> list[list[Document]]:
        """See `batch`."""
        _refuse_keywords(kwargs)
        return await self._abatch_with_config(
            self._abest_of_each, inputs, config, return_exceptions=return_exceptions
        )

    def _best(self, question: Request) -> list[Document]:
        return self._best_of_all([question])[0]

    async def _abest(self, question: Request) -> list[Document]:
        return await in_thread(self._best, question)

    def _best_of_each(self, questions: list[Request]) -> list[list[Document] | Exception]:
        """All together; where that fails, each alone, so that only those at fault raise."""
        try:
            return list(self._best_of_all(questions))
        except Exception:
            return [self._best_or_error(question) for question in questions]

    async def _abest_of_each(self, questions: list[Request]) -> list[list[Document] | Exception]:
        return await in_thread(self._best_of_each, questions)

    def _best_or_error(self, question: Request) -> list[Document] | Exception:
        try:
            return self._best(question)
        except Exception as error:
            return error

    def _best_of_all(self, questions: Sequence[Request]) -> list[list[Document]]:
        asked = [_question(question) for question in questions]
        rankings = self._ranked([query for query, _ in asked], [held for _, held in asked])
        return [
            [self._scored(held[one.index], one) for one in ranked]
            for (_, held), ranked in zip(asked, rankings, strict=True)
        ]

    def _scored(self, document: Document, place: Ranked) -> Document:
        copy = deep_copy(document, "the metadata of a document")
        if self.include_scores:
            copy.metadata[SCORES_KEY] = place.score_details
        copy.metadata["relevance_score"] = place.score
        return copy

    def _ranked(
        self,
        queries: list[str],
        documents: Sequence[Sequence[str | Document]],
        *,
        top_n: int | None = None,
    ) -> list[list[Ranked]]:
        limit = self.top_n if top_n is None else check_int("top_n", top_n)
        asked = [i for i, row in enumerate(documents) if row]  # no query is encoded for nothing
        if not asked:
            return [[] for _ in documents]
        texts = [queries[i] for i in asked]
        held = [[_given(document) for document in documents[i]] for i in asked]
        if self.index is not None:
            found = self.index.rerank_batch(texts, held, limit=limit, weights=self.weights)
        else:
            found = ranked_batch(self.engine, texts, held, self.weights, limit=limit)
        best = dict(zip(asked, found, strict=True))
        least = -inf if self.score_threshold is None else self.score_threshold
        return [
            [one for one in best.get(i, ()) if one.score >= least] for i in range(len(documents))
        ]


def _refuse_keywords(given: Mapping[str, Any]) -> None:
    if given:
        raise InputError(
            f"the reranker takes no keywords for one call, not {sorted(given)}; for another top_n "
            'use rerank(..., top_n=5), or a copy: model_copy(update={"top_n": 5})'
        )


def _question(inputs: object) -> tuple[str, list[Document]]:
    if not isinstance(inputs, Mapping) or not {"query", "documents"} <= inputs.keys():
        held = sorted(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError(f'the reranker takes a dict with "query" and "documents", not {held}')
    documents = as_list(inputs["documents"], '"documents"')
    if wrong := [one for one in documents if not isinstance(one, Document)]:
        raise InputError(f'"documents" must be Documents, not {type(wrong[0]).__name__}')
    return inputs["query"], documents


def _given(document: str | Document) -> RerankDocument:
    if isinstance(document, Document):
        return RerankDocument(document.page_content, document.id)
    return RerankDocument(document)
