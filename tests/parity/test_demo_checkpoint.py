"""The checkpoint that comes with the package: its format, its size, and both engines' numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bge_m3_integrations import BGEM3
from bge_m3_integrations.demo import checkpoint_path, load_corpus, load_questions
from tests.parity.test_flag_embedding import TOLERANCE, assert_same, flag_model

TEXTS = [record.text for record in load_corpus()[::9]] + [q.text for q in load_questions()[::11]]


@pytest.fixture(scope="module")
def folder() -> Path:
    return checkpoint_path()


@pytest.fixture(scope="module")
def engine(folder: Path) -> BGEM3:
    return BGEM3(folder, device="cpu", dtype="float32")


def test_it_is_small_and_holds_only_what_is_needed(folder: Path) -> None:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 20_000_000
    assert {"model.safetensors", "colbert_linear.pt", "sparse_linear.pt", "README.md"} <= {
        file.name for file in files
    }


def test_it_is_xlm_roberta_with_512_positions_in_float16(folder: Path) -> None:
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "xlm-roberta"
    assert config["max_position_embeddings"] == 514
    assert BGEM3(folder).encoder.max_length == 512
    with safe_open(folder / "model.safetensors", framework="pt") as reader:
        assert {reader.get_slice(name).get_dtype() for name in reader.keys()} == {"F16"}  # noqa: SIM118


def test_flag_embedding_loads_it_unchanged_and_gives_the_same_numbers(
    folder: Path, engine: BGEM3
) -> None:
    theirs = flag_model(folder).encode(
        TEXTS, max_length=512, return_dense=True, return_sparse=True, return_colbert_vecs=True
    )
    assert_same(engine.encode_documents(TEXTS), theirs, TOLERANCE)


def test_bfloat16_keeps_a_cosine_of_0_999_for_every_vector(folder: Path, engine: BGEM3) -> None:
    full = engine.encode_documents(TEXTS)
    half = BGEM3(folder, device="cpu", dtype="bfloat16").encode_documents(TEXTS)
    assert full.dense is not None
    assert half.dense is not None
    assert (full.dense * half.dense).sum(axis=1).min() >= 0.999
    assert full.colbert is not None
    assert half.colbert is not None
    assert (full.colbert.vectors * half.colbert.vectors).sum(axis=1).min() >= 0.999


def test_its_sparse_head_weighs_content_above_function_words(engine: BGEM3) -> None:
    weights = engine.encode_queries(["what is the storage of an index"], modes={"sparse"})[0].sparse
    assert weights is not None
    words = dict(zip(engine.encoder.id_to_token(list(weights)), weights.values(), strict=True))
    assert max(words.get("▁storage", 0), words.get("▁index", 0)) > 2 * words.get("▁the", 0)


def test_the_heads_hold_tensors_and_nothing_else(folder: Path) -> None:
    for name in ("colbert_linear.pt", "sparse_linear.pt"):
        state = torch.load(folder / name, weights_only=True)
        assert set(state) == {"weight", "bias"}
