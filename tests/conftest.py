"""Checkpoints that many tests share, made once per run; no test touches the network."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
_MEMORY = Path("/dev/shm")


def _takes_all(folder: Path) -> bool:
    """Whether a folder has room for every test's files, and lets compiled ones run."""
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        return False
    return not os.statvfs(folder).f_flag & os.ST_NOEXEC and shutil.disk_usage(folder).free > 8 << 30


if _takes_all(_MEMORY):  # an index is brought to disk many times in its life: a third of the time
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))
settings.register_profile("any machine", deadline=None)  # a busy one is slow, and right
settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    """Take what the imports left, a million objects, out of every later garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def xlm_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny XLM-R checkpoint."""
    from tests.checkpoints import make_xlm_roberta

    return make_xlm_roberta(tmp_path_factory.mktemp("xlm_roberta"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT checkpoint."""
    from tests.checkpoints import make_bert

    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a folder of its own, where the system allows that."""
    made: list[Path] = []

    def mount(*arguments: str) -> Path:
        place = tmp_path / f"mount{len(made)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", *arguments, place], capture_output=True, check=False, text=True
        )
        if done.returncode:
            pytest.skip(f"no mounts here: {done.stderr}")
        made.append(place)
        return place

    if shutil.which("mount") is None:
        pytest.skip("no mount command here")
    yield mount
    for place in made:
        subprocess.run(["umount", place], check=True)
