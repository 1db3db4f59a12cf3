from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def output_of_the_example(**env: str) -> str:
    usual = {k: v for k, v in os.environ.items() if k not in {"CHAT_MODEL", "BGE_M3_MODEL"}}
    done = subprocess.run(
        [sys.executable, "examples/01_langchain_rag.py"],
        cwd=ROOT,
        env={**usual, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_answered(output: str) -> None:
    assert "Answer: (a fake model" in output
    assert len(output.split("Sources:\n")[1].splitlines()) == 4
    assert "Forward passes for the question: 1" in output


def test_the_rag_example_answers_with_any_checkpoint_and_one_forward(xlm_roberta: Path) -> None:
    assert_answered(output_of_the_example(BGE_M3_MODEL=str(xlm_roberta)))


def test_the_rag_example_answers_offline_with_the_demo_checkpoint() -> None:
    output = output_of_the_example()
    assert_answered(output)
    assert "en/filter-before-search" in output
