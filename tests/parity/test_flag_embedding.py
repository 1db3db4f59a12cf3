"""Our numbers against FlagEmbedding's, on the same checkpoint, in float32."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bge_m3_integrations import BGEM3
from bge_m3_integrations.core.embeddings import EmbeddingBatch
from tests.checkpoints import WORDS, make_bert

FlagEmbedding = pytest.importorskip("FlagEmbedding")

TOLERANCE = 1e-5
LIMIT = 600
LENGTHS = (1, 2, 3, 5, 9, 17, 40, 100, 250, 560)
CASES = [(backbone, pooling) for backbone in ("xlm_roberta", "bert") for pooling in ("cls", "mean")]
CASES += [("xlm_roberta", "last_token")]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(7)
    made = [" ".join(rng.choices(WORDS, k=length)) for length in LENGTHS]
    return [*made, "", "   ", "a <mask> typed", "¿qué? 稠密检索 mixed ﬁ 🙂"]


@pytest.fixture(params=CASES, ids="-".join)
def both(request: pytest.FixtureRequest) -> tuple[BGEM3, Any]:
    backbone, pooling = request.param
    folder: Path = request.getfixturevalue(backbone)
    ours = BGEM3(folder, device="cpu", dtype="float32", pooling=pooling, max_length=LIMIT)
    return ours, flag_model(folder, pooling)


def flag_model(folder: Path, pooling: str = "cls") -> Any:
    return FlagEmbedding.BGEM3FlagModel(
        str(folder), use_fp16=False, devices="cpu", pooling_method=pooling
    )


def flag_encode(model: Any, texts: list[str], batch_size: int = 4) -> Mapping[str, Any]:
    return model.encode(
        texts,
        batch_size=batch_size,
        max_length=LIMIT,
        return_dense=True,
        return_sparse=True,
        return_colbert_vecs=True,
    )


def assert_same(batch: EmbeddingBatch, theirs: Mapping[str, Any], tolerance: float) -> None:
    assert batch.dense is not None
    np.testing.assert_allclose(batch.dense, theirs["dense_vecs"], atol=tolerance, rtol=0)
    for ours, weights, vectors in zip(
        batch, theirs["lexical_weights"], theirs["colbert_vecs"], strict=True
    ):
        expected = {int(token): float(weight) for token, weight in weights.items()}
        assert ours.sparse is not None
        assert {t for t, w in ours.sparse.items() if w > tolerance} == {
            t for t, w in expected.items() if w > tolerance
        }
        for token, weight in expected.items():
            assert ours.sparse.get(token, 0.0) == pytest.approx(weight, abs=tolerance)
        assert ours.colbert is not None
        assert ours.colbert.shape == vectors.shape
        np.testing.assert_allclose(ours.colbert, vectors, atol=tolerance, rtol=0)


@pytest.mark.filterwarnings("ignore::bge_m3_integrations.errors.TruncationWarning")
def test_all_three_representations_equal_flag_embeddings(
    both: tuple[BGEM3, Any], texts: list[str]
) -> None:
    ours, flag = both
    batch = ours.encode_documents(texts)
    assert batch.tokens.min() <= 3
    assert batch.tokens.max() == LIMIT
    assert_same(batch, flag_encode(flag, texts), TOLERANCE)


def test_an_engine_over_the_users_own_flag_model_gives_the_same_numbers(
    both: tuple[BGEM3, Any], texts: list[str]
) -> None:
    _, flag = both
    short = texts[:6] + texts[10:]
    expected = flag_encode(flag, short)
    assert_same(BGEM3.from_flag(flag).encode_documents(short), expected, TOLERANCE)


@pytest.mark.filterwarnings("ignore::bge_m3_integrations.errors.TruncationWarning")
def test_numbers_do_not_depend_on_what_else_is_in_the_batch(
    both: tuple[BGEM3, Any], texts: list[str]
) -> None:
    ours, _ = both
    together = ours.encode_documents(texts[:9])
    for i in (0, 4, 8):
        alone = ours.encode_documents([texts[i]])[0]
        np.testing.assert_allclose(alone.dense, together[i].dense, atol=TOLERANCE)
        np.testing.assert_allclose(alone.colbert, together[i].colbert, atol=TOLERANCE)
        assert alone.sparse == pytest.approx(together[i].sparse, abs=TOLERANCE)


@pytest.fixture(scope="module")
def bert_with_eos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # without a token called eos, FlagEmbedding's compute_score fails
    return make_bert(tmp_path_factory.mktemp("bert_eos"), eos=True)


@pytest.mark.filterwarnings("ignore::bge_m3_integrations.errors.TruncationWarning")
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("backbone", ["xlm_roberta", "bert_with_eos"])
def test_all_five_scores_equal_flag_embeddings(
    backbone: str, pooling: str, texts: list[str], request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(backbone)
    ours = BGEM3(folder, device="cpu", dtype="float32", pooling=pooling, max_length=LIMIT)
    flag = flag_model(folder, pooling)
    pairs = [(texts[i], texts[j]) for i in (0, 3, 6, 10) for j in (1, 4, 7, 8)]
    expected = flag.compute_score(
        pairs,
        batch_size=1,  # in a larger batch its zero padding floors ColBERT's maxima at 0
        max_query_length=LIMIT,
        max_passage_length=LIMIT,
        weights_for_different_modes=[0.4, 0.2, 0.4],
    )
    scores = ours.score_pairs(pairs, weights=(0.4, 0.2, 0.4))
    two = ours.score_pairs(pairs, weights=(0.4, 0.2, 0.0))
    for mine, name in (
        (scores.dense, "dense"),
        (scores.sparse, "sparse"),
        (scores.colbert, "colbert"),
        (two.hybrid, "sparse+dense"),
        (scores.hybrid, "colbert+sparse+dense"),
    ):
        np.testing.assert_allclose(mine, expected[name], atol=TOLERANCE, rtol=TOLERANCE)


def test_a_float16_checkpoint_is_read_as_it_is_and_computed_in_float32(
    xlm_roberta: Path, tmp_path: Path, texts: list[str]
) -> None:
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(xlm_roberta, dtype=torch.float16).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(xlm_roberta).save_pretrained(tmp_path)
    for head in ("colbert_linear.pt", "sparse_linear.pt"):
        state = torch.load(xlm_roberta / head, weights_only=True)
        torch.save({name: t.half() for name, t in state.items()}, tmp_path / head)
    ours = BGEM3(tmp_path, device="cpu", dtype="float32")
    assert_same(
        ours.encode_documents(texts[:8]), flag_encode(flag_model(tmp_path), texts[:8]), 1e-5
    )


@pytest.fixture
def contrasting(xlm_roberta: Path, tmp_path: Path) -> Path:
    """A copy whose token vectors are centred, so that many similarities are below 0."""
    folder = tmp_path / "contrasting"
    shutil.copytree(xlm_roberta, folder)
    state = torch.load(folder / "colbert_linear.pt", weights_only=True)
    raw = flag_model(xlm_roberta)
    inputs = raw.tokenizer(WORDS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = raw.model.model(**inputs).last_hidden_state[inputs["attention_mask"].bool()]
    state["bias"] = -(state["weight"] @ hidden.mean(dim=0))
    torch.save(state, folder / "colbert_linear.pt")
    return folder


def test_flag_embeddings_scores_depend_on_the_batch_and_ours_do_not(contrasting: Path) -> None:
    """Its zero padding takes part in ColBERT's maximum; see DESIGN "colbert"."""
    ours = BGEM3(contrasting, device="cpu", dtype="float32")
    flag = flag_model(contrasting)
    long = " ".join(random.Random(3).choices(WORDS, k=30))
    pairs = [(word, "") for word in WORDS[:24]]
    with_long = [each for pair in pairs for each in (pair, (pair[0], long))]
    alone = np.array(flag.compute_score(pairs, batch_size=1)["colbert"])
    beside = np.array(flag.compute_score(with_long, batch_size=2)["colbert"])[::2]
    assert np.abs(alone - beside).max() > 1e-3
    for given, stride in ((pairs, 1), (with_long, 2)):
        scores = ours.score_pairs(given).colbert
        assert scores is not None
        np.testing.assert_allclose(scores[::stride], alone, atol=TOLERANCE)


