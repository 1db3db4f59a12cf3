"""Every example runs offline, as a user would start it, and says what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAYS = {
    "03_langchain_filters.py": [
        "English, with a word in the title:\n  en/payload-index",
        r"By sparse scores alone:\n  en/",
        "117 forward passes in all, for 108 pages",
    ],
    "04_langchain_rerank_another_store.py": [
        r"Ordered by dense, sparse and ColBERT scores:\n  0\.\d+  en/filter-before-search",
        "11 forward passes",
    ],
    "05_langchain_agent.py": [
        "The tool found: en/filter-before-search",
        r"Answer: \(a fake model",
    ],
    "06_langchain_incremental_indexing.py": [
        "first run: added 108; 108 forward passes; 108 pages",
        "again: skipped 108; 0 forward passes; 108 pages",
        "one page edited: added 1, skipped 107, deleted 1; 1 forward passes; 108 pages",
    ],
    "07_llama_index_pipeline.py": [
        "first run: 108 nodes written, 108 forward passes, 108 nodes held",
        "again: 0 nodes written, 0 forward passes, 108 nodes held",
        "one page edited: 1 nodes written, 1 forward passes, 108 nodes held",
        "one page gone: 0 nodes written, 0 forward passes, 107 nodes held",
    ],
    "08_llama_index_filters.py": [
        r"Dense, sparse and ColBERT together:\n(.*\n)?  0\.\d+  en/filter-before-search",
        r"By sparse scores alone:\n  0\.\d+  en/payload-index",
        "109 forward passes for 108 pages and a question",
    ],
    "09_llama_index_agent.py": [
        "The tool found: en/filter-before-search",
        "Forward passes for the question: 1",
    ],
    "10_from_bgem3index.py": [
        "inserted: 108 documents, 108 forward passes so far",
        "deleted: 107 documents, 108 forward passes so far",
        "refreshed 1 of 107: 107 documents, 109 forward passes so far",
        r"opened again: .*\n  0\.\d+  Filter before, not after",
    ],
    "11_langchain_service.py": [
        "Why filter before the search and not after it\\?\n  0\\.\\d+  en/filter-before-search.md",
        r"\d+ forward passes for \d+ chunks",
    ],
    "12_llama_index_service.py": [
        "Why filter before the search and not after it\\?\n  0\\.\\d+  en/filter-before-search.md",
        r"\d+ forward passes for \d+ chunks",
    ],
}
CHOICES = {"CHAT_MODEL", "BGE_M3_MODEL", "BGE_M3_PATH", "BGE_M3_EXAMPLE_LLM"}


@pytest.mark.parametrize("example", SAYS)
def test_an_example_runs_and_says_what_it_promises(example: str) -> None:
    done = subprocess.run(
        [sys.executable, f"examples/{example}"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in CHOICES} | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for said in SAYS[example]:
        assert re.search(said, done.stdout), f"{said!r} is not in:\n{done.stdout}"


def test_every_example_is_run_by_a_test() -> None:
    elsewhere = {"01_langchain_rag.py", "02_llama_index_rag.py"}
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == SAYS.keys() | elsewhere
