"""How long another thread waits while an index in a folder is searched and written to.

    python -m benchmarks.holds --folder FOLDER --documents 10000 --repeats 20 --json holds.json

The engine holds Python's lock while it is called, so any other thread stands still; unless the
index is `isolated`, in a process of its own: all rows are measured both ways. One thread sleeps a
millisecond at a time; its longest pause during each call, less the sleep, is a hold. With other
work on the machine a pause is longer, never shorter: the least and the median say what the call
does. Embeddings are drawn (`benchmarks/_search/corpus.py`), token vectors are kept as turbo8.
`--index` searches a folder that `benchmarks.search --keep` has left, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks._machine import machine
from benchmarks._search.corpus import Corpus
from benchmarks._search.subjects.ours import batch_of
from benchmarks._table import markdown, plain
from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode, TokenVectors, offsets_of
from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig, Manifest, ProcessStore
from bge_m3_integrations.testing import FakeEncoder

_SLEEP = 0.001
_MODES: tuple[Mode, ...] = ("dense", "sparse", "colbert")
_BATCH = 64
_ADDED = {"64 documents of 120 tokens": [120] * 64, "2 of 4,000": [4000] * 2, "1 of 8,191": [8191]}
_QUERY_TOKENS = (16, 120)

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Row:
    """The longest pause in each repetition.

    Attributes:
        work: What was done.
        holds: Milliseconds, one per repetition, in order.
        took: Milliseconds of the calls themselves.
    """

    work: str
    holds: tuple[float, ...]
    took: tuple[float, ...]

    def cells(self) -> list[str]:
        """As the table shows it."""
        ends = min(self.holds), median(self.holds), max(self.holds), median(self.took)
        return [self.work, str(len(self.holds)), *(f"{value:.1f}" for value in ends)]


class Ticker:
    """A thread that sleeps, and notes how much longer that takes than it should."""

    def __init__(self) -> None:
        self._longest = 0.0
        threading.Thread(target=self._run, daemon=True).start()

    def longest(self, call: Call) -> tuple[float, float]:
        """Milliseconds of the longest pause during a call, and of the call."""
        time.sleep(20 * _SLEEP)
        self._longest = 0.0
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        time.sleep(20 * _SLEEP)  # a pause that has not ended yet counts too
        return 1000 * self._longest, 1000 * took

    def _run(self) -> None:
        while True:
            start = time.perf_counter()
            time.sleep(_SLEEP)
            self._longest = max(self._longest, time.perf_counter() - start - _SLEEP)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    given = _parser().parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    loads = [os.getloadavg()[0]]
    corpus = Corpus(given.documents, dim=given.dim)
    if given.index:
        if Manifest.read(given.index) is None:
            raise SystemExit(f"there is no index in {given.index}")
        rows = list(measured(given.index, corpus, given.repeats, writes=False))
    else:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            made = fill(Path(folder) / "index", corpus)
            rows = list(measured(made, corpus, given.repeats, writes=True))
    loads.append(os.getloadavg()[0])
    facts = {**machine(), "load": f"{loads[0]:.1f} before, {loads[1]:.1f} after"}
    facts["documents"] = f"{given.documents:,}"
    for name, found in facts.items():
        print(f"- {name}: {found}")
    table = [["call", "n", "least hold ms", "median", "greatest", "call takes, median ms"]]
    print("\n" + (markdown if given.markdown else plain)([*table, *(row.cells() for row in rows)]))
    if given.json:
        held = {"machine": facts, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(held, indent=1), encoding="utf-8")


def fill(folder: Path, corpus: Corpus) -> Path:
    """Make an index of the corpus, of about 120 tokens a document.

    Args:
        folder: Where.
        corpus: What is drawn.

    Returns:
        The folder; the index is closed.
    """
    store = EdgeStore.open(
        folder, FolderConfig(modes=_MODES, dim=corpus.dim, colbert_dim=corpus.dim, colbert="turbo8")
    )
    for block in corpus.blocks():
        for start in range(0, len(block), _BATCH):
            part = block.part(start, start + _BATCH)
            texts = corpus.texts(part.start, len(part))
            rows = zip(part.ids, texts, strict=True)
            records = [Record(key, text, part.metadata(i)) for i, (key, text) in enumerate(rows)]
            store.upsert(records, batch_of(part, corpus.tokens(part)))
    store.close()
    return folder


def measured(folder: Path, corpus: Corpus, repeats: int, *, writes: bool) -> Iterator[Row]:
    """All rows over one index, inside this process and apart from it.

    Args:
        folder: The index's.
        corpus: What is in it.
        repeats: Of each call.
        writes: Whether documents may be added too.

    Yields:
        One row per kind of call.
    """
    ticker, engine = Ticker(), BGEM3(FakeEncoder(dim=corpus.dim, colbert_dim=corpus.dim))
    for kind in (EdgeStore, ProcessStore):
        place = "inside" if kind is EdgeStore else "isolated"
        with HybridIndex(engine, kind.open(folder), modes=_MODES) as index:
            calls = [*_searches(index, corpus, repeats)]
            calls += _writes(index, corpus.dim, place) if writes else []
            first = calls[0][1]
            for name, call in [("the first searches after opening", first), *calls]:
                pairs = [ticker.longest(call) for _ in range(repeats)]
                row = Row(f"{place}: {name}", *zip(*pairs, strict=True))
                print(*row.cells(), flush=True)
                yield row


def _searches(index: HybridIndex, corpus: Corpus, repeats: int) -> Iterator[tuple[str, Call]]:
    """Searches by the queries in turn."""
    block = corpus.queries(repeats)
    whole = batch_of(block, corpus.query_tokens(block))
    for tokens in _QUERY_TOKENS:
        longer = replace(whole, colbert=_repeated(whole, tokens))
        for limit in (10, 100):
            name = f"search, hybrid with ColBERT, {tokens} query tokens, limit {limit}"
            yield name, _asked(index, longer, limit=limit)
    for field, value in (("half", "v1"), ("shelf", "v1")):
        yield f"search under {field}={value}", _asked(index, whole, limit=10, where={field: value})
    year = {"year": {"$gte": 2000}, "half": {"$ne": "v1"}}
    yield "search under a range and $ne", _asked(index, whole, limit=10, where=year)
    yield "search_diverse", lambda: index.search_diverse("a text", limit=10)
    yield "store.find by ColBERT, all documents", _found(index, whole)


def _asked(index: HybridIndex, queries: EmbeddingBatch, **options: object) -> Call:
    turn = count()

    def call() -> object:
        one = queries.take([next(turn) % len(queries)])
        return index.search_embedded(one, **options)  # type: ignore[arg-type]

    return call


def _found(index: HybridIndex, queries: EmbeddingBatch) -> Call:
    return lambda: index.store.find(queries.take([0]), "colbert", limit=10)


def _repeated(queries: EmbeddingBatch, tokens: int) -> TokenVectors:
    """Longer queries, of the same vectors over and over."""
    assert queries.colbert is not None
    held = [queries.colbert.row(i) for i in range(len(queries))]
    rows = [np.resize(row, (tokens, row.shape[1])) for row in held]
    return TokenVectors(np.concatenate(rows), offsets_of([tokens] * len(rows)))


def _writes(index: HybridIndex, dim: int, place: str) -> Iterator[tuple[str, Call]]:
    """New documents each time, flushed as `HybridIndex.add` does."""
    fresh = count()
    for name, lengths in _ADDED.items():
        batch = _drawn(lengths, dim)

        def add(batch: EmbeddingBatch = batch) -> None:
            number = next(fresh)
            records = [Record(f"{place}-{number}-{i}", "a text") for i in range(len(batch))]
            index.store.upsert(records, batch)
            index.store.flush()

        yield f"add {name}", add


def _drawn(lengths: Sequence[int], dim: int) -> EmbeddingBatch:
    rows = np.random.default_rng(0).standard_normal((sum(lengths), dim), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    block = Corpus(len(lengths), dim=dim).block(0)
    vectors = TokenVectors(rows, offsets_of(lengths))
    drawn = batch_of(block, (rows, vectors.offsets))
    return replace(drawn, tokens=np.array(lengths, np.int64))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.holds", description=__doc__)
    add = parser.add_argument
    add("--folder", type=Path, default=Path(".bench"), help="for the index, removed again")
    add("--index", type=Path, help="of --documents documents, to search instead of a new one")
    add("--documents", type=int, default=10_000)
    add("--repeats", type=int, default=20)
    add("--dim", type=int, default=1024, help="other widths only try the harness")
    add("--markdown", action="store_true")
    add("--json", type=Path)
    return parser


if __name__ == "__main__":
    main()
