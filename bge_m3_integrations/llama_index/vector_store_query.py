"""LlamaIndex's `VectorStoreQuery` as a search of the index, and hits as its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from llama_index.core.vector_stores.types import (
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from bge_m3_integrations._internal.keywords import refuse
from bge_m3_integrations.core.embeddings import EmbeddingBatch, FloatArray, Mode, Modes
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.core.thresholds import Threshold
from bge_m3_integrations.core.validation import check_fraction, check_int
from bge_m3_integrations.core.weighting import WeightsLike, as_weights
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.request import COLBERT_CANDIDATES, USUAL_CANDIDATES, SearchOptions
from bge_m3_integrations.llama_index.filters import restriction
from bge_m3_integrations.llama_index.given_vectors import FIX, check_agrees, vector_of
from bge_m3_integrations.llama_index.nodes import record_to_node

DEFAULT, SPARSE, HYBRID, TEXT_SEARCH, MMR = (
    VectorStoreQueryMode.DEFAULT,
    VectorStoreQueryMode.SPARSE,
    VectorStoreQueryMode.HYBRID,
    VectorStoreQueryMode.TEXT_SEARCH,
    VectorStoreQueryMode.MMR,
)
MODES = (DEFAULT, SPARSE, HYBRID, TEXT_SEARCH, MMR)
LEXICAL = (SPARSE, TEXT_SEARCH)
USUAL_SHARE = 0.5
USUAL_FETCH = 50
"""How many hits MMR chooses from."""
DENSE_ALONE: SearchOptions = {
    "weights": Weights.only("dense"),
    "candidates": {"dense": USUAL_CANDIDATES["dense"]},
}
"""What a query of a vector alone is searched by."""
_QUERY = "query_embedding"
_ZERO = (
    "give an empty query without a vector: to a VectorIndexAutoRetriever give no "
    "default_empty_query_vector"
)


@dataclass(frozen=True, slots=True)
class QueryOptions:
    """Arguments of `query` besides the query; retrievers pass them as `vector_store_kwargs`.

    Attributes:
        weights: How much each mode counts, for this query.
        mmr_threshold: As in the query, where LlamaIndex's retriever has no place for it.
        mmr_prefetch_k: How many of the best nodes MMR chooses from.
        score_threshold: Nodes with a lower score are left out; a `Probability` or a `Percentile` is
            about the calibrated scale, see `HybridIndex.calibration`.
    """

    weights: WeightsLike | None = None
    mmr_threshold: float | None = None
    mmr_prefetch_k: int | None = None
    score_threshold: Threshold | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """The options by their names; an unknown one is an error."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            refuse(unknown, known)
        return cls(**given)


@dataclass(frozen=True, slots=True)
class ParsedQuery:
    """A query that was read.

    Attributes:
        text: The text to encode; None searches by the vector alone.
        vector: `(dim,)` of norm 1, what came with the text or stands for it.
        modes: The modes to encode the text by.
        options: Of the search.
        limit: Most nodes.
        mmr_lambda: Of maximal marginal relevance; None ranks by the score.
    """

    text: str | None
    vector: FloatArray | None
    modes: Modes
    options: SearchOptions
    limit: int
    mmr_lambda: float | None


def read_query(
    query: VectorStoreQuery, options: QueryOptions, usual: SearchOptions, index: HybridIndex
) -> ParsedQuery:
    """Read a query; the first one may read the model's files.

    Args:
        query: LlamaIndex's.
        options: The keywords that came beside it.
        usual: The store's own weights and candidates; None is no choice.
        index: The index to search.

    Returns:
        The search to run.

    Raises:
        InputError: The mode is not supported, or things in the query do not go together.
        FilterError: The filter is malformed.
    """
    query = replace(query, mode=mode_of(query, MODES))
    _check_mode(query, options)
    text = None if not query.query_str and query.query_embedding is not None else query.query_str
    if text is None:
        _check_vector_will_do(query, options)
    limit = fetch = check_int("similarity_top_k", query.similarity_top_k)
    if query.hybrid_top_k is not None:
        limit = fetch = check_int("hybrid_top_k", query.hybrid_top_k)
    relevant = _share(query, options)
    if relevant is not None:
        given = options.mmr_prefetch_k
        least = USUAL_FETCH if given is None else check_int("mmr_prefetch_k", given)
        fetch = max(limit, least)
    by: SearchOptions = DENSE_ALONE
    if text is not None:
        by = {
            "weights": _weights(query, options, usual.get("weights")),
            "candidates": _candidates(query, usual.get("candidates"), index),
        }
    by = {
        **by,
        "limit": fetch,
        "where": restriction(query.filters, query.node_ids, query.doc_ids),
        "score_threshold": options.score_threshold,
    }
    return ParsedQuery(
        text,
        _vector(query, index),
        index.modes if query.query_embedding is None else index.modes | {"dense"},
        by,
        limit,
        relevant,
    )


def encoded(asked: ParsedQuery, index: HybridIndex) -> EmbeddingBatch:
    """The query's embeddings: one forward pass, or none for a vector alone."""
    if asked.text is None:
        return only_dense(asked.vector)
    return _checked(index.engine.encode_queries([asked.text], modes=asked.modes), asked, index)


async def aencoded(asked: ParsedQuery, index: HybridIndex) -> EmbeddingBatch:
    """See `encoded`."""
    if asked.text is None:
        return only_dense(asked.vector)
    batch = await index.engine.aencode_queries([asked.text], modes=asked.modes)
    return _checked(batch, asked, index)


