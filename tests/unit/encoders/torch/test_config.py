"""config.json is checked before anything is built by it: an error has the value, and the fix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bge_m3_integrations import BGEM3
from bge_m3_integrations.encoders.torch.config import read_config, usable_positions
from bge_m3_integrations.errors import CheckpointError


@pytest.fixture
def copy(xlm_roberta: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(xlm_roberta, tmp_path / "copy"))


def write(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("num_attention_heads", 7, "hidden_size 32 and num_attention_heads 7"),
        ("num_attention_heads", 0, "num_attention_heads 0"),
        ("num_attention_heads", -2, "num_attention_heads -2"),
        ("num_attention_heads", "2", "num_attention_heads '2'"),
        ("num_attention_heads", True, "num_attention_heads True"),
        ("num_attention_heads", 2.0, "num_attention_heads 2.0"),
        ("num_hidden_layers", 1_000_000_000, "num_hidden_layers 1000000000"),
        ("num_hidden_layers", 0, "num_hidden_layers 0"),
        ("num_hidden_layers", 10**300, "num_hidden_layers 1000"),
        ("hidden_size", 0, "hidden_size 0"),
        ("hidden_size", [32], "hidden_size [32]"),
        ("intermediate_size", 10**12, "intermediate_size 1000000000000"),
        ("vocab_size", 0, "vocab_size 0"),
        ("vocab_size", 10**12, "vocab_size 1000000000000"),
        ("type_vocab_size", 0, "type_vocab_size 0"),
        ("max_position_embeddings", 2, "max_position_embeddings 2 and pad_token_id 1"),
        ("max_position_embeddings", 3, "which leaves 1 positions; a text needs 3"),
        ("max_position_embeddings", None, "max_position_embeddings"),
        ("hidden_act", "swish2", "hidden_act 'swish2'"),
        ("pad_token_id", None, "pad_token_id None"),
        ("pad_token_id", -1, "pad_token_id -1"),
        ("pad_token_id", "1", "pad_token_id '1'"),
        ("pad_token_id", 10_000, "pad_token_id 10000"),
        ("layer_norm_eps", 0, "layer_norm_eps 0"),
        ("layer_norm_eps", float("nan"), "layer_norm_eps nan"),
        ("layer_norm_eps", "1e-5", "layer_norm_eps '1e-5'"),
        ("model_type", None, "model_type None"),
        ("model_type", 7, "model_type 7"),
    ],
)
def test_a_field_that_cannot_be_meant_is_named_with_its_value(
    copy: Path, field: str, value: Any, words: str
) -> None:
    write(copy, **{field: value})
    with pytest.raises(CheckpointError) as raised:
        BGEM3(copy, device="cpu").encode_documents(["a"], modes=["dense"])
    assert str(copy) in str(raised.value)
    assert words in str(raised.value)


def test_sizes_are_checked_before_transformers_lists_the_layers(copy: Path) -> None:
    write(copy, model_type="modernbert", num_hidden_layers=10**9)
    with pytest.raises(CheckpointError, match="num_hidden_layers 1000000000"):
        read_config(copy, trust_remote_code=False)


def test_a_config_without_a_padding_id_has_its_kinds_usual_one(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    del config["pad_token_id"]
    (copy / "config.json").write_text(json.dumps(config))
    found = read_config(copy, trust_remote_code=False)
    assert usable_positions(found) == found.max_position_embeddings - 2


def test_a_bert_needs_no_padding_id_and_a_deberta_no_token_types(bert: Path, copy: Path) -> None:
    shutil.copytree(bert, copy, dirs_exist_ok=True)
    write(copy, pad_token_id=None)
    assert BGEM3(copy, device="cpu").encode_documents(["a"]).dense is not None
    write(copy, model_type="deberta-v2", type_vocab_size=0)
    assert read_config(copy, trust_remote_code=False).type_vocab_size == 0
