from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.stores.edge.forking import SECONDS

ROOT = Path(__file__).parents[5]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def said(folder: Path, deed: str, kind: str = "inside") -> list[str]:
    program = [sys.executable, "-m", "tests.unit.stores.edge.forking", str(folder), deed, kind]
    done = subprocess.run(
        program, cwd=ROOT, capture_output=True, text=True, check=False, timeout=2 * SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


KINDS = pytest.mark.parametrize("kind", ["inside", "isolated"])


@KINDS
def test_an_index_that_came_by_fork_refuses_every_use_and_stays_its_parents(
    tmp_path: Path, kind: str
) -> None:
    parent, *refused, before, after = said(tmp_path / "index", "use", kind)
    assert len(refused) == 10
    message = f"was opened by process {parent}, and came here by fork; open it in one process only"
    assert all(message in text for text in refused)
    assert (before, after) == ("150", "150")
    assert not (tmp_path / "backup").exists()


def test_a_child_that_closes_it_releases_nothing_and_meets_the_lock(tmp_path: Path) -> None:
    parent, refused, before, after = said(tmp_path / "index", "close")
    assert f"in use by process {parent} on " in refused
    assert (before, after) == ("150", "150")


@KINDS
def test_a_child_opens_the_folder_once_its_parent_has_closed_it(tmp_path: Path, kind: str) -> None:
    _, opened, after = said(tmp_path / "index", "open later", kind)
    assert (opened, after) == ("no error", "150")
