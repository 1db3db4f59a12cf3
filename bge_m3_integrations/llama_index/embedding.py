"""LlamaIndex's dense embedding slot over the engine."""

# no postponed annotations: pydantic reads them
from typing import Unpack

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.embeddings.loading import RECOGNIZED_EMBEDDINGS

from bge_m3_integrations._internal.keywords import checks_itself, public_class
from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.index.arguments import EngineLike
from bge_m3_integrations.llama_index.engine_fields import EmbeddingOptions
from bge_m3_integrations.llama_index.keywords import EmbeddingFields

ROLE = "llama_index.embedding"


@public_class
class BGEM3Embedding(EmbeddingOptions, BaseEmbedding):
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

    @checks_itself
    def __init__(self, engine: EngineLike | None = None, **fields: Unpack[EmbeddingFields]) -> None:
        super().__init__(engine, {**fields})
        self._engine.declare(ROLE, query={"dense"})

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex serializes by."""
        return "BGEM3Embedding"

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
