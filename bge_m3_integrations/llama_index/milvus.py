"""LlamaIndex's Milvus store with BGE-M3's lexical weights beside the dense vectors."""

# no postponed annotations: pydantic reads them
from typing import Any, cast

from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.types import VectorStoreQuery

from bge_m3_integrations._internal.extras import check
from bge_m3_integrations._internal.lazy import public_names
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.llama_index.nodes import embedded_text
from bge_m3_integrations.llama_index.sparse_embedding import BGEM3SparseEmbedding
from bge_m3_integrations.llama_index.sparse_handover import TokenWeights, ready, taken

check("llama_index.vector_stores.milvus", extra="llama-index-milvus")

# its pymilvus<3 excludes it from the environment that types are checked in
from llama_index.vector_stores.milvus import (  # type: ignore[import-not-found]  # noqa: E402
    MilvusVectorStore,
)
from llama_index.vector_stores.milvus.utils import (  # type: ignore[import-not-found]  # noqa: E402
    BaseSparseEmbeddingFunction,
)

SENTINEL_WEIGHT = 1e-6
"""The padding token's weight in a text without tokens: Milvus refuses empty vectors."""

_EXACT = {"metric_type": "IP", "params": {"drop_ratio_search": 0.0}}

_Found = tuple[list[BaseNode], list[float], list[str]]


class BGEM3MilvusSparse(BaseSparseEmbeddingFunction):  # type: ignore[misc]
    """The engine's lexical weights for `MilvusVectorStore(sparse_embedding_function=)`.

    That store reads a node's bare text here, while the dense vector is of the text with its
    metadata; `hybrid_milvus` gives a store that encodes the same text for both.

    Args:
        engine: Shared with `BGEM3Embedding`, a text costs one forward pass for both.
    """

    def __init__(self, engine: BGEM3) -> None:
        self._sparse = BGEM3SparseEmbedding(engine=engine)

    def encode_queries(self, queries: list[str]) -> list[TokenWeights]:
        """Token id to weight of each query."""
        return self._never_empty(self._sparse._get_query_embeddings(queries))

    async def async_encode_queries(self, queries: list[str]) -> list[TokenWeights]:
        """`encode_queries` off the event loop."""
        return self._never_empty(await self._sparse._aget_query_embeddings(queries))

    def encode_documents(self, documents: list[str]) -> list[TokenWeights]:
        """Token id to weight of each document."""
        rows = taken(self, documents)
        if rows is not None:
            return rows
        return self._never_empty(self._sparse._get_text_embeddings(documents))

    async def async_encode_documents(self, documents: list[str]) -> list[TokenWeights]:
        """`encode_documents` off the event loop."""
        return self._never_empty(await self._sparse._aget_text_embeddings(documents))

    def _never_empty(self, rows: list[TokenWeights]) -> list[TokenWeights]:
        if all(rows):
            return rows
        sentinel = {self._sparse.engine.encoder.pad_token_id: SENTINEL_WEIGHT}
        return [row or dict(sentinel) for row in rows]


