"""Maximal marginal relevance against a dead-simple loop and against LangChain's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bge_m3_integrations.core.embeddings import FloatArray
from bge_m3_integrations.core.mmr import mmr
from bge_m3_integrations.errors import InputError

SHARES = [0.0, 0.3, 0.5, 0.7, 1.0]


def unit(n: int, dim: int, seed: int) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def simple(relevance: FloatArray, vectors: FloatArray, limit: int, share: float) -> list[int]:
    """The definition, pick by pick."""
    picked = [int(np.argmax(relevance))]
    while len(picked) < min(limit, len(relevance)):
        left = [i for i in range(len(relevance)) if i not in picked]
        values = [
            share * relevance[i] - (1 - share) * max(vectors[i] @ vectors[j] for j in picked)
            for i in left
        ]
        picked.append(left[int(np.argmax(values))])
    return picked


@given(
    n=st.integers(1, 12),
    limit=st.integers(1, 15),
    share=st.sampled_from(SHARES),
    seed=st.integers(0, 10_000),
)
def test_the_picks_are_those_of_the_definition(n: int, limit: int, share: float, seed: int) -> None:
    vectors = unit(n, 6, seed)
    relevance = np.random.default_rng(seed + 1).random(n).astype(np.float32)
    wanted = simple(relevance, vectors, limit, share)
    assert mmr(relevance, vectors, limit=limit, mmr_lambda=share) == wanted


@pytest.mark.parametrize("share", SHARES)
def test_dense_scores_give_langchains_picks(share: float) -> None:
    utils = pytest.importorskip("langchain_core.vectorstores.utils")
    for seed in range(20):
        vectors = unit(31, 8, seed)
        query, documents = vectors[0], vectors[1:]
        theirs = utils.maximal_marginal_relevance(query, documents, lambda_mult=share, k=10)
        assert mmr(documents @ query, documents, limit=10, mmr_lambda=share) == theirs


def test_a_share_of_1_is_the_order_by_relevance_with_ties_by_position() -> None:
    relevance = np.array([0.2, 0.9, 0.2, 0.9, 0.5], np.float32)
    vectors = np.ones((5, 1), np.float32)
    assert mmr(relevance, vectors, limit=5, mmr_lambda=1) == [1, 3, 4, 0, 2]


def test_a_share_of_0_starts_with_the_most_relevant_and_avoids_what_is_like_it() -> None:
    relevance = np.array([0.8, 0.9, 0.1, 0.0], np.float32)
    vectors = np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
    assert mmr(relevance, vectors, limit=4, mmr_lambda=0) == [1, 3, 2, 0]


def test_a_copy_of_the_best_document_comes_after_a_less_relevant_other_one() -> None:
    relevance = np.array([0.9, 0.9, 0.6], np.float32)
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert mmr(relevance, vectors, limit=2, mmr_lambda=0.5) == [0, 2]
    assert mmr(relevance, vectors, limit=2, mmr_lambda=0.9) == [0, 1]


def test_large_lexical_scores_leave_no_diversity_until_they_are_scaled() -> None:
    relevance = np.array([0.9, 0.9, 0.6], np.float32)
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert mmr(10 * relevance, vectors, limit=2, mmr_lambda=0.5) == [0, 1]


def test_no_documents_give_no_picks() -> None:
    none = np.zeros((0, 4), np.float32)
    assert mmr(np.zeros(0, np.float32), none, limit=3, mmr_lambda=0.5) == []


def test_half_precision_vectors_are_read_as_float32() -> None:
    vectors = unit(20, 8, 3).astype(np.float16)
    relevance = vectors[:, 0].astype(np.float32)
    wide = vectors.astype(np.float32)
    picks = mmr(relevance, vectors, limit=20, mmr_lambda=0.4)
    assert picks == mmr(relevance, wide, limit=20, mmr_lambda=0.4)


def test_the_arguments_are_not_changed() -> None:
    relevance, vectors = np.arange(4, dtype=np.float32), unit(4, 3, 1)
    before = relevance.copy(), vectors.copy()
    mmr(relevance, vectors, limit=4, mmr_lambda=0.5)
    assert np.array_equal(before[0], relevance)
    assert np.array_equal(before[1], vectors)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), True, None, "0.5"])
def test_a_share_outside_0_to_1_is_named(wrong: Any) -> None:
    with pytest.raises(InputError, match=f"mmr_lambda.*{wrong!r}"):
        mmr(np.ones(2, np.float32), unit(2, 3, 0), limit=1, mmr_lambda=wrong)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True])
def test_a_limit_that_is_no_positive_number_is_named(wrong: Any) -> None:
    with pytest.raises(InputError, match=f"limit.*{wrong!r}"):
        mmr(np.ones(2, np.float32), unit(2, 3, 0), limit=wrong, mmr_lambda=0.5)


def test_relevance_and_vectors_must_be_as_many() -> None:
    with pytest.raises(InputError, match="3 values, but there are 2 vectors"):
        mmr(np.ones(3, np.float32), unit(2, 3, 0), limit=1, mmr_lambda=0.5)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(InputError, match=r"relevance must have 1 axes, not the shape \(2, 1\)"):
        mmr(np.ones((2, 1), np.float32), unit(2, 3, 0), limit=1, mmr_lambda=0.5)
    with pytest.raises(InputError, match=r"vectors must have 2 axes, not the shape \(2,\)"):
        mmr(np.ones(2, np.float32), np.ones(2, np.float32), limit=1, mmr_lambda=0.5)


def test_a_number_that_is_not_finite_is_named_with_its_place() -> None:
    gone = np.array([0.1, np.nan], np.float32)
    with pytest.raises(InputError, match=r"relevance must be finite, not nan at \[1\]"):
        mmr(gone, unit(2, 3, 0), limit=1, mmr_lambda=0.5)
    vectors = unit(2, 3, 0)
    vectors[1, 2] = np.inf
    with pytest.raises(InputError, match=r"vectors must be finite, not inf at \[1, 2\]"):
        mmr(np.ones(2, np.float32), vectors, limit=1, mmr_lambda=0.5)
