"""An engine over a FlagEmbedding model that the user already holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bge_m3_integrations import BGEM3
from bge_m3_integrations.errors import InputError
from tests.checkpoints import make_xlm_roberta
from tests.parity.test_flag_embedding import FlagEmbedding, flag_model


def test_the_users_modules_are_used_as_they_are(xlm_roberta: Path) -> None:
    flag = flag_model(xlm_roberta)
    before = {name: (p.data_ptr(), p.dtype) for name, p in flag.model.named_parameters()}
    hooks = [len(m._forward_hooks) for m in flag.model.modules()]
    BGEM3.from_flag(flag).encode_documents(["dense vector", "sparse"])
    assert {name: (p.data_ptr(), p.dtype) for name, p in flag.model.named_parameters()} == before
    assert [len(m._forward_hooks) for m in flag.model.modules()] == hooks


def test_it_computes_in_the_dtype_that_the_model_has(xlm_roberta: Path) -> None:
    flag = flag_model(xlm_roberta)
    flag.model.to(torch.bfloat16)
    seen: list[torch.dtype] = []
    handle = flag.model.model.register_forward_hook(
        lambda _m, _i, out: seen.append(out.last_hidden_state.dtype)
    )
    batch = BGEM3.from_flag(flag).encode_documents(["dense vector"])
    handle.remove()
    assert seen == [torch.bfloat16]
    assert batch.dense is not None
    assert batch.dense.dtype == "float32"


def test_the_models_own_instructions_are_taken_over(xlm_roberta: Path) -> None:
    flag = FlagEmbedding.BGEM3FlagModel(
        str(xlm_roberta),
        use_fp16=False,
        devices="cpu",
        query_instruction_for_retrieval="search:",
        query_instruction_format="{} {}",
    )
    expected = flag.encode_queries(["dense vector"])["dense_vecs"]
    ours = BGEM3.from_flag(flag).encode_queries(["dense vector"]).dense
    assert ours == pytest.approx(expected, abs=1e-5)


def test_an_instruction_format_that_is_no_prefix_is_refused(xlm_roberta: Path) -> None:
    flag = FlagEmbedding.BGEM3FlagModel(
        str(xlm_roberta),
        use_fp16=False,
        devices="cpu",
        query_instruction_for_retrieval="search",
        query_instruction_format="{0} {1} now",
    )
    with pytest.raises(InputError, match="no prefix"):
        BGEM3.from_flag(flag)


@pytest.mark.parametrize("other", [object(), "BAAI/bge-m3"])
def test_what_is_no_flag_model_is_refused(other: Any) -> None:
    with pytest.raises(InputError, match="BGEM3FlagModel"):
        BGEM3.from_flag(other)


def test_a_model_in_training_mode_is_refused(xlm_roberta: Path) -> None:
    flag = flag_model(xlm_roberta)
    flag.model.train()
    with pytest.raises(InputError, match="training mode"):
        BGEM3.from_flag(flag)


PROGRAM = """
import sys, psutil
from FlagEmbedding import BGEM3FlagModel
from bge_m3_integrations import BGEM3

flag = BGEM3FlagModel(sys.argv[1], use_fp16=False, devices="cpu")
flag.encode(["dense vector"] * 2)
process = psutil.Process()
before = process.memory_info().rss
BGEM3.from_flag(flag).encode_documents(["dense vector", "sparse"])
grown = process.memory_info().rss - before
weights = sum(p.numel() * p.element_size() for p in flag.model.parameters())
print(grown, weights)
"""


def test_there_is_no_second_copy_of_the_weights_in_memory(tmp_path: Path) -> None:
    folder = make_xlm_roberta(tmp_path / "large", vocabulary=1_500_000)
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=True
    ).stdout
    grown, weights = map(int, out.split()[-2:])
    assert weights > 150 * 2**20
    assert grown < weights / 4


class Scaled(torch.nn.Linear):
    """A layer whose weight is no number by itself, as a quantised one's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight * 4, self.bias)


def test_layers_of_a_class_of_their_own_compute_as_they_do_in_the_model(xlm_roberta: Path) -> None:
    plain, flag = flag_model(xlm_roberta), flag_model(xlm_roberta)
    query = flag.model.model.encoder.layer[0].attention.self.query
    query.__class__ = Scaled
    with torch.no_grad():
        query.weight.div_(4)
    scaled, expected = (BGEM3.from_flag(m).encode_documents(["dense"]).dense for m in (flag, plain))
    torch.testing.assert_close(torch.tensor(scaled), torch.tensor(expected))