def test_flag_embedding_runs_a_lone_query_twice_and_we_run_it_once(xlm_roberta: Path) -> None:
    flag = flag_model(xlm_roberta)
    calls: list[int] = []
    handle = flag.model.model.register_forward_hook(lambda *_: calls.append(1))
    flag.encode(["what is a vector"])
    assert len(calls) == 2
    calls.clear()
    BGEM3.from_flag(flag).encode_queries(["what is a vector"])
    assert len(calls) == 1
    handle.remove()


def test_ids_are_those_of_the_file_and_theirs_of_transformers_rules_from_5_on(
    xlm_roberta: Path, tmp_path: Path
) -> None:
    import transformers
    from tokenizers import Tokenizer

    folder = shutil.copytree(xlm_roberta, tmp_path / "as_bge_m3")
    named = json.loads((folder / "tokenizer_config.json").read_text())
    named = {**named, "tokenizer_class": "XLMRobertaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    text = "dense vector "
    by_file = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    flag = flag_model(folder)
    theirs = flag.tokenizer(text)["input_ids"]
    assert BGEM3(folder).tokenize([text]).ids.tolist() == by_file
    assert (theirs == by_file) == (transformers.__version__ < "5")
    assert BGEM3.from_flag(flag).tokenize([text]).ids.tolist() == theirs
