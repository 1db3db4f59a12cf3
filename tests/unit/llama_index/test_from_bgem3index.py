"""What docs/from-bgem3index.md shows runs, with a tiny checkpoint in place of the real one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore

PAGE = Path(__file__).resolve().parents[3] / "docs" / "from-bgem3index.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)


def test_the_pages_code_rebuilds_an_index_and_opens_it_again(
    xlm_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: list[TextNode]
) -> None:
    old = SimpleDocumentStore()
    old.add_documents(nodes)
    old.persist(str(tmp_path / "old_index" / "docstore.json"))
    (tmp_path / "old_index" / "multi_embed_store.pkl").write_bytes(b"never opened")
    monkeypatch.chdir(tmp_path)
    rebuild, again = BLOCKS
    assert '"BAAI/bge-m3"' in rebuild
    first: dict[str, Any] = {}
    exec(rebuild.replace('"BAAI/bge-m3"', repr(str(xlm_roberta))), first)
    assert first["index"].engine.stats.forwards == len(nodes) + 1
    second: dict[str, Any] = {}
    exec(again, second)
    assert [n.node for n in second["found"]] == [n.node for n in first["found"]]
    assert len(second["found"]) == 3
    assert second["index"].engine.stats.forwards == 1
