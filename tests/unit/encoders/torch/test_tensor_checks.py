"""Weights that would give numbers without meaning are refused by name; real layouts load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bge_m3_integrations import BGEM3
from bge_m3_integrations.encoders.torch.tensor_checks import check_numbers
from bge_m3_integrations.errors import CheckpointError, EncodingError
from tests.checkpoints import HIDDEN

QUERY = "encoder.layer.0.attention.self.query"
Tensors = dict[str, torch.Tensor]
TEXTS = ["dense vector of a document", "sparse"]


@pytest.fixture
def copy(xlm_roberta: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(xlm_roberta, tmp_path / "copy"))


@pytest.fixture(scope="module")
def expected(xlm_roberta: Path) -> Any:
    return BGEM3(xlm_roberta, device="cpu", dtype="float32").encode_documents(TEXTS).dense


def rewrite(folder: Path, change: Callable[[Tensors], Tensors | None]) -> None:
    path = folder / "model.safetensors"
    held = load_file(path)
    save_file(change(held) or held, path, metadata={"format": "pt"})


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as raised:
        BGEM3(folder, device="cpu", **options).encode_documents(TEXTS, modes=["dense"])
    return str(raised.value)


def dense(folder: Path) -> Any:
    return BGEM3(folder, device="cpu", dtype="float32").encode_documents(TEXTS).dense


# -- tensors that config.json does not name ----------------------------------------------------


def foreign(
    name: str, *shape: int, dtype: torch.dtype = torch.float32
) -> Callable[[Tensors], None]:
    def change(held: Tensors) -> None:
        held[name] = torch.ones(shape, dtype=dtype)

    return change


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"{QUERY}.SCB", "quantized"),
        (f"{QUERY}.weight_format", "quantized"),
        (f"{QUERY}.weight.absmax", "quantized"),
        (f"{QUERY}.weight.quant_state.bitsandbytes__nf4", "quantized"),
        (f"{QUERY}.weight_scale", "quantized"),
        (f"{QUERY}.weight_scale_inv", "quantized"),
        (f"{QUERY}.qzeros", "quantized"),
        (f"{QUERY}.g_idx", "quantized"),
        (f"{QUERY}.lora_A.weight", "Merge first"),
        (f"{QUERY}.lora_B.default.weight", "Merge first"),
        ("encoder.layer.0.output.adapters.task.down.weight", "Merge first"),
        ("encoder.adapter.weight", "Merge first"),
        ("encoder.layer.0.attention.self.gate.weight", "does not name"),
        ("encoder.final_norm.weight", "does not name"),
        ("embeddings.projection.weight", "does not name"),
        ("projection.weight", "does not name"),
    ],
)
def test_a_tensor_that_the_config_does_not_name_is_refused(
    copy: Path, name: str, words: str
) -> None:
    rewrite(copy, foreign(name, 2))
    text = refusal(copy)
    assert name in text
    assert words in text
    assert str(copy) in text


@pytest.mark.parametrize(("layers", "held"), [(1, 2), (3, 2)])
def test_more_or_fewer_layers_than_the_config_says_names_both_numbers(
    copy: Path, layers: int, held: int
) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    text = refusal(copy)
    assert f"of {held} layers" in text
    assert f"num_hidden_layers {layers}" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {}}, "'state_dict' in it is a dict"),
        ([1], "a list, not tensors by name"),
        ({"a": 3}, "'a' in it is a int"),
    ],
)
def test_a_torch_file_that_is_no_state_dict_is_an_error(
    copy: Path, content: Any, words: str
) -> None:
    (copy / "model.safetensors").unlink()
    torch.save(content, copy / "pytorch_model.bin")
    assert words in refusal(copy)


# -- dtypes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.bool, torch.int64, torch.float8_e4m3fn]
)
@pytest.mark.parametrize("name", [f"{QUERY}.weight", "embeddings.word_embeddings.weight"])
def test_weights_that_are_no_floats_by_themselves_are_refused(
    copy: Path, name: str, dtype: torch.dtype
) -> None:
    rewrite(copy, lambda held: held | {name: held[name].to(dtype)})
    text = refusal(copy)
    assert f"{name} in {copy} is of {str(dtype).removeprefix('torch.')}" in text
    assert "dtype='int8'" in text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_every_float_load(copy: Path, dtype: torch.dtype, expected: Any) -> None:
    rewrite(copy, lambda held: {name: t.to(dtype) for name, t in held.items()})
    np.testing.assert_allclose(dense(copy), expected, atol=0.05)


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_config_of_quantised_weights_is_refused_by_its_method(copy: Path, key: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {key: {"quant_method": "gptq"}}))
    text = refusal(copy)
    assert key in text
    assert "'gptq'" in text


# -- zeros and numbers that are not finite -----------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [f"{QUERY}.weight", "embeddings.word_embeddings.weight", "embeddings.LayerNorm.weight"],
)
def test_a_tensor_of_zeros_is_refused(copy: Path, name: str) -> None:
    rewrite(copy, lambda held: held | {name: torch.zeros_like(held[name])})
    assert f"{name} in {copy} is all zeros" in refusal(copy)


def test_zeros_where_they_are_usual_load(copy: Path, expected: Any) -> None:
    def change(held: Tensors) -> None:
        for name, tensor in held.items():
            if "token_type" in name or name.endswith("bias"):
                tensor.zero_()
        held["embeddings.word_embeddings.weight"][1] = 0  # padding

    rewrite(copy, change)
    assert dense(copy).shape == expected.shape


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_vector_that_is_not_finite_is_refused(copy: Path, value: float) -> None:
    def change(held: Tensors) -> None:
        held["encoder.layer.1.output.LayerNorm.bias"][3] = value

    rewrite(copy, change)
    assert "encoder.layer.1.output.LayerNorm.bias" in refusal(copy)


@pytest.mark.parametrize("head", ["colbert_linear.pt", "sparse_linear.pt"])
@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_a_head_that_is_not_finite_is_refused(
    copy: Path, head: str, part: str, value: float
) -> None:
    state = torch.load(copy / head, weights_only=True)
    state[part].view(-1)[0] = value
    torch.save(state, copy / head)
    text = refusal(copy)
    assert str(copy / head) in text
    assert "not finite" in text


@pytest.mark.parametrize("head", ["colbert_linear.pt", "sparse_linear.pt"])
def test_a_head_of_zeros_integers_or_further_parts_is_refused(copy: Path, head: str) -> None:
    state = torch.load(copy / head, weights_only=True)
    for changed, words in (
        ({**state, "weight": torch.zeros_like(state["weight"])}, "all zeros"),
        ({**state, "weight": state["weight"].to(torch.int8)}, "int8"),
        ({**state, "weight_scale": torch.ones(1)}, "weight_scale"),
        ({**state, "weight": torch.tensor(1.0)}, "shape ()"),
        ({**state, "bias": torch.zeros(7)}, "(7,)"),
    ):
        torch.save(changed, copy / head)
        text = refusal(copy)
        assert head in text
        assert words in text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("mode", ["dense", "colbert"])
def test_no_vector_of_length_0_leaves_the_engine(copy: Path, dtype: str, mode: Any) -> None:
    def change(held: Tensors) -> None:  # a last layer that gives nothing but its bias, which is 0
        held["encoder.layer.1.output.LayerNorm.bias"].zero_()
        held["encoder.layer.1.output.LayerNorm.weight"].zero_()
        held["encoder.layer.1.output.LayerNorm.weight"][0] = 1e-38

    rewrite(copy, change)
    state = torch.load(copy / "colbert_linear.pt", weights_only=True)
    torch.save({**state, "bias": torch.zeros(HIDDEN)}, copy / "colbert_linear.pt")
    with pytest.raises(EncodingError, match=r"text 0 .* of length 0"):
        BGEM3(copy, device="cpu", dtype=dtype).encode_documents(TEXTS, modes=[mode])


# -- layouts that there are --------------------------------------------------------------------


def as_published(held: Tensors) -> None:
    """The tensors of BAAI/bge-m3's pytorch_model.bin: with indices and a pooler."""
    held["embeddings.position_ids"] = torch.arange(8)[None]
    held["embeddings.token_type_ids"] = torch.zeros(1, 8, dtype=torch.int64)
    held["pooler.dense.weight"] = torch.ones(HIDDEN, HIDDEN)
    held["pooler.dense.bias"] = torch.zeros(HIDDEN)


