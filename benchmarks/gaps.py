"""How long an event loop stands still while the adapters are awaited, and the index is kept.

    python -m benchmarks.gaps --documents 10000 --repeats 20 --json gaps.json

The encoder sleeps a tenth of a second per call, which leaves the interpreter free as a forward pass
does. What is left is what adapters, index and engine do while they hold it. Rows are written first
with Python's garbage collector as it is, then after `gc.freeze()`.

A full garbage collection stops Python for as long as it takes to visit all that is alive, whatever
runs. So gaps are given without them, and beside them the longest one with them and the longest
collection. First comes what one costs over what was imported, before there is any index.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from llama_index.core.schema import NodeWithScore, TextNode

from benchmarks._machine import machine
from benchmarks._table import markdown, plain
from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Modes
from bge_m3_integrations.demo import checkpoint_path
from bge_m3_integrations.llama_index import (
    BGEM3Embedding,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3VectorStore,
)
from bge_m3_integrations.testing import FakeEncoder
from bge_m3_integrations.testing.llama_index_tools import Gap, longest_gap

_ADDED = 256
_WORDS = 60
_FORWARD_S = 0.1


class _Sleeping(FakeEncoder):
    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        time.sleep(_FORWARD_S)
        return super().encode(texts, kind=kind, modes=modes, max_length=max_length)


@dataclass(frozen=True, slots=True)
class Row:
    """The longest gap of each repetition, in ms.

    Attributes:
        store: "memory" or "edge".
        work: What was awaited.
        frozen: Whether `gc.freeze()` was called before.
        gaps: One per repetition, in order, without full garbage collections.
        longest: The longest of all with them.
        collection: The longest full collection; 0 where there was none.
    """

    store: str
    work: str
    frozen: bool
    gaps: tuple[float, ...]
    longest: float
    collection: float

    def cells(self) -> list[str]:
        """As the table shows it."""
        found = min(self.gaps), median(self.gaps), max(self.gaps), self.longest, self.collection
        freed = "freeze" if self.frozen else "as it is"
        return [self.store, self.work, freed, str(len(self.gaps)), *(f"{ms:.1f}" for ms in found)]


@dataclass(frozen=True, slots=True)
class Collected:
    """What one full garbage collection costs.

    Attributes:
        alive: What there is in the process.
        objects: How many objects it visits.
        milliseconds: Of processor time, the least of five.
    """

    alive: str
    objects: int
    milliseconds: float

    @classmethod
    def now(cls, alive: str) -> Collected:
        """Collect and measure."""
        times = []
        for _ in range(5):
            start = time.process_time()
            gc.collect()
            times.append(1000 * (time.process_time() - start))
        found = cls(alive, len(gc.get_objects()), min(times))
        print(f"{found.alive}: {found.objects} objects, {found.milliseconds:.1f} ms", flush=True)
        return found


Work = Callable[[], Awaitable[object]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    given = _parser().parse_args(arguments)
    collected = [Collected.now("imports")]
    if given.model:
        BGEM3(checkpoint_path()).encode_documents(["one text"])
        collected.append(Collected.now("imports, torch, the demo model"))
    rows: list[Row] = []
    for frozen in (False, True):
        if frozen:
            collected.append(Collected.now("the same after all of this"))
            gc.freeze()
        for store in given.stores:
            rows += _measured(store, given.documents, given.repeats, frozen)
    table = [["store", "work", "collector", "n", "least ms", "median ms", "greatest ms"]]
    table[0] += ["with collections", "longest collection"]
    table += [row.cells() for row in rows]
    print((markdown if given.markdown else plain)(table))
    if given.json:
        found = {"machine": machine(), "rows": [asdict(row) for row in rows]}
        found["collections"] = [asdict(one) for one in collected]
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _measured(store: str, documents: int, repeats: int, frozen: bool) -> list[Row]:
    engine = BGEM3(_Sleeping(dim=1024, colbert_dim=256))
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        _index(store, Path(folder) / "index", engine) as index,
    ):
        BGEM3VectorStore(index).add(_nodes(0, documents))
        for name, count, work in _works(index, repeats):
            gaps = [asyncio.run(_gap(work)) for _ in range(count)]
            rows.append(_row(store, name, frozen, gaps))
            print(*rows[-1].cells(), flush=True)
    return rows


def _index(store: str, place: Path, engine: BGEM3) -> HybridIndex:
    if store == "memory":
        return HybridIndex(engine)
    return HybridIndex.open(place, engine, colbert="turbo8", isolated=store == "isolated")


def _row(store: str, work: str, frozen: bool, gaps: Sequence[Gap]) -> Row:
    longest, collection = max(g.longest for g in gaps), max(g.collection for g in gaps)
    each = tuple(1000 * gap.work for gap in gaps)
    return Row(store, work, frozen, each, 1000 * longest, 1000 * collection)


async def _gap(work: Work) -> Gap:
    return await longest_gap(work())


def _works(index: HybridIndex, repeats: int) -> Iterator[tuple[str, int, Work]]:
    """What is awaited, how often."""
    store, embedding = BGEM3VectorStore(index), BGEM3Embedding(engine=index.engine)
    retriever = BGEM3Retriever.from_vector_store(store, similarity_top_k=20)
    texts = [node.text for node in _nodes(0, 64)]
    scored = [NodeWithScore(node=node, score=0.5) for node in _nodes(0, 64)]
    fresh = iter(range(10**6, 10**9, _ADDED))
    rerankers = {
        "64 nodes": BGEM3Reranker(engine=index.engine, top_n=10),
        "64 stored nodes": BGEM3Reranker(index=index, top_n=10),
    }
    yield "embed 64 texts", repeats, lambda: embedding.aget_text_embedding_batch(texts)
    yield "retrieve", repeats, lambda: retriever.aretrieve("word1 word2 word3")
    yield "retrieve 16", repeats, lambda: retriever.aretrieve_batch([f"word{i}" for i in range(16)])
    for what, reranker in rerankers.items():

        def rerank(reranker: BGEM3Reranker = reranker) -> Awaitable[object]:
            return reranker.apostprocess_nodes(scored, query_str="word1 word2")

        yield f"rerank {what}", repeats, rerank
    yield f"add {_ADDED}", repeats, lambda: store.async_add(_nodes(next(fresh), _ADDED))
    yield "flush", repeats, lambda: asyncio.to_thread(index.flush)
    if index.store.capabilities.durable:
        yield "optimize()", 1, lambda: asyncio.to_thread(index.optimize)
        index.add([Record("more", "one more text")])
        yield "optimize(isolated=True)", 1, lambda: asyncio.to_thread(index.optimize, isolated=True)
        yield "retrieve, optimized", repeats, lambda: retriever.aretrieve("word1 word2 word3")


def _nodes(first: int, count: int) -> list[TextNode]:
    return [
        TextNode(
            id_=f"node-{n}",
            text=f"number{n} " + " ".join(f"word{(n * 7 + w * w) % 5000}" for w in range(_WORDS)),
            metadata={"number": n},
        )
        for n in range(first, first + count)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gaps", description=__doc__)
    parser.add_argument("--documents", type=int, default=10_000, help="in the index")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--model", action="store_true", help="load torch and the demo model first")
    stores = ["memory", "edge", "isolated"]
    parser.add_argument("--stores", nargs="+", choices=stores, default=stores)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    main()
