"""LangChain's embedding class over known vectors; imported only where LangChain is."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from benchmarks._search.corpus import Block
from benchmarks._search.subjects.base import Known


class Dense(Embeddings):
    """Looks up dense vectors."""

    def __init__(self, known: Known) -> None:
        self.known = known

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Of the block that was taken last."""
        return self.known.dense(texts)

    def embed_query(self, text: str) -> list[float]:
        """Of the query with this number."""
        return self.known.query_dense(text)


def documents(block: Block, texts: Sequence[str]) -> list[Document]:
    """With the corpus's metadata, and the id once more in it: not every store gives it back."""
    ids = block.ids
    return [
        Document(page_content=text, metadata={**block.metadata(i), "key": ids[i]}, id=ids[i])
        for i, text in enumerate(texts)
    ]
