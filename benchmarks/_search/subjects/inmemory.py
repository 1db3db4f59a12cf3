"""LangChain's InMemoryVectorStore: dense vectors in Python lists."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._search.corpus import Block
from benchmarks._search.subjects.base import Kind, Known, Peer, Setup, Tokens
from benchmarks._search.tasks import LIMIT


class _InMemory(Peer):
    tasks = frozenset({"dense"})

    def __init__(self, setup: Setup) -> None:
        from langchain_core.vectorstores import InMemoryVectorStore

        from benchmarks._search.subjects._langchain import Dense

        self.known = Known(setup.queries)
        self.store = InMemoryVectorStore(Dense(self.known))

    def add(self, block: Block, texts: Sequence[str], tokens: Tokens | None) -> None:
        from benchmarks._search.subjects._langchain import documents

        self.known.take(block, texts)
        self.store.add_documents(documents(block, texts), ids=block.ids)

    def search(self, task: str, query: int) -> list[str]:
        found = self.store.similarity_search(str(query), k=LIMIT)
        return [str(document.id) for document in found]


INMEMORY = Kind(
    "inmemory-langchain",
    modules=("langchain_core",),
    distributions=("langchain-core", "numpy"),
    open=_InMemory,
    most=100_000,
    note="dense only",
)
