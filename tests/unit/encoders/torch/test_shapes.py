"""Texts come in all lengths, oneDNN keeps a kernel for each number of rows: there must be few."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MPNetConfig, MPNetModel

from bge_m3_integrations import BGEM3
from bge_m3_integrations.encoders.torch import linear
from bge_m3_integrations.encoders.torch.int8 import weight_levels
from bge_m3_integrations.encoders.torch.packing import Pack, rounded
from bge_m3_integrations.encoders.torch.padded import PaddedBackbone
from tests import checkpoints

LENGTHS = 900
# what rounding leaves of so many lengths, for each of a layer's products
FEW = len({rounded(n, least=8) for n in range(1, LENGTHS + 3)})

_PROGRAM = """
import sys, warnings
from pathlib import Path
from bge_m3_integrations.encoders.torch.native import binding
if sys.argv[3] == "off":
    binding.LIBRARY = Path("/nowhere")
import torch
from bge_m3_integrations import BGEM3
engine = BGEM3(sys.argv[1], dtype=sys.argv[2], device="cpu")
torch.set_num_threads(1)
for n in range(1, int(sys.argv[4]) + 1, 3):
    engine.encode_documents(["the " * n])
"""

_MAXSIM = """
import numpy as np, torch
from bge_m3_integrations.encoders.torch.maxsim import maxsim
from bge_m3_integrations.core.embeddings import TokenVectors
def tokens(n):
    return TokenVectors(np.ones((n, 64), np.float32) / 8, np.array([0, n]))
torch.set_num_threads(1)
for n in range(1, 601):
    maxsim(tokens(n % 120 + 1), tokens(n))
"""


def _kernels_made(program: str, *arguments: str) -> int:
    """How many kernels oneDNN makes for a program."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "ONEDNN_VERBOSE": "profile_create"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.count("create:cache_miss")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make_xlm_roberta(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def generic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone that transformers computes."""
    folder = checkpoints.make_xlm_roberta(tmp_path_factory.mktemp("generic"))
    config = MPNetConfig(
        vocab_size=200,
        hidden_size=checkpoints.HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=checkpoints.POSITIONS + 2,
    )
    MPNetModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("dtype", "kernels"),
    [("bfloat16", "on"), ("bfloat16", "off"), ("int8", "off"), ("float32", "off")],
)
def test_texts_of_all_lengths_need_few_kernels(packed: Path, dtype: str, kernels: str) -> None:
    if dtype == "int8" and not weight_levels():
        pytest.skip("no 8-bit products here")
    found = _kernels_made(_PROGRAM, str(packed), dtype, kernels, str(LENGTHS))
    # two heads; without our own kernels four products of a layer and those of attention too
    assert found < (9 if kernels == "off" else 3) * FEW


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_padded_texts_of_all_lengths_need_few_kernels(generic: Path, dtype: str) -> None:
    assert _kernels_made(_PROGRAM, str(generic), dtype, "on", "300") < 260


def test_documents_of_all_lengths_are_scored_with_few_kernels() -> None:
    assert _kernels_made(_MAXSIM) < 150


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_heads_multiply_few_numbers_of_rows(
    packed: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = BGEM3(packed, dtype=dtype, device="cpu")
    engine.encode_documents(["the"])
    multiplied = linear.linear
    rows: set[int] = set()

    def counting(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        rows.add(len(x))
        return multiplied(x, *weights)

    monkeypatch.setattr(linear, "linear", counting)
    for n in range(1, 300):
        engine.encode_documents(["the " * n])
    assert rows == {rounded(n, least=8) for n in rows}
    assert len(rows) < 40


def test_zeros_behind_rows_change_no_number(packed: Path) -> None:
    engine = BGEM3(packed, dtype="float32", device="cpu")
    texts = ["the " * n for n in (1, 2, 7, 8, 9, 31, 200)]
    together = engine.encode_documents(texts)
    for i, text in enumerate(texts):
        alone = engine.encode_documents([text])
        assert alone.colbert is not None
        assert together.colbert is not None
        torch.testing.assert_close(
            torch.from_numpy(alone.colbert.vectors),
            torch.from_numpy(together.colbert.take(np.array([i])).vectors),
            rtol=0,
            atol=1e-5,
        )


class _Seen(torch.nn.Module):
    """In place of a model: what shapes it was given, and states that tell tokens apart."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        assert bool((attention_mask.sum(1) > 0).all())
        self.shapes.append(tuple(input_ids.shape))

        class Output:
            last_hidden_state = input_ids[..., None].float()

        return Output


def test_padding_never_goes_beyond_a_models_positions_and_gives_each_text_its_own_states() -> None:
    module = _Seen()
    backbone = PaddedBackbone(module, pad_token_id=1, positions=100)
    rows = [torch.arange(5, 5 + n).int().numpy() for n in (99, 3, 1, 1, 1)]
    pack = Pack.from_rows(rows)
    assert backbone.hidden(pack)[:, 0].tolist() == pack.ids.tolist()
    assert module.shapes == [(6, 100)]