def answer(asked: ParsedQuery, batch: EmbeddingBatch, index: HybridIndex) -> VectorStoreQueryResult:
    """New nodes in the order of the ranking, or of MMR's choice; similarities are `Hit.score`."""
    [hits] = index.search_embedded(batch, **asked.options)
    if asked.mmr_lambda is not None and hits:
        hits = index.diversify(hits, limit=asked.limit, mmr_lambda=asked.mmr_lambda)
    return VectorStoreQueryResult(
        nodes=[record_to_node(hit.record) for hit in hits],
        similarities=[hit.score for hit in hits],
        ids=[hit.id for hit in hits],
    )


def mode_of(query: VectorStoreQuery, modes: Sequence[VectorStoreQueryMode]) -> VectorStoreQueryMode:
    """The mode, one of those that a store has, also of a query that names it by a string."""
    for mode in modes:
        if query.mode == mode:
            return mode
    name = getattr(query.mode, "value", query.mode)
    raise InputError(f"mode {name!r} is not supported; there are {[mode.value for mode in modes]}")


def query_vector(given: Sequence[float], index: HybridIndex, *, name: str) -> FloatArray:
    """A query's vector, `(dim,) float32` of norm 1; see `vector_of`. May read the model's files."""
    engine = index.engine
    return vector_of(given, dim=engine.encoder.dim, name=name, model=engine.name, zero=_ZERO)


def only_dense(vector: FloatArray | Any) -> EmbeddingBatch:
    """The embeddings of a query that is a vector alone, `(dim,)`."""
    none = np.zeros(1, np.int64)
    return EmbeddingBatch(vector[None], None, None, none, none)


def _check_mode(query: VectorStoreQuery, options: QueryOptions) -> None:
    """Refuse arguments that the mode has no use for."""
    mode = query.mode
    foreign = {
        "alpha": query.alpha if mode is not HYBRID else None,
        "hybrid_top_k": query.hybrid_top_k if mode in LEXICAL else None,
        "weights": options.weights if mode in LEXICAL else None,
        "mmr_threshold": options.mmr_threshold if mode is not MMR else None,
        "mmr_prefetch_k": options.mmr_prefetch_k if mode is not MMR else None,
        "output_fields": query.output_fields or None,
        "embedding_field": query.embedding_field,
    }
    if given := {name: value for name, value in foreign.items() if value is not None}:
        raise InputError(f"mode {mode.value!r} does not take {given}; leave it out")


def _check_vector_will_do(query: VectorStoreQuery, options: QueryOptions) -> None:
    """A dense vector is all that a dense search needs, and nothing else can be made of it."""
    more = options.weights is not None or query.sparse_top_k is not None
    if query.mode not in (DEFAULT, MMR) or more:
        raise InputError(
            f"mode {query.mode.value!r} needs query_str: lexical weights and token vectors cannot "
            "be made of query_embedding; a vector alone is searched for in mode 'default' or 'mmr'"
        )


def _weights(
    query: VectorStoreQuery, options: QueryOptions, usual: WeightsLike | None
) -> WeightsLike | None:
    if query.mode in LEXICAL:
        return Weights.only("sparse")
    given = usual if options.weights is None else as_weights(options.weights)
    if query.alpha is None:
        return given
    if given is not None:
        raise InputError(
            f"alpha={query.alpha} and {given} contradict each other; give one of them, alpha being "
            "weights=(alpha, 1 - alpha, 0)"
        )
    if not 0 <= query.alpha <= 1:
        raise InputError(f"alpha must be from 0 (lexical) to 1 (dense), not {query.alpha}")
    return Weights(query.alpha, 1 - query.alpha, 0)


def _candidates(
    query: VectorStoreQuery, usual: Mapping[Mode, int] | None, index: HybridIndex
) -> Mapping[Mode, int] | None:
    """The number of nodes that each mode looks up; None is the index's own choice."""
    if query.mode not in LEXICAL and query.sparse_top_k is None and query.hybrid_top_k is None:
        return usual
    findable = index.modes & index.store.capabilities.find
    known = {mode: n for mode, n in USUAL_CANDIDATES.items() if mode in findable}
    counts = dict(usual or known or COLBERT_CANDIDATES)
    if query.mode in LEXICAL:
        counts = {"sparse": counts.get("sparse", USUAL_CANDIDATES["sparse"])}
    if query.sparse_top_k is not None:
        counts["sparse"] = check_int("sparse_top_k", query.sparse_top_k)
    if query.hybrid_top_k is not None and "dense" in counts:
        # LlamaIndex's meaning of it then; its default of 2 must not make the search worse
        counts["dense"] = max(counts["dense"], query.similarity_top_k)
    return counts


def _share(query: VectorStoreQuery, options: QueryOptions) -> float | None:
    """MMR's share of relevance; 1 ignores likeness, as in LlamaIndex's own stores."""
    if query.mode is not MMR:
        return None
    given = {query.mmr_threshold, options.mmr_threshold} - {None}
    if len(given) > 1:
        raise InputError(f"mmr_threshold is given twice, as {sorted(given, key=str)}; give one")
    return check_fraction(
        "mmr_threshold", next((one for one in given if one is not None), USUAL_SHARE)
    )


def _vector(query: VectorStoreQuery, index: HybridIndex) -> FloatArray | None:
    if query.query_embedding is None:
        if query.query_str is None:
            raise InputError("a query needs query_str, or query_embedding in mode 'default'")
        return None
    return query_vector(query.query_embedding, index, name=_QUERY)


def _checked(batch: EmbeddingBatch, asked: ParsedQuery, index: HybridIndex) -> EmbeddingBatch:
    if asked.vector is not None and batch.dense is not None:
        fix = (
            f"{FIX}; to search by another text (HyDE), take a BGEM3Retriever and "
            "HyDEQueryTransform(include_original=False)"
        )
        check_agrees(asked.vector, batch.dense[0], name=_QUERY, model=index.engine.name, fix=fix)
    return batch
