"""LlamaIndex's retriever over a `HybridIndex`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
from llama_index.core.ingestion import run_transformations
from llama_index.core.schema import (
    BaseNode,
    Document,
    IndexNode,
    NodeWithScore,
    QueryBundle,
    QueryType,
    TransformComponent,
)
from llama_index.core.settings import Settings
from llama_index.core.vector_stores.types import BasePydanticVectorStore, MetadataFilters

from bge_m3_integrations._internal.keywords import public_class
from bge_m3_integrations._internal.warn import in_thread
from bge_m3_integrations.core.display import called
from bge_m3_integrations.core.embeddings import Mode
from bge_m3_integrations.core.filters import FilterLike
from bge_m3_integrations.core.fusion import Fusion
from bge_m3_integrations.core.records import Hit
from bge_m3_integrations.core.thresholds import Threshold
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.core.weighting import WeightsLike, as_weights, modes_of
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.engine.profiles import check_name
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.arguments import EngineLike, IndexLike, index_for
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.request import SearchOptions
from bge_m3_integrations.llama_index.filters import restriction
from bge_m3_integrations.llama_index.nodes import (
    SCORES_KEY,
    copied,
    node_to_record,
    record_to_node,
    with_score_metadata,
)
from bge_m3_integrations.llama_index.vector_store_query import DENSE_ALONE, only_dense, query_vector

if TYPE_CHECKING:
    from bge_m3_integrations.llama_index.vector_store import BGEM3VectorStore

ROLE = "llama_index.retriever"


class RetrieverOptions(TypedDict, total=False):
    """The arguments of `BGEM3Retriever` besides the index."""

    similarity_top_k: int
    weights: WeightsLike | None
    filters: MetadataFilters | FilterLike | None
    node_ids: Sequence[str] | None
    doc_ids: Sequence[str] | None
    score_threshold: Threshold | None
    candidates: Mapping[Mode, int] | None
    fusion: Fusion | None
    include_scores: bool
    callback_manager: CallbackManager | None
    object_map: dict[str, Any] | None
    objects: list[IndexNode] | None
    verbose: bool


@public_class
class BGEM3Retriever(BaseRetriever):
    """Retrieves nodes by dense, sparse and ColBERT scores together.

    A `BGEM3Reranker` over the same engine finds the query's embedding already computed. It finds
    the nodes' too when it is made before they are added.

    A query bundle of an embedding alone, its text empty, is a dense search, whatever the weights
    and the fusion. An embedding beside a text is passed over: the text is encoded in all modes.

    Args:
        index: The documents and the engine: an index, a vector store, whose weights and candidates
            hold where these name none, or an engine, for a new index in memory. Records of other
            adapters come back as text nodes.
        engine: An engine, by its name; beside an index, that of the index.
        similarity_top_k: Most nodes.
        weights: How much each mode counts; see `HybridIndex.search`.
        filters: Which nodes may be found: `MetadataFilters`, a dict, a function over metadata or
            a filter tree.
        node_ids: The nodes that may be found; None and, as everywhere in LlamaIndex, an empty
            list are all.
        doc_ids: The source documents whose nodes may be found; None and an empty list are all.
        score_threshold: Nodes with a lower score are left out; `Probability(0.8)` and
            `Percentile(99)` are about the calibrated scale, see `HybridIndex.calibration`.
        candidates: How many nodes each mode looks up.
        fusion: How component scores become the score.
        include_scores: Write the scores and the weights used, `Hit.score_details`, into the
            metadata of the returned nodes, under "bge_m3_scores"; neither an encoder nor an LLM
            reads them there.
        callback_manager: As in every LlamaIndex retriever.
        object_map: The object that each `IndexNode`'s id leads to.
        objects: Index nodes that carry their objects; replaces `object_map`.
        verbose: Print the way through index nodes.

    Raises:
        InputError: `similarity_top_k` is below 1, or the weights are malformed.
        FilterError: The filter is malformed.
    """

    def __init__(
        self,
        index: IndexLike | EngineLike | None = None,
        *,
        engine: EngineLike | None = None,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        weights: WeightsLike | None = None,
        filters: MetadataFilters | FilterLike | None = None,
        node_ids: Sequence[str] | None = None,
        doc_ids: Sequence[str] | None = None,
        score_threshold: Threshold | None = None,
        candidates: Mapping[Mode, int] | None = None,
        fusion: Fusion | None = None,
        include_scores: bool = False,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        objects: list[IndexNode] | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(callback_manager, object_map, objects, verbose)
        store: object = index
        if isinstance(store, BasePydanticVectorStore):
            weights = getattr(store, "weights", None) if weights is None else weights
            candidates = getattr(store, "candidates", None) if candidates is None else candidates
        parsed = as_weights(weights)
        self._index = held = index_for(index, engine=engine)
        check_name(parsed, held.path)
        self._include_scores = include_scores
        self._options = SearchOptions(
            limit=check_int("similarity_top_k", similarity_top_k),
            weights=parsed,
            candidates=candidates,
            fusion=fusion,
            where=restriction(filters, node_ids, doc_ids),
            score_threshold=score_threshold,
        )
        # now and not at the first query: nodes added meanwhile are remembered for a reranker
        held.engine.declare(ROLE, query=_query_modes(held, parsed, candidates))

    @classmethod
    def from_nodes(
        cls,
        nodes: Iterable[BaseNode],
        engine: BGEM3 | None = None,
        **options: Unpack[RetrieverOptions],
    ) -> Self:
        """Make a retriever over nodes in memory.

        Args:
            nodes: Nodes of distinct ids.
            engine: Encodes them; None is `BGEM3()`.
            **options: Those of the constructor.

        Returns:
            A retriever with its own index.
        """
        retriever = cls(HybridIndex(BGEM3() if engine is None else engine), **options)
        retriever.index.add(node_to_record(node) for node in nodes)
        return retriever

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[Document],
        engine: BGEM3 | None = None,
        *,
        transformations: list[TransformComponent] | None = None,
        **options: Unpack[RetrieverOptions],
    ) -> Self:
        """Make a retriever over documents, split into nodes in memory.

        Args:
            documents: Whole documents.
            engine: Encodes their nodes; None is `BGEM3()`.
            transformations: Make nodes of documents; None is `Settings.transformations`, as
                in LlamaIndex's own indexes.
            **options: Those of the constructor.

        Returns:
            A retriever with its own index.
        """
        steps = Settings.transformations if transformations is None else transformations
        return cls.from_nodes(run_transformations(copied(documents), steps), engine, **options)

    @classmethod
    def from_vector_store(
        cls, vector_store: BGEM3VectorStore, **options: Unpack[RetrieverOptions]
    ) -> Self:
        """Make a retriever over the nodes of a vector store.

        Args:
            vector_store: Its weights and candidates hold where the options name none.
            **options: Those of the constructor.

        Returns:
            A retriever over the store's own index.
        """
        return cls(vector_store, **options)

    def __repr__(self) -> str:
        return called(
            self, lambda: [repr(self._index), f"similarity_top_k={self.similarity_top_k}"]
        )

    @property
    def similarity_top_k(self) -> int:
        """The maximum number of nodes."""
        return self._options["limit"]

    @similarity_top_k.setter
    def similarity_top_k(self, value: int) -> None:
        self._options["limit"] = check_int("similarity_top_k", value)

    @property
    def index(self) -> HybridIndex:
        """The index that is searched."""
        return self._index

    def retrieve_batch(self, queries: Sequence[QueryType]) -> list[list[NodeWithScore]]:
        """Retrieve nodes for each query; all queries are encoded together.

        Args:
            queries: Texts or query bundles.

        Returns:
            One list of nodes per query, in order; each query has its own events.
        """
        bundles = _bundles(queries)
        hits = self._index.search_batch(_texts(bundles), **self._options)
        return [self.retrieve(bundle) for bundle in self._answered(bundles, hits)]

    async def aretrieve_batch(self, queries: Sequence[QueryType]) -> list[list[NodeWithScore]]:
        """See `retrieve_batch`; the event loop is free meanwhile."""
        bundles = _bundles(queries)
        hits = await self._index.asearch_batch(_texts(bundles), **self._options)
        return [await self.aretrieve(bundle) for bundle in self._answered(bundles, hits)]

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if isinstance(query_bundle, _Answered) and query_bundle.owner is self:
            hits = query_bundle.hits
        elif (vector := _vector_alone(query_bundle)) is not None:
            hits = self._found_by(vector)
        else:
            hits = self._index.search(_query_text(query_bundle), **self._options)
        return [self._scored(hit) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        # the base class would search on the event loop's own thread
        if isinstance(query_bundle, _Answered) and query_bundle.owner is self:
            hits = query_bundle.hits
        elif (vector := _vector_alone(query_bundle)) is not None:
            hits = await in_thread(self._found_by, vector)
        else:
            hits = await self._index.asearch(_query_text(query_bundle), **self._options)
        return [self._scored(hit) for hit in hits]

    def _found_by(self, vector: Sequence[float]) -> list[Hit]:
        batch = only_dense(query_vector(vector, self._index, name="the query's embedding"))
        options: SearchOptions = {**self._options, **DENSE_ALONE, "fusion": None}
        return self._index.search_embedded(batch, **options)[0]

    def _answered(
        self, bundles: Sequence[QueryBundle], hits: Iterable[list[Hit]]
    ) -> Iterator[QueryBundle]:
        """The queries of a batch with what their texts found; those of a vector as they are."""
        found = iter(hits)
        for bundle in bundles:
            alone = _vector_alone(bundle) is not None
            yield bundle if alone else _Answered.of(bundle, self, next(found))

    def _scored(self, hit: Hit) -> NodeWithScore:
        node = record_to_node(hit.record)
        if self._include_scores:
            node = with_score_metadata(node, SCORES_KEY, hit.score_details)
        return NodeWithScore(node=node, score=hit.score)


@dataclass
class _Answered(QueryBundle):
    """A query of a batch on its way through the base class, with what its retriever found.

    An index node may send it on to another retriever, which has to search for itself.
    """

    owner: BGEM3Retriever | None = field(default=None, repr=False)
    hits: list[Hit] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, query: QueryBundle, owner: BGEM3Retriever, hits: list[Hit]) -> _Answered:
        texts = query.custom_embedding_strs
        return cls(query.query_str, query.image_path, texts, query.embedding, owner, hits)


def _bundles(queries: Sequence[QueryType]) -> list[QueryBundle]:
    if isinstance(queries, (str, QueryBundle)):
        raise InputError(f"queries must be a list, not {queries!r}; see retrieve()")
    return [QueryBundle(query) if isinstance(query, str) else query for query in queries]


def _query_modes(
    index: HybridIndex, weights: WeightsLike | None, candidates: Mapping[Mode, int] | None
) -> frozenset[Mode]:
    """The modes to encode a query by, as far as the store tells: no model file is read."""
    held = index.store.capabilities.score
    return held & (modes_of(weights) | frozenset(candidates or ("dense", "sparse")))


def _vector_alone(query: QueryBundle) -> list[float] | None:
    """The vector of a query that says nothing else."""
    return None if any(query.embedding_strs) else query.embedding


def _texts(queries: Sequence[QueryBundle]) -> list[str]:
    return [_query_text(query) for query in queries if _vector_alone(query) is None]


def _query_text(query: QueryBundle) -> str:
    """The one text to search for; a dense vector in the bundle cannot stand for all modes."""
    texts = query.custom_embedding_strs or [query.query_str]
    if len(texts) > 1:
        raise InputError(
            f"the query has {len(texts)} custom_embedding_strs; lexical weights and token vectors "
            "of several texts have no mean. Give one (HyDEQueryTransform(include_original=False)), "
            "or retrieve once for each"
        )
    return texts[0]
