from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import StrEnum
from multiprocessing.connection import Client
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import psutil
import pytest

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.core.embeddings import ALL_MODES, EmbeddingBatch
from bge_m3_integrations.core.filters import Compare, Not, Predicate
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import FilterError, InputError, StoreError
from bge_m3_integrations.langchain import BGEM3VectorStore
from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig, ProcessStore
from bge_m3_integrations.stores.edge.folder.folder import Folder
from bge_m3_integrations.stores.edge.process import index_process
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.stores.edge.programs import (
    ENCODER,
    OPTIONS,
    encoded,
    holder_of,
    open_apart,
    open_store,
)

RECORDS = [Record(f"{i:04}", f"fox number{i}", {"n": i}) for i in range(350)]
"""More than three messages of a list."""
ROOT = Path(__file__).parents[5]
by_signal = pytest.mark.skipif(os.name == "nt", reason="kills by signal")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProcessStore]:
    opened = open_apart(tmp_path / "index")
    yield opened
    opened.close()


def query() -> EmbeddingBatch:
    return ENCODER.encode(["fox"], kind="query", modes=ALL_MODES)


def pid_of(store: ProcessStore) -> int:
    return store._process._child.pid


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def soon(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


# -- one process per folder ----------------------------------------------------------------------


def test_another_process_holds_the_folder_and_ends_with_the_last_handle(tmp_path: Path) -> None:
    path = tmp_path / "index"
    first = open_apart(path)
    second = open_apart(path)
    assert second is first
    assert holder_of(path) == pid_of(first) != os.getpid()
    first.close()
    assert second.count() == 0
    second.close()
    second.close()
    assert first._process._child.returncode == 0
    inside = open_store(path)
    assert holder_of(path) == os.getpid()
    inside.close()


def test_a_second_open_must_not_contradict_the_first(store: ProcessStore) -> None:
    with pytest.raises(StoreError, match="dim") as caught:
        ProcessStore.open(store.path, FolderConfig(dim=9))
    assert any("In the other process" in note for note in caught.value.__notes__)
    store.close()
    assert not ProcessStore.is_open(store.path)  # the refused one holds nothing


@pytest.mark.parametrize("isolated", [True, False])
def test_all_opens_of_a_folder_share_what_the_first_opened(tmp_path: Path, isolated: bool) -> None:
    engine = BGEM3(FakeEncoder())
    with HybridIndex.open(tmp_path / "index", engine, isolated=isolated, create=True) as first:
        assert isinstance(first.store, ProcessStore if isolated else EdgeStore)
        with HybridIndex.open(tmp_path / "index", engine, isolated=not isolated) as second:
            assert second.store is first.store
        first.add([Record("a", "fox")])
        assert [hit.id for hit in first.search("fox")] == ["a"]


def test_a_process_that_does_not_start_says_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_process, "_PROGRAM", "no.such.program")
    with pytest.raises(StoreError, match="ended with exit code 1"):
        open_apart(tmp_path / "index")
    monkeypatch.undo()
    open_apart(tmp_path / "index").close()


def test_an_index_that_cannot_be_opened_leaves_no_process(tmp_path: Path) -> None:
    held = open_store(tmp_path / "index")
    before = psutil.Process().children()
    with pytest.raises(StoreError, match=f"in use by process {os.getpid()}"):
        ProcessStore.open(held.path, FolderConfig(**OPTIONS))
    assert psutil.Process().children() == before
    held.close()
    open_apart(tmp_path / "index").close()


def test_another_process_hears_who_holds_it_and_for_whom(store: ProcessStore) -> None:
    with pytest.raises(StoreError, match=f"process {pid_of(store)} for process {os.getpid()} on"):
        open_store(store.path)


@by_signal
@pytest.mark.parametrize("gone", [True, False])
def test_the_folder_of_a_caller_that_is_gone_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    monkeypatch.setattr(Folder, "caller", ended.pid if gone else os.getpid())
    held = Folder(tmp_path)
    if gone:
        timer = threading.Timer(0.3, held.release)
        timer.start()
        Folder(tmp_path).release()
        timer.join()
    else:
        with pytest.raises(StoreError, match="in use by"):
            Folder(tmp_path)
        held.release()


