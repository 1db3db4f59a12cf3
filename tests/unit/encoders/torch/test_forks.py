"""A forked child of a process that has encoded gets numbers or an error, and never hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bge_m3_integrations.encoders.torch.int8 import weight_levels
from tests import checkpoints

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

_BEGIN = """
import os, signal, sys, threading, time, warnings
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(2)
from bge_m3_integrations.encoders.torch.native import binding
from bge_m3_integrations import BGEM3
from bge_m3_integrations._internal import forks
if sys.argv[3] == "off":
    binding.LIBRARY = Path("/nowhere")
engine = BGEM3(sys.argv[1], dtype=sys.argv[2], device="cpu", cache=sys.argv[4] or None)
engine.declare("one", query=["dense"], document=["dense"])
engine.declare("two", query=["sparse"], document=["sparse"])
texts = ["the " * n for n in (900, 3, 500, 900, 2)]
wanted = engine.encode_documents(texts)

def fork(work):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        signal.alarm(60)  # a child that hangs is killed
        try:
            os._exit(work() or 0)
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def encode():
    fresh = [text + "vector" for text in texts]
    found = engine.encode_documents(texts)
    np.testing.assert_allclose(found.dense, wanted.dense, atol=2e-2)
    assert np.isfinite(engine.encode_documents(fresh).dense).all()
    engine.score(["the"], fresh)
    engine.close()
"""

_IDLE = """
assert fork(encode) == 0
assert fork(lambda: fork(encode)) == 0, "a child's child"
encode()
"""

_BUSY = """
stopped = False
def busy(number):
    i = 0
    while not stopped:
        i += 1
        engine.encode_documents([f"the {i} {number} " * (i % 90)])
        engine.encode_queries([f"what is {i % 7}"])
        engine.score([f"how {i}"], ["the"])
threads = [threading.Thread(target=busy, args=(n,)) for n in range(3)]
for thread in threads:
    thread.start()
found = []
for _ in range(8):
    time.sleep(0.02)
    found.append(fork(encode))
stopped = True
for thread in threads:
    thread.join()
assert found == [0] * 8, found
"""

_TORN = """
forks.SECONDS = 0.1
begun, done = threading.Event(), threading.Event()
def hold():
    with forks.between_forks:
        begun.set()
        done.wait()
thread = threading.Thread(target=hold)
thread.start()
begun.wait()
assert fork(encode) == 1
done.set()
thread.join()
encode()  # the parent goes on
"""


def _run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _BEGIN + program, *arguments],
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(checkpoints.make_xlm_roberta(tmp_path_factory.mktemp("forks")))


@pytest.mark.parametrize("kernels", ["on", "off"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_child_encodes_what_its_parent_would(folder: str, dtype: str, kernels: str) -> None:
    if dtype == "int8" and not weight_levels():
        pytest.skip("no 8-bit products here")
    _run(_IDLE, folder, dtype, kernels, "")


def test_a_child_made_while_other_threads_encode_encodes_too(folder: str, tmp_path: Path) -> None:
    _run(_BUSY, folder, "bfloat16", "on", str(tmp_path))


def test_a_child_made_in_the_middle_of_a_pass_says_so(folder: str) -> None:
    found = _run(_TORN, folder, "float32", "on", "")
    assert "WorkerError this process was forked while another thread computed" in found
