from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from bge_m3_integrations.encoders.torch.attention import plan
from bge_m3_integrations.encoders.torch.native import attention
from bge_m3_integrations.encoders.torch.native.attention import WIDTHS, NativeAttention
from bge_m3_integrations.encoders.torch.native.binding import KernelArgumentError, runs
from bge_m3_integrations.encoders.torch.native.build import SOURCES
from bge_m3_integrations.encoders.torch.packing import Pack

CPU = torch.device("cpu")
# one token; odd ones; a whole block of keys, one more; a whole part of rows, one more
TEXTS = [[1], [2, 3, 1], [64, 65], [191, 192, 193], [512], [513, 7], [1300, 20]]


def drawn(
    lengths: list[int], width: int, dtype: torch.dtype, *, scale: float = 1.0
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(lengths))
    return (torch.randn(sum(lengths), 3 * width, generator=generator) * scale).to(dtype)


def reference(qkv: torch.Tensor, lengths: list[int], heads: int) -> torch.Tensor:
    """The formula in float64, text by text."""
    parts = []
    for text in qkv.double().split(lengths):
        query, key, value = (x.unflatten(1, (heads, -1)).transpose(0, 1) for x in text.chunk(3, 1))
        shares = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(dim=-1)
        parts.append((shares @ value).transpose(0, 1).flatten(1))
    return torch.cat(parts)


@pytest.mark.parametrize("lengths", TEXTS, ids=str)
@pytest.mark.parametrize("head", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_attention_is_the_formula(lengths: list[int], head: int, dtype: torch.dtype) -> None:
    if not runs(dtype):
        pytest.skip(f"no kernels in {dtype} here")
    qkv = drawn(lengths, 3 * head, dtype)
    found = NativeAttention.from_lengths(np.array(lengths), heads=3)(qkv)
    assert found.dtype == dtype
    bound = 2e-6 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found.double(), reference(qkv, lengths, 3), atol=bound, rtol=bound)


def test_large_scores_lose_nothing() -> None:
    qkv = drawn([700, 30], 64, torch.float32, scale=12.0)
    found = NativeAttention.from_lengths(np.array([700, 30]), heads=1)(qkv)
    torch.testing.assert_close(found.double(), reference(qkv, [700, 30], 1), atol=2e-3, rtol=2e-3)


def test_a_later_block_with_all_of_the_weight_takes_over() -> None:
    """The first 512 keys have no share once a much larger score comes."""
    qkv = torch.zeros(600, 3 * 64)
    qkv[:, 0] = 8.0  # every query
    qkv[550, 64] = 200.0  # one key
    qkv[:, 128:] = 1.0
    qkv[550, 128:] = 5.0
    found = NativeAttention.from_lengths(np.array([600]), heads=1)(qkv)
    torch.testing.assert_close(found, torch.full((600, 64), 5.0))


def test_one_number_that_is_none_makes_its_whole_text_none_and_no_other() -> None:
    qkv = drawn([30, 40], 64, torch.float32)
    qkv[10, 64 + 5] = torch.nan  # a key
    found = NativeAttention.from_lengths(np.array([30, 40]), heads=1)(qkv)
    assert found[:30].isnan().all()
    assert not found[30:].isnan().any()


def test_rows_behind_all_texts_are_zero() -> None:
    qkv = drawn([5, 3], 64, torch.float32)
    found = NativeAttention.from_lengths(np.array([5]), heads=1)(qkv)
    assert (found[5:] == 0).all()


def test_the_plan_takes_it_where_it_runs_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = Pack.from_rows([np.zeros(9, np.int32)])
    options = {"heads": 2, "device": CPU, "dtype": torch.float32}
    assert isinstance(plan(pack, head_width=64, **options), NativeAttention)
    assert not isinstance(plan(pack, head_width=24, **options), NativeAttention)
    monkeypatch.setattr(attention, "runs", lambda _: False)
    assert not isinstance(plan(pack, head_width=64, **options), NativeAttention)


def test_nothing_between_rows_is_read() -> None:
    qkv = torch.full((30, 3 * 64 + 16), torch.nan)
    qkv[:, : 3 * 64] = drawn([30], 64, torch.float32)
    found = NativeAttention.from_lengths(np.array([30]), heads=1)(qkv[:, : 3 * 64])
    torch.testing.assert_close(
        found.double(), reference(qkv[:, : 3 * 64], [30], 1), atol=2e-6, rtol=2e-6
    )


@pytest.mark.parametrize(
    "wrong",
    [
        lambda qkv: qkv.half(),
        lambda qkv: qkv[:4],
        lambda qkv: qkv[:, :72],
        lambda qkv: qkv.T.contiguous().T,
    ],
)
def test_memory_that_the_kernel_would_misread_never_reaches_it(wrong: Any) -> None:
    attend = NativeAttention.from_lengths(np.array([5]), heads=1)
    with pytest.raises(KernelArgumentError, match="cannot read"):
        attend(wrong(drawn([5], 64, torch.float32)))


def test_parts_are_as_large_as_the_kernel_has_room_for() -> None:
    source = (SOURCES / "attention.h").read_text()
    assert int(re.search(r"MOST = (\d+)", source)[1]) == attention._ROWS  # type: ignore[index]