def test_a_vector_store_searches_its_folder_apart(tmp_path: Path) -> None:
    held = BGEM3VectorStore(BGEM3(FakeEncoder()), path=tmp_path / "index", isolated=True)
    held.add_texts(["fox", "bridge"], ids=["a", "b"])
    assert holder_of(tmp_path / "index") != os.getpid()
    assert held.similarity_search("fox", k=1)[0].id == "a"
    held.close()


# -- calls ---------------------------------------------------------------------------------------


def test_long_answers_arrive_whole_and_in_order(
    store: ProcessStore,
) -> None:
    store.upsert(RECORDS, encoded(RECORDS))
    ids = [record.id for record in RECORDS]
    assert list(store.ids()) == ids
    assert list(store.ids(Compare("n", "$lt", 150))) == ids[:150]
    assert store.get(ids) == RECORDS
    assert store.text_hashes([*ids, "unknown"]) == [*(r.text_hash for r in RECORDS), None]
    page = store.scroll(limit=250)
    assert (list(page.records), page.after) == (RECORDS[:250], ids[249])
    rest = store.scroll(after=page.after, limit=250)
    assert (list(rest.records), rest.after) == (RECORDS[250:], None)
    assert len(store.find(query(), "dense", limit=300)[0]) == 300


def test_its_numbers_are_those_of_the_same_index_inside(tmp_path: Path) -> None:
    path = tmp_path / "index"
    ids = [record.id for record in RECORDS]
    isolated = open_apart(path)
    isolated.upsert(RECORDS, encoded(RECORDS))
    found = [isolated.find(query(), mode, limit=20) for mode in ("dense", "sparse", "colbert")]
    scores, vectors = isolated.score(query(), [ids], ALL_MODES)[0], isolated.vectors(ids, ALL_MODES)
    isolated.close()
    inside = open_store(path)
    assert [inside.find(query(), m, limit=20) for m in ("dense", "sparse", "colbert")] == found
    for mode, row in inside.score(query(), [ids], ALL_MODES)[0].items():
        np.testing.assert_array_equal(dict(scores.items())[mode], row)
    expected = inside.vectors(ids, ALL_MODES)
    assert expected.colbert is not None
    assert vectors.colbert is not None
    np.testing.assert_array_equal(vectors.colbert.vectors, expected.colbert.vectors)
    np.testing.assert_array_equal(vectors.dense, expected.dense)
    inside.close()


def test_bad_input_is_the_same_error_and_writes_nothing(store: ProcessStore) -> None:
    with pytest.raises(InputError):
        store.upsert(RECORDS[:2], encoded(RECORDS[:1]))
    with pytest.raises(InputError, match="bytes"):
        store.upsert([Record("a", "fox", {"raw": b"1"})], encoded(RECORDS[:1]))
    with pytest.raises(InputError, match="bytes"):
        store.check_records([Record("a", "fox", {"raw": b"1"})])
    with pytest.raises(StoreError, match="unknown ids"):
        store.vectors(["nobody"], ["dense"])
    assert store.count() == 0


def test_a_python_function_looks_at_the_records_in_this_process(tmp_path: Path) -> None:
    with HybridIndex.open(tmp_path / "index", BGEM3(FakeEncoder()), isolated=True) as index:
        index.add(RECORDS[:10])
        found = index.search("fox", where=lambda metadata: metadata["n"] in {3, 5})
        assert {hit.id for hit in found} == {"0003", "0005"}
        with pytest.raises(FilterError, match="does not go to the process of the index"):
            index.store.count(Predicate(lambda metadata: True))


class Lang(StrEnum):
    EN = "en"


def test_values_arrive_as_json_has_them_whatever_their_classes(store: ProcessStore) -> None:
    metadata = MappingProxyType({"lang": Lang.EN, "n": 1})
    store.upsert([Record("a", "fox", metadata)], encoded(RECORDS[:1]))
    assert store.get(["a"]) == [Record("a", "fox", {"lang": "en", "n": 1})]
    assert store.count(Compare("lang", "$eq", Lang.EN)) == 1
    assert store.count(Not(Compare("lang", "$in", [Lang.EN, "de"]))) == 0
    modes = dict.fromkeys(["dense"]).keys()
    assert store.vectors(["a"], modes).dense is not None


