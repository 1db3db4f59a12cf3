"""A LangChain vector store in a folder: hybrid search, single modes, filters, diversity.

Runs offline with the demo checkpoint; set BGE_M3_MODEL to BAAI/bge-m3 for real retrieval.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

from langchain_core.documents import Document

from bge_m3_integrations import BGEM3
from bge_m3_integrations.demo import checkpoint_path, load_corpus
from bge_m3_integrations.langchain import BGEM3VectorStore, to_document

QUESTION = "how to filter by metadata"


def show(title: str, found: Sequence[Document]) -> None:
    """One line per document."""
    print(title)
    for document in found:
        print(f"  {document.id:<32} {document.metadata['title']}")


def main() -> None:
    """Index the handbook in a folder and search it in several ways."""
    engine = BGEM3(os.environ.get("BGE_M3_MODEL") or checkpoint_path())
    with (
        tempfile.TemporaryDirectory() as folder,
        BGEM3VectorStore(engine, path=f"{folder}/handbook") as store,
    ):
        store.add_documents([to_document(record) for record in load_corpus()])

        show("Dense, sparse and ColBERT together:", store.similarity_search(QUESTION, k=3))
        show("Chinese pages only:", store.similarity_search(QUESTION, k=3, filter={"lang": "zh"}))
        both = {"$and": [{"lang": "en"}, {"title": {"$contains": "filter"}}]}
        show("English, with a word in the title:", store.similarity_search(QUESTION, filter=both))
        short = store.similarity_search(
            QUESTION, k=3, filter=lambda document: len(document.page_content) < 500
        )
        show("Short pages, by a function over documents:", short)
        for mode in ("dense", "sparse", "colbert"):
            show(f"By {mode} scores alone:", store.search(QUESTION, mode, k=2))
        show("Unlike each other:", store.max_marginal_relevance_search(QUESTION, k=3))

        print("\nScores in [0, 1]:")
        for document, relevance in store.similarity_search_with_relevance_scores(QUESTION, k=2):
            print(f"  {relevance:.3f}  {document.id}")
        print(f"\n{engine.stats.forwards} forward passes in all, for {store.index.count()} pages")


if __name__ == "__main__":
    main()
