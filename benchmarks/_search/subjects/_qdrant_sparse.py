"""langchain-qdrant's sparse embedding class over known weights."""

from __future__ import annotations

from collections.abc import Mapping

from langchain_qdrant.sparse_embeddings import SparseEmbeddings, SparseVector

from benchmarks._search.subjects.base import Known


class Sparse(SparseEmbeddings):
    """Looks up lexical weights."""

    def __init__(self, known: Known) -> None:
        self.known = known

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Of the block that was taken last."""
        return [_vector(weights) for weights in self.known.lexical(texts)]

    def embed_query(self, text: str) -> SparseVector:
        """Of the query with this number."""
        return _vector(self.known.query_lexical(text))


def _vector(weights: Mapping[int, float]) -> SparseVector:
    return SparseVector(indices=list(weights), values=list(weights.values()))
