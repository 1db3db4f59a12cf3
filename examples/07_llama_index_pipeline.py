"""LlamaIndex's IngestionPipeline into a folder: documents that have not changed cost nothing.

Runs offline on the demo checkpoint; BGE_M3_PATH names another one. The document store knows by
hash what was indexed; `pipeline.persist(folder)` keeps it across runs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document
from llama_index.core.storage.docstore import SimpleDocumentStore

from bge_m3_integrations import BGEM3, EmbeddingCache, HybridIndex, Record
from bge_m3_integrations.demo import checkpoint_path, load_corpus
from bge_m3_integrations.llama_index import BGEM3Embedding, BGEM3VectorStore


def as_document(record: Record, *, added: str = "") -> Document:
    """A document whose metadata is not encoded: its title is the first line of the text."""
    return Document(
        id_=record.id,
        text=record.text + added,
        metadata=dict(record.metadata),
        excluded_embed_metadata_keys=list(record.metadata),
    )


def update(title: str, pipeline: IngestionPipeline, documents: Sequence[Document]) -> None:
    """Run the pipeline and print what it cost."""
    store = pipeline.vector_store
    assert isinstance(store, BGEM3VectorStore)
    before = store.engine.stats.forwards
    nodes = pipeline.run(documents=documents)
    forwards = store.engine.stats.forwards - before
    print(
        f"{title}: {len(nodes)} nodes written, {forwards} forward passes, "
        f"{store.index.count()} nodes held"
    )


def main() -> None:
    """Ingest the handbook four times: new, unchanged, with one page edited, with one page gone."""
    model = os.environ.get("BGE_M3_PATH") or checkpoint_path()
    with tempfile.TemporaryDirectory() as folder:
        # The pipeline embeds all nodes before it stores the first: with a cache on disk, what the
        # vector store asks for then is still there, and no text is encoded twice.
        cache = EmbeddingCache(f"{folder}/cache")
        engine = BGEM3(model, cache=cache)
        with cache, HybridIndex.open(f"{folder}/handbook", engine) as index:
            pipeline = IngestionPipeline(
                transformations=[SentenceSplitter(), BGEM3Embedding(engine=engine)],
                vector_store=BGEM3VectorStore(index),
                docstore=SimpleDocumentStore(),
                docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
            )
            first, *rest = load_corpus()
            others = [as_document(record) for record in rest]
            edited = as_document(first, added="\n\nEdited.")

            update("first run", pipeline, [as_document(first), *others])
            update("again", pipeline, [as_document(first), *others])
            update("one page edited", pipeline, [edited, *others])
            update("one page gone", pipeline, others)


if __name__ == "__main__":
    main()
