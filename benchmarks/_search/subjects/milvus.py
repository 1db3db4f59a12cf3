"""langchain-milvus over milvus-lite: a server process and its files in a folder."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._search.corpus import FIELDS, Block, value_name
from benchmarks._search.subjects.base import Kind, Known, Peer, Setup, Tokens
from benchmarks._search.tasks import LIMIT, TASKS, WEIGHTS

_NAME = "benchmark"
_INDEXES = (
    {"index_type": "FLAT", "metric_type": "IP", "params": {}},
    {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP", "params": {}},
)
_SEARCH = {"metric_type": "IP", "params": {}}
"""Its own default for sparse vectors drops weights, which milvus-lite refuses."""


class _Milvus(Peer):
    tasks = frozenset(task.name for task in TASKS.values() if task.modes == ("dense", "sparse"))
    durable = True

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.known = Known(setup.queries)
        self._open()

    def _open(self) -> None:
        from langchain_milvus import Milvus

        from benchmarks._search.subjects._langchain import Dense
        from benchmarks._search.subjects._milvus_sparse import Sparse

        self.store = Milvus(
            embedding_function=[Dense(self.known), Sparse(self.known)],
            vector_field=["dense", "sparse"],
            index_params=[dict(index) for index in _INDEXES],
            search_params=[dict(_SEARCH), dict(_SEARCH)],
            collection_name=_NAME,
            connection_args={"uri": str(self.setup.folder / "milvus.db")},
            auto_id=False,
        )

    def add(self, block: Block, texts: Sequence[str], tokens: Tokens | None) -> None:
        from benchmarks._search.subjects._langchain import documents

        self.known.take(block, texts)
        self.store.add_documents(documents(block, texts), ids=block.ids)

    def flush(self) -> None:
        """Before it every search reads the written rows one by one."""
        self.store.client.flush(_NAME)

    def search(self, task: str, query: int) -> list[str]:
        field, expression = TASKS[task].field, None
        if field is not None:
            value = self.setup.queries.fields[query, list(FIELDS).index(field)]
            expression = f'{field} == "{value_name(int(value))}"'
        found = self.store.similarity_search(
            str(query),
            k=LIMIT,
            fetch_k=TASKS[task].candidates,
            expr=expression,
            ranker_type="weighted",
            ranker_params={"weights": [WEIGHTS["dense"], WEIGHTS["sparse"]]},
        )
        return [document.metadata["key"] for document in found]

    def close(self) -> None:
        self.store.client.close()

    def reopen(self) -> None:
        self._open()


MILVUS = Kind(
    "milvus-langchain",
    modules=("langchain_milvus", "milvus_lite"),
    distributions=("langchain-milvus", "milvus-lite", "pymilvus"),
    open=_Milvus,
    most=100_000,
    note="its weighted ranker rescales each list to 0..1 before adding: another ranking",
)
