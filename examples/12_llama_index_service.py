"""From a folder of files to answers over HTTP, with LlamaIndex.

    python examples/12_llama_index_service.py                  # the demo's handbook, one question
    python examples/12_llama_index_service.py FOLDER --serve   # .md and .txt files, on port 8000

Runs offline with the demo checkpoint; set BGE_M3_MODEL to BAAI/bge-m3 for real retrieval. It also
needs fastapi, and uvicorn to serve. The steps are explained in docs/tutorial-llama-index.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from fastapi import FastAPI
from llama_index.core import SimpleDirectoryReader
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document
from pydantic import BaseModel

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.demo import checkpoint_path
from bge_m3_integrations.llama_index import (
    BGEM3Index,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3VectorStore,
)

HANDBOOK = checkpoint_path().parent / "handbook"
QUESTION = "Why filter before the search and not after it?"


def load(folder: Path) -> list[Document]:
    """Every .md and .txt file under a folder, with its path as id and as metadata."""
    root = folder.resolve()
    documents = SimpleDirectoryReader(
        str(root),
        recursive=True,
        required_exts=[".md", ".txt"],
        file_metadata=lambda path: {"source": Path(path).relative_to(root).as_posix()},
        filename_as_id=True,
    ).load_data()
    for document in documents:
        document.excluded_embed_metadata_keys = ["source"]  # encode the text, and nothing else
    return documents


def build(documents: list[Document], held: HybridIndex) -> BGEM3Index:
    """Bring an index up to date: chunks of at most 300 tokens, counted as the model counts them."""
    engine = held.engine
    splitter = SentenceSplitter(chunk_size=300, chunk_overlap=30, tokenizer=engine.token_ids)
    store = BGEM3VectorStore(held)
    return BGEM3Index.from_documents(documents, vector_store=store, transformations=[splitter])


class Question(BaseModel):
    """What a client sends."""

    text: str
    k: int = 3


class Answer(BaseModel):
    """One chunk that a client gets back."""

    text: str
    source: str
    score: float


def service(held: HybridIndex) -> FastAPI:
    """An application with one endpoint: find 20 by dense and lexical scores, order them by all."""
    retriever = BGEM3Retriever(index=held, similarity_top_k=20, weights=(0.6, 0.4, 0))
    reranker = BGEM3Reranker(index=held, top_n=20)
    app = FastAPI(title="Search")

    @app.post("/search")
    async def search(question: Question) -> list[Answer]:
        found = await retriever.aretrieve(question.text)
        best = await reranker.apostprocess_nodes(found, query_str=question.text)
        return [
            Answer(text=n.node.get_content(), source=n.node.metadata["source"], score=n.score or 0)
            for n in best[: question.k]
        ]

    return app


def ask(app: FastAPI) -> None:
    """Ask one question as a client would."""
    from fastapi.testclient import TestClient

    answers = TestClient(app).post("/search", json={"text": QUESTION}).json()
    print(QUESTION)
    for answer in answers:
        print(f"  {answer['score']:.3f}  {answer['source']}")


def main() -> None:
    """Index a folder, then ask or serve."""
    parser = argparse.ArgumentParser(description="Index a folder of files and search it.")
    parser.add_argument("folder", type=Path, nargs="?", default=HANDBOOK)
    parser.add_argument("--index", type=Path, help="where the index is kept; else temporary")
    parser.add_argument("--serve", action="store_true", help="serve on 127.0.0.1:8000")
    given = parser.parse_args()
    engine = BGEM3(os.environ.get("BGE_M3_MODEL") or checkpoint_path())
    with (
        tempfile.TemporaryDirectory() as temporary,
        HybridIndex.open(given.index or f"{temporary}/index", engine) as held,
    ):
        build(load(given.folder), held)
        if given.serve:
            import uvicorn

            uvicorn.run(service(held), host="127.0.0.1", port=8000, workers=1)
        else:
            ask(service(held))
        print(
            f"{engine.stats.forwards} forward passes for {held.count()} chunks and what was asked"
        )


if __name__ == "__main__":
    main()
