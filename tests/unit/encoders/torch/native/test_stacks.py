"""Kernels compute in threads of a small stack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import checkpoints

_PROGRAM = """
import sys, threading
from bge_m3_integrations import BGEM3
engine = BGEM3(sys.argv[1], dtype=sys.argv[2], device="cpu")
threading.stack_size(192 * 1024)
done = []
def work():
    engine.encode_documents(["the " * 900, "the"])
    engine.score(["the"], ["the " * 500])
    done.append(True)
thread = threading.Thread(target=work)
thread.start()
thread.join()
assert done
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_encoding_in_a_thread_of_a_small_stack(tmp_path: Path, dtype: str) -> None:
    folder = checkpoints.make_xlm_roberta(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder), dtype], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
