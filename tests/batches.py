"""Comparing batches of embeddings."""

from __future__ import annotations

import numpy as np

from bge_m3_integrations.core.embeddings import EmbeddingBatch


def assert_equal(batch: EmbeddingBatch, other: EmbeddingBatch) -> None:
    assert batch.dense is not None
    assert batch.sparse is not None
    assert batch.colbert is not None
    assert other.sparse is not None
    assert other.colbert is not None
    np.testing.assert_allclose(batch.dense, other.dense, atol=1e-5)
    np.testing.assert_array_equal(batch.sparse.indptr, other.sparse.indptr)
    np.testing.assert_array_equal(batch.sparse.token_ids, other.sparse.token_ids)
    np.testing.assert_allclose(batch.sparse.weights, other.sparse.weights, atol=1e-5)
    np.testing.assert_array_equal(batch.colbert.offsets, other.colbert.offsets)
    np.testing.assert_allclose(batch.colbert.vectors, other.colbert.vectors, atol=1e-5)
    np.testing.assert_array_equal(batch.tokens, other.tokens)
    np.testing.assert_array_equal(batch.truncated, other.truncated)
