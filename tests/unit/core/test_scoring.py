"""The reference scores against dead-simple loops."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import (
    ALL_MODES,
    EmbeddingBatch,
    SparseRows,
    TokenVectors,
    offsets_of,
)
from bge_m3_integrations.core.scores import Components, Weights
from bge_m3_integrations.errors import InputError

RNG = np.random.default_rng(7)


def unit(*shape: int) -> np.ndarray:
    rows = RNG.standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def tokens(*lengths: int, dim: int = 8) -> TokenVectors:
    return TokenVectors(unit(sum(lengths), dim), offsets_of(lengths))


def sparse(n: int) -> SparseRows:
    return SparseRows.from_dicts(
        [{int(i): float(RNG.random()) for i in RNG.integers(0, 20, 6)} for _ in range(n)]
    )


def maxsim_by_loops(query: np.ndarray, document: np.ndarray) -> float:
    best = []
    for q in query:
        best.append(
            max(sum(float(a) * float(b) for a, b in zip(q, d, strict=True)) for d in document)
        )
    return sum(best) / len(best)


def test_dense_is_the_dot_product() -> None:
    queries, documents = unit(3, 8), unit(5, 8)
    scores = scoring.dense(queries, documents)
    assert scores.dtype == np.float32
    for i, query in enumerate(queries):
        for j, document in enumerate(documents):
            assert math.isclose(
                scores[i, j], sum(map(float, query * document)), rel_tol=0, abs_tol=1e-6
            )


def test_lexical_is_the_sum_over_shared_ids() -> None:
    queries, documents = sparse(4), sparse(6)
    scores = scoring.lexical(queries, documents)
    for i in range(4):
        for j in range(6):
            left, right = queries.as_dict(i), documents.as_dict(j)
            expected = sum(left[key] * right[key] for key in left.keys() & right.keys())
            assert math.isclose(scores[i, j], expected, rel_tol=1e-6, abs_tol=0)


def test_lexical_is_not_bounded_by_one() -> None:
    rows = SparseRows.from_dicts([{1: 2.0, 5: 3.0}])
    assert scoring.lexical(rows, rows).tolist() == [[13.0]]


def test_lexical_of_nothing_shared_is_zero() -> None:
    scores = scoring.lexical(
        SparseRows.from_dicts([{}, {3: 1.0}]), SparseRows.from_dicts([{}, {4: 1.0}, {}])
    )
    assert scores.tolist() == [[0.0] * 3] * 2


def test_maxsim_is_the_mean_of_the_best() -> None:
    queries, documents = tokens(3, 1), tokens(2, 7, 1)
    scores = scoring.maxsim(queries, documents)
    for i in range(2):
        for j in range(3):
            expected = maxsim_by_loops(queries.row(i), documents.row(j))
            assert math.isclose(scores[i, j], expected, rel_tol=0, abs_tol=1e-6)


def test_maxsim_does_not_floor_a_negative_best_at_zero() -> None:
    query = TokenVectors(np.array([[1.0, 0.0]], np.float32), offsets_of([1]))
    documents = TokenVectors(
        np.array([[-1, 0], [0, 1], [-1, 0], [-0.6, 0.8]], np.float32), offsets_of([1, 1, 2])
    )
    assert scoring.maxsim(query, documents)[0].tolist() == pytest.approx([-1.0, 0.0, -0.6])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 60))
def test_maxsim_of_a_document_does_not_depend_on_its_batch(
    lengths: list[int], max_elements: int
) -> None:
    queries, documents = tokens(4, 2), tokens(*lengths)
    together = scoring.maxsim(queries, documents, max_elements=max_elements)
    for j in range(len(lengths)):
        alone = scoring.maxsim(queries, documents.take(np.array([j])))
        np.testing.assert_allclose(together[:, [j]], alone, rtol=0, atol=1e-6)


def peak_of(call: Callable[[], object]) -> int:
    """Most bytes that a call held at once, numpy's arrays among them."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("words", [1, 64])
def test_maxsim_holds_about_max_elements_at_once(dtype: Any, words: int) -> None:
    queries, documents = tokens(words, dim=64), tokens(*[10] * 1000, dim=64)
    documents = TokenVectors(documents.vectors.astype(dtype), documents.offsets)
    everything = 4 * max(words if dtype == np.float32 else 64, words) * 10_000
    for bound in (6400, 64_000):
        peak = peak_of(partial(scoring.maxsim, queries, documents, max_elements=bound))
        assert peak < 4 * bound * 2.5 + 20_000 + 8 * 10_000
        assert peak < everything / 2 or words == 1


