"""Random embeddings of a given size, the same in every process."""

from __future__ import annotations

import numpy as np

from benchmarks._workloads import ladder


def unit_rows(count: int, width: int, *, seed: int) -> np.ndarray:
    """`(count, width) float32`, every row of length 1, about one common direction.

    Token vectors of a model share much; wholly random ones would all be at right angles.
    """
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((count, width), np.float32)
    rows += 0.5 * np.random.default_rng(99).standard_normal(width, np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def offsets(lengths: tuple[int, ...]) -> np.ndarray:
    """Where each text starts, and the end."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def lexical_rows(count: int, tokens: int, *, seed: int) -> list[dict[int, float]]:
    """Lexical weights of texts whose tokens are as rare as words are."""
    generator = np.random.default_rng(seed)
    ids = np.exp(generator.random((count, tokens)) * np.log(250_000)).astype(np.int64) + 4
    weights = generator.random((count, tokens), np.float32) * 0.3 + 0.01
    return [
        dict(zip(i.tolist(), w.tolist(), strict=True)) for i, w in zip(ids, weights, strict=True)
    ]


DOCUMENTS = ladder(1_000, total=145_157, longest=512)
"""Token vectors of 1,000 documents."""
