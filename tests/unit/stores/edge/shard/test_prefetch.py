from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bge_m3_integrations.stores.edge.shard import prefetch
from bge_m3_integrations.stores.edge.shard.prefetch import (
    THREAD,
    Prefetcher,
    read_through,
    token_files,
)
from tests.unit.stores.edge.programs import Version, encoded, open_store, record_of

RECORDS = [record_of(i, Version("1", "1")) for i in range(40)]


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


class Reading:
    """Stands in for `read_through`: notes what it is given and waits to be stopped."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[Path], int]] = []
        self.begun = threading.Semaphore(0)

    def __call__(self, files: list[Path], most_bytes: int, stop: threading.Event) -> int:
        self.calls.append((files, most_bytes))
        self.begun.release()
        assert stop.wait(10)
        return 0


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reading]:
    stub = Reading()
    monkeypatch.setattr(prefetch, "read_through", stub)
    monkeypatch.setattr(prefetch, "LEAST", 1)
    yield stub
    assert not running()


def test_every_byte_of_the_token_vectors_is_read_and_nothing_else(tmp_path: Path) -> None:
    store = open_store(tmp_path / "index")
    store.upsert(RECORDS, encoded(RECORDS))
    store.flush()
    files = token_files(tmp_path / "index" / store.manifest.shard)
    assert files
    assert all("vector_storage-colbert" in file.parts for file in files)
    size = sum(file.stat().st_size for file in files)
    assert read_through(files, size * 2, threading.Event()) == size
    store.close()


def test_reading_ends_at_its_bound_and_when_it_is_stopped(tmp_path: Path) -> None:
    files = [tmp_path / str(i) for i in range(4)]
    for file in files:
        file.write_bytes(bytes(1000))
    assert read_through(files, 1500, threading.Event()) == 2000
    stopped = threading.Event()
    stopped.set()
    assert read_through(files, 10**6, stopped) == 0


def test_a_file_that_vanished_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(bytes(10))
    files = [tmp_path / "gone", tmp_path / "there"]
    assert read_through(files, 10**6, threading.Event()) == 10


def test_an_open_index_reads_ahead_and_closing_stops_it(tmp_path: Path, reading: Reading) -> None:
    store = open_store(tmp_path / "index")
    store.upsert(RECORDS, encoded(RECORDS))
    store.close()
    store = open_store(tmp_path / "index")
    assert reading.begun.acquire(timeout=10)
    files, most = reading.calls[-1]
    now = token_files(tmp_path / "index" / store.manifest.shard)
    # the engine makes small files of its own while it opens
    assert {file for file in now if "vectors" in file.parts} <= set(files) <= set(now)
    assert 0 < most <= prefetch.memory_bytes()
    assert len(running()) == 1
    store.close()


def test_another_start_replaces_the_first(tmp_path: Path, reading: Reading) -> None:
    file = tmp_path / "segments" / "a" / "vector_storage-colbert" / "chunk"
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(10))
    held = Prefetcher()
    held.start(tmp_path)
    held.start(tmp_path)
    assert len(running()) == 1
    assert len(reading.calls) == 2
    held.close()
    held.close()


def test_a_small_index_starts_no_thread(tmp_path: Path) -> None:
    store = open_store(tmp_path / "index")
    store.upsert(RECORDS, encoded(RECORDS))
    store.close()
    store = open_store(tmp_path / "index")
    assert not running()
    store.close()


def with_token_file(folder: Path, size: int) -> Path:
    file = folder / "segments" / "a" / "vector_storage-colbert" / "chunk"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * size)
    return folder


def ended(held: Prefetcher) -> bool:
    """Whether everything is in memory once the thread has ended."""
    assert held._thread is not None
    held._thread.join(10)
    return held.done


def test_it_is_done_once_everything_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "LEAST", 1)
    held = Prefetcher()
    assert not held.done
    held.start(with_token_file(tmp_path, 100_000))
    assert ended(held)
    held.close()


def test_it_is_not_done_while_it_reads_nor_when_it_was_stopped(
    tmp_path: Path, reading: Reading
) -> None:
    held = Prefetcher()
    held.start(with_token_file(tmp_path, 10))
    assert not held.done
    held.close()
    assert not held.done


def test_it_is_not_done_where_memory_holds_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "LEAST", 1)
    monkeypatch.setattr(prefetch, "memory_bytes", lambda: 100)
    held = Prefetcher()
    held.start(with_token_file(tmp_path, 100_000))
    assert not ended(held)
    held.close()


def test_what_is_written_anew_is_to_be_read_anew(
    tmp_path: Path, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, place = Prefetcher(), with_token_file(tmp_path, 10)
    monkeypatch.setattr(prefetch, "LEAST", 100_000)
    held.start(place)
    assert held.done
    monkeypatch.setattr(prefetch, "LEAST", 1)
    held.start(place)
    assert not held.done
    held.close()
