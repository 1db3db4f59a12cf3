from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bge_m3_integrations import BGEM3, InputError
from bge_m3_integrations.encoders.config import ModelConfig
from bge_m3_integrations.encoders.torch import int8
from bge_m3_integrations.encoders.torch.int8 import (
    Int8Linear,
    Int8QueryKeyValue,
    Int8Weight,
    quantized_gelu,
    quantized_rows,
    quantized_with_residual,
)
from bge_m3_integrations.encoders.torch.layer_ops import Int8Ops
from bge_m3_integrations.encoders.torch.load import CheckpointSource

needs_int8 = pytest.mark.skipif(
    not int8.weight_levels(), reason="torch has no exact 8-bit products here"
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ROWS = torch.tensor([[1e-3], [1.0], [50.0], [0.0]])


def test_each_row_has_its_own_scale() -> None:
    x = random(4, 64) * ROWS
    levels, scale = quantized_rows(x)
    assert (levels.dtype, scale.dtype) == (torch.uint8, torch.float32)
    restored = (levels.float() - 128) * scale
    assert ((restored - x).abs() <= scale * 0.501).all()
    used = (levels.float() - 128).abs().amax(dim=1)
    assert used.tolist() == [126, 126, 126, 0]


@pytest.mark.parametrize("scales", [torch.float32, torch.bfloat16])
def test_what_the_levels_leave_is_kept_in_as_many_again(scales: torch.dtype) -> None:
    x = random(4, 64) * ROWS
    (levels, rest), scale = quantized_with_residual(x, scales)
    assert scale.dtype == scales
    assert ((levels.float() - 128) * scale.float() - x).abs().le(scale.float() * 0.501).all()
    restored = (levels.float() - 128 + (rest.float() - 128) / 254) * scale.float()
    assert ((restored - x).abs() <= scale.float() * 0.501 / 254 + 1e-6 * x.abs()).all()


@pytest.mark.parametrize("scales", [torch.float32, torch.bfloat16])
def test_the_largest_number_of_a_row_never_changes_its_sign(scales: torch.dtype) -> None:
    x = torch.linspace(0.5, 300, 20_000)[:, None]
    (levels, _), _ = quantized_with_residual(torch.cat([x, -x], dim=1), scales)
    assert (levels[:, 0] > 128 + 120).all()
    assert (levels[:, 1] < 128 - 120).all()


@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0, 0.0])
def test_results_of_gelu_have_most_levels_above_zero(size: float) -> None:
    x = torch.nn.functional.gelu(random(4, 256) * size + torch.linspace(-3, 0, 256))
    levels, scale = quantized_gelu(x)
    assert levels.dtype == torch.uint8
    restored = (levels.float() - 32) * scale
    assert ((restored - x).abs() <= scale * 0.501).all()
    symmetrical = x.abs().amax(dim=1, keepdim=True) / 126
    assert (scale <= torch.maximum(symmetrical * 0.58, torch.tensor(0.00535))).all()


def test_results_of_gelu_never_leave_the_levels() -> None:
    most = torch.linspace(0.0, 300, 20_000)[:, None]
    least = torch.full_like(most, -0.17)
    levels, _ = quantized_gelu(torch.cat([most, least], dim=1))
    assert (levels[:, 0] >= 32).all()
    assert (levels[-1, 0] >= 250).all()
    assert (levels[:, 1] <= 32).all()


def plain(weight: torch.Tensor, bias: torch.Tensor) -> Int8Linear:
    """A layer whose input is taken as it comes, without gelu behind."""
    return Int8Linear(Int8Weight.from_weight(weight), bias)


@needs_int8
def test_a_layer_after_gelu_is_closer_to_its_float_one() -> None:
    weight, bias = random(48, 256), random(48, seed=9)
    x = torch.nn.functional.gelu(random(33, 256, seed=5) * 2)
    expected = x @ weight.T + bias
    errors = [
        float((make(x) - expected).norm() / expected.norm())
        for make in (Int8Linear.from_weight(weight, bias, "down"), plain(weight, bias))
    ]
    assert errors[0] < 0.8 * errors[1]


@needs_int8
@pytest.mark.parametrize("activated", [False, True])
def test_a_layer_is_close_to_its_float_one(activated: bool) -> None:
    weight, bias = random(144, 256), random(144, seed=9)
    x = random(33, 256, seed=5)
    layer = Int8Linear.from_weight(weight, bias, "up") if activated else plain(weight, bias)
    expected = x @ weight.T + bias
    expected = torch.nn.functional.gelu(expected) if activated else expected
    error = (layer(x) - expected).norm() / expected.norm()
    assert error < (0.02 if int8.weight_levels() == 127 else 0.03)


def levels_of(weight: torch.Tensor) -> torch.Tensor:
    """The same weight in numbers that rounding to levels keeps."""
    weight = (weight * 20).round_().clamp_(-63, 63)
    weight[:, 0] = int8.weight_levels() or 127
    return weight


@needs_int8
def test_what_comes_with_twice_the_bits_is_hardly_rounded() -> None:
    weight, bias, x = levels_of(random(48, 256)), random(48, seed=9), random(33, 256, seed=5)
    expected = x @ weight.T + bias
    errors = [
        float((make(x) - expected).norm() / expected.norm())
        for make in (plain(weight, bias), Int8Linear.from_weight(weight, bias, "mix"))
    ]
    assert 1e-3 < errors[0] < 0.02
    assert errors[1] < 1e-4


