"""LlamaIndex's sparse embedding slot over the engine."""

# no postponed annotations: pydantic reads them
from typing import Unpack

from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding

from bge_m3_integrations._internal.keywords import checks_itself, public_class
from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.index.arguments import EngineLike
from bge_m3_integrations.llama_index.engine_fields import EmbeddingOptions
from bge_m3_integrations.llama_index.keywords import SparseEmbeddingFields
from bge_m3_integrations.llama_index.sparse_handover import TokenWeights, taken

ROLE = "llama_index.sparse_embedding"

IndicesAndValues = tuple[list[list[int]], list[list[float]]]
"""Token ids and weights, one list of each per text."""


@public_class
class BGEM3SparseEmbedding(EmbeddingOptions, BaseSparseEmbedding):  # type: ignore[misc]  # serializers
    """BGE-M3's lexical weights for LlamaIndex; `similarity` is the dot product.

    Over the engine of a `BGEM3Embedding`, a text costs one forward pass for both. For vector
    stores there are `sparse_doc_fn` and `sparse_query_fn` (Qdrant; see `llama_index.qdrant`) and
    `llama_index.milvus.BGEM3MilvusSparse`.

    Args:
        engine: An engine to share, or an index or adapter over one; None makes one from the fields.
        **fields: The declared fields; an unknown one is an error.

    Raises:
        InputError: A field contradicts the given engine.
    """

    @checks_itself
    def __init__(
        self, engine: EngineLike | None = None, **fields: Unpack[SparseEmbeddingFields]
    ) -> None:
        super().__init__(engine, {**fields})
        self._engine.declare(ROLE, query={"sparse"}, document={"sparse"})

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex serializes by."""
        return "BGEM3SparseEmbedding"

    def similarity(self, embedding1: TokenWeights, embedding2: TokenWeights) -> float:
        """The lexical score: the dot product over shared tokens, 0 and up; no cosine."""
        small, large = sorted((embedding1, embedding2), key=len)
        return float(sum(weight * large.get(token, 0.0) for token, weight in small.items()))

    def sparse_doc_fn(self, texts: list[str]) -> IndicesAndValues:
        """Give documents' weights to `QdrantVectorStore(sparse_doc_fn=)`."""
        rows = taken(self, texts)
        return _split(self._get_text_embeddings(texts) if rows is None else rows)

    def sparse_query_fn(self, texts: list[str]) -> IndicesAndValues:
        """Give queries' weights to `QdrantVectorStore(sparse_query_fn=)`."""
        rows = taken(self, texts)
        return _split(self._get_query_embeddings(texts) if rows is None else rows)

    def _get_query_embeddings(self, queries: list[str]) -> list[TokenWeights]:
        return _rows(self._engine.encode_queries(queries, modes={"sparse"}))

    def _get_query_embedding(self, query: str) -> TokenWeights:
        return self._get_query_embeddings([query])[0]

    async def _aget_query_embeddings(self, queries: list[str]) -> list[TokenWeights]:
        return _rows(await self._engine.aencode_queries(queries, modes={"sparse"}))

    async def _aget_query_embedding(self, query: str) -> TokenWeights:
        return (await self._aget_query_embeddings([query]))[0]

    def _get_text_embedding(self, text: str) -> TokenWeights:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> TokenWeights:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[TokenWeights]:
        return _rows(self._engine.encode_documents(texts, modes={"sparse"}))

    async def _aget_text_embeddings(self, texts: list[str]) -> list[TokenWeights]:
        # the base class would encode text by text
        return _rows(await self._engine.aencode_documents(texts, modes={"sparse"}))


def _rows(batch: EmbeddingBatch) -> list[TokenWeights]:
    """Lexical weights with Python keys and values, which LlamaIndex and the stores check."""
    sparse = batch.sparse
    return [] if sparse is None else [sparse.as_dict(i) for i in range(len(sparse))]


def _split(rows: list[TokenWeights]) -> IndicesAndValues:
    return [list(row) for row in rows], [list(row.values()) for row in rows]
