"""LlamaIndex's dense embedding slot over the engine."""

# no postponed annotations: pydantic reads them
from typing import Any, Unpack

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.embeddings.loading import RECOGNIZED_EMBEDDINGS
from pydantic import Field

from bge_m3_integrations._internal.keywords import checks_itself, public_class
from bge_m3_integrations._internal.pydantic_fields import refuse_fields
from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.encoders.config import DEFAULT_MODEL
from bge_m3_integrations.index.arguments import EngineLike, engine_of
from bge_m3_integrations.llama_index.engine_fields import (
    EngineOptions,
    PathText,
    engine_fields,
    new_engine,
)
from bge_m3_integrations.llama_index.keywords import EmbeddingFields

ROLE = "llama_index.embedding"


@public_class
class BGEM3Embedding(EngineOptions, BaseEmbedding):
    """BGE-M3's dense vectors for LlamaIndex's own indexes and pipelines.

    The slot takes one vector per text. `BGEM3Retriever` uses all three representations.
    LlamaIndex keys an `embeddings_cache` by the text alone: give each model, and each set of
    options, its own.

    Args:
        engine: An engine to share, or an index or adapter over one; None makes one from the fields.
        **fields: The declared fields; an unknown one is an error.

    Raises:
        InputError: A field contradicts the given engine.
    """

    model_name: PathText = Field(
        default=DEFAULT_MODEL, frozen=True, description="Hub id or folder of the checkpoint."
    )
    embed_batch_size: int = Field(
        default=32, gt=0, le=2048, description="Texts per call; the engine packs them by length."
    )

    @checks_itself
    def __init__(self, engine: EngineLike | None = None, **fields: Unpack[EmbeddingFields]) -> None:
        refuse_fields(type(self), fields, more=["engine"])
        given = None if engine is None else engine_of(engine)
        super().__init__(**engine_fields(given, {**fields}, model="model_name"))
        self._engine = new_engine(self, self.model_name) if given is None else given
        self._engine.declare(ROLE, query={"dense"})

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex serializes by."""
        return "BGEM3Embedding"

    def to_payload(self) -> dict[str, Any]:
        """Describe the model for events and traces, without secrets."""
        return {
            **super().to_payload(),
            "device": self.device,
            "dtype": self.dtype,
            "max_length": self.max_length,
        }

    def _get_query_embedding(self, query: str) -> list[float]:
        return _rows(self._engine.encode_queries([query], modes={"dense"}))[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return _rows(await self._engine.aencode_queries([query], modes={"dense"}))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self._declare_documents()
        return _rows(self._engine.encode_documents(texts, modes={"dense"}))

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        # the base class would encode text by text on the event loop's own thread
        self._declare_documents()
        return _rows(await self._engine.aencode_documents(texts, modes={"dense"}))

    def _declare_documents(self) -> None:
        """Not before it is asked for one: a memo keeps documents for whoever declared them."""
        self._engine.declare(ROLE, document={"dense"})


def _rows(batch: EmbeddingBatch) -> list[list[float]]:
    """The dense vectors as Python floats, which LlamaIndex writes as JSON."""
    return [] if batch.dense is None else [row.tolist() for row in batch.dense]


RECOGNIZED_EMBEDDINGS[BGEM3Embedding.class_name()] = BGEM3Embedding
