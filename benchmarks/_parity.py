"""How far a peer's numbers are from the reference's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._peers.base import Encoded
from benchmarks._workloads import PARITY_TEXTS


@dataclass(frozen=True, slots=True)
class Parity:
    """Differences to the reference; None where the peer lacks the head.

    Args:
        cosine: Least cosine of a text's two dense vectors.
        centred: The same after the reference's mean vector is taken from both: random weights give
            all texts nearly one direction, so this says more.
        dense: Greatest difference of a dense component.
        sparse: Greatest difference of a lexical weight; an absent one is 0.
        colbert: Greatest difference of a token vector's component.
    """

    cosine: float
    centred: float
    dense: float
    sparse: float | None
    colbert: float | None


def save(path: Path, encoded: Encoded) -> None:
    """Write every dense vector, and the other heads of the first `PARITY_TEXTS` texts."""
    arrays = {"dense": np.asarray(encoded.dense, np.float32)}
    for i, row in enumerate((encoded.sparse or [])[:PARITY_TEXTS]):
        arrays[f"ids{i}"] = np.array(list(row), np.int64)
        arrays[f"weights{i}"] = np.array(list(row.values()), np.float32)
    for i, vectors in enumerate((encoded.colbert or [])[:PARITY_TEXTS]):
        arrays[f"colbert{i}"] = np.asarray(vectors, np.float32)
    np.savez(path, **arrays)


def load(path: Path) -> Encoded:
    """Read back what `save` wrote."""
    with np.load(path) as held:
        rows = [i for i in range(PARITY_TEXTS) if f"ids{i}" in held]
        pairs = (
            zip(held[f"ids{i}"].tolist(), held[f"weights{i}"].tolist(), strict=True) for i in rows
        )
        sparse = [dict(pair) for pair in pairs]
        colbert = [held[f"colbert{i}"] for i in range(PARITY_TEXTS) if f"colbert{i}" in held]
        return Encoded(held["dense"], sparse or None, colbert or None)


def compare(reference: Encoded, other: Encoded) -> Parity:
    """Differences of two encodings of the same texts."""
    mean = reference.dense.mean(axis=0)
    return Parity(
        cosine=_least_cosine(reference.dense, other.dense),
        centred=_least_cosine(reference.dense - mean, other.dense - mean),
        dense=float(np.abs(reference.dense - other.dense).max()),
        sparse=None if not other.sparse else _sparse(reference.sparse or [], other.sparse),
        colbert=None if not other.colbert else _colbert(reference.colbert or [], other.colbert),
    )


def _least_cosine(left: np.ndarray, right: np.ndarray) -> float:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / lengths).min())


def _sparse(left: list[dict[int, float]], right: list[dict[int, float]]) -> float:
    return max(
        abs(a.get(token, 0.0) - b.get(token, 0.0))
        for a, b in zip(left, right, strict=True)
        for token in a.keys() | b.keys()
    )


def _colbert(left: list[np.ndarray], right: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(left, right, strict=True))
