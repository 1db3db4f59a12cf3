"""A disk that is full, or nearly: errors that say so, and everything acknowledged still there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge import EdgeStore, restore
from bge_m3_integrations.stores.edge.folder import files
from bge_m3_integrations.stores.edge.folder.files import size_on_disk
from tests.unit.stores.edge.fill_by_threads import RECORDS
from tests.unit.stores.edge.programs import ENCODER, encoded, open_store

ROOT = Path(__file__).parents[5]
SOME = [Record(f"id-{i}", f"fox {i}", {"n": i}) for i in range(30)]
OPENED = """
import sys
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge import EdgeStore
try:
    store = EdgeStore.open(sys.argv[1])
    print(store.count())
    store.close()
except StoreError as error:
    print(error)
"""


def filled(folder: Path) -> Path:
    store = open_store(folder)
    store.upsert(SOME, encoded(SOME))
    store.close()
    return folder


def free(monkeypatch: pytest.MonkeyPatch, mib: int) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=mib << 20))


def occupied(disk: Path, mib: int) -> None:
    """Fill a disk but for so much."""
    size = shutil.disk_usage(disk).free - (mib << 20)
    subprocess.run(["fallocate", "-l", str(size), disk / "rest"], check=True)


def test_threads_that_fill_a_disk_get_errors_and_lose_nothing(
    mounted: Callable[..., Path],
) -> None:
    disk = mounted("-t", "tmpfs", "-o", "size=300m", "tmpfs")
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.stores.edge.fill_by_threads", disk / "index"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    kept = [thread for thread, text in said["said"].items() if text == "done"]
    assert kept
    assert len(kept) < 12
    assert all("MiB are free" in said["said"][i] for i in said["said"] if i not in kept)
    assert all("MiB are free" in text for text in said["ends"])
    (disk / "rest").unlink()
    store = EdgeStore.open(disk / "index")
    wanted = sorted(f"{i}-{n}" for i in kept for n in range(1, RECORDS))
    assert list(store.ids()) == wanted
    store.close()


@pytest.mark.parametrize("mib", [0, 1, 5, 20, 39])
def test_an_index_is_not_opened_where_that_may_fill_the_disk(
    mounted: Callable[..., Path], mib: int
) -> None:
    disk = mounted("-t", "tmpfs", "-o", "size=200m", "tmpfs")
    index = filled(disk / "index")
    occupied(disk, mib)
    command = [sys.executable, "-c", OPENED, index]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"only {mib} MiB are free" in done.stdout or "No space left" in done.stdout
    (disk / "rest").unlink()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "30\n"


def test_opening_asks_for_room_and_says_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = filled(tmp_path / "index")
    free(monkeypatch, 39)
    with pytest.raises(StoreError, match=r"may need 40 MiB in .*, but only 39 MiB are free"):
        EdgeStore.open(index)
    free(monkeypatch, 40)
    store = EdgeStore.open(index)
    assert store.count() == 30
    store.close()


def test_a_disk_that_fills_up_while_a_write_waits_is_noticed_under_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "index")
    store.upsert(SOME[:1], encoded(SOME[:1]))
    changing = store._index.changing

    def late() -> object:
        free(monkeypatch, 90)
        return changing()

    monkeypatch.setattr(store._index, "changing", late)
    for write in (
        lambda: store.upsert(SOME, encoded(SOME)),
        lambda: store.rewrite(SOME[:1]),
        lambda: store.delete(ids=["id-0"]),
    ):
        free(monkeypatch, 1000)
        with pytest.raises(StoreError, match="only 90 MiB are free; nothing was written"):
            write()
    monkeypatch.undo()
    assert store.get(["id-0", "id-1"]) == [SOME[0], None]
    store.close()


def test_a_write_that_was_cut_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "index")
    many = [Record(f"many-{i}", f"fox {i}") for i in range(300)]
    write = store._shard.write

    def then_full(*given: object, **options: object) -> None:
        write(*given, **options)  # type: ignore[arg-type]
        free(monkeypatch, 90)

    monkeypatch.setattr(store._shard, "write", then_full)
    with pytest.raises(StoreError, match="first records of the batch were written, the others not"):
        store.upsert(many, encoded(many))
    monkeypatch.undo()
    assert store.count() == 256
    store.upsert(many, encoded(many))
    assert store.count() == 300
    store.close()


def test_flushing_and_closing_ask_for_room_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "index")
    store.upsert(SOME, encoded(SOME))
    free(monkeypatch, 3)
    for call in (store.flush, store.close):
        with pytest.raises(StoreError, match="only 3 MiB are free; nothing is lost"):
            call()
    assert store.count() == 30
    monkeypatch.undo()
    store.close()
    store = open_store(tmp_path / "index")
    assert store.count() == 30
    store.close()


def test_holes_are_copied_as_holes(tmp_path: Path) -> None:
    index = filled(tmp_path / "index")
    size = size_on_disk(index)
    store = EdgeStore.open(index)
    store.backup(tmp_path / "backup")
    store.close()
    restore(tmp_path / "backup", tmp_path / "restored")
    for copy in (tmp_path / "backup", tmp_path / "restored"):
        assert size_on_disk(copy) < 1.2 * size
        again = EdgeStore.open(copy)
        assert again.get([record.id for record in SOME]) == SOME
        again.close()


@pytest.mark.parametrize("told", [True, False])
def test_a_copy_has_the_same_bytes_wherever_the_holes_are(
    tmp_path: Path, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not told:
        monkeypatch.delattr(files.os, "SEEK_DATA", raising=False)
    contents = {
        "empty": b"",
        "hole": bytes(5_000_000),
        "end": bytes(3_000_000) + b"x",
        "start": b"x" + bytes(3_000_001),
        "dense": bytes(range(1, 256)) * 20_000,
        "mixed": b"".join(bytes(9_000) + b"y" * 5_000 for _ in range(300)),
    }
    for name, content in contents.items():
        source, target = tmp_path / name, tmp_path / f"{name}.copy"
        with source.open("wb") as file:
            for start in range(0, len(content), 1000):
                if any(part := content[start : start + 1000]):
                    file.seek(start)
                    file.write(part)
            file.truncate(len(content))
        files.copy_file(str(source), str(target))
        assert target.read_bytes() == content
        blocks = [content[i : i + 4096] for i in range(0, len(content), 4096)]
        assert target.stat().st_blocks <= 8 * sum(map(any, blocks)) + 24


@pytest.mark.parametrize("copied", ["backup", "restore", "copy_to"])
def test_a_copy_that_finds_no_room_leaves_nothing_and_says_why(
    tmp_path: Path, copied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = filled(tmp_path / "index")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "target"
    store = None if copied == "restore" else EdgeStore.open(index)
    copies: dict[str, Callable[[], object]] = {
        "restore": lambda: HybridIndex.restore(index, target),
        "backup": lambda: store and store.backup(target),
        "copy_to": lambda: store and copy_of(store, target),
    }
    monkeypatch.setattr(files, "copy_file", full)
    monkeypatch.setattr("bge_m3_integrations.stores.edge.folder.files.os.fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        copies[copied]()
    monkeypatch.undo()
    assert not target.exists()
    if store is not None:
        store.close()
    store = EdgeStore.open(index)
    assert store.count() == 30
    store.close()


def copy_of(store: EdgeStore, target: Path) -> None:
    HybridIndex(BGEM3(ENCODER), store).copy_to(target)


def test_a_manifest_that_cannot_be_written_leaves_the_index_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EdgeStore.open(filled(tmp_path / "index"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bge_m3_integrations.stores.edge.folder.files.os.fsync", full)
    with pytest.raises(StoreError, match=r"json cannot be written.*as before"):
        store.set_filter_fields([])
    monkeypatch.undo()
    store.close()
    store = EdgeStore.open(tmp_path / "index")
    assert store.manifest.filter_fields is None
    store.close()
