"""What a user of `llama-index-indices-managed-bge-m3` writes, and what its BGEM3Index refuses.

Documents are inserted, edited, deleted and refreshed, and the index is kept without a pickle;
docs/from-bgem3index.md says how to bring an old index over. Runs offline on the demo checkpoint;
BGE_M3_PATH names another one.
"""

from __future__ import annotations

import os
import tempfile

from llama_index.core.schema import Document

from bge_m3_integrations import BGEM3, Record
from bge_m3_integrations.demo import checkpoint_path, load_corpus
from bge_m3_integrations.llama_index import BGEM3Index

QUESTION = "Why filter before the search and not after it?"


def as_document(record: Record, *, added: str = "") -> Document:
    """A document whose metadata is not encoded: its title is the first line of the text."""
    return Document(
        id_=record.id,
        text=record.text + added,
        metadata=dict(record.metadata),
        excluded_embed_metadata_keys=list(record.metadata),
    )


def tell(title: str, index: BGEM3Index) -> None:
    """Print what the index holds and all that it has cost."""
    documents = len(index.ref_doc_info)
    print(f"{title}: {documents} documents, {index.engine.stats.forwards} forward passes so far")


def show(index: BGEM3Index) -> None:
    """Print what is found; weights are dense, sparse and ColBERT, as in the old class."""
    retriever = index.as_retriever(similarity_top_k=2, weights=(0.4, 0.2, 0.4))
    for found in retriever.retrieve(QUESTION):
        print(f"  {found.score:.3f}  {found.node.metadata['title']}")


def main() -> None:
    """Build, change, keep and open an index."""
    engine = BGEM3(os.environ.get("BGE_M3_PATH") or checkpoint_path())
    first, second, *rest = load_corpus()
    documents = [as_document(record) for record in (first, *rest)]

    index = BGEM3Index.from_documents(documents, engine=engine)
    tell("built", index)
    index.insert(as_document(second))
    tell("inserted", index)
    index.delete_ref_doc(second.id, delete_from_docstore=True)
    tell("deleted", index)
    documents[0] = as_document(first, added="\n\nEdited.")
    refreshed = index.refresh_ref_docs(documents)
    tell(f"refreshed {sum(refreshed)} of {len(refreshed)}", index)

    show(index)
    with tempfile.TemporaryDirectory() as folder:
        index.persist(folder)
        again = BGEM3Index.from_persist_dir(folder, engine)
        tell("opened again", again)
        show(again)
        again.close()


if __name__ == "__main__":
    main()
