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
PROGRAM, WRONG = HERE / "program.py", HERE / "wrong.py"


def mypy(file: Path, folder: Path) -> list[tuple[int, str]]:
    """The line and message of each error that mypy finds in a copy of the file."""
    pytest.importorskip("mypy")
    shutil.copy(file, folder)
    command = [sys.executable, "-m", "mypy", "--strict", "--output", "json", "--config-file="]
    # one for all calls: the frameworks' types are read once
    command += ["--cache-dir", str(folder.parent / "mypy_cache")]
    done = subprocess.run(
        [*command, file.name], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [(e["line"], e["message"]) for e in found if e["severity"] == "error"]


def pyright(file: Path, folder: Path, mode: str) -> list[tuple[int, str]]:
    """The line and message of each error that pyright finds in a copy of the file."""
    pytest.importorskip("pyright")
    shutil.copy(file, folder)
    config = {"include": [file.name], "typeCheckingMode": mode}
    (folder / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, "-p", "."], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1, report
    return [
        (found["range"]["start"]["line"] + 1, found["message"])
        for found in report["generalDiagnostics"]
        if found["severity"] == "error"
    ]


def wrong_lines() -> set[int]:
    lines = WRONG.read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, start=1) if line.endswith("# wrong")}


def test_the_program_touches_every_public_name() -> None:
    text = PROGRAM.read_text(encoding="utf-8")
    names = {*bge_m3_integrations.__all__, *bge_m3_integrations.compat.__all__}
    names |= {f"lc.{name}" for name in bge_m3_integrations.langchain.__all__}
    names |= {f"li.{name}" for name in bge_m3_integrations.llama_index.__all__}
    assert sorted(name for name in names if text.count(name) < 1 + ("." not in name)) == []


def test_mypy_finds_nothing_in_the_program(tmp_path: Path) -> None:
    assert mypy(PROGRAM, tmp_path) == []


@pytest.mark.parametrize("mode", ["basic", "strict"])
def test_pyright_finds_nothing_in_the_program(mode: str, tmp_path: Path) -> None:
    assert pyright(PROGRAM, tmp_path, mode) == []


def test_mypy_finds_every_wrong_line_and_no_other(tmp_path: Path) -> None:
    assert {line for line, _ in mypy(WRONG, tmp_path)} == wrong_lines()


def test_pyright_finds_every_wrong_line_and_no_other(tmp_path: Path) -> None:
    assert {line for line, _ in pyright(WRONG, tmp_path, "basic")} == wrong_lines()
