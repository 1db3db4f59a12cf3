"""A user's program is typed soundly: checkers find nothing in it, and find what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bge_m3_integrations
import bge_m3_integrations.compat
import bge_m3_integrations.langchain
import bge_m3_integrations.llama_index

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAM, WRONG = HERE / "program.py", HERE / "wrong.py"


Found = list[tuple[int, str]]
"""The line and message of each error."""


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """The errors of mypy strict by file: both files in one run, the frameworks' types kept."""
    pytest.importorskip("mypy")
    folder = tmp_path_factory.mktemp("mypy")
    for file in (PROGRAM, WRONG):
        shutil.copy(file, folder)
    command = [sys.executable, "-m", "mypy", "--strict", "--output", "json", "--config-file="]
    command += ["--cache-dir", str(ROOT / ".mypy_cache" / "of_users")]
    done = subprocess.run(
        [*command, PROGRAM.name, WRONG.name],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {
        file.name: [
            (e["line"], e["message"])
            for e in found
            if e["file"] == file.name and e["severity"] == "error"
        ]
        for file in (PROGRAM, WRONG)
    }


@pytest.fixture(scope="module")
def pyright(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """The errors of pyright by file: the program in both modes and the wrong one, in one run."""
    pytest.importorskip("pyright")
    folder = tmp_path_factory.mktemp("pyright")
    copies = {"basic.py": PROGRAM, "strict.py": PROGRAM, "wrong.py": WRONG}
    for name, file in copies.items():
        mode = "strict" if name == "strict.py" else "basic"
        text = file.read_text(encoding="utf-8")
        (folder / name).write_text(f"{text}\n# pyright: {mode}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, *copies], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(copies), report
    return {
        name: [
            (found["range"]["start"]["line"] + 1, found["message"])
            for found in report["generalDiagnostics"]
            if found["severity"] == "error" and Path(found["file"]).name == name
        ]
        for name in copies
    }


def wrong_lines() -> set[int]:
    lines = WRONG.read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, start=1) if line.endswith("# wrong")}


def test_the_program_touches_every_public_name() -> None:
    text = PROGRAM.read_text(encoding="utf-8")
    names = {*bge_m3_integrations.__all__, *bge_m3_integrations.compat.__all__}
    names |= {f"lc.{name}" for name in bge_m3_integrations.langchain.__all__}
    names |= {f"li.{name}" for name in bge_m3_integrations.llama_index.__all__}
    assert sorted(name for name in names if text.count(name) < 1 + ("." not in name)) == []


def test_mypy_finds_nothing_in_the_program(mypy: dict[str, Found]) -> None:
    assert mypy[PROGRAM.name] == []


@pytest.mark.parametrize("mode", ["basic", "strict"])
def test_pyright_finds_nothing_in_the_program(mode: str, pyright: dict[str, Found]) -> None:
    assert pyright[f"{mode}.py"] == []


def test_mypy_finds_every_wrong_line_and_no_other(mypy: dict[str, Found]) -> None:
    assert {line for line, _ in mypy[WRONG.name]} == wrong_lines()


def test_pyright_finds_every_wrong_line_and_no_other(pyright: dict[str, Found]) -> None:
    assert {line for line, _ in pyright[WRONG.name]} == wrong_lines()
