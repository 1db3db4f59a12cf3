"""Texts that come as pairs or tables: each distinct one is encoded once, in stretches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bge_m3_integrations.checks import check_text
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.types import Components, EmbeddingBatch, IntArray, Weights


class Distinct:
    """Texts without repetition, and the place of each original among them."""

    def __init__(self, texts: Sequence[str]) -> None:
        index = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        self.texts = list(index)
        self.places = np.array([index[text] for text in texts], np.int64)


def beside(parts: list[Components], left: EmbeddingBatch, weights: Weights) -> Components:
    """Scores of consecutive stretches of documents, as one table of `(q, n)`."""
    none = np.zeros((len(left), 0), np.float32)
    columns = {mode: [none, *(dict(p.items())[mode] for p in parts)] for mode in weights.modes}
    return Components(**{mode: np.concatenate(held, axis=1) for mode, held in columns.items()})


def by_query(
    queries: IntArray, documents: IntArray, piece: slice
) -> Iterator[tuple[int, IntArray]]:
    """The pairs whose document is in a stretch, grouped by query: its number, then the pairs."""
    inside = np.flatnonzero((documents >= piece.start) & (documents < piece.stop))
    inside = inside[np.argsort(queries[inside], kind="stable")]
    borders = np.flatnonzero(np.diff(queries[inside])) + 1
    for rows in np.split(inside, borders):
        if len(rows):
            yield int(queries[rows[0]]), rows


def unzip(pairs: Sequence[tuple[str, str]], *, surrogates: bool) -> tuple[list[str], list[str]]:
    """The queries and the documents of checked pairs."""
    for i, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(f"pair {i} must be (query, document), two strings, not {pair!r}")
        for name, text in zip(("query", "document"), pair, strict=True):
            check_text(text, name=f"the {name} of pair {i}", surrogates=surrogates)
    return [query for query, _ in pairs], [document for _, document in pairs]
