"""langchain-qdrant over qdrant-client's local mode: files in a folder, search in Python."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from benchmarks._search.corpus import FIELDS, Block, value_name
from benchmarks._search.subjects.base import Kind, Known, Peer, Setup, Tokens
from benchmarks._search.tasks import LIMIT, TASKS

_NAME = "benchmark"


class _Qdrant(Peer):
    durable = True
    tasks = frozenset(task.name for task in TASKS.values() if "colbert" not in task.modes)

    def __init__(self, setup: Setup) -> None:
        from qdrant_client import models

        self.setup = setup
        self.known = Known(setup.queries)
        self._open()
        self.client.create_collection(
            _NAME,
            vectors_config={
                "dense": models.VectorParams(size=setup.corpus.dim, distance=models.Distance.COSINE)
            },
            sparse_vectors_config={"sparse": models.SparseVectorParams()},
        )
        self._stores()

    def _open(self) -> None:
        from qdrant_client import QdrantClient

        self.client = QdrantClient(path=str(self.setup.folder / "qdrant"))

    def _stores(self) -> None:
        from langchain_qdrant import QdrantVectorStore, RetrievalMode

        from benchmarks._search.subjects._langchain import Dense
        from benchmarks._search.subjects._qdrant_sparse import Sparse

        self.stores = {
            mode: QdrantVectorStore(
                self.client,
                _NAME,
                embedding=Dense(self.known),
                sparse_embedding=Sparse(self.known),
                retrieval_mode=RetrievalMode(mode),
                vector_name="dense",
                sparse_vector_name="sparse",
                validate_embeddings=False,
                validate_collection_config=False,
            )
            for mode in ("dense", "sparse", "hybrid")
        }

    def add(self, block: Block, texts: Sequence[str], tokens: Tokens | None) -> None:
        from benchmarks._search.subjects._langchain import documents

        self.known.take(block, texts)
        ids = [str(uuid.UUID(int=block.start + i)) for i in range(len(block))]
        self.stores["hybrid"].add_documents(documents(block, texts), ids=ids)

    def search(self, task: str, query: int) -> list[str]:
        store = self.stores[task.partition(" ")[0]]
        found = store.similarity_search(str(query), k=LIMIT, filter=self._filter(task, query))
        return [document.metadata["key"] for document in found]

    def _filter(self, task: str, query: int) -> Any:
        from qdrant_client import models

        field = TASKS[task].field
        if field is None:
            return None
        value = self.setup.queries.fields[query, list(FIELDS).index(field)]
        match = models.MatchValue(value=value_name(int(value)))
        return models.Filter(must=[models.FieldCondition(key=f"metadata.{field}", match=match)])

    def close(self) -> None:
        self.client.close()

    def reopen(self) -> None:
        self._open()
        self._stores()


QDRANT = Kind(
    "qdrant-langchain",
    modules=("langchain_qdrant", "qdrant_client"),
    distributions=("langchain-qdrant", "qdrant-client"),
    open=_Qdrant,
    most=100_000,
    note="its hybrid is reciprocal rank fusion of 10 and 10: another ranking",
)
