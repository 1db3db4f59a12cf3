"""Damage to an index's files: the same records as before, or an error that names the file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge import EdgeStore, restore
from bge_m3_integrations.stores.edge.folder.checksums import SINCE, SUMS
from bge_m3_integrations.stores.edge.folder.files import copy_file, copy_folder
from tests.unit.stores.edge.programs import encoded, open_store

ROOT = Path(__file__).parents[5]
RECORDS = [Record(f"id-{i}", f"fox {i} bridge", {"i": i, "lang": "en"}) for i in range(40)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A closed index, and an older state of it."""
    place = tmp_path_factory.mktemp("damaged")
    for name, some in (("older", RECORDS[:30]), ("index", RECORDS[20:])):
        if name == "index":
            copy_folder(place / "older", place / "index")
        store = open_store(place / name)
        store.upsert(some, encoded(some))
        if name == "index":
            store.delete(ids=["id-3", "id-4"])
        store.close()
    return place / "index", place / "older"


@pytest.fixture
def index(made: tuple[Path, Path], tmp_path: Path) -> Path:
    copy_folder(made[0], tmp_path / "index")
    return tmp_path / "index"


def only(index: Path, pattern: str) -> Path:
    return next(iter(sorted((index / "shard-0001").rglob(pattern))))


def test_every_damage_to_every_file_changes_nothing_or_is_told(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.unit.stores.edge.damages", *made, tmp_path / "work"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (lines[-1], done.stderr[-1000:])
    assert not [line for line in lines if line.split()[2] not in {"same", "told"}]
    ends = Counter(line.split()[2] for line in lines)
    assert ends["told"] > len(lines) // 2, ends


def test_the_error_names_the_file_and_what_a_backup_brings_back(index: Path) -> None:
    tracker = only(index, "mutable_id_tracker.mappings")
    os.truncate(tracker, tracker.stat().st_size // 2)
    wanted = rf"{tracker} is damaged.*38 records were there then, and a backup brings back.*{SUMS}"
    for _ in range(2):
        with pytest.raises(StoreError, match=wanted):
            EdgeStore.open(index)


def test_deleting_the_sums_opens_what_is_left(index: Path) -> None:
    only(index, "tracker_journal.dat").write_bytes(b"")
    with pytest.raises(StoreError, match="delete"):
        EdgeStore.open(index)
    (index / "shard-0001" / SUMS).unlink()
    store = EdgeStore.open(index)
    store.close()
    assert (index / "shard-0001" / SUMS).exists()


def test_an_index_without_sums_opens_and_gets_them(index: Path) -> None:
    for name in (SUMS, SINCE):
        (index / "shard-0001" / name).unlink()
    store = EdgeStore.open(index)
    assert store.count() == 38
    store.close()
    only(index, "segment.json").write_text("{}")
    with pytest.raises(StoreError, match=r"segment\.json is damaged"):
        EdgeStore.open(index)


def test_a_backup_is_compared_before_it_is_restored(index: Path, tmp_path: Path) -> None:
    store = EdgeStore.open(index)
    store.backup(tmp_path / "backup")
    store.close()
    restore(tmp_path / "backup", tmp_path / "sound")
    with only(tmp_path / "backup", "page_0.dat").open("r+b") as file:
        file.write(b"\xff" * 8)
    with pytest.raises(StoreError, match=r"page_0\.dat is damaged"):
        restore(tmp_path / "backup", tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_a_copy_without_holes_is_whole(index: Path, tmp_path: Path) -> None:
    for file in [file for file in index.rglob("*") if file.is_file()]:
        copy = tmp_path / "copy" / file.relative_to(index)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    store = EdgeStore.open(tmp_path / "copy")
    assert store.count() == 38
    store.close()


def test_a_segment_that_came_from_elsewhere_is_told(index: Path) -> None:
    segments = index / "shard-0001" / "segments"
    shutil.copytree(next(segments.iterdir()), segments / ("0" * 8), copy_function=copy_file)
    with pytest.raises(StoreError, match="was not there when"):
        EdgeStore.open(index)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.stores.edge.programs import encoded, open_store
from tests.unit.stores.edge.folder.test_checksums import RECORDS
store = open_store(Path(sys.argv[1]))
store.upsert(RECORDS[:20], encoded(RECORDS[:20]))
for step in sys.argv[2:]:
    if step == "flush":
        store.flush()
    elif step == "add":
        store.upsert(RECORDS[20:], encoded(RECORDS[20:]))
    elif step == "delete":
        store.delete(ids=["id-0", "id-1", "id-30"])
    elif step == "search":
        list(store.ids())
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(folder: Path, *steps: str) -> None:
    command = [sys.executable, "-c", KILLED, folder, *steps]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process")
@pytest.mark.parametrize(
    ("steps", "count"),
    [
        ([], 20),
        (["flush"], 20),
        (["flush", "add"], 40),
        (["flush", "add", "delete"], 37),
        (["flush", "delete", "add"], 38),
        (["add", "delete", "flush", "search"], 37),
        (["delete"], 18),
    ],
)
def test_a_killed_process_is_no_damage(tmp_path: Path, steps: list[str], count: int) -> None:
    killed(tmp_path / "index", *steps)
    for _ in range(2):
        store = open_store(tmp_path / "index")
        assert store.count() == count
        store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process")
@pytest.mark.parametrize("harm", ["deleted", "zeroed"])
def test_a_log_that_is_lost_after_a_kill_is_told(tmp_path: Path, harm: str) -> None:
    killed(tmp_path / "index", "flush", "add")
    for file in (tmp_path / "index" / "shard-0001" / "wal").iterdir():
        if harm == "deleted":
            file.unlink()
        else:
            file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(StoreError, match=r"20 records, but there were 40.*wal|engine failed"):
        open_store(tmp_path / "index")


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process")
def test_what_a_flush_wrote_is_compared_after_a_kill_too(tmp_path: Path) -> None:
    killed(tmp_path / "index", "flush", "add")
    tracker = only(tmp_path / "index", "mutable_id_tracker.mappings")
    os.truncate(tracker, tracker.stat().st_size // 2)
    with pytest.raises(StoreError, match=r"mutable_id_tracker\.mappings is damaged"):
        open_store(tmp_path / "index")


def test_a_changed_manifest_is_told_and_its_model_may_be_renamed(index: Path) -> None:
    manifest = index / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"pooling": 1', '"pooling": 3'))
    with pytest.raises(StoreError, match=r"manifest\.json says something else"):
        EdgeStore.open(index)
    manifest.write_text(text)
    store = EdgeStore.open(index)
    store.set_filter_fields(["lang"])
    store.close()
    store = EdgeStore.open(index)
    assert store.manifest.filter_fields == ("lang",)
    store.close()
