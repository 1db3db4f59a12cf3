"""An index that is only read: its folder stays as it is, on a read-only disk too."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig
from bge_m3_integrations.stores.edge.folder import read_only
from bge_m3_integrations.testing import FakeEncoder

ROOT = Path(__file__).parents[5]
RECORDS = [
    Record(f"{i:03}", f"document {i} about {'foxes' if i % 2 else 'bridges'}", {"n": i})
    for i in range(40)
]
QUERIES = ["foxes 3", "bridges and documents 12", "nothing at all"]
OTHER = """
    import sys
    from bge_m3_integrations import BGEM3, HybridIndex
    from bge_m3_integrations.errors import StoreError
    from bge_m3_integrations.testing import FakeEncoder
    try:
        index = HybridIndex.open(
            sys.argv[1], BGEM3(FakeEncoder(colbert_dim=64)), read_only=sys.argv[2] == "read"
        )
        print(index.count(), flush=True)
        sys.stdin.read()
    except StoreError as error:
        print(error, flush=True)
"""


def engine() -> BGEM3:
    return BGEM3(FakeEncoder(colbert_dim=64))


def opened(path: Path, **options: Any) -> HybridIndex:
    return HybridIndex.open(path, engine(), read_only=True, **options)


def state(folder: Path) -> dict[str, Any]:
    """Everything in a folder: what it holds and when it was written."""
    return {
        str(file.relative_to(folder)): (
            file.stat().st_mtime_ns,
            hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "",
        )
        for file in [folder, *folder.rglob("*")]
    }


def answers(index: HybridIndex) -> list[Any]:
    found = index.search_batch(QUERIES, limit=5, where={"n": {"$lt": 30}})
    return [[(hit.id, hit.components) for hit in hits] for hits in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with HybridIndex.open(tmp_path / "index", engine(), colbert="float32") as index:
        index.add(RECORDS)
        index.delete(ids=["007"])
    return tmp_path / "index"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are made."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return place


@pytest.fixture
def read_only_disk(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """The index on a disk that nobody can write to, root included."""
    place = tmp_path / "disk"
    place.mkdir()
    commands = [["--bind", folder.parent, place], ["-o", "remount,ro,bind", place]]
    if shutil.which("mount") is None:
        pytest.skip("no mount command here")
    for command in commands:
        done = subprocess.run(["mount", *command], capture_output=True, check=False, text=True)
        if done.returncode:
            subprocess.run(["umount", place], capture_output=True, check=False)
            pytest.skip(f"no mounts here: {done.stderr}")
    yield place / folder.name
    subprocess.run(["umount", place], check=True)


def asked(path: Path, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OTHER), str(path), how],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def expected(folder: Path) -> list[Any]:
    with HybridIndex.open(folder, engine()) as index:
        return answers(index)


@pytest.mark.parametrize(
    ("linked", "changed"),
    [
        (1 << 30, {}),
        (1, {}),
        (1, {"optimized": True}),
        (1 << 30, {"isolated": True}),
        (1, {"isolated": True, "optimized": True}),
    ],
    ids=["copied", "linked", "linked, optimized", "isolated", "isolated, optimized"],
)
def test_searching_changes_nothing_in_the_folder(
    folder: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    linked: int,
    changed: dict[str, bool],
) -> None:
    isolated = changed.get("isolated", False)
    if changed.get("optimized"):
        with HybridIndex.open(folder, engine()) as index:
            index.compact()
    right = expected(folder)
    monkeypatch.setattr(read_only, "_LINKED", linked)
    before = state(folder)
    with opened(folder, isolated=isolated) as index, opened(folder, isolated=isolated) as again:
        assert answers(index) == answers(again) == right
        assert index.count() == 39
        assert index.get(["007", "008"]) == [None, RECORDS[8]]
        index.flush()
        assert len(list(temporary.glob("bge-m3-reading-*"))) == 1
        files = [f for f in temporary.rglob("*") if f.is_file() or f.is_symlink()]
        links = [f for f in files if f.is_symlink() or f.stat().st_nlink > 1]
        assert isolated or bool(links) == (linked == 1)
    assert state(folder) == before
    assert list(temporary.glob("bge-m3-reading-*")) == []


WRITES: dict[str, Callable[[HybridIndex], object]] = {
    "add": lambda index: index.add([Record("new", "text")]),
    "ingest": lambda index: index.ingest([Record("new", "text")]),
    "delete": lambda index: index.delete(ids=["001"]),
    "delete where": lambda index: index.delete(where={"n": 1}),
    "optimize": lambda index: index.optimize(),
    "optimize isolated": lambda index: index.optimize(isolated=True),
    "compact": lambda index: index.compact(),
    "set_filter_fields": lambda index: index.set_filter_fields(["n"]),
    "upsert": lambda index: index.store.upsert(
        [Record("new", "text")], index.engine.encode_documents(["text"])
    ),
    "rewrite": lambda index: index.store.rewrite([RECORDS[1]]),
}


@pytest.mark.parametrize("isolated", [False, True])
def test_writes_are_refused_and_nothing_is_encoded_for_them(folder: Path, isolated: bool) -> None:
    before = state(folder)
    with opened(folder, isolated=isolated) as index:
        for write in WRITES.values():
            with pytest.raises(StoreError, match=r"opened with read_only=True and cannot be"):
                write(index)
        assert index.count() == 39
        assert index.engine.stats.texts == 1  # of the upsert, which this test encodes
    assert state(folder) == before


def test_a_read_only_disk_is_searched_copied_and_restored_from(
    read_only_disk: Path, folder: Path, tmp_path: Path, temporary: Path
) -> None:
    before, right = state(folder), None
    with pytest.raises(StoreError, match=r"cannot be written to.*Read-only.*read_only=True"):
        HybridIndex.open(read_only_disk, engine())
    with opened(read_only_disk) as index:
        right = answers(index)
        index.backup(tmp_path / "backup")
        index.copy_to(tmp_path / "copy", colbert="float32")
    HybridIndex.restore(read_only_disk, tmp_path / "restored")
    assert state(folder) == before
    for name in ("backup", "copy", "restored"):
        with HybridIndex.open(tmp_path / name, engine()) as again:
            assert again.count() == 39
            assert [[hit[0] for hit in hits] for hits in answers(again)] == [
                [hit[0] for hit in hits] for hits in right
            ]
            again.add([Record("new", "text")])
    assert list(temporary.iterdir()) == []


def test_what_only_searches_takes_a_read_only_disk_unasked(
    read_only_disk: Path, folder: Path
) -> None:
    from bge_m3_integrations.langchain import BGEM3Retriever
    from bge_m3_integrations.llama_index import BGEM3Reranker
    from bge_m3_integrations.llama_index import BGEM3VectorStore as LlamaStore

    before = state(folder)
    BGEM3Retriever(index=read_only_disk)
    reranker = BGEM3Reranker(engine=engine(), index_path=read_only_disk)
    assert reranker.index is not None
    assert reranker.index.count() == 39
    reranker.index.close()
    store = LlamaStore(engine(), path=read_only_disk, read_only=True)
    again = LlamaStore.from_dict(store.to_dict(), engine=engine())
    assert again.index.count() == 39
    with pytest.raises(StoreError, match="read_only=True"):
        again.clear()
    again.close()
    store.close()
    assert state(folder) == before


def test_a_folder_without_permissions_is_searched(folder: Path) -> None:
    for file in [*folder.rglob("*"), folder]:
        file.chmod(file.stat().st_mode & ~0o222)
    try:
        with opened(folder) as index:
            assert index.count() == 39
    finally:
        for file in [folder, *folder.rglob("*")]:
            file.chmod(file.stat().st_mode | 0o200)


def test_processes_read_a_folder_together_and_keep_writers_away(folder: Path) -> None:
    before = state(folder)
    with opened(folder):
        other = asked(folder, "read")
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "39"
        writer = asked(folder, "write").communicate(timeout=60)[0]
        assert "in use by a" in writer
        assert "read" in writer
        with pytest.raises(StoreError, match="in use by a"):
            HybridIndex.open(folder, engine())
        other.communicate(timeout=60)
    assert {n: s for n, s in state(folder).items() if n not in {".", "lock"}} == {
        n: s for n, s in before.items() if n not in {".", "lock"}
    }
    with HybridIndex.open(folder, engine()) as index:
        index.add([Record("new", "text")])


def test_a_folder_that_is_written_to_is_refused_with_its_holder(
    folder: Path, tmp_path: Path
) -> None:
    with HybridIndex.open(folder, engine()) as index:
        for read in (
            lambda: opened(folder),
            lambda: opened(folder, isolated=True),
            lambda: HybridIndex.restore(folder, tmp_path / "restored"),
        ):
            with pytest.raises(StoreError, match=f"in use by process {os.getpid()} on "):
                read()
        assert index.count() == 39
    (folder / "lock").unlink(missing_ok=True)  # as in a backup
    with opened(folder) as index:
        assert index.count() == 39
        with pytest.raises(StoreError, match="in use by a process that reads it"):
            HybridIndex.open(folder, engine())


def test_what_was_only_in_the_log_of_a_killed_process_is_read_without_changing_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"""
        import os
        from bge_m3_integrations import BGEM3, HybridIndex, Record
        from bge_m3_integrations.testing import FakeEncoder
        index = HybridIndex.open({str(folder)!r}, BGEM3(FakeEncoder(colbert_dim=64)))
        records = [Record(f"late {{i}}", f"late text {{i}}") for i in range(50)]
        index.store.upsert(records, index.engine.encode_documents([r.text for r in records]))
        os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, check=False)
    assert (folder / "holder.json").exists()
    monkeypatch.setattr(read_only, "_LINKED", 1)
    before = state(folder)
    with opened(folder) as index:
        assert index.count() == 89
        assert [hit.id for hit in index.search("late text 7", limit=1)] == ["late 7"]
    assert state(folder) == before


