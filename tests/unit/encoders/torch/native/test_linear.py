from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from bge_m3_integrations.encoders.torch import int8
from bge_m3_integrations.encoders.torch.int8 import quantized_gelu, quantized_with_residual
from bge_m3_integrations.encoders.torch.native.binding import KernelArgumentError, padded_rows, runs
from bge_m3_integrations.encoders.torch.native.int8 import (
    NativeInt8Linear,
    NativeInt8QueryKeyValue,
)
from bge_m3_integrations.encoders.torch.native.linear import (
    NativeLinear,
    NativeNorm,
    NativeWeight,
    to_levels,
)

DTYPES = [torch.float32, torch.bfloat16]
# one row, whole and broken strips, few and many, one more than a chunk
ROWS = [1, 5, 6, 7, 32, 33, 384, 385]
# a broken panel, several, inputs that are one block, and more than one
SIZES = [(40, 12), (64, 128), (96, 516), (192, 1024)]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    if not runs(request.param):
        pytest.skip(f"no kernels in {request.param} here")
    found: torch.dtype = request.param
    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(
    outputs: int, inputs: int, dtype: torch.dtype, *, activated: bool = False
) -> tuple[NativeLinear, torch.Tensor, torch.Tensor]:
    weight = (drawn(outputs, inputs) / inputs**0.5).to(dtype)
    bias = drawn(outputs, seed=1)
    return (
        NativeLinear(NativeWeight.from_weight(weight), bias, activated),
        weight.double(),
        bias.double(),
    )


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("activated", [False, True])
def test_a_product_is_torchs(
    rows: int, size: tuple[int, int], activated: bool, dtype: torch.dtype
) -> None:
    linear, weight, bias = layer(*size, dtype, activated=activated)
    x = drawn(rows, size[1], seed=2).to(dtype)
    found, expected = linear(x), x.double() @ weight.T + bias
    expected = gelu(expected) if activated else expected
    assert found.dtype == dtype
    bound = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, atol=bound, rtol=bound)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_product_is_added_to_the_states_unrounded(
    rows: int, size: tuple[int, int], dtype: torch.dtype
) -> None:
    linear, weight, bias = layer(*size, dtype)
    x, states = drawn(rows, size[1], seed=2).to(dtype), drawn(rows, size[0], seed=3)
    expected = states.double() + x.double() @ weight.T + bias
    linear.add_to(states, x)
    torch.testing.assert_close(states.double(), expected, atol=1e-5, rtol=1e-5)


def test_nothing_is_read_or_written_between_rows_and_behind_them(dtype: torch.dtype) -> None:
    linear, weight, bias = layer(40, 12, dtype)
    x = torch.full((9, 20), torch.nan, dtype=dtype)
    x[:, :12] = drawn(9, 12, seed=2)
    out = torch.full((10, 50), 7.0, dtype=dtype)
    linear.weight.product(x[:, :12], out[:9, :40], bias=linear.bias)
    expected = x[:, :12].double() @ weight.T + bias
    bound = torch.finfo(dtype).eps * 8
    torch.testing.assert_close(out[:9, :40].double(), expected, atol=bound, rtol=bound)
    assert (out[:, 40:] == 7).all()
    assert (out[9] == 7).all()


def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, one_thread: None) -> None:
    linear, _, _ = layer(192, 1024, dtype, activated=True)
    for rows in (12, 500):
        x = drawn(rows, 1024, seed=2).to(dtype)
        torch.set_num_threads(1)
        alone = linear(x)
        torch.set_num_threads(3)
        assert torch.equal(linear(x), alone)