def test_what_the_other_process_cannot_unpack_is_an_error_and_no_end(store: ProcessStore) -> None:
    with pytest.raises(Exception, match="no bytes for you"):
        store._ask("get", Unpackable())
    assert store.count() == 0


class Unpackable:
    def __reduce__(self) -> Any:
        return exec, ("raise ValueError('no bytes for you')",)


def test_who_does_not_know_the_key_gets_no_answer(store: ProcessStore) -> None:
    stranger = Client(store._process._address)
    stranger.send_bytes(b"x" * 32)
    with pytest.raises((EOFError, OSError)):
        stranger.recv_bytes()
    with Client(store._process._address):  # says nothing, and nobody waits for it
        store._process._idle.clear()
        assert store.count() == 0


def test_many_threads_search_while_one_writes(store: ProcessStore) -> None:
    store.upsert(RECORDS[:100], encoded(RECORDS[:100]))
    expected = store.find(query(), "sparse", limit=50, where=Compare("n", "$lt", 100))

    def search(_: int) -> Any:
        return store.find(query(), "sparse", limit=50, where=Compare("n", "$lt", 100))

    with ThreadPoolExecutor(8) as threads:
        searches = threads.map(search, range(60))
        for start in range(100, 350, 50):
            store.upsert(RECORDS[start : start + 50], encoded(RECORDS[start : start + 50]))
        assert all(found == expected for found in searches)
    assert store.count() == 350


def test_what_takes_long_tells_its_progress_and_changes_the_manifest(
    store: ProcessStore,
) -> None:
    store.upsert(RECORDS, encoded(RECORDS))
    told: list[str] = []
    store.set_filter_fields(["n"], progress=told.append)
    assert told[-1] == "done"
    assert store.manifest.filter_fields == ("n",)
    before = store.manifest.generation
    store.compact(progress=told.append)
    assert any(text.startswith("copying") for text in told)
    assert store.manifest.generation == before + 1
    store.optimize()
    assert store.count(Compare("n", "$lt", 10)) == 10


def test_an_error_of_progress_is_raised_as_it_is_and_the_index_goes_on(
    store: ProcessStore,
) -> None:
    store.upsert(RECORDS, encoded(RECORDS))

    def broken(text: str) -> None:
        raise ConnectionError(text)

    with pytest.raises(ConnectionError, match="copying"):
        store.compact(progress=broken)
    assert store.count() == 350
    assert soon(lambda: is_writable(store))


def is_writable(store: ProcessStore) -> bool:
    try:
        store.upsert(RECORDS[:1], encoded(RECORDS[:1]))
    except StoreError as error:
        return "being optimised" not in str(error)
    return True


