"""Between FlagEmbedding's forms of texts, pairs and lexical weights and this package's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import (
    ALL_MODES,
    MODES,
    EmbeddingBatch,
    FloatArray,
    SparseRows,
    offsets_of,
)
from bge_m3_integrations.core.scores import Components, Weights
from bge_m3_integrations.errors import InputError

_Row = Mapping[str, float]
_SMALLEST_NORM = 1e-12


def instructed(texts: list[str], instruction: str | None, form: str) -> list[str]:
    """Put an instruction around each text.

    Args:
        texts: The texts.
        instruction: The instruction; None leaves the texts as they are.
        form: A format of two fields, instruction and text. A typed backslash-n is a line break.

    Returns:
        The texts to encode.
    """
    if instruction is None:
        return texts
    form = form.replace("\\n", "\n")
    return [form.format(instruction, text) for text in texts]


def lexical_dicts(rows: SparseRows) -> list[dict[str, Any]]:
    """One dict per text from token id, as a string, to np.float32; a missing id reads as 0."""
    dicts: list[dict[str, Any]] = []
    for i in range(len(rows)):
        ids, weights = rows.row(i)
        row: defaultdict[str, Any] = defaultdict(int)
        row.update(zip(map(str, ids.tolist()), weights, strict=True))
        dicts.append(row)
    return dicts


def lexical_matrix(left: Sequence[_Row], right: Sequence[_Row]) -> FloatArray:
    """Dot products over shared keys, whatever the keys are: ids or tokens.

    Args:
        left: `n` rows of weights.
        right: `m` rows of weights.

    Returns:
        `(n, m) float32`.
    """
    places = {key: i for i, key in enumerate({key: 0 for row in (*left, *right) for key in row})}
    return scoring.lexical(_packed(left, places), _packed(right, places))


def shortened(rows: NDArray[np.floating[Any]], dim: int | None) -> NDArray[np.floating[Any]]:
    """The first `dim` columns, every row of norm 1 again; None leaves the rows as they are."""
    if dim is None:
        return rows
    kept = rows[:, :dim]
    norms = np.linalg.norm(kept, axis=1, keepdims=True)
    unit: NDArray[np.floating[Any]] = kept / np.maximum(norms, np.float32(_SMALLEST_NORM))
    return unit


def as_pairs(value: Any) -> tuple[list[tuple[str, str]], bool]:
    """Read the pairs that FlagEmbedding takes.

    Args:
        value: One pair of strings, or a sequence of them.

    Returns:
        The pairs, and whether it was one pair alone.

    Raises:
        InputError: An item is not a pair of strings.
    """
    alone = isinstance(value, tuple | list) and bool(value) and isinstance(value[0], str)
    pairs = [value] if alone or isinstance(value, str) else list(value)
    for i, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or [type(text) for text in pair] != [str, str]:
            raise InputError(f"pair {i} must be (query, document), two strings, not {pair!r}")
    return [(query, document) for query, document in pairs], alone


def pairwise(queries: EmbeddingBatch, documents: EmbeddingBatch) -> Components:
    """The three scores of row i against row i.

    Args:
        queries: `n` texts that hold all modes.
        documents: `n` texts that hold all modes.

    Returns:
        Arrays of shape `(n,)`.
    """
    scores = {mode: np.zeros(len(queries), np.float32) for mode in MODES}
    for i in range(len(queries)):
        part = scoring.components(queries.take([i]), documents.take([i]), ALL_MODES)
        for mode, values in part.items():
            scores[mode][i] = values[0, 0]
    return Components(**scores)


def five_scores(parts: Components, weights: Weights) -> dict[str, list[float]]:
    """FlagEmbedding's five lists of scores.

    Args:
        parts: All three components, of shape `(n,)`.
        weights: The weights of both sums. Where dense and sparse weigh nothing, "sparse+dense" is
            their plain mean.

    Returns:
        Lists of `n` floats under FlagEmbedding's names, in its order.
    """
    two = (weights.dense, weights.sparse) if weights.dense + weights.sparse > 0 else (1.0, 1.0)
    scores = {
        "colbert": parts.colbert,
        "sparse": parts.sparse,
        "dense": parts.dense,
        "sparse+dense": scoring.hybrid(parts, Weights(*two, 0.0)).hybrid,
        "colbert+sparse+dense": scoring.hybrid(parts, weights).hybrid,
    }
    return {name: values.tolist() for name, values in scores.items() if values is not None}


def _packed(rows: Sequence[_Row], places: Mapping[str, int]) -> SparseRows:
    # not SparseRows.from_dicts, which drops negative weights: a caller's own rows may have some
    ordered = [sorted((places[key], weight) for key, weight in row.items()) for row in rows]
    flat = [pair for row in ordered for pair in row]
    return SparseRows(
        offsets_of([len(row) for row in ordered]),
        np.array([place for place, _ in flat], np.int32),
        np.array([weight for _, weight in flat], np.float32),
    )
