from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bge_m3_integrations import BGEM3
from bge_m3_integrations._internal.subprocesses import command, environment, spawning
from bge_m3_integrations.core.records import Record
from tests.unit.stores.edge.programs import encoded, open_apart, open_store

RECORDS = [Record(f"{i}", f"fox {i}") for i in range(3)]
TRAP = "import pathlib; pathlib.Path({!r}).touch(); raise SystemExit('run from the directory')"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory has a module for each that is loaded here, and is on the path.

    Gives the file that is there once a process has run one of them.
    """
    place, sprung = tmp_path / "here", tmp_path / "sprung"
    place.mkdir()
    loaded = {name.partition(".")[0] for name in sys.modules} | {"sitecustomize", "secrets"}
    for name in loaded - {"__main__", "tests", "bge_m3_integrations"}:
        (place / f"{name}.py").write_text(TRAP.format(str(sprung)))
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    return sprung


def test_optimising_apart_runs_nothing_that_lies_in_the_working_directory(
    tmp_path: Path, trap: Path
) -> None:
    store = open_store(tmp_path / "index")
    store.upsert(RECORDS, encoded(RECORDS))
    store.optimize(isolated=True)
    assert store.count() == 3
    store.close()
    assert not trap.exists()


def test_an_index_apart_runs_nothing_that_lies_in_the_working_directory(
    tmp_path: Path, trap: Path
) -> None:
    store = open_apart(tmp_path / "index")
    store.upsert(RECORDS, encoded(RECORDS))
    store.compact()  # a process of that process
    assert store.count() == 3
    store.close()
    assert not trap.exists()


def test_workers_run_nothing_that_lies_in_the_working_directory(
    xlm_roberta: Path, trap: Path
) -> None:
    engine = BGEM3(xlm_roberta, device=["cpu", "cpu"], dtype="float32")
    try:
        assert len(engine.encode_queries(["fox"])) == 1
    finally:
        engine.close()
    assert not trap.exists()
    assert sys.path[0] == ""


def test_a_process_finds_what_its_caller_added_to_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "only_there.py").write_text("print('found')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("added")
    done = subprocess.run(
        command("only_there"), env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "found\n"


def test_a_package_that_only_the_working_directory_leads_to_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = Path(__file__).parents[3]
    monkeypatch.setattr(sys, "path", ["", *(p for p in sys.path if Path(p).resolve() != root)])
    assert environment()["PYTHONPATH"].split(os.pathsep)[-1] == str(root)


def test_spawning_leaves_path_and_environment_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for value in (None, "", "1"):
        if value is None:
            monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
        else:
            monkeypatch.setenv("PYTHONSAFEPATH", value)
        for path in (["a", "", "b"], ["a"]):
            monkeypatch.setattr(sys, "path", list(path))
            with spawning():
                assert os.environ["PYTHONSAFEPATH"] == "1"
                assert sys.path == sorted(path, key=lambda entry: not entry)
            assert sys.path == path
            assert os.environ.get("PYTHONSAFEPATH") == value


@pytest.mark.skipif(os.name == "nt", reason="its pipes have no folder")
def test_a_long_folder_of_temporary_files_leaves_room_for_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", None)
    store = open_apart(tmp_path / "index")
    store.upsert(RECORDS, encoded(RECORDS))
    assert store.count() == 3
    store.close()