def test_a_file_system_without_locks_can_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreError, match=r"has no locks.*read_only=True"):
        HybridIndex.open(folder, engine())
    with opened(folder) as index:
        assert index.count() == 39


def test_no_index_begins_in_a_folder_that_is_only_read(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no index in"):
        opened(tmp_path / "new")
    with pytest.raises(InputError, match="no index begins with read_only=True"):
        opened(tmp_path / "new", create=True)
    with pytest.raises(StoreError, match="there is no index in"):
        EdgeStore.open(tmp_path / "new", FolderConfig(modes=["sparse"]), read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_temporary_files_is_said_with_the_variable_that_moves_them(
    folder: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=95 << 20))
    with pytest.raises(StoreError, match=rf"read_only=True.* MiB in {temporary}.*TMPDIR"):
        opened(folder)
    monkeypatch.undo()
    assert list(temporary.iterdir()) == []
    with HybridIndex.open(folder, engine()) as index:
        assert index.count() == 39


def test_a_langchain_store_and_a_killed_reader_leave_nothing(folder: Path, temporary: Path) -> None:
    from bge_m3_integrations.langchain import BGEM3VectorStore

    before = state(folder)
    with BGEM3VectorStore(engine(), path=folder, read_only=True) as store:
        assert len(store.similarity_search("foxes", k=2)) == 2
        with pytest.raises(StoreError, match="read_only=True"):
            store.add_texts(["new"])
    with pytest.raises(StoreError, match="there is no index in"):
        BGEM3VectorStore(engine(), path=folder.parent / "new", read_only=True)
    del store
    ends = asked(folder, "read").communicate(timeout=60)[0]  # ends without a close
    assert ends.strip() == "39"
    assert state(folder) == before
    assert list(temporary.glob("bge-m3-reading-*")) == []
