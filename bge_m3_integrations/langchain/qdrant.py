"""BGE-M3 in LangChain's `QdrantVectorStore`: dense and sparse from one forward pass per text."""

from __future__ import annotations

import uuid
from typing import Any, Literal, TypedDict

from langchain_core.documents import Document

from bge_m3_integrations._internal.extras import check
from bge_m3_integrations._internal.lazy import public_names
from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.core.validation import check_int, check_text
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.langchain.embeddings import BGEM3Embeddings, SparseView, engine_of

check("langchain_qdrant", extra="langchain-qdrant")

from langchain_qdrant import (  # noqa: E402  # after the check
    QdrantVectorStore,
    RetrievalMode,
    SparseEmbeddings,
    SparseVector,
)
from qdrant_client import QdrantClient, models  # noqa: E402

_FETCH_K = 100
_UNIT_DISTANCES = (models.Distance.COSINE, models.Distance.DOT)


class BGEM3QdrantSparse(SparseView[SparseVector], SparseEmbeddings):
    """BGE-M3's lexical weights in the form that `QdrantVectorStore` takes.

    Beside `BGEM3Embeddings` over the same engine, a text costs one forward pass for both. A text
    without words gives an empty vector.

    Args:
        engine: Shared with the dense embeddings, or these embeddings.

    Attributes:
        engine: The engine.
        role: The name by which the engine knows that lexical weights are needed.
    """

    role = "langchain.qdrant_sparse"

    def embed_query(self, text: str) -> SparseVector:
        """Lexical weights of one query."""
        return self._rows(self.engine.encode_queries([text], modes=["sparse"]))[0]

    async def aembed_query(self, text: str) -> SparseVector:
        """See `embed_query`."""
        return self._rows(await self.engine.aencode_queries([text], modes=["sparse"]))[0]

    def _rows(self, batch: EmbeddingBatch) -> list[SparseVector]:
        """Python numbers, ids in ascending order."""
        rows = [] if batch.sparse is None else [batch.sparse.row(i) for i in range(len(batch))]
        return [SparseVector(indices=i.tolist(), values=w.tolist()) for i, w in rows]