def as_masked_lm(held: Tensors) -> Tensors:
    task = {f"roberta.{name}": tensor for name, tensor in held.items()}
    head = {"dense.weight": (HIDDEN, HIDDEN), "layer_norm.bias": (HIDDEN,), "bias": (9,)}
    task |= {f"lm_head.{name}": torch.ones(shape) for name, shape in head.items()}
    return task | {"roberta.embeddings.position_ids": torch.arange(8)[None]}


def as_classifier(held: Tensors) -> Tensors:
    task = {f"roberta.{name}": tensor for name, tensor in held.items()}
    return task | {
        "roberta.pooler.dense.weight": torch.ones(HIDDEN, HIDDEN),
        "classifier.out_proj.weight": torch.ones(2, HIDDEN),
    }


def as_one_file(held: Tensors) -> Tensors:
    """All of a FlagEmbedding model in one state dict, before its heads are saved apart."""
    task = {f"model.{name}": tensor for name, tensor in held.items()}
    return task | {
        "colbert_linear.weight": torch.ones(HIDDEN, HIDDEN),
        "sparse_linear.bias": torch.ones(1),
    }


def as_first_bert(held: Tensors) -> Tensors:
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, tensor in held.items():
        for new, was in old.items():
            name = name.replace(new, was)  # noqa: PLW2901
        renamed[name] = tensor
    return renamed | {"cls.predictions.bias": torch.ones(4)}


