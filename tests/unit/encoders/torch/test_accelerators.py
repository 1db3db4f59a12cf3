"""What only a GPU can run; `-m cuda` or `-m mps` picks it out, a machine without one skips it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from bge_m3_integrations import BGEM3
from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.encoders.torch import attention
from bge_m3_integrations.encoders.torch.attention import Bucketed, Varlen, buckets, plan
from bge_m3_integrations.encoders.torch.device_ops import Cuda
from bge_m3_integrations.encoders.torch.packing import Pack
from tests.checkpoints import WORDS

CUDA, MPS = torch.cuda.is_available(), torch.backends.mps.is_available()
cuda = [pytest.mark.cuda, pytest.mark.skipif(not CUDA, reason="no CUDA device here")]
mps = [pytest.mark.mps, pytest.mark.skipif(not MPS, reason="no MPS device here")]


class Where(NamedTuple):
    device: str
    dtype: str
    cosine: float


ON = pytest.mark.parametrize(
    "where",
    [
        pytest.param(Where("cuda", "float32", 1 - 1e-5), marks=cuda),
        pytest.param(Where("cuda", "float16", 0.999), marks=cuda),
        pytest.param(Where("cuda", "bfloat16", 0.99), marks=cuda),
        pytest.param(Where("cuda", "auto", 0.99), marks=cuda),
        pytest.param(Where("mps", "float32", 1 - 1e-5), marks=mps),
        pytest.param(Where("mps", "float16", 0.999), marks=mps),
    ],
    ids=lambda where: f"{where.device}-{where.dtype}",
)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    draw = np.random.default_rng(0)
    return [
        "",
        "dense",
        *(" ".join(draw.choice(WORDS[:20], n)) for n in draw.integers(1, 400, 150)),
    ]


@pytest.fixture(scope="module")
def expected(xlm_roberta: Path, texts: list[str]) -> EmbeddingBatch:
    return BGEM3(xlm_roberta, device="cpu", dtype="float32").encode_documents(texts)


def assert_close(batch: EmbeddingBatch, other: EmbeddingBatch, cosine: float) -> None:
    assert batch.dense is not None
    assert other.dense is not None
    assert batch.sparse is not None
    assert other.sparse is not None
    assert batch.colbert is not None
    assert other.colbert is not None
    assert (batch.dense * other.dense).sum(axis=1).min() > cosine
    assert (batch.colbert.vectors * other.colbert.vectors).sum(axis=1).min() > 2 * cosine - 1
    for i in range(len(batch)):
        ours, theirs = batch.sparse.as_dict(i), other.sparse.as_dict(i)
        for token in ours.keys() | theirs.keys():
            assert abs(ours.get(token, 0) - theirs.get(token, 0)) < 0.1


@ON
@pytest.mark.parametrize("budget", [512, None])
def test_a_gpu_gives_the_cpus_numbers_in_order(
    xlm_roberta: Path,
    texts: list[str],
    expected: EmbeddingBatch,
    where: Where,
    budget: int | None,
) -> None:
    engine = BGEM3(xlm_roberta, device=where.device, dtype=where.dtype, token_budget=budget)
    assert_close(engine.encode_documents(texts), expected, where.cosine)


@ON
def test_another_backbone_gives_the_cpus_numbers(
    bert: Path, texts: list[str], where: Where
) -> None:
    plain = BGEM3(bert, device="cpu", dtype="float32").encode_documents(texts)
    engine = BGEM3(bert, device=where.device, dtype=where.dtype, token_budget=2048)
    assert_close(engine.encode_documents(texts), plain, where.cosine)


@pytest.mark.parametrize("name", [pytest.param("cuda", marks=cuda)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_packed_kernel_agrees_with_padded_buckets(name: str, dtype: torch.dtype) -> None:
    device = torch.device(name)
    pack = Pack.from_rows([np.zeros(n, np.int32) for n in (1, 700, 3, 128, 129, 64, 64, 5)])
    attend = plan(pack, heads=4, head_width=64, device=device, dtype=dtype)
    if not isinstance(attend, Varlen):
        pytest.skip(f"{torch.cuda.get_device_name(device)} has no packed kernel")
    qkv = torch.randn(len(pack.ids), 3 * 256, device=device, dtype=dtype)
    padded = Bucketed(4, buckets(pack, device))(qkv.float())
    torch.testing.assert_close(attend(qkv).float(), padded, atol=0.02, rtol=0)
    assert attention.varlen_attention() is not None


@pytest.mark.parametrize("name", [pytest.param("cuda", marks=cuda)])
def test_a_full_gpu_shrinks_the_passes_and_keeps_the_results(
    xlm_roberta: Path, texts: list[str], expected: EmbeddingBatch, name: str
) -> None:
    engine = BGEM3(xlm_roberta, device=name, dtype="float32", token_budget=1 << 20)
    engine.encode_documents(texts[:3])
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + (24 << 20)  # less than the pass wants
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info()[1])
    try:
        batch = engine.encode_documents(texts)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert_close(batch, expected, 1 - 1e-5)


@pytest.mark.parametrize("name", [pytest.param("cuda", marks=cuda)])
def test_copies_come_back_pinned_and_whole(name: str) -> None:
    from bge_m3_integrations.encoders.torch.modules import Output

    device = Cuda(torch.device(name, 0))
    numbers = torch.randn(4096, 1024, device="cuda")
    waits = [device.fetch(Output(numbers * i, None, None, None, None)) for i in range(5)]
    for i, wait in reversed(list(enumerate(waits))):
        dense = wait().dense
        assert dense is not None
        np.testing.assert_array_equal(dense, (numbers * i).cpu().numpy())


@pytest.mark.parametrize("name", [pytest.param("cuda", marks=cuda)])
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_two_gpus_give_what_one_gives(
    xlm_roberta: Path, texts: list[str], expected: EmbeddingBatch, name: str
) -> None:
    engine = BGEM3(xlm_roberta, device=[f"{name}:0", f"{name}:1"], dtype="float32")
    assert_close(engine.encode_documents(texts), expected, 1 - 1e-5)
    engine.close()
