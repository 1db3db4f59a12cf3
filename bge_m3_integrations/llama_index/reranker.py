"""LlamaIndex's reranker over the engine."""

# no postponed annotations: pydantic reads them
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any, Self, Unpack

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType
from llama_index_instrumentation import get_dispatcher
from pydantic import Field, PrivateAttr

from bge_m3_integrations._internal.keywords import checks_itself, public_class
from bge_m3_integrations._internal.pydantic_fields import refuse_fields
from bge_m3_integrations._internal.warn import in_thread
from bge_m3_integrations.core.scores import Ranked
from bge_m3_integrations.core.validation import as_list
from bge_m3_integrations.core.weighting import modes_of
from bge_m3_integrations.encoders.config import DEFAULT_MODEL
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.engine.profiles import check_name
from bge_m3_integrations.engine.truncation import Cuts
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.arguments import (
    EngineLike,
    IndexLike,
    engine_of,
    has_index,
    index_for,
)
from bge_m3_integrations.index.config import for_reading
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.opening import reserve
from bge_m3_integrations.index.rerank import RerankDocument, ranked_batch
from bge_m3_integrations.llama_index.engine_fields import EngineOptions, ParsedWeights, PathText
from bge_m3_integrations.llama_index.keywords import RerankerFields
from bge_m3_integrations.llama_index.nodes import (
    SCORES_KEY,
    embedded_text,
    fresh,
    with_score_metadata,
)
from bge_m3_integrations.stores.edge.folder.discovery import as_folder
from bge_m3_integrations.stores.edge.folder.reservation import Reservation

ROLE = "llama_index.reranker"
RETRIEVAL_SCORE_KEY = "retrieval_score"

_dispatcher = get_dispatcher(__name__)
_opening = Lock()
"""Held while a folder is opened; no attribute, so that a reranker can be copied."""

_Tell = Callable[[list[NodeWithScore]], None]
_Question = tuple[QueryBundle, Sequence[NodeWithScore]]