@pytest.mark.parametrize(
    "layout", [as_published, as_masked_lm, as_classifier, as_one_file, as_first_bert]
)
def test_a_real_layout_loads_and_gives_the_same_numbers(
    copy: Path, layout: Callable[[Tensors], Tensors | None], expected: Any
) -> None:
    rewrite(copy, layout)
    np.testing.assert_array_equal(dense(copy), expected)


def test_what_transformers_saves_with_a_pooler_loads(copy: Path, expected: Any) -> None:
    from transformers import AutoModel

    AutoModel.from_pretrained(copy).save_pretrained(copy)
    np.testing.assert_array_equal(dense(copy), expected)


def test_a_generic_backbone_is_held_to_the_same(copy: Path) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    (copy / "model.safetensors").unlink()
    sizes = {"dim": HIDDEN, "n_layers": 1, "n_heads": 2, "hidden_dim": 64, "vocab_size": 200}
    DistilBertModel(DistilBertConfig(**sizes)).save_pretrained(copy)
    assert dense(copy).shape == (2, HIDDEN)
    name = "transformer.layer.0.attention.q_lin.weight"
    rewrite(copy, lambda held: held | {name: held[name].to(torch.float8_e4m3fn)})
    assert f"{name} in {copy} is of float8_e4m3fn" in refusal(copy)
    rewrite(copy, lambda held: held | {name: torch.ones(HIDDEN, HIDDEN)})
    rewrite(copy, foreign("transformer.layer.1.attention.q_lin.weight", HIDDEN, HIDDEN))
    assert "transformer.layer.1" in refusal(copy)


def test_one_row_of_a_sound_matrix_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []
    plain = torch.Tensor.any

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        looked_at.append(tensor.numel())
        return plain(tensor)

    monkeypatch.setattr(torch.Tensor, "any", counted)
    check_numbers({"dense.weight": torch.ones(1000, 8)}, Path("folder"))
    assert looked_at == [8]
