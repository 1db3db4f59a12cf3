"""Reranking what another store found: LangChain's in-memory store finds, BGE-M3 orders.

The other store keeps dense vectors alone; here they are BGE-M3's too, so that the example runs
offline, but any store and any embedding will do. Set BGE_M3_MODEL to BAAI/bge-m3 for the real one.
Beside the extra `langchain` it needs: pip install langchain-classic
"""

from __future__ import annotations

import os

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.vectorstores import InMemoryVectorStore

from bge_m3_integrations import BGEM3
from bge_m3_integrations.demo import checkpoint_path, load_corpus
from bge_m3_integrations.langchain import BGEM3Embeddings, BGEM3Reranker, to_document

QUESTION = "Why filter before the search and not after it?"


def main() -> None:
    """Show the order before and after, and what it cost."""
    engine = BGEM3(os.environ.get("BGE_M3_MODEL") or checkpoint_path())
    store = InMemoryVectorStore(BGEM3Embeddings(engine=engine))
    store.add_documents([to_document(record) for record in load_corpus()])
    finder = store.as_retriever(search_kwargs={"k": 10})

    print("Found by dense vectors:")
    for document in finder.invoke(QUESTION)[:3]:
        print(f"         {document.id}")

    before = engine.stats.forwards
    reranker = BGEM3Reranker(engine=engine, top_n=3)
    retriever = ContextualCompressionRetriever(base_retriever=finder, base_compressor=reranker)
    print("Ordered by dense, sparse and ColBERT scores:")
    for document in retriever.invoke(QUESTION):
        print(f"  {document.metadata['relevance_score']:.3f}  {document.id}")
    print(f"{engine.stats.forwards - before} forward passes: the query and its ten candidates.")
    print("Over a BGEM3VectorStore, BGEM3Reranker(index=store.index) would have cost one.")


if __name__ == "__main__":
    main()