@public_class
class BGEM3Reranker(EngineOptions, BaseNodePostprocessor):
    """Orders nodes by the hybrid score of the query and the text that LlamaIndex embeds.

    Over the engine of a `BGEM3Retriever`, the query costs no second forward pass. Over its index,
    nodes cost none either: those that the index keeps with the very same text are scored by their
    stored numbers, and only others are encoded.

    A reranker over an index in a folder is serialized with the folder's path, and opens it again
    when it is first used. An index in memory cannot travel: `to_dict` leaves it out, so what is
    rebuilt from it encodes every node, and pickling raises.

    Args:
        engine: An engine to share, or an index or adapter over one; None makes one from the fields,
            or takes the index's.
        index: Where nodes may be kept under their ids; its engine is the reranker's.
        **options: The declared fields; an unknown one is an error.

    Raises:
        InputError: A field contradicts the given engine, or the engine is not the index's.
    """

    model: PathText = Field(
        default=DEFAULT_MODEL, frozen=True, description="Hub id or folder of the checkpoint."
    )
    top_n: int | None = Field(default=3, ge=1, description="Most nodes returned; None is all.")
    weights: ParsedWeights = None
    score_threshold: float | None = Field(
        default=None, description="Nodes with a lower hybrid score are left out."
    )
    keep_retrieval_score: bool = Field(
        default=False,
        description="Write the score that came in as metadata, where no model and no LLM reads it.",
    )
    include_scores: bool = Field(
        default=False,
        description="Write all scores as metadata, under 'bge_m3_scores', as a retriever does.",
    )
    index_path: PathText | None = Field(
        default=None, frozen=True, description="Folder of the index, opened when first used."
    )

    _index: HybridIndex | None = PrivateAttr(default=None)
    _reserved: Reservation | None = PrivateAttr(default=None)

    @checks_itself
    def __init__(
        self,
        engine: EngineLike | IndexLike | None = None,
        *,
        index: IndexLike | None = None,
        **options: Unpack[RerankerFields],
    ) -> None:
        refuse_fields(type(self), options, more=["engine", "index"])
        given, held = _given(engine, index)
        fields: dict[str, Any] = {**options} if held is None else _with_path(held, {**options})
        super().__init__(given, fields)
        self._index = held
        folder = None if held is None else held.path
        if held is None and self.index_path is not None:
            folder = as_folder(self.index_path, name="index_path")
            self._reserved = reserve(folder, self._engine, for_reading(folder))
        check_name(self.weights, folder)
        self._engine.declare(ROLE, query=modes_of(self.weights))

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex serializes by."""
        return "BGEM3Reranker"

    @property
    def index(self) -> HybridIndex | None:
        """The index that may hold the nodes; the first access opens an `index_path`.

        Raises:
            StoreError: The folder is no index, is held by another process, or was made by another
                model.
        """
        if self._index is None and self.index_path is not None:
            with _opening:
                self._index = self._index or self._opened(self.index_path)
        return self._index

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from super().__repr_args__() if self._index is None else [(None, self._index)]

    def _opened(self, path: str) -> HybridIndex:
        read_only = for_reading(as_folder(path)).read_only
        return HybridIndex.open(path, self._engine, create=False, read_only=read_only)

    def rerank_batch(
        self, questions: Sequence[tuple[QueryType, Sequence[NodeWithScore]]]
    ) -> list[list[NodeWithScore]]:
        """Rerank several queries' nodes; queries are encoded together, and so are the nodes.

        Args:
            questions: Each query with its own nodes.

        Returns:
            One ranking per query, in order.
        """
        asked = [
            (QueryBundle(query) if isinstance(query, str) else query, nodes)
            for query, nodes in questions
        ]
        return self._reranked(asked)

    async def arerank_batch(
        self, questions: Sequence[tuple[QueryType, Sequence[NodeWithScore]]]
    ) -> list[list[NodeWithScore]]:
        """See `rerank_batch`; the event loop is free meanwhile."""
        with Cuts():  # told here, where the user's line is on the stack
            return await in_thread(self.rerank_batch, questions)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy over the same index; an update makes a new object."""
        if not update or self._index is None:
            return super().model_copy(update=update, deep=deep)
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(index=self._index, **{**given, **update})

    def __getstate__(self) -> dict[str, Any]:
        if self._index is not None and self.index_path is None:
            raise InputError(
                f"{self.class_name()} over an index in memory cannot be pickled; use one in a "
                "folder, from HybridIndex.open(path), or none"
            )
        bare = self.model_copy()
        bare._index = None  # opened again
        if bare._reserved is not None:  # it goes where it will be opened
            bare._reserved.release()
            bare._reserved = None
        return EngineOptions.__getstate__(bare)

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("a reranker needs the query: give query_bundle or query_str")
        if not isinstance(query_bundle, QueryBundle):
            raise InputError(
                f"query_bundle must be a QueryBundle, not {type(query_bundle).__name__}; a text "
                "goes by query_str="
            )
        return self._reranked([(query_bundle, nodes)])[0]

    def _reranked(self, questions: Sequence[_Question]) -> list[list[NodeWithScore]]:
        """Those of each query; a query without nodes costs nothing and tells nobody."""
        some = [(query, _scored_nodes(nodes)) for query, nodes in questions if nodes]
        with ExitStack() as stack:
            tells = [stack.enter_context(self._told(query, nodes)) for query, nodes in some]
            found = self._ranked(some) if some else []
            for tell, nodes in zip(tells, found, strict=True):
                tell(nodes)
        rest = iter(found)
        return [next(rest) if nodes else [] for _, nodes in questions]

    @contextmanager
    def _told(self, query: QueryBundle, nodes: Sequence[NodeWithScore]) -> Iterator[_Tell]:
        """Frame the work by LlamaIndex's events; the end is told with what was found."""
        # the events take no None
        top_n, given = len(nodes) if self.top_n is None else self.top_n, list(nodes)
        _dispatcher.event(
            ReRankStartEvent(query=query, nodes=given, top_n=top_n, model_name=self.model)
        )
        payload: dict[str, Any] = {
            EventPayload.NODES: given,
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:

            def tell(found: list[NodeWithScore]) -> None:
                event.on_end(payload={EventPayload.NODES: found})
                _dispatcher.event(ReRankEndEvent(nodes=found))

            yield tell

    def _ranked(self, questions: Sequence[_Question]) -> list[list[NodeWithScore]]:
        queries = [query.query_str for query, _ in questions]
        given = [
            [RerankDocument(embedded_text(scored.node), scored.node.node_id) for scored in nodes]
            for _, nodes in questions
        ]
        weights, limit = self.weights, self.top_n
        if self.index is None:
            rankings = ranked_batch(self._engine, queries, given, weights, limit=limit)
        else:
            rankings = self.index.rerank_batch(queries, given, limit=limit, weights=weights)
        least = self.score_threshold
        return [
            [
                self._scored(nodes[place.index], place)
                for place in ranking
                if least is None or place.score >= least
            ]
            for (_, nodes), ranking in zip(questions, rankings, strict=True)
        ]

    def _scored(self, old: NodeWithScore, place: Ranked) -> NodeWithScore:
        if self.keep_retrieval_score:
            node = with_score_metadata(old.node, RETRIEVAL_SCORE_KEY, old.score)
        else:
            node = fresh(old.node)
        if self.include_scores:
            node = with_score_metadata(node, SCORES_KEY, place.score_details)
        return NodeWithScore(node=node, score=place.score)


def _scored_nodes(nodes: Sequence[NodeWithScore]) -> list[NodeWithScore]:
    held = as_list(nodes, "nodes", of="nodes")
    for i, given in enumerate(held):
        if not isinstance(given, NodeWithScore):
            raise InputError(f"nodes[{i}] must be a NodeWithScore, not {type(given).__name__}")
    return held


def _given(
    first: EngineLike | IndexLike | None, index: IndexLike | None
) -> tuple[BGEM3 | None, HybridIndex | None]:
    """The engine and the index, either of which may be the first argument."""
    if first is None and index is None:
        return None, None
    if index is None and not has_index(first):
        return engine_of(first), None
    held = index_for(first, index=index)
    return held.engine, held


def _with_path(index: HybridIndex, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with the index's folder, where it has one."""
    folder = index.path
    held = None if folder is None else str(folder)
    given = fields.get("index_path")
    if given is not None and str(given) != held:
        raise InputError(f"index_path {str(given)!r} is not the given index's {held!r}")
    return {**fields, "index_path": held}
