"""An encoder with one of its heads replaced, so that modes have another balance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bge_m3_integrations import BGEM3, EmbeddingBatch
from bge_m3_integrations.core.embeddings import Kind, Modes, SparseRows, TokenVectors

VARIANTS = ("own", "idf", "srand", "drp", "crp", "cwhite")
_DENSE, _COLBERT, _WHITE = 24, 16, 96


class ReplacedHeads:
    """An `Encoder` over an engine, whose embeddings it changes.

    Args:
        base: Computes; with a cache, every variant costs one forward pass together.
        variant: One of `VARIANTS`.
        texts: The collection, which idf and whitening are estimated from.
    """

    def __init__(self, base: BGEM3, variant: str, texts: Sequence[str]) -> None:
        self._base, self._variant = base, variant
        inner = base.encoder
        self.modes, self.vocab_size = inner.modes, inner.vocab_size
        self.pad_token_id, self.max_length = inner.pad_token_id, inner.max_length
        self.dim = _DENSE if variant == "drp" else inner.dim
        width = {"crp": _COLBERT, "cwhite": _WHITE}.get(variant, inner.colbert_dim)
        self.colbert_dim = width
        self.fingerprint = f"{inner.fingerprint}-{variant}"
        rng = np.random.default_rng(0)
        self._dense = rng.normal(size=(inner.dim, _DENSE)).astype(np.float32)
        self._colbert = rng.normal(size=(inner.colbert_dim, width)).astype(np.float32)
        self._lexical = rng.uniform(0.02, 0.35, inner.vocab_size).astype(np.float32)
        self._mean = np.zeros(inner.colbert_dim, np.float32)
        if variant == "idf":
            rows = base.encode_documents(texts, modes=["sparse"]).sparse
            counts = np.bincount(rows.token_ids, minlength=inner.vocab_size)
            self._lexical = (np.log1p(len(texts) / np.maximum(counts, 0.5)) / 8).astype(np.float32)
        if variant == "cwhite":
            some = base.encode_documents(texts[:200], modes=["colbert"]).colbert.vectors
            vectors = np.asarray(some, np.float32)
            self._mean = vectors.mean(axis=0)
            values, axes = np.linalg.eigh(np.cov((vectors - self._mean).T))
            best = np.argsort(values)[::-1][:width]
            self._colbert = (axes[:, best] / np.sqrt(values[best] + 1e-6)).astype(np.float32)

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """Encode by the base, and replace the head."""
        run = self._base.encode_queries if kind == "query" else self._base.encode_documents
        batch = run(texts, modes=modes, max_length=max_length)
        if self._variant in ("idf", "srand") and batch.sparse is not None:
            rows = batch.sparse
            batch = replace(
                batch,
                sparse=SparseRows(rows.indptr, rows.token_ids, self._lexical[rows.token_ids]),
            )
        if self._variant == "drp" and batch.dense is not None:
            batch = replace(batch, dense=_unit(batch.dense @ self._dense))
        if self._variant in ("crp", "cwhite") and batch.colbert is not None:
            held = np.asarray(batch.colbert.vectors, np.float32) - self._mean
            batch = replace(
                batch, colbert=TokenVectors(_unit(held @ self._colbert), batch.colbert.offsets)
            )
        return batch


def _unit(rows: Any) -> Any:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)
