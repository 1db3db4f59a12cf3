from __future__ import annotations

import mmap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CamembertConfig,
    CamembertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from bge_m3_integrations import BGEM3
from bge_m3_integrations.encoders.torch import layers
from bge_m3_integrations.encoders.torch.layer_ops import CopiedOps, SharedOps
from bge_m3_integrations.encoders.torch.layers import (
    PackedBackbone,
    Weights,
    is_packable,
)
from bge_m3_integrations.encoders.torch.packing import Pack
from bge_m3_integrations.encoders.torch.padded import PaddedBackbone
from tests.checkpoints import make_xlm_roberta

CPU = torch.device("cpu")
PLAIN = SharedOps()
SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 700,
}
FAMILIES = {
    "bert": (BertModel, BertConfig(**SIZES)),
    "roberta": (RobertaModel, RobertaConfig(**SIZES)),
    "camembert": (CamembertModel, CamembertConfig(**SIZES)),
    "xlm-roberta": (XLMRobertaModel, XLMRobertaConfig(**SIZES)),
}


def pack_of(*lengths: int, seed: int = 0) -> Pack:
    draw = np.random.default_rng(seed)
    return Pack.from_rows([draw.integers(3, 50, n).astype(np.int32) for n in lengths])


def pair(
    family: str, parts: Any = PLAIN, *, dtype: torch.dtype = torch.float32
) -> tuple[PaddedBackbone, PackedBackbone]:
    model, config = FAMILIES[family]
    torch.manual_seed(0)
    module = model(config, add_pooling_layer=False).eval().requires_grad_(False)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    weights = Weights.in_memory(dict(module.named_parameters()))
    packed = PackedBackbone(weights, config, dtype=dtype, device=CPU, parts=parts)
    return PaddedBackbone(module, pad_token_id=config.pad_token_id), packed


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parts", [PLAIN, CopiedOps(torch.float32, CPU)], ids=["plain", "owned"])
def test_packed_states_are_those_of_transformers(family: str, parts: Any) -> None:
    padded, packed = pair(family, parts)
    pack = pack_of(600, 1, 2, 130, 7, 128, 33)
    with torch.inference_mode():
        torch.testing.assert_close(packed.hidden(pack), padded.hidden(pack), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_a_padding_token_typed_in_a_text_is_a_token_as_in_transformers(family: str) -> None:
    padded, packed = pair(family)
    pad = FAMILIES[family][1].pad_token_id
    pack = Pack.from_rows([np.array([4, pad, 7, pad, 9], np.int32), np.array([pad, 5], np.int32)])
    with torch.inference_mode():
        torch.testing.assert_close(packed.hidden(pack), padded.hidden(pack), atol=2e-5, rtol=1e-4)


def test_a_text_has_the_same_states_in_any_company() -> None:
    _, packed = pair("xlm-roberta")
    with torch.inference_mode():
        together = packed.hidden(pack_of(5, 40, 300))
        ids = pack_of(5, 40, 300).ids.split([5, 40, 300])
        alone = [packed.hidden(Pack.from_rows([i.numpy().astype(np.int32)])) for i in ids]
    torch.testing.assert_close(together, torch.cat(alone), atol=2e-5, rtol=1e-4)


def test_what_follows_attention_takes_long_packs_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layers, "_WIDEST_BYTES", 256 * 4 * SIZES["intermediate_size"])
    _, packed = pair("bert")
    pack = pack_of(600, 40)
    whole = packed.hidden(pack)
    seen = []
    up = packed._layers[0].up

    def noted(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return up(x)

    monkeypatch.setattr(
        packed, "_layers", [replace(packed._layers[0], up=noted), *packed._layers[1:]]
    )
    assert (packed.hidden(pack) - whole).abs().max() < 1e-5
    assert seen == [256, 256, 128]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_states_stay_in_float32_whatever_the_products_are_in(dtype: torch.dtype) -> None:
    padded, packed = pair("xlm-roberta", CopiedOps(dtype, CPU), dtype=dtype)
    pack = pack_of(5, 40, 130)
    with torch.inference_mode():
        found, expected = packed.hidden(pack), padded.hidden(pack)
        wide = packed.hidden(pack, wide=True)
    assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.999
    torch.testing.assert_close(wide, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"hidden_act": "relu"}, {"position_embedding_type": "relative_key"}, {"is_decoder": True}],
)
def test_what_the_packed_way_does_not_compute_is_left_to_transformers(
    change: dict[str, Any],
) -> None:
    config = XLMRobertaConfig(**SIZES)
    assert is_packable(config)
    for name, value in change.items():
        setattr(config, name, value)
    assert not is_packable(config)


def test_products_meet_few_shapes_over_texts_of_all_lengths(
    xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: set[int] = set()
    layer = layers.Layer.__call__

    def noted(self: layers.Layer, hidden: torch.Tensor, attend: Any) -> torch.Tensor:
        shapes.add(len(hidden))
        return layer(self, hidden, attend)

    monkeypatch.setattr(layers.Layer, "__call__", noted)
    load = "bge_m3_integrations.encoders.torch.load"
    monkeypatch.setattr(f"{load}.native_ops", lambda *_, **__: None)  # they take any size
    monkeypatch.setattr(f"{load}._LOADED", {})
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32", token_budget=64)
    for n in range(1, 300):
        engine.encode_documents(["dense " * n], modes={"dense"})
    assert len(shapes) <= 40


def test_loading_and_encoding_bring_no_copy_of_the_embedding_table(tmp_path: Path) -> None:
    before = resident()
    if before is None:
        pytest.skip("this system does not tell how much memory a process has")
    make_xlm_roberta(tmp_path, vocabulary=1_000_000)  # a table of 128 MB
    before = resident()
    assert before is not None
    engine = BGEM3(tmp_path, device="cpu", dtype="bfloat16", token_budget=512)
    engine.encode_documents(["dense vector of a document " * 20] * 20)
    after = resident()
    assert after is not None
    assert after - before < 40e6


def resident() -> float | None:
    """Bytes of this process in memory."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
    except OSError:
        return None
    return int(pages) * mmap.PAGESIZE


def test_the_embedding_table_stays_in_the_file(xlm_roberta: Path) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="bfloat16")
    engine.encode_documents(["dense"])
    encoder: Any = engine.encoder
    while not hasattr(encoder, "source"):
        encoder = encoder.encoder
    backbone = encoder.source.modules.backbone
    table = backbone._embeddings._tables[0]
    assert table.dtype == torch.float32
    assert table.data_ptr() == backbone._weights.tensor(layers._TABLES[0]).data_ptr()