def test_a_row_is_the_same_in_any_company(dtype: torch.dtype) -> None:
    linear, _, _ = layer(96, 512, dtype)
    x = drawn(400, 512, seed=2).to(dtype)
    together = linear(x)
    for i in (0, 7, 395, 399):
        torch.testing.assert_close(linear(x[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int8], ids=str)
def test_a_kernel_adds_by_its_own_hand_what_rounding_would_lose(dtype: torch.dtype) -> None:
    """A sum of 1 and many numbers under half of bfloat16's last bit: sums are in 32 bits."""
    if not runs(dtype):
        pytest.skip(f"no kernels in {dtype} here")
    weight = torch.ones(64, 1024)
    weight[:, 1:] = 1 / 1024
    x = torch.ones(3, 1024)
    if dtype == torch.int8:
        found = NativeInt8Linear.from_weight(torch.ones(64, 1024), torch.zeros(64), "mix")(x)
        torch.testing.assert_close(found, torch.full((3, 64), 1024.0))
        return
    out = torch.zeros(3, 64)
    NativeLinear(NativeWeight.from_weight(weight.to(dtype)), torch.zeros(64)).add_to(
        out, x.to(dtype)
    )
    torch.testing.assert_close(out, torch.full((3, 64), 1 + 1023 / 1024))


@pytest.mark.parametrize("width", [16, 48, 1024])
def test_normalisation_is_torchs(width: int) -> None:
    x, weight, bias = drawn(37, width) * 3 + 1, drawn(width, seed=1), drawn(width, seed=2)
    x[3] = 1.0  # no variance: only eps keeps it finite
    x[4] *= 1e-3
    expected = layer_norm(x.double(), (width,), weight.double(), bias.double(), 1e-5)
    states = padded_rows(37, width, torch.float32).copy_(x)
    NativeNorm(weight, bias, 1e-5).normalize_(states)
    torch.testing.assert_close(states.double(), expected, atol=2e-6, rtol=1e-5)


def test_levels_are_those_of_the_torch_code() -> None:
    x = drawn(37, 1024)
    x[5] = 0
    (levels, rest), scale = quantized_with_residual(x, torch.float32)
    found = to_levels(x, zero=int8.ZERO, most=int8.ACTIVATION_LEVELS, finer=int8.REST_LEVELS)
    assert (found.levels.int() - levels.int()).abs().max() <= 1
    assert (found.levels != levels).float().mean() < 1e-4
    torch.testing.assert_close(found.scale, scale[:, 0], rtol=1e-6, atol=0)
    whole = found.scale[:, None] * (found.levels.float() - int8.ZERO)
    back = whole + found.rest_scale[:, None] * (found.rest.float() - int8.ZERO)
    finer = float(scale.max()) / int8.REST_LEVELS
    torch.testing.assert_close(back, x, atol=0.6 * finer, rtol=0)
    assert (found.rest != rest).float().mean() < 1e-3


def test_levels_of_gelus_results_are_those_of_the_torch_code() -> None:
    x = gelu(drawn(37, 1024) * 3)
    levels, scale = quantized_gelu(x)
    found = to_levels(x, zero=int8.GELU_ZERO, most=int8.GELU_LEVELS, depth=int8.GELU_DEPTH)
    assert (found.levels.int() - levels.int()).abs().max() <= 1
    assert (found.levels != levels).float().mean() < 1e-4
    torch.testing.assert_close(found.scale, scale[:, 0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("depth", [0.0, int8.GELU_DEPTH])
def test_a_number_that_is_none_stays_none(sign: int, depth: float) -> None:
    x = drawn(3, 64).abs()
    x[1, 17] = sign * torch.nan
    found = to_levels(x, zero=32, most=100, depth=depth)
    assert found.scale.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("outputs", [40, 96])
@pytest.mark.parametrize("states", DTYPES, ids=str)
def test_a_layer_in_8_bits_is_near_the_float_one(
    rows: int, outputs: int, states: torch.dtype
) -> None:
    if not runs(torch.int8):
        pytest.skip("no kernels for 8 bits here")
    weight, bias = drawn(outputs, 528) / 23, drawn(outputs, seed=1)
    x = drawn(rows, 528, seed=2).to(states)
    expected = x.float() @ weight.T + bias
    up = NativeInt8Linear.from_weight(weight, bias, "up")
    down = NativeInt8Linear.from_weight(weight, bias, "down")
    active = gelu(x.float() * 2)
    for found, exact in (
        (up(x), gelu(expected)),
        (down(active), active @ weight.T + bias),
    ):
        assert found.dtype == torch.float32
        assert (found - exact).norm() / exact.norm() < 0.02
    sums = torch.ones(rows, outputs)
    down.add_to(sums, active)
    torch.testing.assert_close(sums, down(active) + 1)


def test_nothing_between_rows_is_touched_by_normalisation_and_levels() -> None:
    states = torch.full((6, 50), 7.0)
    states[:5, :48] = drawn(5, 48)
    NativeNorm(torch.ones(48), torch.zeros(48), 1e-5).normalize_(states[:5, :48])
    assert (states[:, 48:] == 7).all()
    assert (states[5] == 7).all()
    states[:, 48:] = torch.nan
    found = to_levels(states[:5, :48], zero=128, most=126, finer=254)
    assert not found.scale.isnan().any()
    assert found.levels.shape == found.rest.shape == (5, 48)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda layer, x: layer(x.double()),
        lambda layer, x: layer(x[:, :-4]),
        lambda layer, x: layer(x.T.contiguous().T),
        lambda layer, x: layer(x.to("meta")),
        lambda layer, x: layer.add_to(torch.zeros(len(x), 40, dtype=torch.bfloat16), x),
        lambda layer, x: layer.add_to(torch.zeros(len(x) + 1, 40), x),
        lambda layer, x: layer.add_to(torch.zeros(len(x), 41), x),
        lambda layer, x: NativeNorm(torch.ones(64), torch.zeros(64), 1e-5).normalize_(x.bfloat16()),
        lambda layer, x: NativeNorm(torch.ones(63), torch.zeros(63), 1e-5).normalize_(x),
        lambda layer, x: to_levels(x[:, :60], zero=128, most=126),
        lambda layer, x: to_levels(x.double(), zero=128, most=126),
    ],
)
def test_memory_that_a_kernel_would_misread_never_reaches_it(wrong: Any) -> None:
    linear, _, _ = layer(40, 64, torch.float32)
    with pytest.raises(KernelArgumentError, match="cannot read"):
        wrong(linear, drawn(9, 64))


def test_a_changed_default_dtype_or_device_changes_nothing() -> None:
    linear, _, _ = layer(96, 64, torch.float32)
    x = drawn(9, 64)
    expected, levels = linear(x), to_levels(x, zero=128, most=126)
    torch.set_default_dtype(torch.bfloat16)
    torch.set_default_device("meta")
    try:
        found, again = linear(x), to_levels(x, zero=128, most=126)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)
    assert torch.equal(again.scale, levels.scale)


