"""BGE-M3 in LangChain's `Milvus` store: dense and sparse from one forward pass per text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from langchain_core.documents import Document

from bge_m3_integrations._internal.extras import check
from bge_m3_integrations._internal.lazy import public_names
from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.core.scores import FixedWeights, Weights
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import FilterError, InputError, StoreError
from bge_m3_integrations.langchain.embeddings import BGEM3Embeddings, SparseView, engine_of

check("langchain_milvus", extra="langchain-milvus")

from langchain_milvus import Milvus  # noqa: E402  # after the check
from langchain_milvus.utils.sparse import BaseSparseEmbedding  # noqa: E402
from pymilvus import DataType, Function, FunctionType, MilvusClient  # noqa: E402

_FETCH_K = 100
_RRF_K = 60
_AT_ONCE = 256
"""Texts that are encoded for both fields before the next: few enough to be remembered meanwhile."""

_LEAST = 1e-6
"""Weight of the entry that stands for "no words": Milvus refuses an empty sparse vector."""

DENSE_INDEX = {"index_type": "AUTOINDEX", "metric_type": "IP", "params": {}}
# every weight counts: LangChain's default would drop the smallest fifth
SPARSE_INDEX = {
    "index_type": "SPARSE_INVERTED_INDEX",
    "metric_type": "IP",
    "params": {"drop_ratio_build": 0.0},
}
SPARSE_SEARCH = {"metric_type": "IP", "params": {"drop_ratio_search": 0.0}}


class BGEM3MilvusSparse(SparseView[dict[int, float]], BaseSparseEmbedding):
    """BGE-M3's lexical weights in the form that LangChain's `Milvus` takes.

    Beside `BGEM3Embeddings` over the same engine, a text costs one forward pass for both. A text
    without words gives the padding token, which no other text has, with a weight of 1e-6.

    Args:
        engine: Shared with the dense embeddings, or these embeddings.

    Attributes:
        engine: The engine.
        role: The name by which the engine knows that lexical weights are needed.
    """

    role = "langchain.milvus_sparse"

    def embed_query(self, query: str) -> dict[int, float]:
        """Token id to weight for one query."""
        return self._rows(self.engine.encode_queries([query], modes=["sparse"]))[0]

    async def aembed_query(self, query: str) -> dict[int, float]:
        """See `embed_query`."""
        return self._rows(await self.engine.aencode_queries([query], modes=["sparse"]))[0]

    def _rows(self, batch: EmbeddingBatch) -> list[dict[int, float]]:
        rows = [] if batch.sparse is None else [batch.sparse.as_dict(i) for i in range(len(batch))]
        return [row or {int(self.engine.encoder.pad_token_id): _LEAST} for row in rows]


class HybridMilvus(Milvus):
    """LangChain's `Milvus` with better defaults for hybrid searches; see `hybrid_milvus`.

    A search without `fetch_k` and `reranker` has those of `search_options`; one with `filter`,
    which `Milvus` would ignore, is an error. Texts are written a few hundred at a time: `Milvus`
    would encode all of them for one field before the other, more than an engine remembers.

    Both fields are compared by inner product, and no lexical weight is dropped. Things to know
    about LangChain's class:

    - Filters are `expr="year > 2020"`, in Milvus' own language.
    - `add_texts(texts, ids=[...])` takes ids of your own; `Document.id` is ignored. A collection
      that begins without ids has whole numbers for good.
    - It has no ColBERT: put `BGEM3Reranker(engine=engine)` behind it.
    """

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        timeout: float | None = None,
        batch_size: int = 1000,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """See `Milvus.add_texts`."""
        keys: list[str] = []
        for one in _pieces(list(texts), metadatas, ids, batch_size=batch_size):
            keys += super().add_texts(
                one.texts, one.metadatas, timeout, batch_size, ids=one.ids, **kwargs
            )
        return keys

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        timeout: float | None = None,
        batch_size: int = 1000,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """See `Milvus.aadd_texts`."""
        keys: list[str] = []
        for one in _pieces(list(texts), metadatas, ids, batch_size=batch_size):
            keys += await super().aadd_texts(
                one.texts, one.metadatas, timeout, batch_size, ids=one.ids, **kwargs
            )
        return keys

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        param: dict[str, Any] | list[dict[str, Any]] | None = None,
        expr: str | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        """See `Milvus.similarity_search_with_score`."""
        return super().similarity_search_with_score(
            query, k, param, expr, timeout, **_completed(k, kwargs)
        )

    async def asimilarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        param: dict[str, Any] | list[dict[str, Any]] | None = None,
        expr: str | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        """See `Milvus.asimilarity_search_with_score`."""
        return await super().asimilarity_search_with_score(
            query, k, param, expr, timeout, **_completed(k, kwargs)
        )


class SearchOptions(TypedDict):
    """Keyword arguments of a hybrid `Milvus` search; see `search_options`."""

    k: int
    fetch_k: int
    reranker: Any


def hybrid_milvus(
    engine: BGEM3 | BGEM3Embeddings,
    collection_name: str,
    *,
    connection_args: Mapping[str, Any],
    dense_field: str = "dense",
    sparse_field: str = "sparse",
    enable_dynamic_field: bool = True,
    drop_old: bool = False,
    **options: Any,
) -> HybridMilvus:
    """Make a hybrid `Milvus` store in which a text costs one forward pass.

    Without texts nothing is encoded; the first texts make the collection.

    Args:
        engine: Encodes for both fields; of a `BGEM3Embeddings`, its engine does.
        collection_name: A collection that fits, or a new one.
        connection_args: Of `MilvusClient`, such as {"uri": "./milvus.db"}.
        dense_field: Name of the dense field.
        sparse_field: Name of the field of lexical weights.
        enable_dynamic_field: Whether documents may differ in their metadata keys.
        drop_old: Whether a collection that is there is deleted first.
        **options: Further arguments of `Milvus`.

    Returns:
        The store.

    Raises:
        InputError: The engine is none.
        StoreError: A collection is there that does not fit; the message names both sides.
    """
    engine = engine_of(engine)
    fields = [dense_field, sparse_field]
    place = _place(engine, collection_name, connection_args, fields, drop_old=drop_old)
    both: list[Any] = [BGEM3Embeddings(engine=engine), BGEM3MilvusSparse(engine)]
    return HybridMilvus(both, enable_dynamic_field=enable_dynamic_field, **place, **options)


def search_options(
    k: int, *, fetch_k: int = _FETCH_K, weights: FixedWeights | None = None
) -> SearchOptions:
    """Make the arguments for a hybrid search.

    For instance `store.similarity_search(query, **search_options(5, weights="keyword"))`, or
    `store.as_retriever(search_kwargs=search_options(5))`.

    Args:
        k: Most documents that come back.
        fetch_k: Candidates of each lookup; at least `k` are taken. Milvus' own default is 4.
        weights: Rank by the weighted mean of dense and lexical score; `colbert` is left out, and a
            score counts as 0 where that lookup did not find the document. None is reciprocal rank
            fusion.

    Returns:
        Keyword arguments of `similarity_search` and its kin.

    Raises:
        InputError: A number is below 1, or the weights leave neither dense nor sparse.
    """
    limit = check_int("k", k, least=1)
    return SearchOptions(
        k=limit,
        fetch_k=max(limit, check_int("fetch_k", fetch_k, least=1)),
        reranker=_reranker(weights),
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """Texts to write together, and the metadata and id of each."""

    texts: list[str]
    metadatas: list[dict[str, Any]] | None
    ids: list[str] | None


def _pieces(
    texts: list[str],
    metadatas: list[dict[str, Any]] | None,
    ids: list[str] | None,
    *,
    batch_size: int,
) -> Iterator[_Piece]:
    """Stretches of texts to write together, once all lists are known to fit."""
    for name, values in (("metadatas", metadatas), ("ids", ids)):
        if values and len(values) != len(texts):
            raise InputError(f"{len(texts)} texts came with {len(values)} {name}; give one each")
    if ids and len(set(ids)) != len(ids):
        raise InputError(f"{len(ids)} ids hold {len(set(ids))} distinct ones; give each once")
    step = min(_AT_ONCE, check_int("batch_size", batch_size))
    stretches = (slice(i, i + step) for i in range(0, len(texts), step))
    return (_Piece(texts[s], metadatas and metadatas[s], ids and ids[s]) for s in stretches)


def _completed(k: int, given: dict[str, Any]) -> dict[str, Any]:
    """Complete the keywords of a search with the defaults."""
    if "filter" in given:
        raise FilterError(
            f"filter={given['filter']!r}: Milvus would ignore it; write expr=..., in Milvus' "
            "language, such as expr='year > 2020'"
        )
    defaults: dict[str, Any] = {"fetch_k": max(_FETCH_K, k)}
    if given.get("ranker_type") is None and given.get("reranker") is None:
        defaults["reranker"] = _reranker(None)
    return {**given, **{n: v for n, v in defaults.items() if given.get(n) is None}}


def _reranker(weights: FixedWeights | None) -> Any:
    if weights is None:
        params: dict[str, Any] = {"reranker": "rrf", "k": _RRF_K}
    else:
        two = Weights.parse(weights).restricted(["dense", "sparse"])
        total = two.dense + two.sparse
        shares = [two.dense / total, two.sparse / total]
        # the raw scores: Milvus' norm_score would bend each by an arctangent
        params = {"reranker": "weighted", "weights": shares, "norm_score": False}
    return Function(
        name="bge_m3_fusion",
        function_type=FunctionType.RERANK,
        input_field_names=[],
        params=params,
    )


def _place(
    engine: BGEM3,
    name: str,
    connection_args: Mapping[str, Any],
    fields: list[str],
    *,
    drop_old: bool,
) -> dict[str, Any]:
    """Check the collection, if there is one to keep; its arguments of `Milvus`."""
    if not drop_old:
        _check_fits(engine, name, connection_args, fields)
    return {
        "collection_name": name,
        "connection_args": dict(connection_args),
        "vector_field": fields,
        "index_params": [DENSE_INDEX, SPARSE_INDEX],
        "search_params": [{"metric_type": "IP", "params": {}}, SPARSE_SEARCH],
        "drop_old": drop_old,
    }


def _check_fits(
    engine: BGEM3, name: str, connection_args: Mapping[str, Any], fields: list[str]
) -> None:
    client = MilvusClient(**connection_args)
    try:
        if not client.has_collection(name):
            return
        held = {field["name"]: field for field in client.describe_collection(name)["fields"]}
        there = [_words(f, held.get(f), _metric(client, name, f)) for f in fields]
    finally:
        client.close()
    dense = {"type": DataType.FLOAT_VECTOR, "params": {"dim": engine.encoder.dim}}
    sparse = {"type": DataType.SPARSE_FLOAT_VECTOR}
    wanted = [_words(f, v, "IP") for f, v in zip(fields, (dense, sparse), strict=True)]
    if there != wanted:
        raise StoreError(
            f"collection {name!r} has {'; '.join(there)}; this model needs {'; '.join(wanted)}. "
            "Take another collection_name, give the field names that it has, or drop_old=True"
        )


def _metric(client: Any, name: str, field: str) -> str:
    """The metric of a field's index; IP where there is none yet, for `Milvus` will make ours."""
    found = [client.describe_index(name, index) for index in client.list_indexes(name)]
    metrics = [str(one["metric_type"]) for one in found if one["field_name"] == field]
    return metrics[0] if metrics else "IP"


def _words(name: str, field: Mapping[str, Any] | None, metric: str) -> str:
    if field is None:
        return f"no field {name!r}"
    kind = DataType(field["type"]).name
    dim = field.get("params", {}).get("dim")
    return f"field {name!r} of {kind}{'' if dim is None else f'({dim})'} by {metric}"


__all__ = ["BGEM3MilvusSparse", "HybridMilvus", "hybrid_milvus", "search_options"]
__dir__ = public_names(__name__)
