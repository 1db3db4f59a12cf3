"""What docs/caching.md shows runs, with a tiny checkpoint in place of the real one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "caching.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)


@pytest.fixture
def run(xlm_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(block: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        assert '"BAAI/bge-m3"' in block
        exec(block.replace('"BAAI/bge-m3"', repr(str(xlm_roberta))), names)
        return names

    return run


def test_the_first_code_costs_one_forward_and_a_second_process_none(run: Any) -> None:
    names = run(BLOCKS[0])
    assert (names["hits"], names["forwards"]) == (1, 1)
    names = run(BLOCKS[0])
    assert (names["hits"], names["forwards"]) == (2, 0)
    source = names["engine"].encoder.encoder.encoder.source
    assert "_modules" not in vars(source)  # the weights were never loaded


def test_the_bound_is_the_one_that_is_given(run: Any) -> None:
    assert run(BLOCKS[1])["engine"]._cache.max_bytes == 20 * 1024**3


def test_langchains_cache_fills_the_folder(run: Any) -> None:
    names = run(BLOCKS[2])
    assert len(names["vectors"]) == 1
    assert len([*names["cached"].document_embedding_store.store.yield_keys()]) == 1


def test_the_pipelines_nodes_cost_one_forward_for_all_modes(run: Any) -> None:
    names = run(BLOCKS[3])
    assert names["rest"].modes == {"dense", "sparse", "colbert"}
    assert names["engine"].stats.forwards == 1
