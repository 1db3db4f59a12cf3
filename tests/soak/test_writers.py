from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bge_m3_integrations.core.embeddings import ALL_MODES
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge import EdgeStore, ProcessStore
from tests.unit.stores.edge.programs import ENCODER, OPEN, encoded

WRITERS, SEARCHERS, COMPACTIONS = 12, 12, 10


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["inside", "isolated"])
def test_every_acknowledged_write_is_there_after_compactions_under_load(
    tmp_path: Path, kind: str
) -> None:
    store = OPEN[kind](tmp_path / "index")
    store.upsert(FIRST, encoded(FIRST))
    stop = threading.Event()
    with ThreadPoolExecutor(WRITERS + SEARCHERS) as threads:
        writers = [threads.submit(written, store, number, stop) for number in range(WRITERS)]
        searchers = [threads.submit(searched, store, stop) for _ in range(SEARCHERS)]
        try:
            for _ in range(COMPACTIONS):
                store.compact()
        finally:
            stop.set()
        acknowledged = [record for writer in writers for record in writer.result()]
        assert all(searcher.result() for searcher in searchers)
    assert len(acknowledged) > COMPACTIONS
    check(store, acknowledged)
    store.close()
    again = OPEN[kind](tmp_path / "index")
    check(again, acknowledged)
    assert again.manifest.generation == 1 + COMPACTIONS
    again.close()


FIRST = [Record(f"first-{i}", f"number{i} fox on the bridge", {"i": i}) for i in range(200)]


def written(store: EdgeStore | ProcessStore, number: int, stop: threading.Event) -> list[Record]:
    """Records whose write returned; those that were refused meanwhile are tried no more."""
    done, turn = list[Record](), 0
    while not stop.is_set():
        turn += 1
        record = Record(f"{number}-{turn}", f"writer{number} turn{turn}", {"turn": turn})
        try:
            store.upsert([record], encoded([record]))
        except StoreError as error:
            if "is being optimized" not in str(error):
                raise
            stop.wait(0.002)
        else:
            done.append(record)
    return done


def searched(store: EdgeStore | ProcessStore, stop: threading.Event) -> int:
    query, times = ENCODER.encode(["fox"], kind="query", modes=ALL_MODES), 0
    while not stop.is_set():
        found = {hit.id for hit in store.find(query, "sparse", limit=1000)[0]}
        assert found >= {record.id for record in FIRST}
        times += 1
    return times


def check(store: EdgeStore | ProcessStore, acknowledged: list[Record]) -> None:
    held = store.get([record.id for record in acknowledged])
    assert [r.id for r, found in zip(acknowledged, held, strict=True) if found != r] == []
    assert store.count() == len(FIRST) + len(acknowledged)
