"""langchain-milvus's sparse embedding class over known weights."""

from __future__ import annotations

from langchain_milvus.utils.sparse import BaseSparseEmbedding

from benchmarks._search.subjects.base import Known


class Sparse(BaseSparseEmbedding):
    """Looks up lexical weights."""

    def __init__(self, known: Known) -> None:
        self.known = known

    def embed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """Of the block that was taken last."""
        return self.known.lexical(texts)

    def embed_query(self, query: str) -> dict[int, float]:
        """Of the query with this number."""
        return self.known.query_lexical(query)