@needs_int8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_closer_than_queries_and_keys(dtype: torch.dtype) -> None:
    weights, biases = [random(48, 256, seed=i) for i in range(3)], [random(48, seed=9)] * 3
    # what one product keeps of the weights' rounding is not in question here
    weights = [levels_of(weight) for weight in weights]
    x = random(33, 256, seed=5)
    found = Int8QueryKeyValue.from_weights(weights, biases, dtype=dtype)(x).split(48, dim=1)
    errors = [
        float((part.float() - (x @ w.T + b)).norm() / (x @ w.T).norm())
        for part, w, b in zip(found, weights, biases, strict=True)
    ]
    assert max(errors) < 0.02
    assert errors[2] < (0.002 if dtype == torch.bfloat16 else 1e-4)
    assert errors[2] < errors[0] / 2


@needs_int8
@pytest.mark.parametrize("qkv", [False, True])
def test_a_row_gives_the_same_numbers_in_any_company(qkv: bool) -> None:
    weight, bias = random(32, 64), random(32)
    layer = (
        Int8QueryKeyValue.from_weights([weight] * 3, [bias] * 3, dtype=torch.float32)
        if qkv
        else plain(weight, bias)
    )
    x = random(20, 64, seed=1) * torch.logspace(-3, 3, 20)[:, None]
    alone = torch.cat([layer(row[None]) for row in x])
    assert torch.equal(layer(x), alone)


def test_products_that_overflow_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    product = Int8Weight.product

    def saturating(*args: Any, **options: Any) -> torch.Tensor:
        bound = 32767 * 128  # 256 products, added in pairs of 16 bits
        return product(*args, **options).clamp(-bound, bound)

    if not int8._is_exact(63):
        pytest.skip("torch has no exact 8-bit products here")
    monkeypatch.setattr(Int8Weight, "product", saturating)
    monkeypatch.setattr(int8, "ZERO", 0)
    assert not int8._is_exact(127)
    assert int8._is_exact(63)


def test_a_torch_without_the_operators_has_no_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise AttributeError("no operator")

    monkeypatch.setattr(Int8Weight, "product", missing)
    assert int8.weight_levels.__wrapped__() == 0


@needs_int8
def test_an_int8_engine_stays_near_float32_and_shares_no_weights_with_it(xlm_roberta: Path) -> None:
    texts = ["dense vector of a document", "sparse", "what is retrieval " * 20]
    full, small = (
        BGEM3(xlm_roberta, device="cpu", dtype=dtype).encode_documents(texts)
        for dtype in ("float32", "int8")
    )
    assert full.dense is not None
    assert small.dense is not None
    assert not np.array_equal(full.dense, small.dense)
    assert (full.dense * small.dense).sum(axis=1).min() > 0.98


@needs_int8
@pytest.mark.parametrize("levels", [127, 63])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attentions_products_stay_in_float_where_weights_have_7_bits(
    levels: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "bge_m3_integrations.encoders.torch.layer_ops.weight_levels", lambda: levels
    )
    parts = Int8Ops(dtype)
    weights, biases = [random(16, 32, seed=i) for i in range(3)], [random(16)] * 3
    weight, bias = weights[0], biases[0]
    qkv, x = parts.qkv(weights, biases), random(5, 32, seed=7)
    assert isinstance(qkv, Int8QueryKeyValue) == (levels == 127)
    assert isinstance(parts.linear(weight, bias, "mix"), Int8Linear) == (levels == 127)
    up = parts.linear(weight, bias, "up")
    assert isinstance(up, Int8Linear)
    assert not up.residual
    mix = parts.linear(weight, bias, "mix")
    assert not isinstance(mix, Int8Linear) or mix.residual
    assert isinstance(parts.linear(weight, bias, "down"), Int8Linear)
    found, expected = qkv(x), x @ torch.cat(weights).T + torch.cat(biases)
    assert found.dtype == dtype
    assert (found.float() - expected).norm() / expected.norm() < (0.02 if levels == 127 else 0.01)


@needs_int8
def test_a_cache_keeps_numbers_of_other_levels_and_another_arithmetic_apart(
    xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = CheckpointSource(xlm_roberta, ModelConfig(device="cpu", dtype="int8"))
    found = set()
    for levels, arithmetic in ((127, 0), (63, 0), (63, 1)):
        monkeypatch.setattr(int8, "weight_levels", lambda levels=levels: levels)
        monkeypatch.setattr(int8, "ARITHMETIC", int8.ARITHMETIC + arithmetic)
        found.add(source.precision)
    assert len(found) == 3
    by = source.precision
    monkeypatch.setattr("bge_m3_integrations.encoders.torch.native.layer_ops.runs", lambda _: False)
    assert (source.precision == by) == by.endswith("/torch")


@needs_int8
def test_levels_are_found_in_all_bits_of_the_states(xlm_roberta: Path) -> None:
    source = CheckpointSource(xlm_roberta, ModelConfig(device="cpu", dtype="int8"))
    assert source.states == torch.float32


def test_int8_where_it_cannot_be_is_an_error_that_names_the_way_out(
    xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "weight_levels", lambda: 0)
    with pytest.raises(InputError, match="dtype='auto'"):
        BGEM3(xlm_roberta, device="cpu", dtype="int8").encode_documents(["dense"])
