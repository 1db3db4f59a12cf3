"""A process that forks while it holds an index; its child does with the index what it is told.

`python -m ... FOLDER DEED KIND`, KIND being one of `OPEN`. It is a process of its own because the
child ends as processes do: that frees all it holds. It prints its own id and what the child says,
then how many records the parent has, before and after it opens the index again.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge import EdgeStore, ProcessStore
from tests.unit.stores.edge.programs import OPEN, encoded

SECONDS = 60
SOME = [Record("child", "a text of the child's")]


def add(store: EdgeStore | ProcessStore, first: int) -> None:
    records = [Record(f"{i:03}", f"text {i}", {"n": i}) for i in range(first, first + 50)]
    store.upsert(records, encoded(records))


def use(store: EdgeStore | ProcessStore) -> None:
    numbers = encoded(SOME)
    tried: list[Callable[[], object]] = [
        store.count,
        lambda: store.find(numbers, "dense", limit=1),
        lambda: store.get(["001"]),
        lambda: store.upsert(SOME, numbers),
        lambda: store.rewrite(SOME),
        lambda: store.delete(ids=["001"]),
        store.flush,
        store.optimize,
        lambda: store.set_filter_fields(["n"]),
        lambda: store.backup(store.path.with_name("backup")),
    ]
    for attempt in tried:
        told(attempt)


def close(store: EdgeStore | ProcessStore) -> None:
    store.close()
    store.close()
    told(lambda: EdgeStore.open(store.path))


def open_later(store: EdgeStore | ProcessStore) -> None:
    path = store.path
    store.close()
    told(lambda: add(type(store).open(path), 150))


def told(attempt: Callable[[], object]) -> None:
    try:
        attempt()
        said = "no error"
    except StoreError as error:
        said = str(error)
    sys.stdout.write(f"{said}\n")


def main(folder: str, deed: str, kind: str) -> None:
    store = OPEN[kind](Path(folder))
    add(store, 0)
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.read(reading, 1)
        {"use": use, "close": close, "open later": open_later}[deed](store)
        sys.exit()
    add(store, 50)
    store.flush()  # after the fork: what the child would flush lies behind
    if deed == "open later":
        store.close()
    os.write(writing, b".")
    if os.waitpid(child, 0)[1]:
        sys.exit("the child failed")
    if deed != "open later":
        add(store, 100)
        sys.stdout.write(f"{store.count()}\n")
        store.close()
    store = OPEN[kind](Path(folder))
    sys.stdout.write(f"{store.count()}\n")
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
