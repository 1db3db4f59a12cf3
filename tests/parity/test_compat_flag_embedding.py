"""Code written for `FlagEmbedding.BGEM3FlagModel`, run on it and on `compat.BGEM3FlagModel`.

First what is the same: the calls of FlagEmbedding's BGE-M3 documentation. Then what differs on
purpose: each test shows both behaviours.
"""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders
from transformers import AutoModel, AutoTokenizer

from bge_m3_integrations import CheckpointError, InputError, TruncationWarning
from bge_m3_integrations.compat import BGEM3FlagModel
from bge_m3_integrations.compat.conversions import dtype_name
from bge_m3_integrations.encoders.torch.devices import pick_dtype
from tests.checkpoints import HIDDEN, POSITIONS, WORDS
from tests.counting import counted_packs

FlagEmbedding = pytest.importorskip("FlagEmbedding")

TOLERANCE = 1e-5
CPU = torch.device("cpu")
QUESTIONS = ["what is a dense vector", "how is the sparse weight of a token found"]
ANSWERS = [
    "a dense vector is one vector for the text, and the score is the product",
    "the sparse model gives a weight to each token of the document in the index",
]
PAIRS = [[question, answer] for question in QUESTIONS for answer in ANSWERS]
TEXTS = [*QUESTIONS, *ANSWERS, "", "稠密检索 dense ﬁ 🙂", "dense dense dense"]
ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}


