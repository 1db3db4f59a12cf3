"""Weights that are written over while a model of them is served: an error, never a mixture."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bge_m3_integrations import BGEM3, CheckpointError
from bge_m3_integrations.encoders.torch import encode_job
from tests import checkpoints

_WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.make_xlm_roberta(tmp_path / "served")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return checkpoints.make_xlm_roberta(tmp_path / "other", seed=7) / _WEIGHTS


def _dense(engine: BGEM3) -> np.ndarray:
    dense = engine.encode_documents(["dense vector"], modes=["dense"]).dense
    assert dense is not None
    return dense


@pytest.mark.parametrize(
    "overwrite",
    [
        shutil.copyfile,
        lambda new, old: old.write_bytes(new.read_bytes()[:1000]),
        lambda new, old: old.write_bytes(b""),
    ],
    ids=["of the same size", "shorter", "empty"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_overwritten_are_an_error_that_says_so(
    folder: Path, other: Path, dtype: str, overwrite: Callable[[Path, Path], object]
) -> None:
    engine = BGEM3(folder, dtype=dtype, device="cpu")
    before = _dense(engine)
    held = (folder / _WEIGHTS).read_bytes()
    overwrite(other, folder / _WEIGHTS)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"model\.safetensors was overwritten while"):
            _dense(engine)
    (folder / _WEIGHTS).write_bytes(held)
    np.testing.assert_array_equal(_dense(BGEM3(folder, dtype=dtype, device="cpu")), before)


def test_a_new_engine_serves_the_new_weights(folder: Path, other: Path) -> None:
    engine = BGEM3(folder, dtype="float32", device="cpu")
    before = _dense(engine)
    shutil.copyfile(other, folder / _WEIGHTS)
    assert not np.allclose(_dense(BGEM3(folder, dtype="float32", device="cpu")), before)


def test_weights_that_are_renamed_into_place_or_deleted_disturb_nobody(
    folder: Path, other: Path
) -> None:
    engine = BGEM3(folder, dtype="float32", device="cpu")
    before = _dense(engine)
    other.replace(folder / _WEIGHTS)
    np.testing.assert_array_equal(_dense(engine), before)
    (folder / _WEIGHTS).unlink()
    np.testing.assert_array_equal(_dense(engine), before)


def test_weights_overwritten_during_a_pass_give_no_numbers(
    folder: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = BGEM3(folder, dtype="float32", device="cpu").load()
    run = encode_job.run_pack

    def interrupted(*args: object, **options: object) -> object:
        shutil.copyfile(other, folder / _WEIGHTS)
        return run(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(encode_job, "run_pack", interrupted)
    with pytest.raises(CheckpointError, match="overwritten"):
        _dense(engine)
