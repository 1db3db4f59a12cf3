"""Folders that are changed under an open index, and indexes that nobody closes."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.core.embeddings import ALL_MODES
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.langchain import BGEM3VectorStore
from bge_m3_integrations.stores.edge import EdgeStore, Manifest, ProcessStore
from bge_m3_integrations.stores.edge.folder.files import copy_file, copy_folder
from bge_m3_integrations.stores.edge.open_index import OpenIndex
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.stores.edge.programs import ENCODER, NEW, OPEN, ROOT, encoded, open_store, run

OLD = [Record(f"old-{i}", f"fox number{i}", {"i": i}) for i in range(10)]
Store = EdgeStore | ProcessStore
KINDS = pytest.mark.parametrize("kind", ["inside", "isolated"])


def deleted(index: Path) -> None:
    shutil.rmtree(index)


def renamed(index: Path) -> None:
    index.rename(index.with_name("elsewhere"))


def made_anew(index: Path) -> None:
    """By another process: this one has it open."""
    shutil.rmtree(index)
    run(index, "store.upsert(NEW, encoded(NEW))")


def restored(index: Path) -> None:
    shutil.rmtree(index)
    copy_folder(index.with_name("backup"), index)


def restored_in_place(index: Path) -> None:
    for file in [f for f in index.rglob("*") if f.is_file()]:
        file.unlink()
    shutil.copytree(index.with_name("backup"), index, copy_function=copy_file, dirs_exist_ok=True)


def another_manifest(index: Path) -> None:
    held = Manifest.read(index.with_name("backup"))
    assert held is not None
    held.write(index)


def without_shard(index: Path) -> None:
    shutil.rmtree(index / "shard-0001")


CHANGES: dict[Callable[[Path], None], dict[str, str]] = {
    deleted: {},
    renamed: {"elsewhere": "20"},
    made_anew: {"index": "5"},
    restored: {"index": "10"},
    restored_in_place: {"index": "10"},
    another_manifest: {"index": "20"},
    without_shard: {},
}
"""What is done to a folder, and how many records must be where afterwards."""


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be moved or deleted")
@KINDS
@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_is_changed_under_an_open_index_is_said_so_and_left_alone(
    tmp_path: Path, kind: str, change: Callable[[Path], None]
) -> None:
    index = tmp_path / "index"
    store = OPEN[kind](index)
    store.upsert(OLD, encoded(OLD))
    store.backup(tmp_path / "backup")
    more = [Record(f"more-{i}", "bridge") for i in range(10)]
    store.upsert(more, encoded(more))
    change(index)
    query = ENCODER.encode(["fox"], kind="query", modes=ALL_MODES)
    calls: list[Callable[[], Any]] = [
        lambda: store.upsert(OLD, encoded(OLD)),
        lambda: store.delete(ids=["old-1"]),
        lambda: store.set_filter_fields(["i"]),
        store.compact,
        store.flush,
        lambda: store.find(query, "dense", limit=1),
        store.count,
        lambda: OPEN[kind](index),
        lambda: store.backup(tmp_path / "other"),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="deleted, moved, restored or recreated while it was"):
            call()
    store.close()
    assert not (tmp_path / "other").exists()
    for name, count in CHANGES[change].items():
        opened = OPEN[kind](tmp_path / name)
        assert opened.count() == int(count)
        opened.upsert(NEW, encoded(NEW))
        opened.close()
        again = OPEN[kind](tmp_path / name)  # what the first handle wrote late would show here
        assert again.count() == int(count) + (change is not made_anew) * len(NEW)
        again.close()


def test_a_folder_replaced_during_a_compaction_keeps_what_lies_there(tmp_path: Path) -> None:
    index = tmp_path / "index"
    store = open_store(index)
    store.upsert(OLD, encoded(OLD))
    store.backup(tmp_path / "backup")

    def progress(what: str) -> None:
        if what.startswith("building, 0"):
            index.rename(tmp_path / "elsewhere")
            copy_folder(tmp_path / "backup", index)

    with pytest.raises(StoreError):
        store.compact(progress=progress)
    store.close()
    for folder in (index, tmp_path / "elsewhere"):
        again = open_store(folder)
        assert again.count() == len(OLD)
        again.close()


def test_an_index_that_is_reached_by_other_names_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "index")
    store = open_store(tmp_path / "link")
    store.upsert(OLD, encoded(OLD))
    (tmp_path / "link").unlink()  # what it led to is as it was
    store.set_filter_fields(["i"])
    store.compact()
    store.upsert(NEW, encoded(NEW))
    assert store.count() == len(OLD) + len(NEW)
    store.close()


def test_readers_do_not_take_this_process_own_manifest_for_that_of_others(tmp_path: Path) -> None:
    store, stop = open_store(tmp_path / "index"), threading.Event()
    store.upsert(OLD, encoded(OLD))

    def read() -> int:
        times = 0
        while not stop.is_set():
            assert store.count() == len(OLD)
            times += 1
        return times

    with ThreadPoolExecutor(4) as threads:
        readers = [threads.submit(read) for _ in range(4)]
        for i in range(40):
            store.set_filter_fields(["i"] if i % 2 else [])
        store.compact()
        stop.set()
        assert all(reader.result() for reader in readers)
    store.close()


# -- nobody closes it -----------------------------------------------------------------------------


@KINDS
def test_a_store_that_nobody_has_releases_its_folder(tmp_path: Path, kind: str) -> None:
    store = OPEN[kind](tmp_path / "index")
    store.upsert(OLD, encoded(OLD))
    same = OPEN[kind](tmp_path / "index")
    del store
    gc.collect()
    assert same.count() == len(OLD)
    del same
    gc.collect()
    assert not EdgeStore.is_open(tmp_path / "index")
    assert not ProcessStore.is_open(tmp_path / "index")
    assert not (tmp_path / "index" / "holder.json").exists()
    assert run(tmp_path / "index", "pass") == "10"


@pytest.mark.parametrize("isolated", [False, True])
def test_an_index_that_nobody_has_gives_back_one_open(tmp_path: Path, isolated: bool) -> None:
    engine = BGEM3(FakeEncoder())
    first, second, third = (
        HybridIndex.open(tmp_path / "index", engine, isolated=isolated, create=True)
        for _ in range(3)
    )
    first.add(OLD)
    first.close()
    first.close()
    assert "where 2 opens of it are not closed" in run(tmp_path / "index", "pass")
    del second
    gc.collect()
    assert "opens" not in run(tmp_path / "index", "pass")
    assert third.count() == len(OLD)
    del third, first
    gc.collect()
    assert not EdgeStore.is_open(tmp_path / "index")
    assert not ProcessStore.is_open(tmp_path / "index")
    with HybridIndex.open(tmp_path / "index", engine) as again:
        assert again.count() == len(OLD)


def test_an_index_in_a_cycle_of_garbage_releases_its_folder(tmp_path: Path) -> None:
    index = HybridIndex.open(tmp_path / "index", BGEM3(FakeEncoder()))
    index.add(OLD)
    index.myself = index  # type: ignore[attr-defined]
    del index
    gc.collect()
    assert not EdgeStore.is_open(tmp_path / "index")


def test_an_adapter_that_nobody_has_releases_its_folder(tmp_path: Path) -> None:
    held = BGEM3VectorStore(BGEM3(FakeEncoder()), path=tmp_path / "index")
    held.add_texts(["fox"], ids=["a"])
    retriever = held.as_retriever()
    del held
    gc.collect()
    assert retriever.invoke("fox")[0].id == "a"
    del retriever
    gc.collect()
    assert not EdgeStore.is_open(tmp_path / "index")


def test_a_store_that_is_still_had_outlives_its_index(tmp_path: Path) -> None:
    store = HybridIndex.open(tmp_path / "index", BGEM3(FakeEncoder()), create=True).store
    gc.collect()
    assert store.count() == 0
    other = HybridIndex.open(tmp_path / "index", BGEM3(FakeEncoder()))
    other.close()
    with pytest.raises(StoreError, match="closed"):
        store.count()


def test_garbage_that_is_collected_while_the_folder_is_being_opened_is_closed_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the collector may come at any moment, also in the thread that has the folder's turn."""
    held = [open_store(tmp_path / "index"), open_store(tmp_path / "index")]
    held.pop()
    check = OpenIndex.check_same

    def dropping(self: OpenIndex) -> None:
        check(self)
        held.clear()

    monkeypatch.setattr(OpenIndex, "check_same", dropping)
    store = EdgeStore.open(tmp_path / "index")
    assert store.count() == 0
    del store
    gc.collect()
    assert not EdgeStore.is_open(tmp_path / "index")


