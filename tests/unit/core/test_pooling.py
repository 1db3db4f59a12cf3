"""Token pooling on vectors small enough to cluster by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.cluster import hierarchy

from bge_m3_integrations.core.embeddings import TokenVectors, offsets_of
from bge_m3_integrations.core.pooling import pooled
from bge_m3_integrations.errors import InputError, MissingExtraError


def tokens(*lengths: int, dim: int = 8, dtype: Any = np.float32) -> TokenVectors:
    rows = np.random.default_rng(3).standard_normal((sum(lengths), dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return TokenVectors(rows.astype(dtype), offsets_of(lengths))


def directions(*degrees: float) -> TokenVectors:
    angles = np.radians(degrees)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return TokenVectors(rows, offsets_of([len(rows)]))


def found_degrees(vectors: TokenVectors) -> np.ndarray:
    x, y = vectors.vectors.T
    return np.degrees(np.arctan2(y, x))


@pytest.mark.parametrize("factor", [2, 3, 4, 7, np.int64(3)])
def test_a_document_keeps_one_vector_in_factor_rounded_up(factor: int) -> None:
    lengths = [1, 2, 3, 4, 5, 12, 13, 100]
    kept = np.diff(pooled(tokens(*lengths), factor).offsets)
    assert kept.tolist() == [-(-n // int(factor)) for n in lengths]


@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 1e-6), (np.float16, 1e-3)])
def test_pooled_vectors_have_norm_1_and_the_inputs_dtype(dtype: Any, error: float) -> None:
    result = pooled(tokens(50, 7, dtype=dtype), 3).vectors
    assert result.dtype == dtype
    np.testing.assert_allclose(np.linalg.norm(result.astype(float), axis=1), 1, atol=error)


def test_a_cluster_becomes_the_direction_of_its_mean() -> None:
    result = pooled(directions(0, 10, 90, 94, 180, 188), 2)
    np.testing.assert_allclose(found_degrees(result), [5, 92, -176], atol=1e-4)


def test_clusters_come_in_the_order_of_their_first_tokens() -> None:
    result = pooled(directions(90, -120, 0, 94, 10, -110), 2)
    np.testing.assert_allclose(found_degrees(result), [92, -115, 5], atol=1e-4)


def test_a_mean_is_of_all_members_however_many() -> None:
    rows = directions(0, 0, 30, 180)
    expected = np.degrees(np.arctan2(np.sin(np.pi / 6), 2 + np.cos(np.pi / 6)))
    np.testing.assert_allclose(abs(found_degrees(pooled(rows, 2))), [expected, 180], atol=1e-4)


def test_factor_1_gives_back_the_input_itself() -> None:
    vectors = tokens(5, 3)
    assert pooled(vectors, 1) is vectors


def test_float16_pools_as_its_float32_copy() -> None:
    half = tokens(40, 9, dtype=np.float16)
    single = pooled(TokenVectors(half.vectors.astype(np.float32), half.offsets), 2)
    np.testing.assert_array_equal(pooled(half, 2).vectors, single.vectors.astype(np.float16))


def test_pooling_twice_gives_equal_bytes_and_leaves_its_input_alone() -> None:
    vectors = tokens(60)
    before = vectors.vectors.copy()
    assert pooled(vectors, 3).vectors.tobytes() == pooled(vectors, 3).vectors.tobytes()
    np.testing.assert_array_equal(vectors.vectors, before)


@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 1e-7), (np.float16, 1e-3)])
def test_a_document_of_one_token_stays(dtype: Any, error: float) -> None:
    one = tokens(1, dtype=dtype)
    np.testing.assert_allclose(pooled(one, 4).vectors, one.vectors, atol=error)


def test_vectors_that_cancel_out_leave_their_first() -> None:
    np.testing.assert_allclose(found_degrees(pooled(directions(30, 210), 2)), [30], atol=1e-4)
    np.testing.assert_allclose(found_degrees(pooled(directions(30, 150, 270), 3)), [30], atol=1e-4)


def test_equal_vectors_give_fewer_never_more() -> None:
    result = pooled(directions(*[40] * 6, 100, 100), 2)
    np.testing.assert_allclose(found_degrees(result), [40, 100], atol=1e-4)


def test_a_document_pools_in_any_batch_as_alone() -> None:
    vectors = tokens(17, 1, 0, 30, 6)
    batch = pooled(vectors, 3)
    for i in range(len(vectors)):
        alone = pooled(vectors.take(np.array([i])), 3)
        np.testing.assert_array_equal(batch.row(i), alone.vectors)
    assert len(batch.row(2)) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_no_documents_stay_none(dtype: Any) -> None:
    result = pooled(tokens(dtype=dtype), 2)
    assert len(result) == 0
    assert result.vectors.shape == (0, 8)
    assert result.vectors.dtype == dtype


@pytest.mark.parametrize("factor", [2, 3, 3000])
def test_a_long_document_is_pooled_in_stretches_and_keeps_as_many(
    factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    linkage = hierarchy.linkage

    def noted(rows: np.ndarray, method: str) -> np.ndarray:
        sizes.append(len(rows))
        return linkage(rows, method=method)

    monkeypatch.setattr(hierarchy, "linkage", noted)
    long = tokens(8191, dim=4)
    result = pooled(long, factor)
    assert len(result.vectors) == -(-8191 // factor)
    assert sizes == {2: [2048] * 3 + [2047], 3: [2046] * 4 + [7], 3000: []}[factor]
    if factor == 3:
        alone = pooled(TokenVectors(long.vectors[:2046], offsets_of([2046])), 3)
        np.testing.assert_array_equal(result.vectors[: len(alone.vectors)], alone.vectors)


@pytest.mark.parametrize("factor", [0, -2, 1.5, 2.0, True, "2", None])
def test_what_is_no_factor_is_named(factor: Any) -> None:
    with pytest.raises(InputError, match=f"factor must be a whole number.*not {factor!r}"):
        pooled(tokens(3), factor)


def test_a_missing_scipy_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'bge-m3-integrations\[pooling\]"'):
        pooled(tokens(9), 2)
