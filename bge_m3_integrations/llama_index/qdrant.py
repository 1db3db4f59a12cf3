"""LlamaIndex's Qdrant store with BGE-M3's lexical weights beside the dense vectors."""

# no postponed annotations: pydantic reads them
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from pydantic import PrivateAttr

from bge_m3_integrations._internal.extras import check
from bge_m3_integrations._internal.lazy import public_names
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.llama_index.nodes import embedded_text
from bge_m3_integrations.llama_index.sparse_embedding import BGEM3SparseEmbedding
from bge_m3_integrations.llama_index.sparse_handover import ready
from bge_m3_integrations.llama_index.vector_store_query import (
    DEFAULT,
    HYBRID,
    SPARSE,
    TEXT_SEARCH,
    mode_of,
)

check("llama_index.vector_stores.qdrant", extra="llama-index-qdrant")

from llama_index.vector_stores.qdrant import QdrantVectorStore  # noqa: E402  # after the check
from qdrant_client import AsyncQdrantClient, QdrantClient  # noqa: E402
from qdrant_client.http.models import Distance, SparseVectorParams, VectorParams  # noqa: E402

HybridFusion = Callable[..., VectorStoreQueryResult]
"""Takes the dense and the sparse result, `alpha` and `top_k`."""

_MODES = (DEFAULT, SPARSE, HYBRID, TEXT_SEARCH)


class HybridQdrantStore(QdrantVectorStore):
    """`QdrantVectorStore` whose async methods encode off the event loop; see `hybrid_qdrant`.

    Queries have the modes DEFAULT (dense), SPARSE, TEXT_SEARCH (the same) and HYBRID; what it would
    take for a dense query, or for a list of any nodes, is refused.

    Args:
        sparse: Gives the lexical weights.
        collection_name: See `QdrantVectorStore`.
        **options: Those of `QdrantVectorStore`.
    """

    _sparse: BGEM3SparseEmbedding = PrivateAttr()

    def __init__(self, sparse: BGEM3SparseEmbedding, collection_name: str, **options: Any) -> None:
        super().__init__(
            collection_name,
            sparse_doc_fn=sparse.sparse_doc_fn,
            sparse_query_fn=sparse.sparse_query_fn,
            **options,
        )
        self._sparse = sparse

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex serializes by."""
        return "HybridQdrantStore"

    async def async_add(
        self, nodes: Sequence[BaseNode], shard_identifier: Any = None, **kwargs: Any
    ) -> list[str]:
        """See `QdrantVectorStore.async_add`."""
        texts = [embedded_text(node) for node in nodes]
        rows = await self._sparse._aget_text_embeddings(texts)
        with ready(self._sparse, texts, rows):
            return await super().async_add(list(nodes), shard_identifier, **kwargs)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """See `QdrantVectorStore.query`.

        Args:
            query: In one of the class's modes.
            **kwargs: Those of `QdrantVectorStore.query`.

        Returns:
            The best nodes.

        Raises:
            InputError: It is in another mode, or has no text where lexical weights are needed.
        """
        return super().query(_read(query), **kwargs)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """See `query`; an alpha of 0 is 0, which `QdrantVectorStore.aquery` would take for 0.5."""
        query = _read(query)
        if query.alpha == 0:
            query = replace(query, alpha=sys.float_info.min)
        if query.mode is DEFAULT:
            return await super().aquery(query, **kwargs)
        texts = [query.query_str or ""]
        with ready(self._sparse, texts, await self._sparse._aget_query_embeddings(texts)):
            return await super().aquery(query, **kwargs)


def hybrid_qdrant(
    engine: BGEM3,
    collection_name: str,
    *,
    client: QdrantClient | None = None,
    aclient: AsyncQdrantClient | None = None,
    hybrid_fusion_fn: HybridFusion | None = None,
    batch_size: int = 64,
) -> HybridQdrantStore:
    """Make a Qdrant store for dense, sparse and hybrid queries, one forward pass per text.

    Use it with `BGEM3Embedding(engine=engine)` over the same engine. Node ids must be UUIDs or
    whole numbers, as Qdrant wants them. The model's configuration is read for the dense width.

    Args:
        engine: Gives the lexical weights; shared with the dense embedding.
        collection_name: A collection that this function's stores made, or a new one.
        client: For the synchronous methods.
        aclient: For the asynchronous ones.
        hybrid_fusion_fn: Fuses the two results of a hybrid query; None is Qdrant's relative score
            fusion, see also `weighted_fusion`.
        batch_size: Nodes per request.

    Returns:
        The store; it makes the collection with the first nodes.

    Raises:
        InputError: There is no client.
    """
    if client is None and aclient is None:
        raise InputError(
            "client=None and aclient=None: give client=QdrantClient(...), "
            "aclient=AsyncQdrantClient(...), or both"
        )
    return HybridQdrantStore(
        BGEM3SparseEmbedding(engine=engine),
        collection_name,
        client=client,
        aclient=aclient,
        batch_size=batch_size,
        enable_hybrid=True,
        # the vectors are of norm 1: a dot product is the cosine, without normalizing again
        dense_config=VectorParams(size=engine.encoder.dim, distance=Distance.DOT),
        # no IDF modifier: the learnt weights are all of the score
        sparse_config=SparseVectorParams(modifier=None),
        hybrid_fusion_fn=hybrid_fusion_fn,
    )


def weighted_fusion(
    dense_result: VectorStoreQueryResult,
    sparse_result: VectorStoreQueryResult,
    *,
    alpha: float = 0.5,
    top_k: int = 2,
) -> VectorStoreQueryResult:
    """Fuse by the engine's own scale: alpha * dense score + (1 - alpha) * lexical score.

    A node that one lookup did not find has no score there: its dense score is taken as the lowest
    found, which it cannot exceed, and its lexical score as 0. `BGEM3Retriever` computes both.

    Args:
        dense_result: The best nodes by dense score.
        sparse_result: The best nodes by lexical score.
        alpha: From 0, lexical alone, to 1, dense alone; 2/3 weighs as the default preset does.
        top_k: Most nodes.

    Returns:
        Best first; equal scores keep the dense order.
    """
    dense, sparse = _scores(dense_result), _scores(sparse_result)
    lowest = min(dense.values(), default=0.0)
    nodes = _nodes(sparse_result) | _nodes(dense_result)
    fused = {
        node_id: alpha * dense.get(node_id, lowest) + (1 - alpha) * sparse.get(node_id, 0.0)
        for node_id in dict.fromkeys([*dense, *sparse])
    }
    best = sorted(fused, key=fused.__getitem__, reverse=True)[:top_k]
    return VectorStoreQueryResult(
        nodes=[nodes[node_id] for node_id in best],
        similarities=[fused[node_id] for node_id in best],
        ids=best,
    )


def _read(query: VectorStoreQuery) -> VectorStoreQuery:
    """The query in a mode that `QdrantVectorStore` runs."""
    mode = mode_of(query, _MODES)
    if mode is not DEFAULT and query.query_str is None:
        raise InputError(f"mode {mode.value!r} needs query_str; a vector alone has mode 'default'")
    return replace(query, mode=SPARSE if mode is TEXT_SEARCH else mode)


def _scores(result: VectorStoreQueryResult) -> dict[str, float]:
    return dict(zip(result.ids or [], result.similarities or [], strict=True))


def _nodes(result: VectorStoreQueryResult) -> dict[str, BaseNode]:
    return dict(zip(result.ids or [], result.nodes or [], strict=True))


__all__ = ["HybridQdrantStore", "hybrid_qdrant", "weighted_fusion"]
__dir__ = public_names(__name__)
