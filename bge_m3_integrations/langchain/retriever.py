"""A `HybridIndex` as a LangChain retriever."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, Unpack

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
from langchain_core.retrievers import LangSmithRetrieverParams
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainValidator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from bge_m3_integrations._internal.keywords import checks_itself, public_class
from bge_m3_integrations._internal.progress import ProgressLike
from bge_m3_integrations._internal.pydantic_fields import CheckedCopies, refuse_fields
from bge_m3_integrations._internal.warn import in_thread
from bge_m3_integrations.core.embeddings import Mode
from bge_m3_integrations.core.thresholds import Percentile, Probability, threshold_of_json
from bge_m3_integrations.core.weighting import WeightsLike, as_weights
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.engine.profiles import check_name
from bge_m3_integrations.index.arguments import EngineLike, IndexLike
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.request import SearchOptions, Stage
from bge_m3_integrations.langchain.batches import BatchRetriever
from bge_m3_integrations.langchain.documents import (
    dedupe_by_id,
    document_filter,
    shown,
    to_documents,
    to_records,
)
from bge_m3_integrations.langchain.embeddings import engine_of
from bge_m3_integrations.langchain.events import atell, observed, tell
from bge_m3_integrations.langchain.keywords import (
    CallOptions,
    DocumentFilter,
    FusionLike,
    NewRetrieverOptions,
    RetrieverOptions,
)
from bge_m3_integrations.langchain.lazy_index import IndexSource, searched, source_of
from bge_m3_integrations.langchain.search_options import (
    call_options,
    checked_candidates,
    checked_fusion,
)
from bge_m3_integrations.langchain.serialization import NotJsonError, as_json, check_json
from bge_m3_integrations.langchain.vectorstore_search import SearchingStore
from bge_m3_integrations.stores.base import Store


def _ranking_of(index: object) -> dict[str, Any]:
    """The ranking options of a vector store, as fields of a retriever over it; none of others."""
    if not isinstance(index, SearchingStore):
        return {}
    return {**index._ranking}


@public_class
class BGEM3Retriever(CheckedCopies, BatchRetriever):
    """Finds documents by dense, sparse and ColBERT scores, one forward pass per query.

    `invoke` and its relatives take `k`, `filter`, `weights`, `modes` and `score_threshold` for one
    call; they stand in place of the fields, a filter too. `modes` are the only ones that count in
    it. Queries that wait at the same time are encoded together: those of `batch` and `abatch`, and
    `ainvoke`s side by side, for which no thread waits.

    Handlers that hear custom events are told of each step of a search: "bge_m3.encode", "find",
    "score" and "rank", with its seconds and counts.

    Over an index in a folder it can be pickled, and written by LangChain's `dumpd` and read by
    `load(..., valid_namespaces=["bge_m3_integrations"], allowed_objects=[BGEM3Retriever])`; the
    copy opens the folder at its first search, with the engine that the index names. Over one
    in memory, or with an engine whose options for queries no index notes, it refuses to be
    pickled, and is "not_implemented" there; so it is with a function as filter.

    Args:
        index: An index, the folder of one, a vector store, whose weights, candidates and fusion
            hold where these name none, or an engine, for a new index in memory.
        engine: An engine, by its name.
        **options: The attributes besides `source`.

    Attributes:
        source: The index, given as `index`. A folder is opened by the first search.
        k: Most documents per query; fewer where fewer match, pass the threshold, or share a token
            with a query that is searched for by lexical weights alone.
        weights: How much each mode counts; None is the default preset.
        filter: Which documents may be found: a dict such as `{"year": {"$gte": 2020}}`, a
            function over a `Document`, or a filter tree.
        score_threshold: Documents with a lower ranking value are left out; `Probability(0.8)` and
            `Percentile(99)` are about the calibrated scale, see `HybridIndex.calibration`.
        candidates: How many documents each mode looks up; see `HybridIndex.search`.
        fusion: How scores become one ranking value, also by name; None is the weighted sum.
        include_scores: Put each document's scores and the weights used, `Hit.score_details`, in its
            metadata, under "bge_m3_scores". A document's own value of that name is left out.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        extra="forbid",
        populate_by_name=True,
        validate_assignment=True,
    )

    source: Annotated[HybridIndex | str | Path | IndexSource, PlainValidator(source_of)] = Field(
        alias="index", exclude=True, repr=False
    )
    k: int = Field(default=4, ge=1)
    weights: Annotated[WeightsLike | None, PlainValidator(as_weights)] = None
    filter: Annotated[DocumentFilter | None, PlainValidator(document_filter)] = None
    score_threshold: Annotated[
        FiniteFloat | SkipJsonSchema[Probability] | SkipJsonSchema[Percentile] | None,
        BeforeValidator(threshold_of_json),
    ] = None
    candidates: Annotated[Mapping[Mode, int] | None, BeforeValidator(checked_candidates)] = None
    fusion: Annotated[FusionLike | None, PlainValidator(checked_fusion)] = None
    include_scores: bool = False

    @checks_itself
    def __init__(
        self,
        index: HybridIndex | str | Path | IndexLike | EngineLike | None = None,
        *,
        engine: EngineLike | None = None,
        **options: Unpack[RetrieverOptions],
    ) -> None:
        refuse_fields(type(self), options, more=["index", "engine"])
        source = searched(index, engine)
        fields: dict[str, Any] = {**_ranking_of(index), **options}
        super().__init__(**fields if source is None else {"index": source, **fields})

    @model_validator(mode="after")
    def _known_weights(self) -> Self:
        source = source_of(self.source)
        if (folder := source.path) is not None or source.loaded is not None:
            check_name(self.weights, folder or getattr(source.loaded, "path", None))
        return self

    @property
    def index(self) -> HybridIndex:
        """The index that is searched; the first access opens a folder."""
        return source_of(self.source).index()

    @index.setter
    def index(self, value: HybridIndex | str | Path) -> None:
        self.source = value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield None, source_of(self.source).shown
        yield from ((n, v) for n, v in super().__repr_args__() if n in self.model_fields_set)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Check whether LangChain may serialize it; see the class."""
        return True

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Serialize for LangChain's `dumpd`."""
        made = super().to_json()
        if made["type"] != "constructor":
            return made
        try:
            made["kwargs"] |= as_json(
                source_of(self.source),
                weights=self.weights,
                where=document_filter(self.filter),
                fusion=checked_fusion(self.fusion),
                threshold=self.score_threshold,
            )
            check_json(made["kwargs"])
        except NotJsonError:
            return self.to_json_not_implemented()
        return made

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        engine: EngineLike,
        *,
        ids: Iterable[str | None] | None = None,
        store: Store | None = None,
        batch_size: int = 256,
        progress: ProgressLike = None,
        **options: Unpack[RetrieverOptions],
    ) -> Self:
        """Make a retriever over a new index of documents.

        Args:
            documents: Each is encoded once; they stay as they are. If an id comes twice, the
                later one holds.
            engine: Encodes documents and queries; of a `BGEM3Embeddings`, its engine does.
            ids: One per document; None is the document's own id, or a new one.
            store: Keeps the documents; None keeps them in memory.
            batch_size: Most documents encoded and written at a time.
            progress: See `HybridIndex.add`.
            **options: The retriever's fields.

        Returns:
            The retriever; its `index` takes further documents.
        """
        retriever = cls(index=HybridIndex(engine_of(engine), store), **options)
        index = source_of(retriever.source).prepare()  # so the memo may keep these modes
        records = dedupe_by_id(to_records(documents, ids=ids))
        index.add(records, batch_size=batch_size, progress=progress)
        return retriever

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        engine: EngineLike,
        *,
        metadatas: Iterable[dict[str, Any] | None] | None = None,
        **options: Unpack[NewRetrieverOptions],
    ) -> Self:
        """Make a retriever over a new index of texts; see `from_documents`.

        Args:
            texts: Read to the end at once.
            engine: Encodes documents and queries; of a `BGEM3Embeddings`, its engine does.
            metadatas: One per text.
            **options: Options of `from_documents`.

        Returns:
            The retriever.

        Raises:
            InputError: There are more or fewer ids or metadatas than texts.
        """
        return cls.from_documents(to_documents(texts, metadatas), engine, **options)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        **call: Unpack[CallOptions],
    ) -> list[Document]:
        options, stages = self._options(call), list[Stage]()
        index = source_of(self.source).prepare()
        hits = index.search(query, **observed(options, stages, run_manager))
        tell(stages, run_manager)
        return shown(hits, scores=self.include_scores)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        **call: Unpack[CallOptions],
    ) -> list[Document]:
        options, stages = self._options(call), list[Stage]()
        source = source_of(self.source)
        index = source.prepared
        if index is None:  # it may read files
            index = await in_thread(source.prepare)
        hits = await index.asearch(query, **observed(options, stages, run_manager))
        await atell(stages, run_manager)
        return shown(hits, scores=self.include_scores)

    def _searched(self) -> HybridIndex:
        return source_of(self.source).prepare()

    def _options(self, call: CallOptions) -> SearchOptions:
        usual = SearchOptions(
            limit=self.k,
            where=document_filter(self.filter),
            weights=self.weights,
            score_threshold=self.score_threshold,
            candidates=self.candidates,
            fusion=checked_fusion(self.fusion),
        )
        return call_options(usual, call)

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        index = source_of(self.source).loaded
        params["ls_embedding_provider"] = BGEM3.__name__
        if index is not None:  # no trace opens a folder
            params["ls_vector_store_provider"] = type(index.store).__name__
            params["ls_embedding_model"] = index.engine.name
        return params
