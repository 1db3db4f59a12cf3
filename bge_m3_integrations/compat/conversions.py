"""Between FlagEmbedding's arguments, texts, pairs and lexical weights and this package's."""

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
from bge_m3_integrations.encoders.placement import TorchDevice
from bge_m3_integrations.errors import InputError

_Row = Mapping[str, float]
_SMALLEST_NORM = 1e-12


def one_device(devices: str | int | TorchDevice | list[str] | list[int] | None) -> str:
    """The engine's name for FlagEmbedding's devices."""
    if isinstance(devices, list):
        if len(devices) != 1:
            raise InputError(
                f"devices={devices!r}: one engine computes on one device; give one, or run one "
                "process per device"
            )
        return one_device(devices[0])
    if devices is None:
        return "auto"
    return f"cuda:{devices}" if isinstance(devices, int) else str(devices)


def dtype_name(device: str, *, use_fp16: bool, use_bf16: bool) -> str:
    """The engine's dtype for FlagEmbedding's two flags."""
    if use_bf16:
        return "auto"  # bfloat16 where it is native: naming it would emulate it elsewhere
    if not use_fp16:
        return "float32"
    from bge_m3_integrations.encoders.torch.devices import pick_device

    return "float32" if pick_device(device).type == "cpu" else "float16"


def instructed(texts: list[str], instruction: str | None, form: str) -> list[str]:
    """Put an instruction around each text; in the format, a typed backslash-n is a line break."""
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
    """Dot products over shared keys, ids or tokens: of `n` and `m` rows `(n, m) float32`."""
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
    """One pair or several as FlagEmbedding takes them, and whether it was one pair alone."""
    alone = isinstance(value, tuple | list) and bool(value) and isinstance(value[0], str)
    pairs = [value] if alone or isinstance(value, str) else list(value)
    for i, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or [type(text) for text in pair] != [str, str]:
            raise InputError(f"pair {i} must be (query, document), two strings, not {pair!r}")
    return [(query, document) for query, document in pairs], alone


def pairwise(queries: EmbeddingBatch, documents: EmbeddingBatch) -> Components:
    """The three scores of row i against row i, `(n,)` each, of `n` texts that hold all modes."""
    scores = {mode: np.zeros(len(queries), np.float32) for mode in MODES}
    for i in range(len(queries)):
        part = scoring.components(queries.take([i]), documents.take([i]), ALL_MODES)
        for mode, values in part.items():
            scores[mode][i] = values[0, 0]
    return Components(**scores)


def five_scores(parts: Components, weights: Weights) -> dict[str, list[float]]:
    """FlagEmbedding's five lists of `n` scores, of components `(n,)` by its names in its order.

    Where dense and sparse weigh nothing, "sparse+dense" is their plain mean.
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
