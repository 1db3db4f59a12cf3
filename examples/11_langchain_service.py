"""From a folder of files to answers over HTTP, with LangChain.

    python examples/11_langchain_service.py                  # the demo's handbook, one question
    python examples/11_langchain_service.py FOLDER --serve   # .md and .txt files, on port 8000

Runs offline with the demo checkpoint; set BGE_M3_MODEL to BAAI/bge-m3 for real retrieval. It also
needs langchain-text-splitters and fastapi, and uvicorn to serve. The steps are explained in
docs/tutorial-langchain.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from fastapi import FastAPI
from langchain_core.documents import Document
from langchain_text_splitters import RecursiveCharacterTextSplitter
from pydantic import BaseModel

from bge_m3_integrations import BGEM3
from bge_m3_integrations.demo import checkpoint_path
from bge_m3_integrations.langchain import (
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3VectorStore,
    to_record,
)

HANDBOOK = checkpoint_path().parent / "handbook"
QUESTION = "Why filter before the search and not after it?"


def load(folder: Path) -> list[Document]:
    """Every .md and .txt file under a folder, with its path as metadata."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in {".md", ".txt"})
    return [
        Document(
            page_content=path.read_text(encoding="utf-8"),
            metadata={"source": path.relative_to(folder).as_posix()},
        )
        for path in paths
    ]


def split(documents: list[Document], engine: BGEM3) -> list[Document]:
    """Chunks of at most 300 tokens, counted as the model counts them, with ids that stay."""
    splitter = RecursiveCharacterTextSplitter(
        chunk_size=300,
        chunk_overlap=30,
        length_function=engine.length_function,
        add_start_index=True,
    )
    chunks = splitter.split_documents(documents)
    for chunk in chunks:
        chunk.id = f"{chunk.metadata['source']}#{chunk.metadata['start_index']}"
    return chunks


class Question(BaseModel):
    """What a client sends."""

    text: str
    source: str | None = None
    k: int = 3


class Answer(BaseModel):
    """One chunk that a client gets back."""

    text: str
    source: str
    score: float


def service(store: BGEM3VectorStore) -> FastAPI:
    """An application with one endpoint: find 20 by dense and lexical scores, order them by all."""
    retriever = BGEM3Retriever(index=store.index, k=20, weights=(0.6, 0.4, 0))
    reranker = BGEM3Reranker(index=store.index, top_n=20)
    app = FastAPI(title="Search")

    @app.post("/search")
    async def search(question: Question) -> list[Answer]:
        chosen = None if question.source is None else {"source": question.source}
        found = await retriever.ainvoke(question.text, filter=chosen)
        best = await reranker.acompress_documents(found, question.text)
        return [
            Answer(
                text=d.page_content,
                source=d.metadata["source"],
                score=d.metadata["relevance_score"],
            )
            for d in best[: question.k]
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
        BGEM3VectorStore(engine, path=given.index or f"{temporary}/index") as store,
    ):
        chunks = split(load(given.folder), engine)
        print(store.index.ingest([to_record(chunk) for chunk in chunks]))
        if given.serve:
            import uvicorn

            uvicorn.run(service(store), host="127.0.0.1", port=8000, workers=1)
        else:
            ask(service(store))
        print(f"{engine.stats.forwards} forward passes for {len(chunks)} chunks and what was asked")


if __name__ == "__main__":
    main()
