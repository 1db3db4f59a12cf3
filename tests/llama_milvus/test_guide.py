"""What docs/llama-index-stores.md shows of Milvus runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "llama-index-stores.md"


def test_the_code_finds_one_of_its_texts(
    xlm_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    (block,) = [block for block in blocks if "hybrid_milvus" in block]
    names: dict[str, Any] = {}
    exec(block.replace('"BAAI/bge-m3"', repr(str(xlm_roberta))), names)
    (node,) = names["nodes"]
    assert node.node.text in names["texts"]
