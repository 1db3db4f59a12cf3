"""The guides are programs: their code runs in order, on the demo checkpoint, offline.

A comment `<!-- check: EXPRESSION -->` behind a block is evaluated where the block ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bge_m3_integrations.demo import checkpoint_path

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [
    "engine.md",
    "evaluation.md",
    "explanations.md",
    "from-langchain.md",
    "index.md",
    "langchain.md",
    "llama-index.md",
    "langchain-stores.md",
    "scale.md",
    "scores.md",
    "thresholds.md",
    "tutorial-langchain.md",
    "tutorial-llama-index.md",
    "weight-profiles.md",
    "weights.md",
    "zh.md",
]
PART = re.compile(r"^```python\n(?P<code>.*?)^```|^<!-- check: (?P<check>.*?) -->", re.S | re.M)


@pytest.fixture(autouse=True)
def _servers_end() -> Iterator[None]:
    yield
    try:
        from milvus_lite.server_manager import server_manager_instance
    except ImportError:
        return
    server_manager_instance.release_all()


@pytest.mark.parametrize("page", PAGES)
def test_a_guides_code_runs_and_does_what_the_guide_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "guide"}
    parts = list(PART.finditer((DOCS / page).read_text(encoding="utf-8")))
    for part in parts:
        if part["code"]:
            exec(part["code"].replace('"BAAI/bge-m3"', repr(str(checkpoint_path()))), names)
        else:
            assert eval(part["check"], names), part["check"]
    assert any(part["code"] for part in parts)
    assert any(part["check"] for part in parts), "a guide without a check proves little"