@pytest.mark.parametrize("states", DTYPES, ids=str)
def test_what_comes_with_twice_the_bits_is_hardly_rounded(states: torch.dtype) -> None:
    if not runs(torch.int8):
        pytest.skip("no kernels for 8 bits here")
    x, bias, sums = drawn(50, 64, seed=2).to(states), drawn(64, seed=1), torch.ones(50, 64)
    layer = NativeInt8Linear.from_weight(torch.eye(64), bias, "mix")
    layer.add_to(sums, x)
    finer = x.float().abs().amax(dim=1, keepdim=True) / int8.ACTIVATION_LEVELS / int8.REST_LEVELS
    for found in (layer(x), sums - 1):
        assert ((found - bias - x.float()).abs() <= 0.51 * finer + 1e-6).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_have_twice_the_bits_of_queries_and_keys(dtype: torch.dtype) -> None:
    if not runs(torch.int8):
        pytest.skip("no kernels for 8 bits here")
    weights = [torch.eye(64)] * 3  # whose own levels are exact
    x = drawn(50, 64, seed=2)
    qkv = NativeInt8QueryKeyValue.from_weights(weights, [torch.zeros(64)] * 3, dtype=dtype)
    query, key, value = qkv(x).float().chunk(3, dim=1)
    assert qkv(x).dtype == dtype
    assert torch.equal(query, key)
    step = x.abs().amax(dim=1, keepdim=True) / int8.ACTIVATION_LEVELS
    rounding = x.abs() * torch.finfo(dtype).eps
    assert ((query - x).abs() <= 0.51 * step + rounding).all()
    assert ((value - x).abs() <= 0.51 * step / int8.REST_LEVELS + rounding).all()


OPTIMIZED = """
import torch
from bge_m3_integrations.encoders.torch.native.binding import KernelArgumentError
from bge_m3_integrations.encoders.torch.native.linear import NativeLinear, NativeWeight
layer = NativeLinear(NativeWeight.from_weight(torch.ones(64, 64)), torch.zeros(64))
try:
    layer(torch.ones(9, 60))
except KernelArgumentError:
    print("refused", __debug__)
"""


def test_they_are_refused_by_python_without_asserts_too() -> None:
    done = subprocess.run(
        [sys.executable, "-O", "-c", OPTIMIZED], capture_output=True, text=True, check=True
    )
    assert done.stdout == "refused False\n"
