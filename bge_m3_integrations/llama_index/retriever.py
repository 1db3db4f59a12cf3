"""LlamaIndex's retriever over a `HybridIndex`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, TypedDict, Unpack

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
    TransformComponent,
)
from llama_index.core.settings import Settings
from llama_index.core.vector_stores.types import MetadataFilters

from bge_m3_integrations.checks import whole
from bge_m3_integrations.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.filters import FilterLike
from bge_m3_integrations.fusion import Fusion
from bge_m3_integrations.index import HybridIndex
from bge_m3_integrations.llama_index.filters import to_filter
from bge_m3_integrations.llama_index.nodes import (
    node_to_record,
    record_to_node,
    with_score_metadata,
)
from bge_m3_integrations.plan import SearchOptions
from bge_m3_integrations.types import Hit, Mode, Weights, WeightsLike

ROLE = "llama_index.retriever"
SCORES_KEY = "bge_m3_scores"
"""Where the scores stand in a node's metadata, as in the LangChain adapter."""


class RetrieverOptions(TypedDict, total=False):
    """The arguments of `BGEM3Retriever` besides the index."""

    similarity_top_k: int
    weights: WeightsLike | None
    filters: MetadataFilters | FilterLike | None
    score_threshold: float | None
    candidates: Mapping[Mode, int] | None
    fusion: Fusion | None
    include_scores: bool
    callback_manager: CallbackManager | None
    object_map: dict[str, Any] | None
    objects: list[IndexNode] | None
    verbose: bool


class BGEM3Retriever(BaseRetriever):
    """Retrieves nodes by dense, sparse and ColBERT scores, weighed into one ranking.

    A `BGEM3Reranker` over the same engine finds the query's embedding already computed. It finds
    the nodes' too when it is made before they are added.

    Args:
        index: The documents and the engine; records of other adapters come back as text nodes.
        similarity_top_k: Most nodes.
        weights: How much each mode counts; see `HybridIndex.search`.
        filters: Which nodes may be found: `MetadataFilters`, a dict, a function over metadata or
            a filter tree.
        score_threshold: Nodes with a lower score are left out.
        candidates: How many nodes each mode looks up.
        fusion: How component scores become the score.
        include_scores: Write "score", "fusion", "hybrid" and each mode's own score into the
            metadata of the returned nodes, under "bge_m3_scores"; neither an encoder nor an LLM
            reads them there.
        callback_manager: As in every LlamaIndex retriever.
        object_map: What an `IndexNode`'s id leads to.
        objects: Index nodes that carry their objects; replaces `object_map`.
        verbose: Print the way through index nodes.

    Raises:
        InputError: `similarity_top_k` is below 1, or the weights are malformed.
        FilterError: The filter is malformed.
    """

    def __init__(
        self,
        index: HybridIndex,
        *,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        weights: WeightsLike | None = None,
        filters: MetadataFilters | FilterLike | None = None,
        score_threshold: float | None = None,
        candidates: Mapping[Mode, int] | None = None,
        fusion: Fusion | None = None,
        include_scores: bool = False,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        objects: list[IndexNode] | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(callback_manager, object_map, objects, verbose)
        parsed = None if weights is None else Weights.parse(weights)
        self._index = index
        self._include_scores = include_scores
        self._options = SearchOptions(
            limit=whole("similarity_top_k", similarity_top_k),
            weights=parsed,
            candidates=candidates,
            fusion=fusion,
            where=to_filter(filters),
            score_threshold=score_threshold,
        )
        # now and not at the first query: nodes added meanwhile are remembered for a reranker
        index.engine.declare(ROLE, query=_query_modes(index, parsed, candidates))

    @classmethod
    def from_nodes(
        cls,
        nodes: Iterable[BaseNode],
        engine: BGEM3 | None = None,
        **options: Unpack[RetrieverOptions],
    ) -> Self:
        """A retriever over nodes kept in memory.

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
        """A retriever over documents split into nodes that are kept in memory.

        Args:
            documents: Whole documents.
            engine: Encodes their nodes; None is `BGEM3()`.
            transformations: What makes nodes of documents; None is `Settings.transformations`, as
                in LlamaIndex's own indexes.
            **options: Those of the constructor.

        Returns:
            A retriever with its own index.
        """
        steps = Settings.transformations if transformations is None else transformations
        # not in place: some steps write into the list or the nodes they are given
        copies = [document.model_copy(deep=True) for document in documents]
        return cls.from_nodes(run_transformations(copies, steps), engine, **options)

    @property
    def similarity_top_k(self) -> int:
        """Most nodes."""
        return self._options["limit"]

    @similarity_top_k.setter
    def similarity_top_k(self, value: int) -> None:
        self._options["limit"] = whole("similarity_top_k", value)

    @property
    def index(self) -> HybridIndex:
        """The index that is searched."""
        return self._index

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._index.search(_query_text(query_bundle), **self._options)
        return [self._scored(hit) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        # the base class would search on the event loop's own thread
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _scored(self, hit: Hit) -> NodeWithScore:
        node = record_to_node(hit.record)
        if self._include_scores:
            scores = {"score": hit.score, "fusion": hit.fusion, "hybrid": hit.hybrid}
            scores |= {str(mode): score for mode, score in hit.components.items()}
            node = with_score_metadata(node, SCORES_KEY, scores)
        return NodeWithScore(node=node, score=hit.score)


def _query_modes(
    index: HybridIndex, weights: Weights | None, candidates: Mapping[Mode, int] | None
) -> frozenset[Mode]:
    """What a query will be encoded by, as far as the store tells: no model file is read."""
    held = index.store.capabilities.score
    if weights is None:
        return held
    return held & (weights.modes | frozenset(candidates or ("dense", "sparse")))


def _query_text(query: QueryBundle) -> str:
    """The one text to search for; a dense vector in the bundle cannot stand for all modes."""
    texts = query.custom_embedding_strs or [query.query_str]
    if len(texts) > 1:
        raise InputError(
            f"the query has {len(texts)} custom_embedding_strs; lexical weights and token vectors "
            "of several texts have no mean. Give one, or retrieve once for each"
        )
    return texts[0]