@pytest.fixture(params=["xlm_roberta", "bert"])
def both(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return models(request.getfixturevalue(request.param))


@pytest.fixture
def pair(xlm_roberta: Path) -> tuple[Any, Any]:
    return models(xlm_roberta)


@pytest.fixture(scope="module")
def readable(xlm_roberta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with the decoder that XLM-R's own tokenizer has: it takes word marks away."""
    folder = shutil.copytree(xlm_roberta, tmp_path_factory.mktemp("readable"), dirs_exist_ok=True)
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.decoder = decoders.Metaspace()
    core.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def spread(xlm_roberta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with token vectors that point everywhere, so that maxima can be negative."""
    folder = shutil.copytree(xlm_roberta, tmp_path_factory.mktemp("spread"), dirs_exist_ok=True)
    tokens = AutoTokenizer.from_pretrained(folder)(WORDS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
    mean = hidden[tokens["attention_mask"].bool()].mean(dim=0)
    torch.save({"weight": torch.eye(HIDDEN), "bias": -mean}, folder / "colbert_linear.pt")
    return folder


def models(folder: Path, **options: Any) -> tuple[Any, Any]:
    """The same constructor call on FlagEmbedding's class and on ours."""
    options = {"use_fp16": False, "devices": "cpu", **options}
    return FlagEmbedding.BGEM3FlagModel(str(folder), **options), BGEM3FlagModel(
        str(folder), **options
    )


@contextmanager
def counted_rows(model: Any) -> Iterator[list[int]]:
    """The number of texts in each forward pass of either class."""
    rows: list[int] = []
    if isinstance(model, BGEM3FlagModel):
        with counted_packs() as packs:
            yield rows
        rows += [len(pack.lengths) for pack in packs]
        return
    handle = model.model.model.register_forward_hook(
        lambda _, __, output: rows.append(len(output.last_hidden_state))
    )
    yield rows
    handle.remove()


def assert_same_output(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    assert list(mine) == list(theirs)
    assert_same_numbers(mine["dense_vecs"], theirs["dense_vecs"])
    if isinstance(theirs["lexical_weights"], list):
        assert isinstance(mine["lexical_weights"], list)
        for ours, expected in zip(mine["lexical_weights"], theirs["lexical_weights"], strict=True):
            assert_same_lexical(ours, expected)
    else:
        assert_same_lexical(mine["lexical_weights"], theirs["lexical_weights"])
    if isinstance(theirs["colbert_vecs"], list):
        assert isinstance(mine["colbert_vecs"], list)
        for ours, expected in zip(mine["colbert_vecs"], theirs["colbert_vecs"], strict=True):
            assert_same_numbers(ours, expected)
    else:
        assert_same_numbers(mine["colbert_vecs"], theirs["colbert_vecs"])


def assert_same_numbers(mine: Any, theirs: Any) -> None:
    if theirs is None:
        assert mine is None
        return
    assert type(mine) is type(theirs) is np.ndarray
    assert mine.dtype == theirs.dtype
    assert mine.shape == theirs.shape
    np.testing.assert_allclose(mine, theirs, atol=TOLERANCE, rtol=0)


def assert_same_lexical(mine: Any, theirs: Any) -> None:
    assert type(mine) is type(theirs)
    if theirs is None:
        return
    assert {type(key) for key in mine} == {type(key) for key in theirs}
    assert {type(weight) for weight in mine.values()} == {type(w) for w in theirs.values()}
    assert mine == pytest.approx(theirs, abs=TOLERANCE)


# --- the same: the calls of FlagEmbedding's documentation ---------------------------------------


def test_the_constructor_has_the_same_names_order_and_defaults() -> None:
    theirs = list(inspect.signature(FlagEmbedding.BGEM3FlagModel.__init__).parameters.values())[1:]
    mine = list(inspect.signature(BGEM3FlagModel.__init__).parameters.values())[1:]
    expected = [(p.name, p.default) for p in theirs if p.kind is not p.VAR_KEYWORD]
    assert [(p.name, p.default) for p in mine[: len(expected)]] == expected


@pytest.mark.parametrize(
    "name",
    [
        "encode",
        "encode_queries",
        "encode_corpus",
        "compute_score",
        "compute_lexical_matching_score",
        "colbert_score",
        "convert_id_to_token",
    ],
)
def test_every_method_has_the_same_arguments_in_the_same_order(name: str) -> None:
    theirs = inspect.signature(getattr(FlagEmbedding.BGEM3FlagModel, name)).parameters
    mine = list(inspect.signature(getattr(BGEM3FlagModel, name)).parameters)
    expected = [p.name for p in theirs.values() if p.kind is not p.VAR_KEYWORD]
    assert mine[: len(expected)] == expected


def test_dense_similarity_is_the_same(both: tuple[Any, Any]) -> None:
    theirs, mine = (
        m.encode(QUESTIONS, batch_size=12, max_length=8192)["dense_vecs"]
        @ m.encode(ANSWERS)["dense_vecs"].T
        for m in both
    )
    assert_same_numbers(mine, theirs)


def test_all_three_outputs_are_the_same(both: tuple[Any, Any]) -> None:
    theirs, mine = (m.encode(TEXTS, **ALL) for m in both)
    assert_same_output(mine, theirs)


def test_modes_that_are_off_are_none_in_both(pair: tuple[Any, Any]) -> None:
    theirs, mine = (m.encode(TEXTS, return_dense=False, return_sparse=True) for m in pair)
    assert_same_output(mine, theirs)
    assert mine["dense_vecs"] is None


def test_the_constructors_modes_are_the_default_in_both(xlm_roberta: Path) -> None:
    theirs, mine = (
        m.encode(TEXTS) for m in models(xlm_roberta, return_sparse=True, return_dense=False)
    )
    assert_same_output(mine, theirs)


def test_a_single_string_drops_the_outer_list_in_both(pair: tuple[Any, Any]) -> None:
    theirs, mine = (m.encode(QUESTIONS[0], **ALL) for m in pair)
    assert_same_output(mine, theirs)
    assert mine["dense_vecs"].shape == (HIDDEN,)


@pytest.mark.parametrize("checkpoint", ["readable", "bert"])
def test_lexical_weights_read_by_token_are_the_same(
    checkpoint: str, request: pytest.FixtureRequest
) -> None:
    theirs, mine = models(request.getfixturevalue(checkpoint))
    ids = theirs.encode(QUESTIONS, return_sparse=True)["lexical_weights"]
    named = mine.convert_id_to_token(mine.encode(QUESTIONS, return_sparse=True)["lexical_weights"])
    for ours, expected, row in zip(named, theirs.convert_id_to_token(ids), ids, strict=True):
        count = Counter(theirs.tokenizer.decode([int(token_id)]) for token_id in row)
        once = [text for text in count if count[text] == 1]  # of the others, see below
        assert once
        assert set(ours) == set(expected)
        assert [ours[t] for t in once] == pytest.approx([expected[t] for t in once], abs=TOLERANCE)


@pytest.mark.parametrize("checkpoint", ["readable", "bert"])
def test_every_token_of_the_vocabulary_reads_the_same(
    checkpoint: str, request: pytest.FixtureRequest
) -> None:
    theirs, mine = models(request.getfixturevalue(checkpoint))
    for token_id in range(len(theirs.tokenizer)):
        row = {str(token_id): 1.0}
        assert mine.convert_id_to_token(row) == theirs.convert_id_to_token(row)


def test_a_list_of_one_reads_as_a_dict_in_both(pair: tuple[Any, Any]) -> None:
    theirs, mine = (m.convert_id_to_token([{"20": 1.0}]) for m in pair)
    assert mine == theirs
    assert isinstance(mine, dict)


def test_lexical_matching_scores_are_the_same(both: tuple[Any, Any]) -> None:
    results = []
    for m in both:
        first = m.encode(QUESTIONS, return_sparse=True)["lexical_weights"]
        second = m.encode(ANSWERS, return_sparse=True)["lexical_weights"]
        results.append(
            [
                m.compute_lexical_matching_score(first[0], second[0]),
                m.compute_lexical_matching_score(first[0], first[1]),
                m.compute_lexical_matching_score(first[0], first[0]),
                *m.compute_lexical_matching_score(first, second).ravel(),
                m.compute_lexical_matching_score(first[0], {}),
            ]
        )
    assert results[1] == pytest.approx(results[0], abs=TOLERANCE)
    assert max(results[0]) > 0


def test_lexical_matching_works_on_weights_by_token_too(pair: tuple[Any, Any]) -> None:
    rows = [{"dense": 0.5, "model": 0.25}, {"dense": -2.0}]
    theirs, mine = (m.compute_lexical_matching_score(rows, rows) for m in pair)
    np.testing.assert_allclose(mine, theirs)


def test_one_dict_against_a_list_is_a_value_error_in_both(pair: tuple[Any, Any]) -> None:
    for m in pair:
        with pytest.raises(ValueError, match="lexical"):
            m.compute_lexical_matching_score({"5": 1.0}, [{"5": 1.0}])


def test_colbert_scores_of_two_texts_are_the_same(both: tuple[Any, Any]) -> None:
    results = []
    for m in both:
        first = m.encode(QUESTIONS, **ALL)["colbert_vecs"]
        second = m.encode(ANSWERS, **ALL)["colbert_vecs"]
        results.append([m.colbert_score(a, b).item() for a in first for b in second])
    assert results[1] == pytest.approx(results[0], abs=TOLERANCE)


def test_all_five_scores_are_the_same(pair: tuple[Any, Any]) -> None:
    theirs, mine = (
        m.compute_score(
            PAIRS, max_passage_length=128, weights_for_different_modes=[0.4, 0.2, 0.4], batch_size=1
        )
        for m in pair
    )
    assert list(mine) == list(theirs)
    for name, values in theirs.items():
        assert all(type(value) is float for value in mine[name])
        assert mine[name] == pytest.approx(values, abs=TOLERANCE)


def test_scores_without_weights_use_one_one_one_in_both(pair: tuple[Any, Any]) -> None:
    theirs, mine = (m.compute_score(PAIRS, batch_size=1) for m in pair)
    assert mine["colbert+sparse+dense"] == pytest.approx(
        theirs["colbert+sparse+dense"], abs=TOLERANCE
    )


def test_one_pair_gives_a_number_each_in_both(pair: tuple[Any, Any]) -> None:
    theirs, mine = (m.compute_score((QUESTIONS[0], ANSWERS[0])) for m in pair)
    assert mine == pytest.approx(theirs, abs=TOLERANCE)
    assert type(mine["dense"]) is float


def test_the_two_length_limits_of_a_pair_are_separate_in_both(pair: tuple[Any, Any]) -> None:
    limits = {"max_query_length": 5, "max_passage_length": 9, "batch_size": 1}
    with pytest.warns(TruncationWarning):
        mine = pair[1].compute_score(PAIRS, **limits)
    assert mine["dense"] == pytest.approx(
        pair[0].compute_score(PAIRS, **limits)["dense"], abs=TOLERANCE
    )


@pytest.mark.parametrize("form", ["{}{}", "Instruct: {}\\nQuery: {}", "{0} ({1})"])
def test_instructions_are_put_around_queries_and_documents_alike(
    xlm_roberta: Path, form: str
) -> None:
    options = {
        "query_instruction_for_retrieval": "what document is for the query ",
        "query_instruction_format": form,
        "passage_instruction_for_retrieval": "a document ",
        "passage_instruction_format": form,
    }
    theirs, mine = models(xlm_roberta, **options)
    for method in ("encode_queries", "encode_corpus", "encode"):
        expected = getattr(theirs, method)(TEXTS, **ALL)
        assert_same_output(getattr(mine, method)(TEXTS, **ALL), expected)
    assert_same_output(
        mine.encode_queries(QUESTIONS[0], **ALL), theirs.encode_queries(QUESTIONS[0], **ALL)
    )


def test_scores_are_computed_without_instructions_in_both(xlm_roberta: Path) -> None:
    instruction = {"query_instruction_for_retrieval": "what is "}
    theirs, mine = (m.compute_score(PAIRS[0]) for m in models(xlm_roberta, **instruction))
    assert mine == pytest.approx(theirs, abs=TOLERANCE)
    assert mine == pytest.approx(models(xlm_roberta)[1].compute_score(PAIRS[0]), abs=TOLERANCE)


def test_truncate_dim_is_the_same(xlm_roberta: Path) -> None:
    theirs, mine = models(xlm_roberta, truncate_dim=8)
    assert_same_output(mine.encode(TEXTS, **ALL), theirs.encode(TEXTS, **ALL))
    assert mine.compute_score(PAIRS[0]) == pytest.approx(
        theirs.compute_score(PAIRS[0]), abs=TOLERANCE
    )


@pytest.mark.parametrize("pooling", ["mean", "last_token"])
def test_pooling_is_the_same(xlm_roberta: Path, pooling: str) -> None:
    theirs, mine = (m.encode(TEXTS) for m in models(xlm_roberta, pooling_method=pooling))
    assert_same_output(mine, theirs)


def test_what_is_cut_at_the_limit_is_the_same(xlm_roberta: Path) -> None:
    theirs, mine = models(xlm_roberta, query_max_length=6, passage_max_length=9)
    for method in ("encode_queries", "encode_corpus", "encode"):
        with pytest.warns(TruncationWarning):
            output = getattr(mine, method)(ANSWERS, **ALL)
        assert_same_output(output, getattr(theirs, method)(ANSWERS, **ALL))


# --- different on purpose: each shows both ------------------------------------------------------


def test_a_lone_query_costs_one_forward_pass_and_theirs_costs_two(pair: tuple[Any, Any]) -> None:
    counts = []
    for m in pair:
        with counted_rows(m) as rows:
            m.encode(QUESTIONS[0])
        counts.append(len(rows))
    assert counts == [2, 1]


def test_one_query_against_many_documents_is_encoded_once_and_theirs_per_pair(
    pair: tuple[Any, Any],
) -> None:
    pairs = [(QUESTIONS[0], word) for word in WORDS[:8]]
    counts = []
    for m in pair:
        with counted_rows(m) as rows:
            m.compute_score(pairs)
        counts.append(sum(rows))
    assert counts == [16, 9]


def test_a_pairs_colbert_score_is_its_own_and_theirs_depends_on_the_batch(spread: Path) -> None:
    """Their zero padding takes part in the maximum over document vectors, and floors it at 0."""
    long = " ".join(WORDS[:20])
    pairs = [(a, b) for a in WORDS for b in ("of", "")]
    theirs, mine = models(spread)
    alone = np.array([theirs.compute_score(p)["colbert"] for p in pairs])
    beside = np.array(theirs.compute_score([*pairs, (long, long)])["colbert"])[:-1]
    assert (beside - alone).max() > 0.01
    assert (beside - alone).min() > -TOLERANCE
    for extra in ([], [(long, long)]):
        scores = mine.compute_score(pairs + extra)["colbert"][: len(pairs)]
        np.testing.assert_allclose(scores, alone, atol=TOLERANCE)


def test_compute_score_equals_colbert_score_and_theirs_contradict_each_other(
    spread: Path,
) -> None:
    pairs = [*((a, b) for a in WORDS for b in ("of", "")), ("a", " ".join(WORDS[:20]))]
    differences = []
    for m in models(spread):
        whole = m.compute_score(pairs)["colbert"]
        parts = [m.colbert_score(*m.encode(list(p), **ALL)["colbert_vecs"]).item() for p in pairs]
        differences.append(np.abs(np.array(whole) - parts).max())
    assert differences[0] > 0.01
    assert differences[1] < TOLERANCE


def test_a_tokenizer_without_eos_is_scored_and_theirs_is_an_error(bert: Path) -> None:
    theirs, mine = models(bert)
    with pytest.raises(RuntimeError, match="NoneType"):
        theirs.compute_score(PAIRS)
    scores = mine.compute_score(PAIRS)
    queries, documents = (theirs.encode([p[i] for p in PAIRS], **ALL) for i in (0, 1))
    dense = (queries["dense_vecs"] * documents["dense_vecs"]).sum(axis=1)
    assert scores["dense"] == pytest.approx(dense, abs=TOLERANCE)
    for i in range(len(PAIRS)):
        sides = [side["lexical_weights"][i] for side in (queries, documents)]
        lexical = theirs.compute_lexical_matching_score(*sides)
        assert scores["sparse"][i] == pytest.approx(lexical, abs=TOLERANCE)
        vectors = [side["colbert_vecs"][i] for side in (queries, documents)]
        colbert = theirs.colbert_score(*vectors).item()
        assert scores["colbert"][i] == pytest.approx(colbert, abs=TOLERANCE)


def test_no_texts_give_empty_results_and_theirs_is_an_error(pair: tuple[Any, Any]) -> None:
    theirs, mine = pair
    output = mine.encode([], **ALL)
    assert output["dense_vecs"].shape == (0, HIDDEN)
    assert (output["lexical_weights"], output["colbert_vecs"]) == ([], [])
    with pytest.raises((AttributeError, IndexError)):
        theirs.encode([], **ALL)
    scores = mine.compute_score([])
    assert theirs.compute_score([]) == []
    assert list(scores.values()) == [[]] * 5


def test_an_unknown_argument_is_refused_and_theirs_is_swallowed(xlm_roberta: Path) -> None:
    theirs = FlagEmbedding.BGEM3FlagModel(
        str(xlm_roberta), use_fp16=False, devices="cpu", max_length=4
    )
    assert theirs.encode(ANSWERS, **ALL)["colbert_vecs"][0].shape[0] > 4
    with pytest.raises(InputError, match="'max_length'; did you mean query_max_length"):
        BGEM3FlagModel(xlm_roberta, max_length=4)
    with pytest.raises(InputError, match="'device'; did you mean devices"):
        BGEM3FlagModel(xlm_roberta, device="cuda:7")
    with pytest.raises(InputError, match="'xyzzy'; there are model_name_or_path, "):
        BGEM3FlagModel(xlm_roberta, xyzzy=1)


def test_a_missing_head_is_an_error_and_theirs_is_random(xlm_roberta: Path, tmp_path: Path) -> None:
    shutil.copytree(xlm_roberta, tmp_path, dirs_exist_ok=True)
    (tmp_path / "sparse_linear.pt").unlink()
    first, second = (models(tmp_path)[0].encode(TEXTS, **ALL)["colbert_vecs"][0] for _ in range(2))
    assert np.abs(first - second).max() > 0.01
    with pytest.raises(CheckpointError, match="sparse_linear"):
        models(tmp_path)[1].encode(TEXTS, **ALL)


def test_fp16_on_a_cpu_keeps_the_weights_and_theirs_are_rounded(
    xlm_roberta: Path, pair: tuple[Any, Any]
) -> None:
    exact = pair[0].encode(ANSWERS)["dense_vecs"]
    theirs, mine = (m.encode(ANSWERS)["dense_vecs"] for m in models(xlm_roberta, use_fp16=True))
    assert np.abs(theirs - exact).max() > TOLERANCE
    np.testing.assert_allclose(mine, exact, atol=TOLERANCE)


def test_bf16_on_a_cpu_is_native_where_there_is_any_and_theirs_is_float32(
    xlm_roberta: Path,
) -> None:
    theirs, mine = models(xlm_roberta, use_bf16=True)
    for m in (theirs, mine):
        m.encode(QUESTIONS)
    assert theirs.model.model.dtype == torch.float32
    assert mine.engine.encoder.encoder.source.dtype == pick_dtype("auto", CPU)


def test_fp16_on_a_gpu_is_float16_as_in_flag_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert dtype_name("cuda:0", use_fp16=True, use_bf16=False) == "float16"
    assert dtype_name("cuda:0", use_fp16=False, use_bf16=False) == "float32"


def test_a_zero_weight_on_dense_and_sparse_gives_numbers_and_theirs_gives_nan(
    pair: tuple[Any, Any],
) -> None:
    options = {"weights_for_different_modes": [0, 0, 1], "batch_size": 1}
    theirs, mine = (m.compute_score(PAIRS, **options) for m in pair)
    assert np.isnan(theirs["sparse+dense"]).all()
    mean = (np.array(mine["sparse"]) + np.array(mine["dense"])) / 2
    np.testing.assert_allclose(mine["sparse+dense"], mean, atol=TOLERANCE)
    np.testing.assert_allclose(mine["colbert+sparse+dense"], mine["colbert"], atol=TOLERANCE)


def test_weights_that_cannot_be_meant_are_refused_and_theirs_are_used(
    pair: tuple[Any, Any],
) -> None:
    theirs, mine = pair
    weights = [1, 1, -2]
    with np.errstate(all="ignore"):
        scores = theirs.compute_score(PAIRS, weights_for_different_modes=weights)
    assert not np.isfinite(scores["colbert+sparse+dense"]).any()
    with pytest.raises(InputError, match="at least 0"):
        mine.compute_score(PAIRS, weights_for_different_modes=weights)


def test_truncation_at_512_warns_and_theirs_is_silent(pair: tuple[Any, Any]) -> None:
    theirs, mine = pair
    text = " ".join(WORDS * 20)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        expected = theirs.encode(text)
    assert not [w for w in seen if "token" in str(w.message)]
    with pytest.warns(TruncationWarning, match="longer than 512 tokens"):
        output = mine.encode(text)
    assert_same_output(output, expected)


def test_a_limit_beyond_the_model_is_cut_with_a_warning_and_theirs_is_an_error(
    pair: tuple[Any, Any],
) -> None:
    theirs, mine = pair
    text = " ".join(WORDS * 60)
    with pytest.raises((AttributeError, IndexError)):
        theirs.encode(text, max_length=POSITIONS * 2)
    with pytest.warns(TruncationWarning, match=f"longer than {POSITIONS} tokens"):
        assert mine.encode(text, max_length=POSITIONS * 2)["dense_vecs"].shape == (HIDDEN,)


def test_unnormalised_vectors_are_refused_and_theirs_are_longer_than_one(
    xlm_roberta: Path,
) -> None:
    theirs = FlagEmbedding.BGEM3FlagModel(
        str(xlm_roberta), normalize_embeddings=False, use_fp16=False, devices="cpu"
    )
    assert np.linalg.norm(theirs.encode(QUESTIONS)["dense_vecs"], axis=1).min() > 1.1
    with pytest.raises(InputError, match="normalize_embeddings=False"):
        BGEM3FlagModel(xlm_roberta, normalize_embeddings=False)


def test_several_devices_are_refused_and_theirs_start_a_pool(xlm_roberta: Path) -> None:
    devices = ["cpu", "cpu"]
    assert FlagEmbedding.BGEM3FlagModel.get_target_devices(devices) == devices
    with pytest.raises(InputError, match="one process per device"):
        BGEM3FlagModel(xlm_roberta, devices=devices)
    one = BGEM3FlagModel(xlm_roberta, devices=["cpu"], use_fp16=False)
    assert one.encode(QUESTIONS)["dense_vecs"].shape == (2, HIDDEN)


def test_a_foreign_colbert_dim_is_refused_by_name_and_theirs_fails_in_torch(
    xlm_roberta: Path,
) -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        FlagEmbedding.BGEM3FlagModel(str(xlm_roberta), colbert_dim=HIDDEN // 2, devices="cpu")
    with pytest.raises(InputError, match=f"colbert_dim={HIDDEN // 2}.*gives {HIDDEN}"):
        BGEM3FlagModel(xlm_roberta, colbert_dim=HIDDEN // 2, devices="cpu").encode(QUESTIONS)
    same = BGEM3FlagModel(xlm_roberta, colbert_dim=HIDDEN, devices="cpu")
    assert same.encode(QUESTIONS)["dense_vecs"].shape == (2, HIDDEN)


def test_a_truncate_dim_wider_than_the_model_is_refused_and_theirs_does_nothing(
    xlm_roberta: Path,
) -> None:
    theirs, mine = models(xlm_roberta, truncate_dim=HIDDEN + 1)
    assert theirs.encode(QUESTIONS)["dense_vecs"].shape == (2, HIDDEN)
    with pytest.raises(InputError, match=f"truncate_dim={HIDDEN + 1}"):
        mine.encode(QUESTIONS)


def test_all_modes_off_is_an_input_error_and_theirs_an_assertion(pair: tuple[Any, Any]) -> None:
    theirs, mine = pair
    with pytest.raises(AssertionError):
        theirs.encode(QUESTIONS, return_dense=False)
    with pytest.raises(InputError, match="all off"):
        mine.encode(QUESTIONS, return_dense=False)


def test_of_two_ids_with_one_text_the_heaviest_counts_and_of_theirs_the_last(
    readable: Path,
) -> None:
    theirs, mine = models(readable)
    ids = theirs.tokenizer.convert_tokens_to_ids(["\u2581a", "a"])
    assert theirs.tokenizer.unk_token_id not in ids
    row = {str(ids[0]): 0.9, str(ids[1]): 0.1}
    assert theirs.convert_id_to_token(row) == {"a": 0.1}
    assert mine.convert_id_to_token(row) == {"a": 0.9}


def test_colbert_score_is_a_numpy_number_and_theirs_a_tensor(pair: tuple[Any, Any]) -> None:
    vectors = np.eye(3, dtype=np.float32)
    theirs, mine = (m.colbert_score(vectors, vectors) for m in pair)
    assert isinstance(theirs, torch.Tensor)
    assert isinstance(mine, np.float32)
    assert theirs.item() == mine.item() == float(mine) == 1.0


def test_a_bare_string_or_a_triple_is_no_pair_and_theirs_scores_its_letters(
    pair: tuple[Any, Any],
) -> None:
    theirs, mine = pair
    assert theirs.compute_score("ab")["dense"] == theirs.compute_score(("a", "b"))["dense"]
    for wrong in ("ab", [("a", "b", "c")], ["a"], [("a", 1)]):
        with pytest.raises(InputError, match="pair 0"):
            mine.compute_score(wrong)


def test_no_progress_bar_is_shown_and_theirs_is(
    pair: tuple[Any, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for m in pair:
        capfd.readouterr()
        m.encode(TEXTS, batch_size=2)
        shown.append("Inference Embeddings" in capfd.readouterr().err)
    assert shown == [True, False]


def test_nothing_is_loaded_before_the_first_use_and_theirs_loads_at_once(tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError)):
        FlagEmbedding.BGEM3FlagModel(str(tmp_path), devices="cpu")
    model = BGEM3FlagModel(str(tmp_path), devices="cpu")
    with pytest.raises(CheckpointError):
        model.encode(QUESTIONS)


def test_importing_the_class_imports_no_torch() -> None:
    code = (
        "import sys; from bge_m3_integrations.compat import BGEM3FlagModel, BGEM3EmbeddingFunction;"
        "BGEM3FlagModel('x', use_fp16=False); BGEM3EmbeddingFunction('x');"
        "print({'torch', 'transformers', 'FlagEmbedding', 'scipy', 'pymilvus'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
