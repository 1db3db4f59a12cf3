"""The shape of the package: its folders, the size of its files, its docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "bge_m3_integrations"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = {"_internal", "core", "encoders", "engine", "stores", "index", "langchain", "llama_index"}
ROOMS |= {"compat", "evaluation", "testing", "demo", "cli", "errors.py"}
FACE = {"__init__.py", "__main__.py", "_version.py", "py.typed"}
# Tests of the programs beside the package.
PROGRAMS = {"benchmarks", "train_demo"}


def relative(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def nodes(file: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


def folders(root: Path) -> set[str]:
    """The folders below a root that hold Python files of their own."""
    return {file.parent.relative_to(root).as_posix() for file in root.rglob("*.py")} - {"."}


def test_the_top_level_has_fourteen_rooms_and_a_face() -> None:
    there = {entry.name for entry in PACKAGE.iterdir()} - {"__pycache__"}
    assert (len(ROOMS), there) == (14, ROOMS | FACE)


def test_every_folder_of_unit_tests_is_one_of_the_package() -> None:
    tested = {
        folder for folder in folders(ROOT / "tests/unit") if folder.split("/")[0] not in PROGRAMS
    }
    assert tested <= folders(PACKAGE)


def test_every_unit_test_is_in_a_folder() -> None:
    assert list((ROOT / "tests/unit").glob("*.py")) == []


def test_no_file_is_longer_than_400_lines() -> None:
    long = {
        relative(file) for file in FILES if len(file.read_text(encoding="utf-8").splitlines()) > 400
    }
    assert long == set()


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring, which says what its size needs."""
    first = node.body[0]
    described = ast.get_docstring(node) is not None
    documented = (first.end_lineno or 0) - first.lineno + 1 if described else 0
    return (node.end_lineno or 0) - node.lineno + 1 - documented


def test_no_function_is_longer_than_40_lines_beside_its_docstring() -> None:
    long = {
        f"{relative(file)}:{node.name}"
        for file in FILES
        for node in nodes(file)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > 40
    }
    assert long == set()


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_nothing_is_guarded_by_an_assert(file: Path) -> None:
    """`python -O` leaves asserts out; the suites for users' own tests are made of them."""
    if file.is_relative_to(PACKAGE / "testing"):
        return
    assert [node.lineno for node in nodes(file) if isinstance(node, ast.Assert)] == []


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_a_docstring_begins_with_a_verb_or_the_noun(file: Path) -> None:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    texts = [ast.get_docstring(node) or "" for node in nodes(file) if isinstance(node, documented)]
    assert [text for text in texts if text.split(" ")[0] in {"What", "How", "That"}] == []
