"""Code written for pymilvus' `BGEM3EmbeddingFunction`, over `compat.BGEM3EmbeddingFunction`.

`pymilvus.model` is a package of its own (pymilvus-model). Where it is installed, both classes run;
elsewhere its documented output types are what ours is held to.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import InputError, MissingExtraError, TruncationWarning
from bge_m3_integrations.compat import BGEM3EmbeddingFunction, BGEM3FlagModel
from tests.checkpoints import HIDDEN
from tests.counting import counted_packs

pytest.importorskip("scipy")
from scipy.sparse import csr_array

TOLERANCE = 1e-5
TEXTS = ["a dense vector is one vector", "the sparse weight of a token", "", "稠密检索 dense"]
ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}


@pytest.fixture
def function(xlm_roberta: Path) -> BGEM3EmbeddingFunction:
    return BGEM3EmbeddingFunction(str(xlm_roberta), device="cpu", **ALL)


def assert_same_result(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert list(mine) == list(theirs)
    np.testing.assert_allclose(mine["dense"], theirs["dense"], atol=TOLERANCE)
    assert type(mine["sparse"]) is type(theirs["sparse"])
    assert mine["sparse"].shape == theirs["sparse"].shape
    np.testing.assert_allclose(mine["sparse"].toarray(), theirs["sparse"].toarray(), atol=TOLERANCE)
    for ours, expected in zip(mine["colbert_vecs"], theirs["colbert_vecs"], strict=True):
        np.testing.assert_allclose(ours, expected, atol=TOLERANCE)


# --- the same -----------------------------------------------------------------------------------


def test_every_call_gives_what_pymilvus_gives(
    function: BGEM3EmbeddingFunction, xlm_roberta: Path
) -> None:
    pytest.importorskip("FlagEmbedding")
    hybrid = pytest.importorskip("pymilvus.model.hybrid", exc_type=ImportError)
    original = hybrid.BGEM3EmbeddingFunction(str(xlm_roberta), device="cpu", **ALL)
    assert function.dim == original.dim
    assert_same_result(function(TEXTS), original(TEXTS))
    assert_same_result(function.encode_queries(TEXTS), original.encode_queries(TEXTS))
    assert_same_result(function.encode_documents(TEXTS), original.encode_documents(TEXTS))


def test_dense_is_a_list_of_unit_vectors(function: BGEM3EmbeddingFunction) -> None:
    dense = function(TEXTS)["dense"]
    assert isinstance(dense, list)
    assert {(v.shape, v.dtype) for v in dense} == {((HIDDEN,), np.dtype(np.float32))}
    np.testing.assert_allclose(np.linalg.norm(dense, axis=1), 1.0, atol=TOLERANCE)


def test_sparse_is_one_csr_array_of_the_lexical_weights(
    function: BGEM3EmbeddingFunction, xlm_roberta: Path
) -> None:
    sparse = function(TEXTS)["sparse"]
    assert isinstance(sparse, csr_array)
    assert sparse.shape == (len(TEXTS), function.dim["sparse"])
    flag = BGEM3FlagModel(str(xlm_roberta), devices="cpu", use_fp16=False)
    for i, row in enumerate(flag.encode(TEXTS, return_sparse=True)["lexical_weights"]):
        expected = {int(token_id): float(weight) for token_id, weight in row.items()}
        kept = sparse[[i]].tocoo()
        assert dict(zip(kept.col.tolist(), kept.data.tolist(), strict=True)) == expected


def test_colbert_is_a_list_of_arrays_one_vector_per_token_but_the_first(
    function: BGEM3EmbeddingFunction,
) -> None:
    vectors = function(TEXTS)["colbert_vecs"]
    tokens = function.model.engine.tokenize(TEXTS)
    assert [v.shape for v in vectors] == [(n - 1, HIDDEN) for n in np.diff(tokens.offsets)]


def test_dim_names_the_widths_of_what_is_returned(function: BGEM3EmbeddingFunction) -> None:
    result = function(TEXTS)
    assert function.dim == {
        "dense": result["dense"][0].shape[0],
        "colbert_vecs": result["colbert_vecs"][0].shape[1],
        "sparse": result["sparse"].shape[1],
    }


def test_colbert_is_off_by_default_and_has_no_key(xlm_roberta: Path) -> None:
    assert list(BGEM3EmbeddingFunction(str(xlm_roberta))(TEXTS)) == ["dense", "sparse"]


def test_the_rows_are_what_pymilvus_takes_as_sparse_vectors(
    function: BGEM3EmbeddingFunction,
) -> None:
    utils = pytest.importorskip("pymilvus.client.entity_helper")
    packed = utils.sparse_rows_to_proto(function(TEXTS[:2])["sparse"])
    assert len(packed.contents) == 2


# --- different on purpose -----------------------------------------------------------------------


def test_max_length_is_honoured_for_queries_and_documents(xlm_roberta: Path) -> None:
    short = BGEM3EmbeddingFunction(str(xlm_roberta), max_length=5, **ALL)
    for encode in (short, short.encode_queries, short.encode_documents):
        with pytest.warns(TruncationWarning, match="longer than 5 tokens"):
            assert len(encode(TEXTS[:1])["colbert_vecs"][0]) == 4


def test_max_length_beside_one_of_the_two_limits_is_refused(xlm_roberta: Path) -> None:
    with pytest.raises(InputError, match="query_max_length"):
        BGEM3EmbeddingFunction(str(xlm_roberta), max_length=5, query_max_length=6)


def test_instructions_apply_to_their_side_only(xlm_roberta: Path) -> None:
    plain = BGEM3EmbeddingFunction(str(xlm_roberta), **ALL)
    told = BGEM3EmbeddingFunction(
        str(xlm_roberta),
        query_instruction_for_retrieval="what is ",
        passage_instruction_for_retrieval="document ",
        **ALL,
    )
    prefixed = ["what is " + text for text in TEXTS]
    assert_same_result(told.encode_queries(TEXTS), plain(prefixed))
    assert_same_result(told.encode_documents(TEXTS), plain(["document " + t for t in TEXTS]))
    assert_same_result(told(TEXTS), plain(TEXTS))


def test_a_true_flag_of_any_type_is_true(xlm_roberta: Path) -> None:
    function = BGEM3EmbeddingFunction(str(xlm_roberta), return_sparse=1, return_dense=0)
    assert list(function(TEXTS)) == ["sparse"]


def test_no_texts_give_empty_results(function: BGEM3EmbeddingFunction) -> None:
    result = function([])
    assert (result["dense"], result["colbert_vecs"]) == ([], [])
    assert result["sparse"].shape == (0, function.dim["sparse"])


def test_one_string_is_refused_by_name(function: BGEM3EmbeddingFunction) -> None:
    with pytest.raises(InputError, match="list of strings, not one string 'dense'"):
        function.encode_queries("dense")


def test_sparse_weights_stay_float32(function: BGEM3EmbeddingFunction) -> None:
    assert function(TEXTS)["sparse"].dtype == np.float32


def test_an_unknown_option_is_refused_with_the_nearest_name(xlm_roberta: Path) -> None:
    with pytest.raises(InputError, match="did you mean query_max_length"):
        BGEM3EmbeddingFunction(str(xlm_roberta), query_maxlength=64)


def test_several_gpus_start_no_process_pool(
    xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiprocessing.get_context", lambda *_: pytest.fail("a pool was started"))
    assert BGEM3EmbeddingFunction(str(xlm_roberta), device=None)(TEXTS)["dense"]
    with pytest.raises(InputError, match="one process per device"):
        BGEM3EmbeddingFunction(str(xlm_roberta), devices=["cpu", "cpu"])


def test_a_missing_scipy_is_named_before_a_forward_and_nothing_is_installed(
    function: BGEM3EmbeddingFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(MissingExtraError, match=r"bge-m3-integrations\[milvus-compat\]"):
        function(TEXTS)
    assert function.model.engine.stats.forwards == 0


def test_dense_alone_needs_no_scipy(xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    function = BGEM3EmbeddingFunction(str(xlm_roberta), return_sparse=False)
    assert len(function(TEXTS)["dense"]) == len(TEXTS)


def test_one_forward_pass_gives_all_three(function: BGEM3EmbeddingFunction) -> None:
    with counted_packs() as packs:
        function(TEXTS[:1])
    assert len(packs) == 1
