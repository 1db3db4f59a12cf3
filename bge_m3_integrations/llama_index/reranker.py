"""LlamaIndex's reranker over the engine."""

# no postponed annotations: pydantic reads them
from typing import Annotated, Any

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher
from pydantic import BeforeValidator, Field

from bge_m3_integrations.engine import BGEM3, DEFAULT_MODEL
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.llama_index._options import (
    EngineOptions,
    PathText,
    engine_fields,
    new_engine,
)
from bge_m3_integrations.llama_index.nodes import embedded_text, with_score_metadata
from bge_m3_integrations.types import ALL_MODES, Ranked, Weights, WeightsLike

ROLE = "llama_index.reranker"
RETRIEVAL_SCORE_KEY = "retrieval_score"

_dispatcher = get_dispatcher(__name__)


def _parsed(weights: WeightsLike | None) -> Weights | None:
    return None if weights is None else Weights.parse(weights)


class BGEM3Reranker(EngineOptions, BaseNodePostprocessor):
    """Orders nodes by the hybrid score of the query and the text that LlamaIndex embeds.

    Over the engine of a `BGEM3Retriever`, the query costs no second forward pass.

    Args:
        engine: An engine to share; None makes one from the fields.
        **fields: The declared fields; an unknown one is an error.

    Raises:
        InputError: A field contradicts the given engine.
    """

    model: PathText = Field(
        default=DEFAULT_MODEL, frozen=True, description="Hub id or folder of the checkpoint."
    )
    top_n: int = Field(default=3, ge=1, description="Most nodes returned.")
    weights: Annotated[Weights | None, BeforeValidator(_parsed)] = Field(
        default=None,
        frozen=True,
        description="A preset's name, three numbers or a mapping; None is the default preset.",
    )
    score_threshold: float | None = Field(
        default=None, description="Nodes with a lower hybrid score are left out."
    )
    keep_retrieval_score: bool = Field(
        default=False,
        description="Write the score that came in as metadata, where no model and no LLM reads it.",
    )

    def __init__(self, *, engine: BGEM3 | None = None, **fields: Any) -> None:
        super().__init__(**engine_fields(engine, fields, model="model"))
        self._engine = new_engine(self, self.model) if engine is None else engine
        modes = ALL_MODES if self.weights is None else self.weights.modes
        self._engine.declare(ROLE, query=modes)

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex serialises by."""
        return "BGEM3Reranker"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("a reranker needs the query: give query_bundle or query_str")
        if not nodes:
            return []
        _dispatcher.event(
            ReRankStartEvent(
                query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=self.model
            )
        )
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: query_bundle.query_str,
            EventPayload.TOP_K: self.top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            reranked = self._rerank(nodes, query_bundle.query_str)
            event.on_end(payload={EventPayload.NODES: reranked})
        _dispatcher.event(ReRankEndEvent(nodes=reranked))
        return reranked

    def _rerank(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        texts = [embedded_text(scored.node) for scored in nodes]
        ranked = self._engine.rerank(query, texts, limit=self.top_n, weights=self.weights)
        least = self.score_threshold
        return [
            self._scored(nodes[place.index], place)
            for place in ranked
            if least is None or place.score >= least
        ]

    def _scored(self, old: NodeWithScore, place: Ranked) -> NodeWithScore:
        node = old.node
        if self.keep_retrieval_score:
            node = with_score_metadata(node, RETRIEVAL_SCORE_KEY, old.score)
        return NodeWithScore(node=node, score=place.score)
