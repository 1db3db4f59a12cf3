from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bge_m3_integrations.core.embeddings import offsets_of
from bge_m3_integrations.encoders.torch import attention
from bge_m3_integrations.encoders.torch.attention import (
    Blockwise,
    Bucketed,
    Sdpa,
    Varlen,
    buckets,
    plan,
)
from bge_m3_integrations.encoders.torch.packing import Pack

CPU = torch.device("cpu")
HEADS, HEAD = 4, 8
WIDTH = HEADS * HEAD
SHORT = [1, 3, 2, 40, 128, 1, 17, 90, 5, 60, 60, 60]
LENGTHS = pytest.mark.parametrize(
    "lengths",
    [
        [1],
        [1, 1, 1],
        [5],
        [128],
        [129],
        SHORT,
        SHORT[::-1],
        [700],
        [300, 2, 128, 127, 1, 400, 9],
        [64] * 9,
    ],
    ids=str,
)
KERNELS = pytest.mark.parametrize("name", ["sdpa", "by head", "blockwise", "bucketed", "varlen"])


def pack_of(lengths: list[int]) -> Pack:
    return Pack.from_rows([np.zeros(length, np.int32) for length in lengths])


def product(tokens: int, *, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(tokens)
    return (torch.randn(tokens, 3 * WIDTH, generator=generator) * scale).to(dtype)


def reference(qkv: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """The formula in float64, text by text."""
    parts = []
    for text in qkv[: sum(lengths)].double().split(lengths):
        query, key, value = (x.view(-1, HEADS, HEAD).transpose(0, 1) for x in text.chunk(3, dim=1))
        shares = (query @ key.transpose(1, 2) / HEAD**0.5).softmax(dim=-1)
        parts.append((shares @ value).transpose(0, 1).flatten(1))
    return torch.cat(parts)


def packed_kernel(query: Any, key: Any, value: Any, *lengths: Any) -> torch.Tensor:
    """In the place of torch's: the same numbers, and what its CUDA source checks of its inputs."""
    first, second, longest, _ = lengths
    assert first is second
    assert first.dtype == torch.int32
    assert first.is_contiguous()
    assert first.device == query.device
    assert first[0] == 0
    assert first[-1] == len(query)
    counts = first.diff().tolist()
    assert lengths[2:] == (max(counts),) * 2
    assert type(longest) is int
    for x in (query, key, value):
        assert x.shape == (len(query), HEADS, HEAD)
        assert x.stride(-1) == 1
    qkv = torch.cat([x.flatten(1) for x in (query, key, value)], dim=1)
    return reference(qkv, counts).to(query.dtype).view(query.shape)


def kernel(name: str, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> attention.Attention:
    if name == "bucketed":
        return Bucketed(HEADS, buckets(pack, CPU))
    if name == "varlen":
        return Varlen(
            packed_kernel, HEADS, attention._cumulative(pack, CPU), int(pack.lengths.max())
        )
    monkeypatch.setattr(attention, "_FEW", 0)  # blocks for the smallest packs too
    monkeypatch.setattr(attention, "_LONG", 1)
    by_head = (lambda x, w: x @ w.T) if name == "by head" else None
    monkeypatch.setattr(attention, "float32_product", lambda: by_head)
    dtype = torch.bfloat16 if name == "blockwise" else torch.float32
    return plan(pack, heads=HEADS, head_width=HEAD, device=CPU, dtype=dtype)


@LENGTHS
@KERNELS
def test_every_kernel_gives_the_formulas_numbers(
    lengths: list[int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    qkv = product(sum(lengths))
    expected = reference(qkv, lengths)
    found = kernel(name, pack_of(lengths), monkeypatch)(qkv.clone())
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


@LENGTHS
def test_blockwise_in_bfloat16_stays_within_its_precision(lengths: list[int]) -> None:
    qkv = product(sum(lengths), dtype=torch.bfloat16)
    expected = reference(qkv, lengths)
    found = plan(pack_of(lengths), heads=HEADS, head_width=HEAD, device=CPU, dtype=torch.bfloat16)(
        qkv.clone()
    )
    assert (found.double() - expected).abs().max() < 0.05


@KERNELS
def test_one_text_never_sees_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [30, 7, 200, 30]
    qkv = product(sum(lengths))
    changed = qkv.clone()
    changed[:30] = 1e4
    changed[37:237] = -1e4
    attend = kernel(name, pack_of(lengths), monkeypatch)
    first, second = attend(qkv.clone()), attend(changed)
    torch.testing.assert_close(first[30:37], second[30:37], atol=1e-6, rtol=0)
    torch.testing.assert_close(first[237:267], second[237:267], atol=1e-6, rtol=0)


@KERNELS
def test_equal_texts_get_equal_numbers_wherever_they_stand(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [20, 1, 20, 150, 20]
    qkv = product(sum(lengths))
    places = [slice(0, 20), slice(21, 41), slice(191, 211)]
    for place in places[1:]:
        qkv[place] = qkv[places[0]]
    found = kernel(name, pack_of(lengths), monkeypatch)(qkv)
    for place in places[1:]:
        torch.testing.assert_close(found[place], found[places[0]], atol=1e-6, rtol=0)


def test_scores_that_would_overflow_an_exponential_do_not() -> None:
    lengths = [50, 1, 130]
    qkv = product(sum(lengths), scale=20.0)
    for dtype in (torch.float32, torch.bfloat16):
        found = plan(pack_of(lengths), heads=HEADS, head_width=HEAD, device=CPU, dtype=dtype)(
            qkv.clone()
        )
        torch.testing.assert_close(found.double(), reference(qkv, lengths), atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("lengths", "dtype", "expected"),
    [
        ([50, 60], torch.float32, Sdpa),
        ([50, 60], torch.bfloat16, Blockwise),
        ([5, 6], torch.bfloat16, Sdpa),  # a lone query: calls cost more than products
    ],
)
def test_the_cpu_gets_blocks_where_they_pay(
    lengths: list[int], dtype: torch.dtype, expected: type
) -> None:
    found = plan(pack_of(lengths), heads=HEADS, head_width=HEAD, device=CPU, dtype=dtype)
    assert isinstance(found, expected)


def test_only_long_texts_go_head_by_head(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []

    def noted(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        shapes.append((len(x), len(w)))
        return x @ w.T

    monkeypatch.setattr(attention, "float32_product", lambda: noted)
    lengths = [319, 330, 100, 28]
    attend = plan(pack_of(lengths), heads=HEADS, head_width=HEAD, device=CPU, dtype=torch.float32)
    attend(product(sum(lengths)))
    assert shapes == [(352, 352), (352, HEAD)] * HEADS


def test_products_of_long_texts_meet_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: set[tuple[int, int]] = set()

    def noted(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        shapes.add((len(x), x.shape[1]))
        return x @ w.T

    monkeypatch.setattr(attention, "float32_product", lambda: noted)
    for length in range(320, 1600, 7):
        attend = plan(
            pack_of([length]), heads=HEADS, head_width=HEAD, device=CPU, dtype=torch.float32
        )
        attend(product(length))
    assert len(shapes) < 60


# -- memory ------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("scores", [1 << 14, 1 << 17, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_no_tensor_of_attention_in_blocks_is_larger_than_its_budget(
    scores: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_SCORES", scores)
    monkeypatch.setattr(attention, "float32_product", lambda: lambda x, w: x @ w.T)
    lengths = [2100, 40, 300]  # a square of the first would be 4.4 million numbers a head
    pack, qkv = pack_of(lengths), product(sum(lengths), dtype=dtype)
    attend, expected = (
        plan(pack, heads=HEADS, head_width=HEAD, device=CPU, dtype=qkv.dtype),
        reference(qkv, lengths),
    )
    with Largest() as largest:
        found = attend(qkv)
    threads = min(HEADS, torch.get_num_threads())
    assert 0 < largest.bytes <= dtype.itemsize * max(scores * threads, 1.3 * qkv.numel())
    assert (found.double() - expected).abs().max() < 0.05


def test_masks_are_as_small_as_a_window_whatever_the_texts() -> None:
    with Largest() as largest:
        plan(
            pack_of([8192, 3, 4, 4096]),
            heads=HEADS,
            head_width=HEAD,
            device=CPU,
            dtype=torch.bfloat16,
        )
    assert largest.bytes <= 8 * 160**2  # int64 and bool pass through on the way


# -- windows and buckets -----------------------------------------------------------------------


@LENGTHS
def test_buckets_hold_every_token_once_and_little_padding(lengths: list[int]) -> None:
    pack = pack_of(lengths)
    held = buckets(pack, CPU)
    places = torch.cat([bucket.places[bucket.real] for bucket in held])
    assert sorted(places.tolist()) == list(range(sum(lengths)))
    for bucket in held:
        counts = bucket.real.sum(dim=1)
        assert counts.min() >= 0.8 * counts.max()
        assert bucket.real.shape[1] == counts.max()


def test_the_offsets_of_the_packed_kernel_are_those_of_the_pack() -> None:
    pack = pack_of(SHORT)
    found = attention._cumulative(pack, CPU)
    assert found.dtype == torch.int32
    assert found.tolist() == offsets_of(SHORT).tolist()