def test_maxsim_takes_a_document_longer_than_the_bound_alone() -> None:
    queries, documents = tokens(4), tokens(3, 50, 1)
    bounded = scoring.maxsim(queries, documents, max_elements=4 * 8)
    np.testing.assert_allclose(bounded, scoring.maxsim(queries, documents), rtol=0, atol=1e-6)


def test_lexical_scores_are_summed_in_float64() -> None:
    count = 1000
    ids = np.arange(count + 1, dtype=np.int32)
    held = np.ones(count + 1, np.float32)
    held[0] = 2**24  # where float32 adds 1 in vain
    document = SparseRows(np.array([0, count + 1]), ids, held)
    query = SparseRows(np.array([0, count + 1]), ids, np.ones(count + 1, np.float32))
    assert scoring.lexical(query, document).tolist() == [[2**24 + count]]
    assert scoring.lexical(document, query).tolist() == [[2**24 + count]]


def test_float16_token_vectors_are_summed_in_float32() -> None:
    queries, documents = tokens(5, dim=64), tokens(9, 4, dim=64)
    half = TokenVectors(documents.vectors.astype(np.float16), documents.offsets)
    upcast = TokenVectors(half.vectors.astype(np.float32), documents.offsets)
    scores = scoring.maxsim(queries, half)
    assert scores.dtype == np.float32
    assert scores.tolist() == scoring.maxsim(queries, upcast).tolist()


def test_a_text_without_token_vectors_is_an_error() -> None:
    with pytest.raises(InputError, match="document without token vectors"):
        scoring.maxsim(tokens(2), tokens(2, 0))
    with pytest.raises(InputError, match="query without token vectors"):
        scoring.maxsim(tokens(0, 2), tokens(2))


def test_other_widths_are_an_error_that_names_both() -> None:
    with pytest.raises(InputError, match="8 wide and documents 9"):
        scoring.dense(unit(1, 8), unit(1, 9))
    with pytest.raises(InputError, match="8 wide and documents 9"):
        scoring.maxsim(tokens(1, dim=8), tokens(1, dim=9))


def test_no_documents_and_no_queries_give_empty_scores() -> None:
    none = EmbeddingBatch.empty(ALL_MODES, dim=8, colbert_dim=8)
    one = EmbeddingBatch(unit(1, 8), sparse(1), tokens(2), np.array([3]), np.array([0]))
    assert scoring.components(one, none, ALL_MODES).shape == (1, 0)
    assert scoring.components(none, one, ALL_MODES).shape == (0, 1)


def test_components_hold_the_asked_modes_only() -> None:
    one = EmbeddingBatch(unit(1, 8), sparse(1), tokens(2), np.array([3]), np.array([0]))
    assert scoring.components(one, one, ["sparse"]).modes == {"sparse"}
    with pytest.raises(InputError, match="dense"):
        scoring.components(one, one.only(["sparse"]), ["dense"])


def test_hybrid_is_the_raw_weighted_mean() -> None:
    parts = Components(
        np.array([0.5, -1.0], np.float32),
        np.array([8.0, 0.0], np.float32),
        np.array([0.25, 1.0], np.float32),
    )
    scores = scoring.hybrid(parts, Weights(1, 0.5, 2.5))
    expected = [(0.5 + 0.5 * 8 + 2.5 * 0.25) / 4, (-1 + 2.5) / 4]
    assert scores.hybrid.tolist() == pytest.approx(expected)
    assert scores.hybrid.dtype == np.float32
    assert scores.components is parts


def test_a_mode_of_weight_zero_does_not_touch_the_hybrid_score() -> None:
    parts = Components(np.array([0.5], np.float32), np.array([np.nan], np.float32))
    assert scoring.hybrid(parts, Weights.only("dense")).hybrid.tolist() == [0.5]


def test_a_weighted_mode_that_was_not_scored_is_an_error() -> None:
    with pytest.raises(InputError, match="colbert"):
        scoring.hybrid(Components(dense=np.zeros(1, np.float32)), Weights(1, 0, 1))
