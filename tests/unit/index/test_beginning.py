"""No index begins unasked: a mistyped path is an error, which says what may be meant."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.errors import CheckpointError, InputError, StoreError
from bge_m3_integrations.testing import FakeEncoder

RECORDS = [Record("a", "fox on the bridge"), Record("b", "stone in the river")]


def fake() -> BGEM3:
    return BGEM3(FakeEncoder())


def unasked(*_: object, **__: object) -> BGEM3:
    raise AssertionError("a model was made")


def entries(path: Path) -> list[str]:
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))


@pytest.fixture
def my_index(tmp_path: Path) -> Path:
    with HybridIndex.open(tmp_path / "my_index", fake()) as index:
        index.add(RECORDS)
    return tmp_path / "my_index"


@pytest.mark.parametrize("options", [{}, {"create": False}, {"isolated": True}])
def test_opening_without_an_engine_begins_no_index_and_makes_no_model(
    my_index: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(BGEM3, "__init__", unasked)
    before = entries(my_index.parent)
    with pytest.raises(StoreError, match=r"no index in .*/my_indx, .*did you mean .*/my_index\?"):
        HybridIndex.open(my_index.parent / "my_indx", **options)
    with pytest.raises(StoreError, match=r"no index in .*/deep/er, which does not exist"):
        HybridIndex.open(my_index.parent / "deep" / "er", **options)
    assert entries(my_index.parent) == before


@pytest.mark.parametrize(
    ("given", "meant"),
    [(".", "my_index"), ("my_index/shard-0001", "my_index"), ("elsewhere", "my_index")],
)
def test_an_index_inside_around_or_beside_the_folder_is_named(
    my_index: Path, given: str, meant: str
) -> None:
    (my_index.parent / "elsewhere").mkdir()
    with pytest.raises(StoreError, match=rf"(did you mean|there is one in) .*/{meant}"):
        HybridIndex.open(my_index.parent / given)


USES: dict[str, Callable[[HybridIndex], object]] = {
    "search": lambda index: index.search("fox"),
    "search_batch": lambda index: index.search_batch(["fox"]),
    "search_batch of none": lambda index: index.search_batch([]),
    "asearch": lambda index: asyncio.run(index.asearch("fox")),
    "search_diverse": lambda index: index.search_diverse("fox"),
    "count": lambda index: index.count(),
    "get": lambda index: index.get(["a"]),
    "scroll": lambda index: index.scroll(),
    "delete": lambda index: index.delete(ids=["a"]),
    "optimize": lambda index: index.optimize(),
    "compact": lambda index: index.compact(),
    "set_filter_fields": lambda index: index.set_filter_fields(["a"]),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("there", [False, True], ids=["no folder", "empty folder"])
def test_a_folder_without_an_index_is_an_error_whoever_asks_and_no_model_is_read(
    tmp_path: Path, use: Callable[[HybridIndex], object], there: bool
) -> None:
    place = tmp_path / "new"
    if there:
        place.mkdir()
    with HybridIndex.open(place, BGEM3(tmp_path / "no model")) as index:
        assert index.path == place
        assert repr(index) == f"HybridIndex({str(place)!r}, not begun)"
        with pytest.raises(StoreError, match=r"there is no index in .*/new.*create=True"):
            use(index)
    assert entries(tmp_path) == ["new"] * there


def test_copies_of_a_folder_without_an_index_are_refused(tmp_path: Path) -> None:
    with HybridIndex.open(tmp_path / "new", fake()) as index:
        for copy in (index.backup, index.copy_to):
            with pytest.raises(StoreError, match="there is no index in"):
                copy(tmp_path / "copy")
    assert entries(tmp_path) == []


@pytest.mark.parametrize("isolated", [False, True])
def test_the_first_record_begins_an_index_by_the_choices_of_its_opening(
    tmp_path: Path, isolated: bool
) -> None:
    with HybridIndex.open(
        tmp_path / "new", fake(), colbert="float32", pooling=1, isolated=isolated
    ) as index:
        assert entries(tmp_path) == []
        index.add(RECORDS)
        assert [hit.id for hit in index.search("fox on the bridge", limit=1)] == ["a"]
        assert index.store.capabilities.colbert_kind == "float32"
        assert type(index.store).__name__ == ("ProcessStore" if isolated else "EdgeStore")
    with HybridIndex.open(tmp_path / "new", fake(), create=False) as again:
        assert again.count() == 2


def test_an_ingestion_begins_an_index(tmp_path: Path) -> None:
    with HybridIndex.open(tmp_path / "new", fake()) as index:
        assert index.ingest(iter(RECORDS)).encoded == 2
        assert index.count() == 2


@pytest.mark.parametrize("isolated", [False, True])
def test_an_index_that_is_wanted_begins_at_once_and_is_empty(
    tmp_path: Path, isolated: bool
) -> None:
    with HybridIndex.open(tmp_path / "new", fake(), create=True, isolated=isolated) as index:
        assert (index.search("fox"), index.count(), index.get(["a"])) == ([], 0, [None])
    with HybridIndex.open(tmp_path / "new", fake(), create=True) as again:
        again.add(RECORDS)
        assert again.count() == 2


def test_an_index_that_must_be_there_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no index in"):
        HybridIndex.open(tmp_path / "new", fake(), create=False)
    assert entries(tmp_path) == []


def test_a_new_index_without_an_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs an engine.*BGEM3\(\.\.\.\), create=True"):
        HybridIndex.open(tmp_path / "new", create=True)
    with pytest.raises(InputError, match="create must be None, True or False, not 'yes'"):
        HybridIndex.open(tmp_path / "new", fake(), create="yes")  # type: ignore[arg-type]
    assert entries(tmp_path) == []


def test_two_handles_see_the_index_that_one_of_them_begins(tmp_path: Path) -> None:
    first, second = (HybridIndex.open(tmp_path / "new", fake()) for _ in range(2))
    with pytest.raises(StoreError, match="there is no index in"):
        HybridIndex.open(tmp_path / "new")
    first.add(RECORDS[:1])
    assert second.count() == 1
    second.add(RECORDS[1:])
    first.close()
    assert second.count() == 2
    second.close()
    assert HybridIndex.open(tmp_path / "new", fake()).count() == 2


def test_a_handle_takes_the_index_as_another_has_begun_it(tmp_path: Path) -> None:
    late = HybridIndex.open(tmp_path / "new", fake())
    refused = HybridIndex.open(tmp_path / "new", fake(), colbert="float32")
    with HybridIndex.open(tmp_path / "new", fake(), colbert="reencode") as index:
        index.add(RECORDS)
    assert late.reencodes
    with pytest.raises(StoreError, match="has colbert 'reencode', but 'float32'"):
        refused.count()
    late.close()


def test_threads_that_begin_an_index_together_begin_one(tmp_path: Path) -> None:
    handles = [HybridIndex.open(tmp_path / "new", fake()) for _ in range(4)]
    ready, failed = threading.Barrier(8), list[BaseException]()

    def add(i: int) -> None:
        try:
            ready.wait(30)
            handles[i % 4].add([Record(str(i), f"text {i}")])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=add, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [handle.count() for handle in handles] == [8] * 4
    for handle in handles:
        handle.close()


def test_what_cannot_become_an_index_is_said_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for place, said in [
        ("file", "is a file"),
        ("file/index", "is a file"),
        ("full", r"is no index, but holds \['mine'\]"),
        ("x" * 300, "File name too long"),
    ]:
        with pytest.raises(StoreError, match=said):
            HybridIndex.open(tmp_path / place, BGEM3(tmp_path / "no model"))
    for path in ("", " ", None, 3, "a\0b", b"index"):
        with pytest.raises(InputError, match="path must be a path"):
            HybridIndex.open(path, fake())  # type: ignore[arg-type]


def test_a_closed_handle_begins_nothing(tmp_path: Path) -> None:
    index = HybridIndex.open(tmp_path / "new", fake())
    index.close()
    index.close()
    with pytest.raises(StoreError, match="this index is closed"):
        index.add(RECORDS)
    assert entries(tmp_path) == []


def test_a_tilde_is_the_home_folder_wherever_a_path_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with HybridIndex.open("~/index", fake()) as index:
        index.add(RECORDS)
        index.backup("~/backup")
        index.copy_to(Path("~/copy"))
    HybridIndex.restore("~/backup", "~/restored")
    for name in ("index", "backup", "copy", "restored"):
        with HybridIndex.open(f"~/{name}", fake(), create=False) as again:
            assert again.path == tmp_path / name
            assert again.count() == 2
    engine = BGEM3(FakeEncoder(), cache="~/cache")
    engine.encode_documents(["fox"])
    engine.close()
    assert {"index", "backup", "copy", "restored", "cache"} == {
        entry.name for entry in tmp_path.iterdir()
    }
    with pytest.raises(InputError, match="home folder of an unknown user"):
        HybridIndex.open("~nobody-of-this-name/index", fake())


def test_an_index_opened_without_an_engine_is_read_without_its_model(
    tmp_path: Path, xlm_roberta: Path
) -> None:
    model = shutil.copytree(xlm_roberta, tmp_path / "model")
    with HybridIndex.open(tmp_path / "index", BGEM3(model, device="cpu")) as index:
        index.add(RECORDS)
    model.rename(tmp_path / "elsewhere")
    with HybridIndex.open(tmp_path / "index") as index:
        assert index.count() == 2
        assert index.get(["a"]) == RECORDS[:1]
        index.backup(tmp_path / "backup")
        with pytest.raises(CheckpointError, match="no folder"):
            index.search("fox")
    (tmp_path / "elsewhere").rename(model)
    with HybridIndex.open(tmp_path / "index") as index:
        assert len(index.search("fox")) == 2


def test_a_model_that_changed_under_its_name_is_refused_before_it_encodes(
    tmp_path: Path, xlm_roberta: Path
) -> None:
    model = shutil.copytree(xlm_roberta, tmp_path / "model")
    with HybridIndex.open(tmp_path / "index", BGEM3(model, device="cpu")) as index:
        index.add(RECORDS)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.5}))
    with HybridIndex.open(tmp_path / "index") as index:
        for use in (
            lambda: index.search("fox"),
            lambda: index.search_embedded(index.engine.encode_queries(["fox"])),
            lambda: index.add(RECORDS),
            lambda: index.ingest(RECORDS),
            lambda: index.rerank("fox", ["a fox"]),
            lambda: index.copy_to(tmp_path / "copy"),
        ):
            with pytest.raises(StoreError, match=r"made by .*fingerprint.*is to search it"):
                use()
        assert index.count() == 2
    assert not (tmp_path / "copy").exists()
