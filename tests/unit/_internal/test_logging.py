"""The standard `logging` module is told what was loaded, opened, optimized; never a text."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from bge_m3_integrations import BGEM3, HybridIndex, Record
from tests import checkpoints

SECRET = "nobody may read this"


def test_a_programs_steps_are_told_and_no_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = checkpoints.make_xlm_roberta(tmp_path / "model", seed=3)
    with caplog.at_level(logging.DEBUG, "bge_m3_integrations"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = BGEM3(folder, device="cpu", dtype="float32", max_length=5).load()
        with HybridIndex.open(tmp_path / "index", engine) as index:
            index.add([Record("a", SECRET * 20), Record("b", SECRET)])
            index.search(SECRET)
            index.optimize()
            index.compact()
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    for beginning in (
        f"loaded {folder} on cpu in float32: ",
        f"opened the index in {tmp_path / 'index'}: 0 documents",
        "2 of 2 texts (document) were longer than 5 tokens (ids 'a' and 'b')",
        f"optimize of {tmp_path / 'index'} is done: ",
        f"compact of {tmp_path / 'index'} is done: ",
    ):
        assert any(message.startswith(beginning) for message in told), (beginning, told)
    assert SECRET not in caplog.text
    assert "nobody" not in caplog.text
    assert all(record.name.startswith("bge_m3_integrations.") for record in caplog.records)


def test_a_program_that_does_not_listen_hears_nothing() -> None:
    program = (
        "import logging, bge_m3_integrations\n"
        "logging.getLogger('bge_m3_integrations.anything').error('not heard')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stderr == b""