def test_a_backup_lies_where_the_caller_says(
    store: ProcessStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert(RECORDS, encoded(RECORDS))
    monkeypatch.chdir(tmp_path)
    store.backup("copy")
    copied = open_store(tmp_path / "copy")
    assert copied.count() == 350
    copied.close()


# -- ends ----------------------------------------------------------------------------------------


@by_signal
def test_after_its_process_was_killed_every_call_says_so_and_no_write_is_lost(
    store: ProcessStore,
) -> None:
    store.upsert(RECORDS, encoded(RECORDS))
    os.kill(pid_of(store), signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"pid \d+\) was killed by SIGKILL.*open it again"):
            store.count()
    store.close()
    again = open_apart(store.path)
    assert again.count() == 350
    again.close()


@by_signal
def test_a_call_that_waits_hears_of_the_end(
    store: ProcessStore,
) -> None:
    store.upsert(RECORDS, encoded(RECORDS))
    killer = threading.Timer(0.3, os.kill, (pid_of(store), signal.SIGKILL))
    killer.start()
    with pytest.raises(StoreError, match="killed by SIGKILL"):
        find_on_and_on(store)
    killer.join()


def find_on_and_on(store: ProcessStore) -> None:
    while True:
        store.find(query(), "colbert", limit=10)


@by_signal
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_what_ends_a_group_of_processes_leaves_it_to_its_caller(
    store: ProcessStore, name: str
) -> None:
    store.upsert(RECORDS, encoded(RECORDS))
    os.kill(pid_of(store), getattr(signal, name))
    time.sleep(0.1)
    assert store.count() == 350


def test_a_closed_one_says_so_and_keeps_its_manifest(store: ProcessStore) -> None:
    before = store.manifest
    store.close()
    with pytest.raises(StoreError, match="closed; open it again"):
        store.count()
    assert store.manifest == before


def test_closing_waits_for_calls_that_run(
    store: ProcessStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert(RECORDS, encoded(RECORDS))
    said: list[str] = []
    started = threading.Event()
    send, answer = index_process.send, index_process._answer

    def sent(connection: Any, call: Any) -> None:
        send(connection, call)
        said.append(call.name)
        started.set()

    def answered(*arguments: Any) -> Any:
        found = answer(*arguments)
        said.append("answer")
        return found

    monkeypatch.setattr(index_process, "send", sent)
    monkeypatch.setattr(index_process, "_answer", answered)
    with ThreadPoolExecutor() as threads:
        found = threads.submit(store.find, query(), "colbert", limit=300)
        started.wait()
        store.close()
        assert len(found.result()[0]) == 300
    assert said == ["find", "answer", "close", "answer"]


def test_what_closes_it_while_it_tells_its_progress_does_not_wait_for_itself(
    store: ProcessStore,
) -> None:
    def closing(text: str) -> None:
        store.close()

    store.set_filter_fields(["n"], progress=closing)
    assert not store._process.alive


def test_an_error_of_the_callers_own_signal_handler_is_no_end(
    store: ProcessStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*arguments: Any) -> Any:
        raise TimeoutError("mine")

    with monkeypatch.context() as patched:
        patched.setattr(index_process, "_answer", late)
        with pytest.raises(TimeoutError, match="mine"):
            store.count()
    assert store.count() == 0


@by_signal
def test_a_dead_process_is_replaced_for_who_opens_the_index_again(
    store: ProcessStore,
) -> None:
    store.upsert(RECORDS, encoded(RECORDS))
    os.kill(pid_of(store), signal.SIGKILL)
    with pytest.raises(StoreError, match="SIGKILL"):
        store.count()
    again = open_apart(store.path)  # though the first one was not closed
    assert again is not store
    store.close()
    assert again.count() == 350
    again.close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, as in a program of one's own; a worker of the test runner ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@by_signal
@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_write_has_ended_when_the_interruption_is_raised(
    store: ProcessStore,
) -> None:
    numbers = encoded(LONG)
    for pause in (0.03, 0.05, 0.07, 0.09, 0.11):
        interrupting = threading.Timer(pause, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            write_on_and_on(store, numbers, interrupting)
        held = store.get([record.id for record in LONG])
        assert len({record and record.metadata["round"] for record in held}) == 1


LONG = [Record(f"long-{i}", "fox bridge " * 200) for i in range(60)]
"""Some twenty calls of the engine."""


def write_on_and_on(
    store: ProcessStore, numbers: EmbeddingBatch, interrupting: threading.Timer
) -> None:
    for number in range(1000):
        store.upsert([replace(record, metadata={"round": number}) for record in LONG], numbers)
        if number == 1:
            interrupting.start()


PROGRAM = """
import sys
from pathlib import Path
from tests.unit.stores.edge.programs import encoded, open_apart
from tests.unit.stores.edge.process.test_client import RECORDS, pid_of
store = open_apart(Path(sys.argv[1]))
store.upsert(RECORDS, encoded(RECORDS))
print(pid_of(store), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("kill", [True, False])
def test_it_ends_with_the_process_that_started_it(tmp_path: Path, kill: bool) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "index")]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if kill:
            parent.kill()
        parent.communicate("\n")
    if kill:
        assert soon(lambda: not is_running(pid))
    else:
        assert parent.returncode == 0
        assert not is_running(pid)  # it was waited for
    held = open_apart(tmp_path / "index")
    assert held.count() == 350
    held.close()
