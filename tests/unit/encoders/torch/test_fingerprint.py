"""A model's fingerprint: the same for the same numbers, another for others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from bge_m3_integrations import BGEM3
from tests.checkpoints import make_xlm_roberta


@pytest.fixture(scope="module")
def engine(xlm_roberta: Path) -> BGEM3:
    return BGEM3(xlm_roberta, device="cpu", dtype="float32")


@pytest.fixture
def copy(xlm_roberta: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(xlm_roberta, tmp_path / "copy"))


def test_the_fingerprint_ignores_path_dtype_device_and_query_instruction(
    copy: Path, engine: BGEM3
) -> None:
    other = BGEM3(copy, device="cpu", dtype="bfloat16", query_instruction="find: ")
    assert other.fingerprint == engine.fingerprint


def test_the_fingerprint_changes_with_weights_pooling_and_document_instruction(
    xlm_roberta: Path, tmp_path: Path, engine: BGEM3
) -> None:
    others = [
        BGEM3(make_xlm_roberta(tmp_path / "other", seed=5)),
        BGEM3(xlm_roberta, pooling="mean"),
        BGEM3(xlm_roberta, document_instruction="passage: "),
    ]
    prints = {engine.fingerprint, *(other.fingerprint for other in others)}
    assert len(prints) == 4


def test_the_fingerprint_changes_with_the_tokenizers_rules(copy: Path, engine: BGEM3) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert BGEM3(copy).fingerprint != engine.fingerprint


def test_the_fingerprint_changes_when_two_layers_trade_places(copy: Path, engine: BGEM3) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    swapped = {
        name.replace("layer.0.", "layer.x.")
        .replace("layer.1.", "layer.0.")
        .replace(".x.", ".1."): t
        for name, t in tensors.items()
    }
    save_file(swapped, copy / "model.safetensors", metadata={"format": "pt"})
    assert BGEM3(copy).fingerprint != engine.fingerprint


def test_the_fingerprint_changes_when_a_head_is_replaced(copy: Path, engine: BGEM3) -> None:
    torch.save(torch.nn.Linear(32, 1).state_dict(), copy / "sparse_linear.pt")
    assert BGEM3(copy).fingerprint != engine.fingerprint