def test_threads_that_close_one_index_at_once_close_one_open(tmp_path: Path) -> None:
    engine = BGEM3(FakeEncoder())
    for _ in range(10):
        kept = HybridIndex.open(tmp_path / "index", engine, create=True)
        index = HybridIndex.open(tmp_path / "index", engine)
        with ThreadPoolExecutor(8) as threads:
            for _ in range(8):
                threads.submit(index.close)
        assert kept.count() == 0
        kept.close()


def test_opening_closing_and_dropping_in_threads_keeps_every_record(tmp_path: Path) -> None:
    engine = BGEM3(FakeEncoder())

    def use(number: int) -> None:
        for turn in range(6):
            index = HybridIndex.open(tmp_path / "index", engine)
            index.add([Record(f"{number}-{turn}", f"fox {number} {turn}")])
            if turn % 2:
                index.close()

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(use, number) for number in range(6)]:
            done.result()
    gc.collect()
    assert not EdgeStore.is_open(tmp_path / "index")
    with HybridIndex.open(tmp_path / "index", engine) as index:
        assert index.count() == 36


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@KINDS
def test_a_forked_child_that_drops_an_index_releases_nothing(tmp_path: Path, kind: str) -> None:
    program = f"""
import gc, json, os, sys; from pathlib import Path
from tests.unit.stores.edge.programs import *
path = Path(sys.argv[1])
store = OPEN[{kind!r}](path); store.upsert(NEW, encoded(NEW)); OPEN[{kind!r}](path)
if (child := os.fork()) == 0:
    del store; gc.collect(); os._exit(0)
os.waitpid(child, 0)
assert json.loads((path / "holder.json").read_text())["opens"] == 2
print(run(path, "pass")); print(store.count())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "index")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    refused, count = done.stdout.splitlines()
    assert "is in use by process" in refused
    assert count == "5"


def test_threads_that_open_and_drop_a_folder_are_never_refused_by_their_own_process(
    tmp_path: Path,
) -> None:
    engine = BGEM3(FakeEncoder())
    HybridIndex.open(tmp_path / "index", engine, create=True).close()

    def use(number: int) -> None:
        for turn in range(15):
            index = HybridIndex.open(tmp_path / "index", engine)
            assert index.count() == 0
            if (number + turn) % 2:
                index.close()

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(use, number) for number in range(8)]:
            done.result()


def test_a_holder_whose_count_is_damaged_is_still_named(tmp_path: Path) -> None:
    store = open_store(tmp_path / "index")
    file = tmp_path / "index" / "holder.json"
    held = json.loads(file.read_text())
    for opens in ("x", None, [], -1):
        file.write_text(json.dumps({**held, "opens": opens}))
        assert "is in use by" in run(tmp_path / "index", "pass")
    file.unlink()
    open_store(tmp_path / "index").close()
    store.close()
