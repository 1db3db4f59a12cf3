from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import pytest

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.stores.edge import EdgeStore, EncoderInfo, FolderConfig, Manifest
from bge_m3_integrations.stores.edge.folder import folder, locks
from bge_m3_integrations.stores.edge.folder.files import copy_folder
from bge_m3_integrations.stores.edge.folder.folder import UNNAMED
from bge_m3_integrations.stores.edge.folder.manifest import NAME
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.stores.edge.programs import encoded, open_store

RECORD = Record("a", "fox on the bridge", {"lang": "en"})
ROOT = Path(__file__).parents[5]


def listing(path: Path) -> dict[str, tuple[int, int]]:
    """What lies in a folder and when it was written, without the traces of a lock."""
    files = [file for file in path.rglob("*") if file.name not in {"lock", "holder.json"}]
    states = {str(file.relative_to(path)): file.stat() for file in files if file.is_file()}
    return {name: (state.st_size, state.st_mtime_ns) for name, state in states.items()}


def fill(path: Path) -> None:
    store = open_store(path)
    store.upsert([RECORD], encoded([RECORD]))
    store.close()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A closed index of one record."""
    fill(tmp_path / "index")
    return tmp_path / "index"


def test_a_new_folder_holds_a_manifest_and_one_shard(index: Path) -> None:
    assert sorted(file.name for file in index.iterdir() if file.name != "lock") == [
        NAME,
        "shard-0001",
    ]


def test_a_second_process_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    program = """
        import sys
        from bge_m3_integrations.errors import StoreError
        from bge_m3_integrations.stores.edge import EdgeStore
        try:
            EdgeStore.open(sys.argv[1])
        except StoreError as error:
            print(error)
    """
    store = open_store(tmp_path / "index")
    store.upsert([RECORD], encoded([RECORD]))
    before = set(listing(store.path))
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), store.path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    assert f"in use by process {os.getpid()} on " in said
    assert set(listing(store.path)) == before
    assert store.get(["a"]) == [RECORD]
    store.close()
    assert not (store.path / "holder.json").exists()


def test_a_holder_that_left_no_name_is_another_process(index: Path) -> None:
    for text in ("", "{", "[]", '{"pid": 1}', '{"pid": 1, "opens": "x", "for": "y"}', None):
        if text is not None:
            (index / "holder.json").write_text(text)
        lock = filelock.FileLock(index / "lock", is_singleton=False)
        with lock, pytest.raises(StoreError, match="another process"):
            EdgeStore.open(index)
        (index / "holder.json").unlink(missing_ok=True)


def test_a_process_that_is_about_to_release_the_folder_is_waited_for(index: Path) -> None:
    lock = filelock.FileLock(index / "lock", is_singleton=False, thread_local=False)
    lock.acquire()  # and its name is gone already
    timer = threading.Timer(0.1, lock.release)
    timer.start()
    EdgeStore.open(index).close()
    timer.join()


def test_one_process_shares_a_handle_and_counts_its_closes(tmp_path: Path) -> None:
    first = open_store(tmp_path / "index")
    (tmp_path / "link").symlink_to(tmp_path / "index")
    second, third = open_store(tmp_path / "index"), EdgeStore.open(tmp_path / "link")
    assert first is second is third
    first.close()
    second.close()
    third.upsert([RECORD], encoded([RECORD]))
    assert third.count() == 1
    third.close()
    third.close()
    with pytest.raises(StoreError, match="closed"):
        third.count()
    again = EdgeStore.open(tmp_path / "index")
    assert again is not first
    first.close()
    assert again.get(["a"]) == [RECORD]
    again.close()


def test_a_shared_handle_is_compared_with_what_is_asked_for(tmp_path: Path) -> None:
    store = open_store(tmp_path / "index")
    with pytest.raises(StoreError, match="has dim 8, but 9"):
        EdgeStore.open(tmp_path / "index", FolderConfig(dim=9))
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.count()


@pytest.mark.parametrize("name", ["notes.txt", "shard-1", "shard-0001.old", ".hidden", "sub"])
def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    if name == "sub":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("mine")
    with pytest.raises(StoreError, match="is no index, but holds") as error:
        open_store(tmp_path)
    assert name in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_shards_without_a_manifest_are_refused_and_left_alone(index: Path) -> None:
    (index / NAME).unlink()
    before = listing(index)
    with pytest.raises(StoreError, match=r"shard-0001.*no manifest.json"):
        open_store(index)
    assert listing(index) == before


def test_a_manifest_without_its_shard_is_refused(index: Path) -> None:
    shutil.rmtree(index / "shard-0001")
    with pytest.raises(StoreError, match="shard-0001 is missing"):
        open_store(index)
    assert not (index / "shard-0001").exists()


@pytest.mark.parametrize("inside", [False, True])
def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path, inside: bool) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(StoreError, match="file"):
        open_store(file / "index" if inside else file)
    with pytest.raises(StoreError, match="file"):
        HybridIndex.open(file, BGEM3(FakeEncoder()))
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"modes": ["dense"]}, r"has modes \('dense', 'sparse', 'colbert'\), but \('dense',\)"),
        ({"dim": 9}, "has dim 8, but 9"),
        ({"colbert_dim": 5}, "has colbert_dim 4, but 5"),
        ({"colbert": "turbo8"}, "has colbert 'float32', but 'turbo8'"),
        ({"colbert": "reencode"}, "has colbert 'float32', but 'reencode'"),
        ({"pooling": 2}, "has pooling 1, but 2"),
        ({"filter_fields": ["lang"]}, r"has filter_fields 'all', but \('lang',\)"),
        ({"filter_fields": "lang"}, "must be a list"),
    ],
)
def test_what_contradicts_an_index_is_refused_and_changes_nothing(
    index: Path, wanted: dict[str, Any], message: str
) -> None:
    before = listing(index)
    with pytest.raises((StoreError, InputError), match=message):
        EdgeStore.open(index, FolderConfig(**wanted))
    assert listing(index) == before
    store = EdgeStore.open(index)
    assert store.get(["a"]) == [RECORD]
    store.close()


@pytest.mark.parametrize("text", ["{}", "not json", '{"kind": "bge-m3-integrations index"}'])
def test_a_damaged_manifest_is_refused_and_changes_nothing(index: Path, text: str) -> None:
    (index / NAME).write_text(text)
    before = listing(index)
    with pytest.raises(StoreError, match=NAME + "|format"):
        open_store(index)
    assert listing(index) == before


def test_a_newer_format_is_refused_and_changes_nothing(index: Path) -> None:
    held = Manifest.read(index)
    assert held is not None
    replace(held, format=2).write(index)
    before = listing(index)
    with pytest.raises(StoreError, match="has format 2, this version reads 1"):
        HybridIndex.open(index, BGEM3(FakeEncoder()))
    assert listing(index) == before


def test_another_encoder_is_refused_by_its_numbers_and_not_by_its_float_dtype(
    tmp_path: Path,
) -> None:
    note = EncoderInfo("f" * 64, model="org/a", dtype="float32")

    def opened(encoder: EncoderInfo, **options: Any) -> None:
        EdgeStore.open(
            tmp_path / "index", FolderConfig(modes=["sparse"], encoder=encoder, **options)
        ).close()

    opened(note)
    opened(replace(note, dtype="bfloat16"))
    before = listing(tmp_path / "index")
    for other, message in [
        (replace(note, fingerprint="0" * 64, model="org/b"), "org/a.*ffffffffffff.*org/b.*0000"),
        (replace(note, dtype="int8"), "made in float32, but int8"),
        (replace(note, max_length=99), "the full length.*99"),
    ]:
        with pytest.raises(StoreError, match=message):
            opened(other)
        assert listing(tmp_path / "index") == before
    opened(replace(note, dtype="int8"), allow_dtype_mismatch=True)


def test_an_engine_of_other_widths_is_refused_by_name(tmp_path: Path) -> None:
    HybridIndex.open(tmp_path / "index", BGEM3(FakeEncoder()), create=True).close()
    with pytest.raises(StoreError, match="fingerprint"):
        HybridIndex.open(tmp_path / "index", BGEM3(FakeEncoder(dim=64)))


def test_a_new_index_that_lacks_a_width_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dim="):
        EdgeStore.open(tmp_path / "index", FolderConfig(modes=["dense"]))
    with pytest.raises(InputError, match="'turbo9'"):
        EdgeStore.open(tmp_path / "index", FolderConfig(dim=8, colbert="turbo9"))
    assert not (tmp_path / "index").exists()


def laid(path: Path, *, unnamed: bool = False) -> None:
    """Something that is called like a shard, with a file in it."""
    (path / "segments").mkdir(parents=True)
    (path / "segments" / "part").write_text("left")
    if unnamed:
        (path / UNNAMED).touch()


def test_what_a_crash_left_is_removed_and_nothing_else(index: Path) -> None:
    (index / "shard-0001").rename(index / "shard-0003")
    held = Manifest.read(index)
    assert held is not None
    replace(held, generation=3).write(index)
    for name in ("shard-0001", "shard-0002.new", "shard-0004.0123abcd.new", "shard-0002"):
        laid(index / name)
    laid(index / "shard-0004", unnamed=True)
    (index / "elsewhere").mkdir()
    (index / "shard-0009").symlink_to(index / "elsewhere")
    kept = ["notes.txt", "shard-0008", "shard-0002.old", "elsewhere/mine", "shard-1"]
    for name in kept:
        (index / name).write_text("mine")
    store = EdgeStore.open(index)
    assert store.get(["a"]) == [RECORD]
    store.close()
    left = {file.name for file in index.iterdir()}
    ours = {NAME, "shard-0003", "lock"}
    others = {"notes.txt", "shard-0008", "shard-0002.old", "elsewhere", "shard-0009", "shard-1"}
    assert left - {"lock"} == (ours | others) - {"lock"}
    assert [(index / name).read_text() for name in kept] == ["mine"] * len(kept)


@pytest.mark.parametrize("left", ["nothing", "shard-0001.new", "shard-0001"])
def test_an_index_whose_beginning_was_cut_begins_again(tmp_path: Path, left: str) -> None:
    if left != "nothing":
        laid(tmp_path / left, unnamed=left == "shard-0001")
    Manifest(("dense", "sparse", "colbert"), 8, 4, "float32").write(tmp_path)
    fill(tmp_path)
    store = EdgeStore.open(tmp_path)
    assert store.get(["a"]) == [RECORD]
    store.close()


@pytest.fixture
def compacted(tmp_path: Path) -> Path:
    """A closed index of one record, whose second shard is in force."""
    store = open_store(tmp_path / "index")
    store.upsert([RECORD], encoded([RECORD]))
    store.compact()
    store.close()
    return tmp_path / "index"


def with_generation(index: Path, generation: int) -> None:
    held = Manifest.read(index)
    assert held is not None
    replace(held, generation=generation).write(index)


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        (0, "index without records, but shard-0002 lies beside it"),
        (1, "shard-0001 is missing, although manifest.json names it"),
        (3, "shard-0003 is missing, although manifest.json names it"),
    ],
)
def test_a_manifest_that_does_not_name_the_shard_deletes_nothing_and_says_how_to_open_it(
    compacted: Path, generation: int, message: str
) -> None:
    with_generation(compacted, generation)
    before = listing(compacted)
    for _ in range(2):
        with pytest.raises(StoreError, match=f'{message}.*"generation": 2') as caught:
            EdgeStore.open(compacted)
        assert "Nothing was deleted" in str(caught.value)
    with pytest.raises(StoreError):
        HybridIndex.restore(compacted, compacted.with_name("restored"))
    assert listing(compacted) == before
    with_generation(compacted, 2)  # as it says
    store = EdgeStore.open(compacted)
    assert store.get(["a"]) == [RECORD]
    store.close()


@pytest.mark.parametrize("unnamed", [False, True])
def test_a_newer_shard_is_kept_unless_it_is_known_to_be_unfinished(
    compacted: Path, unnamed: bool
) -> None:
    with_generation(compacted, 1)
    copy_folder(compacted / "shard-0002", compacted / "shard-0001")
    if unnamed:
        (compacted / "shard-0002" / UNNAMED).touch()
        store = EdgeStore.open(compacted)
        assert store.get(["a"]) == [RECORD]
        store.close()
        assert [file.name for file in compacted.glob("shard-*")] == ["shard-0001"]
        return
    before = listing(compacted)
    with pytest.raises(StoreError, match="shard-0001, but shard-0002 lies beside it, which is new"):
        EdgeStore.open(compacted)
    assert listing(compacted) == before


def test_an_unfinished_shard_is_no_remains_where_the_one_before_is_not_there(
    compacted: Path,
) -> None:
    (compacted / "shard-0002" / UNNAMED).touch()
    for generation in (0, 1):
        with_generation(compacted, generation)
        before = listing(compacted)
        with pytest.raises(StoreError, match="shard-0002"):
            EdgeStore.open(compacted)
        assert listing(compacted) == before


@pytest.mark.parametrize("name", ["edge_config.json", "segment.json"])
def test_a_damaged_shard_deletes_nothing(compacted: Path, name: str) -> None:
    laid(compacted / "shard-0001")
    for file in (compacted / "shard-0002").rglob(name):
        file.write_bytes(b"\x00" + file.read_bytes()[1:])
    before = set(listing(compacted))
    with pytest.raises(StoreError, match="shard-0002"):
        EdgeStore.open(compacted)
    assert set(listing(compacted)) >= before


@pytest.mark.parametrize("again", [False, True])
def test_a_crash_between_the_new_shards_name_and_the_manifest_opens_the_old_one(
    index: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    held = Manifest.read(index)
    assert held is not None
    at_work = folder.Folder(index)
    made = at_work.place_for(held.next())
    copy_folder(index / "shard-0001", made)
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "write", lambda *_: None)
        at_work.switch(made, held.next())
    at_work.release()
    if again:  # and one after the manifest was written
        held.next().write(index)
    store = EdgeStore.open(index)
    assert store.get(["a"]) == [RECORD]
    store.close()
    left = "shard-0002" if again else "shard-0001"
    assert [file.name for file in index.glob("shard-*")] == [left]
    assert not (index / left / UNNAMED).exists()


@pytest.mark.parametrize("place", ["inside", "shard-0009", "deep/er", "link", "itself", "above"])
def test_nothing_is_made_in_the_folder_of_an_index(index: Path, place: str) -> None:
    target = index / place
    if place in {"link", "itself", "above"}:
        leads = {"link": index / "inside", "itself": index, "above": index.parent}[place]
        target = index.with_name("link") if place != "above" else index.parent / "up"
        target.symlink_to(leads)
    engine = BGEM3(FakeEncoder())
    store = EdgeStore.open(index)
    memory = HybridIndex(engine)
    memory.add([RECORD])
    making: list[Callable[[], object]] = [
        lambda: store.backup(target),
        lambda: memory.copy_to(target),
    ]
    if place not in {"itself", "above"}:
        making += [lambda: open_store(target), lambda: HybridIndex.open(target, engine)]
    for make in making:
        with pytest.raises(StoreError, match=r"lies in the folder of the index|already holds"):
            make()
    store.close()
    with pytest.raises(StoreError, match=r"lies in the folder of the index|already holds"):
        HybridIndex.restore(index, target)
    assert {file.name for file in index.iterdir()} - {"lock"} == {NAME, "shard-0001"}


def refused(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    "stop",
    [
        lambda patch: patch.setattr(filelock.FileLock, "_acquire", refused),
        lambda patch: patch.setattr(locks.socket, "gethostname", refused),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_refused(
    index: Path, monkeypatch: pytest.MonkeyPatch, stop: Callable[[pytest.MonkeyPatch], None]
) -> None:
    with monkeypatch.context() as patch:
        stop(patch)
        with pytest.raises(StoreError, match=r"Permission denied.*writable"):
            EdgeStore.open(index)
    fill(index)


def test_a_read_only_disk_is_refused(mounted: Callable[..., Path]) -> None:
    place = mounted("-t", "tmpfs", "-o", "size=400m", "tmpfs")
    fill(place / "index")
    before = listing(place)
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    with pytest.raises(StoreError, match=r"cannot be written to.*Read-only"):
        EdgeStore.open(place / "index")
    with pytest.raises(StoreError, match=r"cannot be written to.*Read-only"):
        open_store(place / "new")
    assert listing(place) == before


def test_a_full_disk_refuses_writes_and_kills_nothing(mounted: Callable[..., Path]) -> None:
    place = mounted("-t", "tmpfs", "-o", "size=330m", "tmpfs")
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.stores.edge.fill_disk", place / "index"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "MiB are free; nothing was written" in done.stdout
    store = EdgeStore.open(place / "index")
    assert store.count() == int(done.stdout.split()[0]) > 0
    store.close()


def test_no_room_is_said_with_both_numbers_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)

    def free(mib: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=mib << 20))

    free(195)
    with pytest.raises(StoreError, match=r"196 MiB in .*, but only 195 MiB"):
        open_store(tmp_path / "index")
    assert listing(tmp_path / "index") == {}
    free(1000)
    store = open_store(tmp_path / "index")
    store.upsert([RECORD], encoded([RECORD]))
    free(95)
    other = Record("b", "stone")
    for write in (
        lambda: store.upsert([other], encoded([other])),
        store.optimize,
        lambda: store.optimize(isolated=True),
        lambda: store.backup(tmp_path / "copy"),
    ):
        with pytest.raises(StoreError, match=r"MiB in .*, but only 95 MiB"):
            write()
    assert store.get(["a", "b"]) == [RECORD, None]
    assert (store.path / "shard-0001").is_dir()
    assert len(list(store.path.glob("shard-*"))) == 1
    free(1000)
    store.upsert([other], encoded([other]))
    store.close()
