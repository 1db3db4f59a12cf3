"""Signals, files of the system's and odd names: the index goes on, and nobody's files are lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.core.filters import as_filter
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.stores.edge import EdgeStore, restore
from bge_m3_integrations.stores.edge.folder import checksums, files, manifest
from bge_m3_integrations.stores.edge.folder.files import copy_folder
from bge_m3_integrations.stores.edge.shard import shard
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.stores.edge.programs import encoded, open_store

RECORDS = [Record(f"id-{i}", f"fox {i} bridge", {"i": i}) for i in range(5)]
LATER = [Record("later", "a fox that came later", {"i": 77, "lang": "en"})]
SYSTEMS = [
    "lost+found",
    ".DS_Store",
    "._manifest.json",
    "Thumbs.db",
    "desktop.ini",
    ".nfs0000000004a3",
    ".gitignore",
    ".gitkeep",
    "@eaDir",
]


def filled(path: Path) -> EdgeStore:
    store = open_store(path)
    store.upsert(RECORDS, encoded(RECORDS))
    return store


def copy_of(place: Path) -> Path:
    copy_folder(place / "index", place / "copy")
    return place / "copy"


def once(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, *, after: bool) -> None:
    """Have a signal come before or after the next call of a function."""
    real = getattr(where, name)

    def interrupted(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(where, name, real)
        if after:
            real(*given, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(where, name, interrupted)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("place", [(manifest, "replace_file"), (files, "sync_folder")])
def test_a_signal_while_filter_fields_are_changed_leaves_an_index_of_the_old_or_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], after: bool
) -> None:
    store = filled(tmp_path / "index")
    store.set_filter_fields(["i"])
    once(monkeypatch, *place, after=after)
    with pytest.raises(KeyboardInterrupt):
        store.set_filter_fields(["lang"])
    written = manifest.Manifest.read(store.path)
    assert store.manifest == written
    store.upsert(LATER, encoded(LATER))
    for _ in range(2):
        assert store.count() == 6
        assert list(store.ids(as_filter({"lang": "en"}))) == ["later"]
        assert list(store.ids(as_filter({"i": 77}))) == ["later"]
        store.close()
        store = EdgeStore.open(tmp_path / "index")
    store.close()


@pytest.mark.parametrize("where", [(checksums, "sum_of"), (shard.Shard, "flush")])
def test_a_signal_while_an_index_is_closed_leaves_it_to_be_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str]
) -> None:
    store = filled(tmp_path / "index")
    once(monkeypatch, *where, after=False)
    with pytest.raises(KeyboardInterrupt):
        store.close()
    again = EdgeStore.open(tmp_path / "index")  # while somebody has the old handle
    assert again.count() == 5
    again.close()
    store.close()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["check_records", "note", "write", "__init__"])
def test_a_signal_while_an_index_is_loaded_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: bool
) -> None:
    store = filled(tmp_path / "index")
    store.compact()  # the first flush after it is loaded changes its files
    store.upsert(RECORDS[:2], encoded(RECORDS[:2]))
    store.close()
    where = shard.Shard if name == "__init__" else checksums.Checksums
    once(monkeypatch, where, name, after=after)
    with pytest.raises(KeyboardInterrupt):
        EdgeStore.open(tmp_path / "index")
    store = EdgeStore.open(tmp_path / "index")
    assert store.count() == 5
    store.close()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["replace_file", "_note", "_digest"])
def test_a_signal_while_checksums_are_written_does_not_make_later_writes_look_like_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: bool
) -> None:
    store = filled(tmp_path / "index")
    once(
        monkeypatch,
        checksums if name != "_note" else checksums.Checksums,
        name.replace("_note", "_write_note"),
        after=after,
    )
    with pytest.raises(KeyboardInterrupt):
        store.flush()
    store.upsert(LATER, encoded(LATER))
    copied = copy_of(tmp_path)  # as a killed process leaves it
    store.close()
    for index in (copied, tmp_path / "index"):
        again = EdgeStore.open(index)
        assert again.count() == 6
        again.close()


def test_a_signal_while_closing_waits_for_a_search_closes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "index")
    once(monkeypatch, shard.Shard, "outlast_users", after=False)
    with pytest.raises(KeyboardInterrupt):
        store.close()
    assert store.count() == 5
    store.close()
    open_store(tmp_path / "index").close()


@pytest.mark.parametrize("name", ["name", "see", "tidy"])
def test_a_signal_while_an_index_is_opened_leaves_it_to_be_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from bge_m3_integrations.stores.edge.folder.folder import Folder

    filled(tmp_path / "index").close()
    once(monkeypatch, Folder, name, after=True)
    with pytest.raises(KeyboardInterrupt) as kept:  # as a shell keeps the last traceback
        EdgeStore.open(tmp_path / "index")
    store = EdgeStore.open(tmp_path / "index")
    assert store.count() == 5
    store.close()
    assert kept.value.__traceback__ is not None


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_systems_put_into_folders_is_in_nobodys_way_and_stays(
    tmp_path: Path, name: str
) -> None:
    index, backup, restored = (tmp_path / part for part in ("index", "backup", "restored"))
    for place in (index, backup, restored):
        place.mkdir()
        (place / name).write_text("not ours")
    with HybridIndex.open(index, BGEM3(FakeEncoder()), create=True) as opened:
        opened.add([Record("a", "fox")])
        opened.store.backup(backup)
        opened.store.compact()
    restore(backup, restored)
    for place in (index, backup, restored):
        with HybridIndex.open(place, BGEM3(FakeEncoder())) as opened:
            assert opened.count() == 1
        assert (place / name).read_text() == "not ours"


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", ".DS_Store"])
def test_what_a_file_manager_leaves_among_the_engines_files_is_no_damage(
    tmp_path: Path, name: str
) -> None:
    filled(tmp_path / "index").close()
    for folder in ("segments", "wal", ""):
        (tmp_path / "index" / "shard-0001" / folder / name).write_text("not ours")
    store = EdgeStore.open(tmp_path / "index")
    assert store.count() == 5
    store.close()


@pytest.mark.parametrize("name", ["notes.txt", ".git", ".bashrc", "lost+found.txt"])
def test_no_index_begins_among_a_users_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(StoreError, match="is no index, but holds"):
        HybridIndex.open(tmp_path, BGEM3(FakeEncoder()), create=True)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", [":memory:", "http://host:6333/x", "s3://bucket/x", "file:///x"])
@pytest.mark.parametrize("create", [None, True, False])
def test_an_address_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, create: bool | None
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"folder of this machine.*HybridIndex\(BGEM3"):
        HybridIndex.open(name, BGEM3(FakeEncoder()), create=create)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["y" * 200] * 30)])
def test_a_name_that_is_too_long_is_an_error_of_ours(tmp_path: Path, name: str) -> None:
    with HybridIndex.open(tmp_path / "index", BGEM3(FakeEncoder()), create=True) as index:
        index.add([Record("a", "fox")])
        for copied in (index.store.backup, index.copy_to):
            with pytest.raises(StoreError, match="too long"):
                copied(tmp_path / name)
    with pytest.raises(StoreError, match="too long"):
        restore(tmp_path / "index", tmp_path / name)
    with pytest.raises(StoreError, match="too long"):
        restore(tmp_path / name, tmp_path / "new")


def refused(*_: Any, **__: Any) -> Any:
    raise PermissionError(errno.EACCES, "Permission denied", "the/file")


@pytest.mark.parametrize("where", ["sum_of", "_files", "read_file"])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_may_not_be_read_is_no_damage_but_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, read_only: bool
) -> None:
    filled(tmp_path / "index").close()
    with monkeypatch.context() as patched:
        patched.setattr(checksums, where, refused)
        with pytest.raises(StoreError, match="Permission denied") as told:
            EdgeStore.open(tmp_path / "index", read_only=read_only)
        assert "damaged" not in str(told.value)
        assert "delete" not in str(told.value)
        with pytest.raises(StoreError, match="Permission denied"):
            restore(tmp_path / "index", tmp_path / "restored")
    store = EdgeStore.open(tmp_path / "index", read_only=read_only)
    assert store.count() == 5
    store.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes that have names")
@pytest.mark.parametrize("name", ["manifest.json", "shard-0001/sums.json"])
def test_a_pipe_in_the_place_of_a_file_is_told_and_not_waited_for(
    tmp_path: Path, name: str
) -> None:
    filled(tmp_path / "index").close()
    (tmp_path / "index" / name).unlink()
    os.mkfifo(tmp_path / "index" / name)
    for call in (
        lambda: EdgeStore.open(tmp_path / "index"),
        lambda: EdgeStore.open(tmp_path / "index", read_only=True),
        lambda: restore(tmp_path / "index", tmp_path / "restored"),
    ):
        with pytest.raises(StoreError, match="is no file but a pipe"):
            call()


def test_a_folder_in_the_place_of_the_holders_name_is_an_error_that_locks_nothing(
    tmp_path: Path,
) -> None:
    filled(tmp_path / "index").close()
    (tmp_path / "index" / "holder.json").mkdir()
    for _ in range(2):
        with pytest.raises(StoreError, match="directory"):
            EdgeStore.open(tmp_path / "index")
    (tmp_path / "index" / "holder.json").rmdir()
    EdgeStore.open(tmp_path / "index").close()


def test_an_index_whose_holder_cannot_be_removed_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "index")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refused)
        store.close()
    EdgeStore.open(tmp_path / "index").close()


def test_a_manifest_that_an_editor_saved_with_a_mark_of_its_order_of_bytes_is_read(
    tmp_path: Path,
) -> None:
    filled(tmp_path / "index").close()
    file = tmp_path / "index" / "manifest.json"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    store = EdgeStore.open(tmp_path / "index")
    assert store.count() == 5
    store.close()
