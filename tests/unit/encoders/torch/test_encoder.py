from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.encoders.torch.encoder import TorchEncoder
from bge_m3_integrations.encoders.torch.layers import PackedBackbone
from bge_m3_integrations.encoders.torch.linear import PlainLinear
from bge_m3_integrations.encoders.torch.packing import Pack
from bge_m3_integrations.errors import (
    EncodingError,
    InputError,
)


@pytest.fixture(scope="module")
def engine(xlm_roberta: Path) -> BGEM3:
    return BGEM3(xlm_roberta, device="cpu", dtype="float32")


@pytest.fixture
def copy(xlm_roberta: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(xlm_roberta, tmp_path / "copy"))


def inner(engine: BGEM3) -> TorchEncoder:
    encoder = engine.encoder.encoder
    assert isinstance(encoder, TorchEncoder)
    return encoder


def assert_finite(batch: EmbeddingBatch) -> None:
    assert batch.dense is not None
    assert batch.sparse is not None
    assert batch.colbert is not None
    assert np.isfinite(batch.dense).all()
    assert np.isfinite(batch.sparse.weights).all()
    assert np.isfinite(batch.colbert.vectors).all()
    np.testing.assert_allclose(np.linalg.norm(batch.dense, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(batch.colbert.vectors, axis=1), 1, atol=1e-5)


# -- inputs ------------------------------------------------------------------------------------


def test_no_texts_give_empty_arrays_of_the_right_width(engine: BGEM3) -> None:
    batch = engine.encode_documents([])
    assert batch.dense is not None
    assert batch.colbert is not None
    assert batch.dense.shape == (0, engine.encoder.dim)
    assert batch.colbert.vectors.shape == (0, engine.encoder.colbert_dim)
    assert len(batch) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\n ",
        "a\x00b",
        "dense 稠密 плотный كثيف 🙂",
        "<s></s><pad><mask> text",
        "\ufeffx",
        "�",
    ],
    ids=["empty", "blank", "nul", "scripts", "specials", "bom", "replacement"],
)
def test_odd_texts_give_finite_unit_vectors(engine: BGEM3, text: str) -> None:
    batch = engine.encode_documents([text, "dense vector"])
    assert_finite(batch)
    assert batch[0].colbert is not None
    assert len(batch[0].colbert) == batch[0].tokens - 1


@pytest.mark.parametrize("texts", [[None], [b"bytes"], [3]])
def test_what_is_no_string_is_named_by_position(engine: BGEM3, texts: list[Any]) -> None:
    with pytest.raises(InputError, match="text 1 must be str"):
        engine.encode_documents(["fine", *texts])


def test_cleaning_mends_what_would_be_refused(xlm_roberta: Path) -> None:
    clean = BGEM3(xlm_roberta, device="cpu", dtype="float32", clean=True)
    batch = clean.encode_documents(["dense\ud800  vector\x07"])
    assert_finite(batch)
    assert clean.fingerprint != BGEM3(xlm_roberta).fingerprint


def test_results_come_back_in_the_order_of_the_texts(xlm_roberta: Path) -> None:
    texts = ["dense " * n for n in (30, 1, 100, 2, 60)]
    small = BGEM3(xlm_roberta, device="cpu", dtype="float32", token_budget=64)
    batch = small.encode_documents(texts)
    for i, text in enumerate(texts):
        alone = small.encode_documents([text])
        np.testing.assert_allclose(batch.dense[i], alone.dense[0], atol=1e-5)  # type: ignore[index]
        assert batch[i].tokens == alone[0].tokens


def test_only_the_modes_that_are_asked_for_are_computed(
    xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    heads = inner(engine).source.modules
    named = {id(getattr(heads, name)): name for name in ("colbert", "sparse")}
    ran: list[str] = []
    apply = PlainLinear.__call__

    def noted(self: PlainLinear, x: torch.Tensor) -> torch.Tensor:
        ran.extend([named[id(self)]] * (id(self) in named))
        return apply(self, x)

    monkeypatch.setattr(PlainLinear, "__call__", noted)
    batch = engine.encode_documents(["dense"], modes={"dense"})
    assert ran == []
    assert batch.modes == {"dense"}
    engine.encode_documents(["dense"], modes={"sparse"})
    assert ran == ["sparse"]


# -- numbers -----------------------------------------------------------------------------------


def test_bfloat16_stays_close_to_float32(xlm_roberta: Path, engine: BGEM3) -> None:
    texts = ["dense vector of a document", "sparse", "what is retrieval " * 20]
    half = BGEM3(xlm_roberta, device="cpu", dtype="bfloat16").encode_documents(texts)
    full = engine.encode_documents(texts)
    assert half.dense is not None
    assert full.dense is not None
    assert half.dense.dtype == np.float32
    assert (half.dense * full.dense).sum(axis=1).min() > 0.99


def test_a_text_that_overflows_in_half_precision_is_computed_again_in_float32(copy: Path) -> None:
    # float16 ends at 65,504: a feed-forward layer of 1e5 overflows there and only there
    blow_up(copy, 300.0)
    texts = ["dense vector", "sparse"]
    half = BGEM3(copy, device="cpu", dtype="float16")
    full = BGEM3(copy, device="cpu", dtype="float32").encode_documents(texts)
    batch = half.encode_documents(texts)
    assert_finite(batch)
    assert batch.dense is not None
    assert full.dense is not None
    assert (batch.dense * full.dense).sum(axis=1).min() > 0.99
    again = half.encode_documents(texts)
    assert again.dense is not None
    assert np.array_equal(batch.dense, again.dense)  # nothing was left upcast


def test_a_text_that_is_not_finite_in_float32_either_is_named(copy: Path) -> None:
    blow_up(copy, float("nan"))
    with pytest.raises(EncodingError, match="text 0"):
        BGEM3(copy, device="cpu", dtype="float32").encode_documents(["dense vector"])


def test_an_index_names_the_record_whose_numbers_are_not_finite(copy: Path) -> None:
    blow_up(copy, float("nan"))
    index = HybridIndex(BGEM3(copy, device="cpu", dtype="float32"))
    with pytest.raises(EncodingError, match="record 'the one'"):
        index.add([Record("the one", "dense vector")])
    assert index.count() == 0


def blow_up(folder: Path, factor: float) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in ("intermediate.dense.weight", "output.dense.weight"):
        tensors[f"encoder.layer.0.{name}"] *= factor
    save_file(tensors, path, metadata={"format": "pt"})


def test_out_of_memory_shrinks_the_batches_and_keeps_the_results(
    xlm_roberta: Path, engine: BGEM3, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    hidden = PackedBackbone.hidden
    failures: list[int] = []

    def limited(self: PackedBackbone, pack: Pack, *, wide: bool = False) -> torch.Tensor:
        if len(pack.ids) > 40:
            failures.append(len(pack.ids))
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
        return hidden(self, pack, wide=wide)

    texts = ["dense vector"] * 3 + [f"text {i} of a document" for i in range(20)]
    expected = engine.encode_documents(texts)
    monkeypatch.setattr(PackedBackbone, "hidden", limited)
    batch = tight.encode_documents(texts)
    assert failures
    np.testing.assert_allclose(batch.dense, expected.dense, atol=1e-5)


def test_another_runtime_error_is_not_retried(
    xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    calls: list[int] = []

    def broken(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(PackedBackbone, "hidden", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        engine.encode_documents(["a", "b", "c"])
    assert calls == [1]
