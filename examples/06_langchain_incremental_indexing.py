"""Keeping an index up to date with LangChain's indexing API: what has not changed costs nothing.

Runs offline with the demo checkpoint; set BGE_M3_MODEL to BAAI/bge-m3 for real retrieval. A record
manager on disk (SQLRecordManager) remembers across runs; the one in memory keeps the example short.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index

from bge_m3_integrations import BGEM3
from bge_m3_integrations.demo import checkpoint_path, load_corpus
from bge_m3_integrations.langchain import BGEM3VectorStore, to_document


def main() -> None:
    """Index the handbook three times: new, unchanged, with one page edited."""
    engine = BGEM3(os.environ.get("BGE_M3_MODEL") or checkpoint_path())
    pages = [to_document(record) for record in load_corpus()]
    manager = InMemoryRecordManager(namespace="handbook")
    manager.create_schema()

    with (
        tempfile.TemporaryDirectory() as folder,
        BGEM3VectorStore(engine, path=f"{folder}/handbook") as store,
    ):

        def update(title: str, documents: Sequence[Document]) -> None:
            before = engine.stats.forwards
            done = index(
                documents,
                manager,
                store,
                cleanup="incremental",
                source_id_key="source",
                key_encoder="sha256",
            )
            counts = ", ".join(f"{name[4:]} {count}" for name, count in done.items() if count)
            forwards = engine.stats.forwards - before
            print(f"{title}: {counts}; {forwards} forward passes; {store.index.count()} pages")

        update("first run", pages)
        update("again", pages)
        edited = pages[0].model_copy(update={"page_content": pages[0].page_content + "\n\nEdited."})
        update("one page edited", [edited, *pages[1:]])


if __name__ == "__main__":
    main()