class HybridMilvusStore(MilvusVectorStore):  # type: ignore[misc]
    """`MilvusVectorStore` that encodes what LlamaIndex embeds; see `hybrid_milvus`.

    It encodes nodes in one call instead of one by one, off the event loop where it is awaited, and
    a sparse query drops no weights (the store's own drops the smallest fifth).
    """

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex serializes by."""
        return "HybridMilvusStore"

    def add(self, nodes: list[BaseNode], **add_kwargs: Any) -> list[str]:
        """See `MilvusVectorStore.add`."""
        rows = self._function.encode_documents([embedded_text(node) for node in nodes])
        with ready(self._function, _bare(nodes), rows):
            return list(super().add(nodes, **add_kwargs))

    async def async_add(self, nodes: list[BaseNode], **add_kwargs: Any) -> list[str]:
        """See `MilvusVectorStore.async_add`."""
        texts = [embedded_text(node) for node in nodes]
        rows = await self._function.async_encode_documents(texts)
        with ready(self._function, _bare(nodes), rows):
            return list(await super().async_add(nodes, **add_kwargs))

    @property
    def _function(self) -> BGEM3MilvusSparse:
        return cast(BGEM3MilvusSparse, self.sparse_embedding_function)  # `hybrid_milvus` sets it

    def _sparse_search(
        self, query: VectorStoreQuery, string_expr: str, output_fields: list[str], **kwargs: Any
    ) -> _Found:
        rows = self._function.encode_queries([_text(query)])
        request = self._request(query, string_expr, output_fields, kwargs)
        return self._parsed(self.client.search(data=rows, **request))

    async def _async_sparse_search(
        self, query: VectorStoreQuery, string_expr: str, output_fields: list[str], **kwargs: Any
    ) -> _Found:
        rows = await self._function.async_encode_queries([_text(query)])
        request = self._request(query, string_expr, output_fields, kwargs)
        return self._parsed(await self.aclient.search(data=rows, **request))

    def _request(
        self, query: VectorStoreQuery, string_expr: str, output_fields: list[str], more: Any
    ) -> dict[str, Any]:
        return {
            "collection_name": self.collection_name,
            "anns_field": self.sparse_embedding_field,
            "limit": query.similarity_top_k,
            "filter": string_expr,
            "output_fields": output_fields,
            "search_params": _EXACT,
            "partition_names": more.get("milvus_partition_names"),
        }

    def _parsed(self, found: Any) -> _Found:
        nodes, similarities, ids = self._parse_from_milvus_results(found)
        return nodes, similarities, ids


def hybrid_milvus(
    engine: BGEM3,
    uri: str,
    *,
    collection_name: str = "bge_m3",
    token: str = "",
    weights: tuple[float, float] | None = None,
    index_config: dict[str, Any] | None = None,
    overwrite: bool = False,
    use_async_client: bool = False,
) -> HybridMilvusStore:
    """A Milvus store for dense, sparse and hybrid queries, one forward pass per text.

    Use it with `BGEM3Embedding(engine=engine)` over the same engine. The model's configuration is
    read for the dense width. A node of an id that is there replaces it. In a hybrid query each
    lookup finds `similarity_top_k` candidates; `alpha` and `sparse_top_k` mean nothing to Milvus.

    Args:
        engine: Gives the lexical weights; shared with the dense embedding.
        uri: A server's address, or a file for Milvus Lite.
        collection_name: A collection that this function's stores made, or a new one.
        token: For servers with accounts.
        weights: Of the dense and the lexical score, which Milvus first squeezes into [0, 1] by
            an arctangent; None fuses by reciprocal ranks.
        index_config: Of the dense vectors; None compares all.
        overwrite: Drop the collection first.
        use_async_client: Connect for the asynchronous methods too; needs a running event loop.

    Returns:
        The connected store.
    """
    ranker = "RRFRanker" if weights is None else "WeightedRanker"
    return HybridMilvusStore(
        uri=uri,
        token=token,
        collection_name=collection_name,
        overwrite=overwrite,
        upsert_mode=True,  # a plain insert keeps two rows of one id
        dim=engine.encoder.dim,
        similarity_metric="IP",
        index_config=index_config,
        enable_sparse=True,
        sparse_embedding_function=BGEM3MilvusSparse(engine),
        sparse_index_config={"metric_type": "IP", "drop_ratio_build": 0.0},
        hybrid_ranker=ranker,
        hybrid_ranker_params={} if weights is None else {"weights": list(weights)},
        use_async_client=use_async_client,
    )


def _bare(nodes: list[BaseNode]) -> list[str]:
    """The texts that the store will ask for."""
    return [node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]


def _text(query: VectorStoreQuery) -> str:
    return query.query_str or ""


__all__ = ["BGEM3MilvusSparse", "HybridMilvusStore", "hybrid_milvus"]
__dir__ = public_names(__name__)
