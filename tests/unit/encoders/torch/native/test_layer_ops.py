"""Whole backbones and engines by the kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from bge_m3_integrations import BGEM3
from bge_m3_integrations.encoders.config import ModelConfig
from bge_m3_integrations.encoders.torch.layers import PackedBackbone, Weights
from bge_m3_integrations.encoders.torch.load import CheckpointSource
from bge_m3_integrations.encoders.torch.native.binding import runs
from bge_m3_integrations.encoders.torch.native.layer_ops import (
    NativeFloat,
    NativeInt8,
    native_ops,
)
from bge_m3_integrations.encoders.torch.packing import Pack
from bge_m3_integrations.encoders.torch.padded import PaddedBackbone

SIZES = {
    "vocab_size": 50,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 192,
    "max_position_embeddings": 1400,
}


def pair(parts: Any, dtype: torch.dtype) -> tuple[PaddedBackbone, PackedBackbone]:
    config = XLMRobertaConfig(**SIZES)
    torch.manual_seed(0)
    module = XLMRobertaModel(config, add_pooling_layer=False).eval().requires_grad_(False)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    weights = Weights.in_memory(dict(module.named_parameters()))
    packed = PackedBackbone(
        weights,
        config,
        dtype=dtype,
        device=torch.device("cpu"),
        parts=parts,
        states=torch.float32 if isinstance(parts, NativeInt8) else None,
    )
    return PaddedBackbone(module, pad_token_id=config.pad_token_id), packed


@pytest.mark.parametrize(
    ("parts", "needs", "close"),
    [
        (NativeFloat(torch.float32), torch.float32, 1 - 1e-6),
        (NativeFloat(torch.bfloat16), torch.bfloat16, 0.999),
        (NativeInt8(torch.float32), torch.int8, 0.99),
    ],
    ids=["float32", "bfloat16", "int8"],
)
def test_states_are_those_of_transformers(parts: Any, needs: torch.dtype, close: float) -> None:
    if not runs(needs):
        pytest.skip(f"no kernels in {needs} here")
    padded, packed = pair(parts, parts.dtype)
    draw = np.random.default_rng(0)
    pack = Pack.from_rows(
        [draw.integers(3, 50, n).astype(np.int32) for n in (1300, 1, 2, 130, 7, 128)]
    )
    with torch.inference_mode():
        found, expected = packed.hidden(pack), padded.hidden(pack)
        wide = packed.hidden(pack, wide=True)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found, expected).min() > close
    torch.testing.assert_close(wide, expected, atol=1e-4, rtol=1e-3)
    if needs == torch.float32:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_a_checkpoint_is_computed_by_them_and_gives_torchs_numbers(
    xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["dense vector " * n for n in (1, 3, 40, 200)]
    for dtype, bound in (("float32", 1e-5), ("bfloat16", 0.02), ("int8", 0.02)):
        needed = getattr(torch, dtype)
        by_kernels = isinstance(source_of(xlm_roberta, dtype).parts, (NativeFloat, NativeInt8))
        assert by_kernels == runs(needed)
        assert source_of(xlm_roberta, dtype).computed_by.startswith("compiled") == by_kernels
        ours = BGEM3(xlm_roberta, device="cpu", dtype=dtype).encode_documents(texts)
        with monkeypatch.context() as patch:
            without(patch)
            parts = source_of(xlm_roberta, dtype).parts
            assert not isinstance(parts, (NativeFloat, NativeInt8))
            assert source_of(xlm_roberta, dtype).computed_by.startswith("torch: ")
            patch.setattr("bge_m3_integrations.encoders.torch.load._LOADED", {})
            theirs = BGEM3(xlm_roberta, device="cpu", dtype=dtype).encode_documents(texts)
        assert ours.dense is not None
        assert theirs.dense is not None
        np.testing.assert_allclose(ours.dense, theirs.dense, atol=bound)
        assert ours.colbert is not None
        assert theirs.colbert is not None
        np.testing.assert_allclose(ours.colbert.vectors, theirs.colbert.vectors, atol=2 * bound)


def source_of(folder: Path, dtype: str) -> CheckpointSource:
    return CheckpointSource(folder, ModelConfig(device="cpu", dtype=dtype))


def without(patch: pytest.MonkeyPatch) -> None:
    for module in ("layer_ops", "attention"):
        patch.setattr(f"bge_m3_integrations.encoders.torch.native.{module}.runs", lambda _: False)


@pytest.mark.parametrize("width", ["hidden_size", "intermediate_size"])
def test_widths_that_fill_no_vector_are_left_to_torch(width: str) -> None:
    for size, fits in ((64, True), (72, False)):
        config = XLMRobertaConfig(**{**SIZES, width: size, "num_attention_heads": 8})
        found = native_ops(config, dtype=torch.float32, int8=False)
        assert (found is not None) == fits


def test_other_dtypes_are_left_to_torch() -> None:
    config = XLMRobertaConfig(**SIZES)
    assert native_ops(config, dtype=torch.float16, int8=False) is None
    assert native_ops(config, dtype=torch.float64, int8=False) is None


def test_weights_of_7_bits_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = XLMRobertaConfig(**SIZES)
    assert (native_ops(config, dtype=torch.float32, int8=True) is None) == (not runs(torch.int8))
    monkeypatch.setattr(
        "bge_m3_integrations.encoders.torch.native.layer_ops.weight_levels", lambda: 63
    )
    assert native_ops(config, dtype=torch.float32, int8=True) is None
