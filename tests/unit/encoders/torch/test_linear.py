from __future__ import annotations

import pytest
import torch

from bge_m3_integrations.encoders.torch import linear
from bge_m3_integrations.encoders.torch.linear import PlainLinear, PrepackedLinear, make_linear

CPU = torch.device("cpu")


def layers(dtype: torch.dtype, *, activated: bool) -> tuple[linear.Linear, linear.Linear]:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(24, 32, generator=generator) for _ in range(3)]
    biases = [torch.randn(24, generator=generator) for _ in range(3)]
    plain = PlainLinear(
        tuple(w.to(dtype) for w in weights), tuple(b.to(dtype) for b in biases), activated
    )
    return plain, make_linear(weights, biases, dtype=dtype, device=CPU, activated=activated)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("prepack", [False, True])
def test_every_layout_gives_the_same_numbers(
    dtype: torch.dtype, activated: bool, prepack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not prepack:
        monkeypatch.setattr(linear, "can_prepack", lambda _: False)
    elif not linear.can_prepack(dtype):
        pytest.skip("this torch has no prepacked products")
    plain, made = layers(dtype, activated=activated)
    assert isinstance(made, PrepackedLinear if prepack else PlainLinear)
    x = torch.randn(7, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.1  # of values up to 20
    torch.testing.assert_close(made(x).float(), plain(x).float(), atol=tolerance, rtol=0.01)
    assert made(x).shape == (7, 72)


def test_half_precision_weights_are_upcast_for_a_float32_input() -> None:
    plain, _ = layers(torch.bfloat16, activated=False)
    assert isinstance(plain, PlainLinear)
    x = torch.randn(5, 32)
    expected = x @ torch.cat(plain.weights).float().T + torch.cat(plain.biases).float()
    torch.testing.assert_close(plain(x), expected)


@pytest.mark.parametrize("error", [RuntimeError("no such kernel"), AttributeError("no operator")])
def test_a_torch_without_the_operators_falls_back(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise error

    monkeypatch.setattr(linear, "_prepacked", missing)
    assert not linear.can_prepack.__wrapped__(torch.float32)


def test_operators_that_give_other_numbers_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    prepacked = linear._prepacked
    monkeypatch.setattr(linear, "_prepacked", lambda weight: prepacked(weight * 1.01))
    assert not linear.can_prepack.__wrapped__(torch.float32)


def test_onednns_product_in_float32_is_that_of_torch() -> None:
    product = linear.onednn_product.__wrapped__()
    if product is None:
        pytest.skip("this torch has no such operator")
    x, w = torch.randn(300, 64), torch.randn(320, 64)
    torch.testing.assert_close(product(x, w), x @ w.T, atol=1e-5, rtol=0)
    scores, values = torch.rand(300, 320), torch.randn(320, 64)
    torch.testing.assert_close(product(scores, values.T), scores @ values, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("no such kernel"),
        AttributeError("no operator"),
        TypeError("another signature"),
        1.01,
    ],
)
def test_a_product_that_is_missing_or_wrong_is_left_alone(
    fault: Exception | float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if isinstance(fault, Exception):
            raise fault
        return x @ w.T * fault

    monkeypatch.setattr(linear, "_onednn_product", faulty)
    assert linear.onednn_product.__wrapped__() is None


def test_without_avx512_products_in_float32_stay_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert linear.float32_product.__wrapped__() is None
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert linear.float32_product.__wrapped__() is linear.onednn_product()
