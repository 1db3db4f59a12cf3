from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from bge_m3_integrations.core.filters import Compare
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge import EdgeStore, Manifest, optimize
from bge_m3_integrations.stores.edge.folder import files
from bge_m3_integrations.stores.edge.open_index import OpenIndex
from tests.unit.stores.edge.programs import encoded, open_store

RECORDS = [Record(f"{i}", f"number{i} fox", {"i": i}) for i in range(20)]
LATE = [Record("late", "a text that came late", {"i": 99})]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    opened = open_store(tmp_path / "index")
    opened.upsert(RECORDS, encoded(RECORDS))
    yield opened
    opened.close()


@pytest.mark.parametrize("write", ["upsert", "rewrite", "delete"])
def test_a_write_between_its_look_at_the_shard_and_its_check_is_refused_or_kept(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """The gap between the two is made as long as it takes for the other shard to come."""
    gap, built, switched = threading.Event(), threading.Event(), threading.Event()
    check, sync = OpenIndex._check_changeable, optimize.sync_files

    def slow(self: OpenIndex) -> None:
        if threading.current_thread() is not threading.main_thread():
            gap.set()
            built.wait()
            switched.wait(0.5)  # in vain, where nothing takes the shard's place meanwhile
        check(self)

    def written() -> bool:
        calls = {
            "upsert": lambda: store.upsert(LATE, encoded(LATE)),
            "rewrite": lambda: store.rewrite([Record("1", RECORDS[1].text, {"i": 99})]),
            "delete": lambda: store.delete(ids=["1"]),
        }
        try:
            calls[write]()
        except StoreError as error:
            return "is being optimized" not in str(error)
        return True

    def synced(folder: Path) -> None:
        sync(folder)
        built.set()

    monkeypatch.setattr(OpenIndex, "_check_changeable", slow)
    monkeypatch.setattr(optimize, "sync_files", synced)
    with ThreadPoolExecutor(1) as threads:
        answers = []

        def progress(what: str) -> None:
            if what.startswith("building, 0"):
                answers.append(threads.submit(written))
                gap.wait()
            if what == "done":
                switched.set()

        store.optimize(isolated=True, progress=progress)
        acknowledged = answers[0].result()
    found = store.get(["late", "1"])
    changed = {
        "upsert": found[0] == LATE[0],
        "rewrite": found[1] is not None and found[1].metadata == {"i": 99},
        "delete": found[1] is None,
    }
    assert changed[write] is acknowledged
    path = store.path
    store.close()
    again = open_store(path)
    assert again.get(["late", "1"]) == found
    again.close()


def flushing_while_copied(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]
) -> list[bool]:
    """Whether the engine flushed before a shard was copied, by a `flush` that began meanwhile."""
    copytree, shard_flush = files.shutil.copytree, store._shard.flush
    copied, seen, flushes = threading.Event(), list[bool](), list[Future[None]]()

    def slow(*given: Any, **options: Any) -> Any:
        if not flushes:  # it calls itself for each folder
            monkeypatch.setattr(store._shard, "flush", lambda: seen.append(copied.is_set()))
            flushes.append(threads.submit(store.flush))
            wait(flushes, 0.3)
            found = copytree(*given, **options)
            copied.set()
            return found
        return copytree(*given, **options)

    with ThreadPoolExecutor(1) as threads, monkeypatch.context() as patch:
        patch.setattr(files.shutil, "copytree", slow)
        change()
        flushes[0].result()
        patch.setattr(store._shard, "flush", shard_flush)
    return seen


def test_nothing_is_flushed_while_the_shard_is_copied(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert flushing_while_copied(store, monkeypatch, store.compact) == []  # it was, before


def test_a_flush_waits_for_a_backup(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def backup() -> None:
        store.backup(tmp_path / "copy")

    assert flushing_while_copied(store, monkeypatch, backup) == [True]


def test_filter_fields_that_were_set_stay_when_the_shard_is_replaced(store: EdgeStore) -> None:
    store.set_filter_fields(["i"])
    store.optimize(isolated=True)
    store.set_filter_fields([])
    store.compact()
    held = Manifest.read(store.path)
    assert held == store.manifest
    assert held is not None
    assert (held.filter_fields, held.generation) == ((), 3)


def test_a_search_by_the_old_filter_fields_ends_before_a_record_is_written_by_the_new_ones(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search has made its condition of the old fields, which the new record does not have."""
    store.set_filter_fields(["i"])
    count, asked, written = store._shard.count, threading.Event(), threading.Event()

    def slow(where: Any) -> int:
        asked.set()
        written.wait(0.5)  # in vain, where the change waits for this search
        return count(where)

    def change() -> None:
        store.set_filter_fields([])
        store.upsert(RECORDS, encoded(RECORDS))
        written.set()

    monkeypatch.setattr(store._shard, "count", slow)
    with ThreadPoolExecutor(2) as threads:
        counting = threads.submit(store.count, Compare("i", "$lt", 5))
        asked.wait()
        changing = threads.submit(change)
        assert counting.result() == 5
        changing.result()
    assert store.count(Compare("i", "$lt", 5)) == 5


def test_two_threads_that_optimise_apart_are_one_that_does_and_one_that_hears_of_it(
    store: EdgeStore,
) -> None:
    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(store.optimize, isolated=True) for _ in range(4)]
    errors = [str(error) for run in runs if (error := run.exception()) is not None]
    assert all("is being optimized" in error for error in errors)
    assert store.manifest.generation == 1 + len(runs) - len(errors)
    assert store.count() == len(RECORDS)


@pytest.mark.parametrize("call", ["close", "upsert", "delete", "set_filter_fields"])
def test_a_progress_that_changes_or_closes_what_it_tells_of_is_refused(
    store: EdgeStore, call: str
) -> None:
    calls = {
        "close": store.close,
        "upsert": lambda: store.upsert(LATE, encoded(LATE)),
        "delete": lambda: store.delete(ids=["1"]),
        "set_filter_fields": lambda: store.set_filter_fields(None),
    }
    refused = []

    def progress(what: str) -> None:
        if what != "done":
            with pytest.raises(StoreError, match="being changed by this thread"):
                calls[call]()
            refused.append(what)

    store.set_filter_fields([])
    store.set_filter_fields(["i"], progress=progress)
    store.optimize(progress=progress)
    assert len(refused) == 2
    assert store.count(Compare("i", "$gte", 0)) == len(RECORDS)


def test_a_progress_that_closes_the_index_that_is_optimised_apart_is_refused(
    store: EdgeStore,
) -> None:
    def progress(what: str) -> None:
        with pytest.raises(StoreError, match="being changed by this thread"):
            store.close()

    store.optimize(isolated=True, progress=progress)
    assert store.count() == len(RECORDS)


def test_closing_while_others_optimise_apart_ends(tmp_path: Path) -> None:
    for _ in range(3):
        store = open_store(tmp_path / "index")
        store.upsert(RECORDS, encoded(RECORDS))
        with ThreadPoolExecutor(3) as threads:
            runs = [threads.submit(store.optimize, isolated=True) for _ in range(2)]
            closing = threads.submit(store.close)
            closing.result(60)
        for run in runs:
            if (error := run.exception()) is not None:
                assert isinstance(error, StoreError)
        assert not EdgeStore.is_open(store.path)
