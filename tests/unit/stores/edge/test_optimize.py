from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations.core.embeddings import ALL_MODES
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge import EdgeStore, Manifest, optimize
from bge_m3_integrations.stores.edge.folder import files
from tests.unit.stores.edge.programs import ENCODER, MOMENTS, Witness, encoded, open_store

RECORDS = [Record(f"{i}", f"number{i} fox", {"i": i}) for i in range(40)]
QUERY = ENCODER.encode(["number7 fox"], kind="query", modes=ALL_MODES)
Seen = list[tuple[str, float]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    opened = open_store(tmp_path / "index")
    opened.upsert(RECORDS, encoded(RECORDS))
    yield opened
    opened.close()


def shards(store: EdgeStore) -> list[str]:
    return sorted(file.name for file in store.path.iterdir() if file.name.startswith("shard"))


def found(store: EdgeStore) -> dict[str, Seen]:
    return {
        mode: [(hit.id, round(hit.score, 6)) for hit in store.find(QUERY, mode, limit=5)[0]]
        for mode in ("dense", "sparse", "colbert")
    }


def check_holds_all(store: EdgeStore) -> None:
    ids = [record.id for record in RECORDS]
    assert store.get(ids) == RECORDS
    assert store.count() == len(RECORDS)
    np.testing.assert_allclose(store.vectors(ids, ["dense"]).dense, encoded(RECORDS).dense)


def test_optimising_apart_replaces_the_shard_while_searches_go_on(store: EdgeStore) -> None:
    before, told, refused = found(store), [], []
    answers: list[dict[str, Seen]] = []
    stop, errors = threading.Event(), []

    def search() -> None:
        try:
            while not stop.is_set():
                answers.append(found(store))
                assert len(store.get(["1", "2"])) == 2
        except BaseException as error:
            errors.append(error)

    def progress(what: str) -> None:
        told.append(what)
        if what == "done":
            return
        for write in (
            lambda: store.upsert(RECORDS[:1], encoded(RECORDS[:1])),
            lambda: store.rewrite(RECORDS[:1]),
            lambda: store.delete(ids=["0"]),
            store.optimize,
            lambda: store.optimize(isolated=True),
            store.compact,
        ):
            with pytest.raises(StoreError, match="is being optimized and cannot be written to"):
                write()
            refused.append(write)
        store.flush()
        answers.append(found(store))

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    store.optimize(isolated=True, progress=progress)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(refused) >= 12
    assert all(answer == before for answer in answers)
    assert told[0].startswith("copying ")
    assert told[1].startswith("building, 0 s")
    assert told[-1] == "done"
    assert shards(store) == ["shard-0002"]
    held = Manifest.read(store.path)
    assert held == store.manifest
    assert held is not None
    assert held.shard == "shard-0002"
    check_holds_all(store)
    assert found(store) == before
    other = Record("other", "stone")
    store.upsert([other], encoded([other]))
    store.close()
    again = EdgeStore.open(store.path)
    assert again.get(["other"]) == [other]
    again.delete(ids=["other"])
    check_holds_all(again)
    again.close()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('out of luck')", "ended with 1: out of luck"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with -9"),
    ],
)
def test_a_process_that_fails_leaves_the_index_as_it_was(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    popen = subprocess.Popen

    def failing(command: list[str], **options: Any) -> subprocess.Popen[str]:
        assert command[:3] == [sys.executable, "-P", "-m"]
        return popen([sys.executable, "-c", code], **options)

    monkeypatch.setattr(optimize.subprocess, "Popen", failing)
    with pytest.raises(StoreError, match=f"{said}.*the index is as before"):
        store.optimize(isolated=True)
    assert shards(store) == ["shard-0001"]
    assert Manifest.read(store.path) == store.manifest
    check_holds_all(store)
    store.upsert(RECORDS, encoded(RECORDS))


@pytest.mark.parametrize("at", ["copying", "building"])
def test_a_progress_that_raises_stops_it_and_leaves_the_index_as_it_was(
    store: EdgeStore, at: str
) -> None:
    def progress(what: str) -> None:
        if what.startswith(at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.optimize(isolated=True, progress=progress)
    assert shards(store) == ["shard-0001"]
    check_holds_all(store)
    store.upsert(RECORDS, encoded(RECORDS))


def test_a_copy_that_fails_leaves_the_index_as_it_was(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.shutil, "copytree", full)
    with pytest.raises(StoreError, match=r"No space left.*as before"):
        store.optimize(isolated=True)
    assert shards(store) == ["shard-0001"]
    check_holds_all(store)


def test_optimising_in_place_keeps_everything_and_tells_so(store: EdgeStore) -> None:
    told: list[str] = []
    store.delete(ids=["3"])
    store.upsert(RECORDS[3:4], encoded(RECORDS[3:4]))
    before = found(store)
    store.optimize(progress=told.append)
    assert told == ["building", "done"]
    assert shards(store) == ["shard-0001"]
    assert found(store) == before
    check_holds_all(store)


def test_compacting_gives_the_room_of_deleted_records_back(store: EdgeStore) -> None:
    many = [Record(f"many-{i}", "stone " * 60) for i in range(300)]
    store.upsert(many, encoded(many))
    store.delete(ids=[record.id for record in many])
    store.compact()
    info = store._shard._run(lambda held: held.info())
    assert info.points_count == len(RECORDS)
    check_holds_all(store)
    assert shards(store) == ["shard-0002"]


def test_closing_waits_for_an_optimisation_that_runs(store: EdgeStore) -> None:
    states: list[bool] = []
    closer = threading.Thread(target=store.close)

    def progress(what: str) -> None:
        if what.startswith("building, 0"):
            closer.start()
            closer.join(0.2)
        if what == "done":
            states.append(closer.is_alive())

    store.optimize(isolated=True, progress=progress)
    closer.join()
    assert states == [True]
    again = EdgeStore.open(store.path)
    check_holds_all(again)
    again.close()


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
@pytest.mark.parametrize("via", ["store", "index", "isolated"])
def test_an_index_survives_being_killed(tmp_path: Path, via: str) -> None:
    witness = Witness(tmp_path / "index", via)
    for number, moment in enumerate(MOMENTS[:3]):
        witness.check_a_kill(number, moment)
    assert witness.acknowledged > 1000


def test_a_copy_that_cannot_be_loaded_leaves_the_old_shard_in_force(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StoreError("the copy is unreadable")

    with monkeypatch.context() as patched:
        patched.setattr(optimize, "CheckedShard", refuse)
        with pytest.raises(StoreError, match="unreadable"):
            store.optimize(isolated=True)
    assert shards(store) == ["shard-0001"]
    later = Record("later", "number41 fox")
    store.upsert([later], encoded([later]))
    path = store.path
    store.close()
    again = EdgeStore.open(path)
    try:
        assert again.get(["0", "later"]) == [RECORDS[0], later]
        again.optimize(isolated=True)
        assert again.get(["later"]) == [later]
    finally:
        again.close()