class HybridQdrant(QdrantVectorStore):
    """LangChain's `QdrantVectorStore` with more candidates per lookup; see `hybrid_qdrant`.

    A search by text takes `fetch_k`, how many candidates each lookup gives the fusion. MMR takes
    `search_options` too: it compares dense vectors alone, so the fusion in them changes nothing.
    Things to know about LangChain's class:

    - Its relevance scores, so also the search type "similarity_score_threshold", are of no use in
      hybrid mode: (fused score + 1) / 2 by cosine, 1 - fused score by dot.
    - Ids are whole numbers or UUIDs: `qdrant_id` makes one of any text.
    - `add_texts` with a generator adds nothing: give a list.
    - Its MMR reads `lambda_mult` the wrong way round: 0 is similarity alone.
    - It has no ColBERT: put `BGEM3Reranker(engine=engine)` behind it.
    """

    def similarity_search_with_score(
        self, query: str, k: int = 4, *args: Any, fetch_k: int = _FETCH_K, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """See `QdrantVectorStore.similarity_search_with_score`."""
        if "limit" in kwargs:
            raise InputError(
                f"limit={kwargs['limit']!r}: k says how many come back, fetch_k how many each "
                "lookup finds; leave limit out"
            )
        least = check_int("k", k) + kwargs.get("offset", 0)
        # theirs is what each lookup finds, and what comes back where no limit says another
        found = max(least, check_int("fetch_k", fetch_k))
        return super().similarity_search_with_score(query, found, *args, limit=k, **kwargs)

    def max_marginal_relevance_search_with_score_by_vector(
        self,
        *args: Any,
        hybrid_fusion: models.FusionQuery | None = None,
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        """See `QdrantVectorStore.max_marginal_relevance_search_with_score_by_vector`."""
        del hybrid_fusion
        return super().max_marginal_relevance_search_with_score_by_vector(*args, **kwargs)


class SearchOptions(TypedDict):
    """Keyword arguments of a `HybridQdrant`'s search; see `search_options`."""

    k: int
    fetch_k: int
    hybrid_fusion: models.FusionQuery


def hybrid_qdrant(
    engine: BGEM3 | BGEM3Embeddings,
    collection_name: str,
    *,
    client: QdrantClient,
    distance: models.Distance = models.Distance.COSINE,
    vector_name: str = QdrantVectorStore.VECTOR_NAME,
    sparse_vector_name: str = QdrantVectorStore.SPARSE_VECTOR_NAME,
    **options: Any,
) -> HybridQdrant:
    """Make a hybrid `QdrantVectorStore` in which a text costs one forward pass.

    A collection that is missing is created; one that fits is taken as it is, so create it yourself
    for shards, quantization or vectors on disk. No text is encoded.

    Args:
        engine: Encodes for both lookups; of a `BGEM3Embeddings`, its engine does.
        collection_name: A collection that fits, or a new one.
        client: Where the collection is.
        distance: Cosine or dot, the same for vectors of norm 1.
        vector_name: Of the dense vectors.
        sparse_vector_name: Of the lexical weights.
        **options: Further arguments of `QdrantVectorStore`, such as `content_payload_key`.

    Returns:
        The store, in hybrid mode.

    Raises:
        InputError: The distance is neither cosine nor dot, or the engine is none.
        StoreError: A collection is there that does not fit; the message names both sides.
    """
    engine = engine_of(engine)
    place = _place(client, collection_name, engine, distance, (vector_name, sparse_vector_name))
    return HybridQdrant(
        embedding=BGEM3Embeddings(engine=engine),
        sparse_embedding=BGEM3QdrantSparse(engine),
        retrieval_mode=RetrievalMode.HYBRID,
        **place,
        **options,
    )


def search_options(
    k: int, *, fetch_k: int = _FETCH_K, fusion: Literal["rrf", "dbsf"] = "rrf"
) -> SearchOptions:
    """Make the arguments for a hybrid search.

    For instance `store.similarity_search(query, **search_options(5))`, or
    `store.as_retriever(search_kwargs=search_options(5))`.

    Args:
        k: Most documents that come back.
        fetch_k: Candidates of each lookup; at least `k` are taken.
        fusion: "rrf", by ranks, or "dbsf", by scores relative to their distribution.

    Returns:
        Keyword arguments of `similarity_search` and its kin.

    Raises:
        InputError: A number is below 1, or the fusion is unknown.
    """
    if fusion not in ("rrf", "dbsf"):
        raise InputError(f'fusion must be "rrf" or "dbsf", not {fusion!r}')
    limit = check_int("k", k, least=1)
    return SearchOptions(
        k=limit,
        fetch_k=max(limit, check_int("fetch_k", fetch_k, least=1)),
        hybrid_fusion=models.FusionQuery(fusion=models.Fusion(fusion)),
    )


def qdrant_id(name: str) -> str:
    """Make a UUID from a text, always the same one, as an id for Qdrant."""
    check_text(name, name="name")
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def _place(
    client: QdrantClient,
    name: str,
    engine: BGEM3,
    distance: models.Distance,
    vectors: tuple[str, str],
) -> dict[str, Any]:
    """Make the collection or check the one that is there; its arguments of `QdrantVectorStore`."""
    if distance not in _UNIT_DISTANCES:
        raise InputError(
            f"distance={distance!r}: BGE-M3's vectors are compared by Distance.COSINE or "
            "Distance.DOT"
        )
    dense = {vectors[0]: models.VectorParams(size=engine.encoder.dim, distance=distance)}
    # no IDF modifier: the learned weights are all of the score
    sparse = {vectors[1]: models.SparseVectorParams()}
    if client.collection_exists(name):
        _check_fits(client, name, dense, sparse)
    else:
        client.create_collection(name, dense, sparse_vectors_config=sparse)
    return {
        "client": client,
        "collection_name": name,
        "distance": distance,
        "vector_name": vectors[0],
        "sparse_vector_name": vectors[1],
        "validate_collection_config": False,  # done above, without encoding a text
    }


def _check_fits(
    client: QdrantClient,
    name: str,
    dense: dict[str, models.VectorParams],
    sparse: dict[str, models.SparseVectorParams],
) -> None:
    params = client.get_collection(name).config.params
    held = params.vectors if isinstance(params.vectors, dict) else {"": params.vectors}
    there = [
        *(_dense_words(n, held.get(n)) for n in dense),
        *(_sparse_words(n, (params.sparse_vectors or {}).get(n)) for n in sparse),
    ]
    wanted = [
        *(_dense_words(n, v) for n, v in dense.items()),
        *(_sparse_words(n, v) for n, v in sparse.items()),
    ]
    if there != wanted:
        raise StoreError(
            f"collection {name!r} has {'; '.join(there)}; this model needs {'; '.join(wanted)}. "
            "Take another collection_name, give the names and distance that it has, or delete it"
        )


def _dense_words(name: str, found: models.VectorParams | None) -> str:
    if found is None:
        return f"no dense vectors named {name!r}"
    several = "" if found.multivector_config is None else " in multivectors"
    return f"dense vectors {name!r} of {found.size} numbers by {found.distance.value}{several}"


def _sparse_words(name: str, found: models.SparseVectorParams | None) -> str:
    if found is None:
        return f"no sparse vectors named {name!r}"
    weighted = found.modifier not in (None, models.Modifier.NONE)
    return f"sparse vectors {name!r}" + (f" with modifier {found.modifier}" if weighted else "")


__all__ = ["BGEM3QdrantSparse", "HybridQdrant", "hybrid_qdrant", "qdrant_id", "search_options"]
__dir__ = public_names(__name__)
