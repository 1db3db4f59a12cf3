"""Texts that come more than once: each distinct one is encoded once, its rows put in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bge_m3_integrations.core.embeddings import EmbeddingBatch, IntArray
from bge_m3_integrations.core.scores import Components, Weights
from bge_m3_integrations.core.validation import as_list, check_text, chunks
from bge_m3_integrations.errors import EncodingError, InputError


class DistinctTexts:
    """The distinct ones of a caller's texts, encoded a stretch at a time.

    Args:
        texts: Checked.
        encode: Encodes a list of them.
        numbers: The number of each text in an error; by default its position.
        at_once: Encode all in one stretch.

    Attributes:
        places: `(n,) int64`, where each text is among the distinct ones.
    """

    def __init__(
        self,
        texts: Sequence[str],
        encode: Callable[[Sequence[str]], EmbeddingBatch],
        *,
        numbers: IntArray | None = None,
        at_once: bool = False,
    ) -> None:
        index = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        self.places = np.array([index[text] for text in texts], np.int64)
        self._texts, self._encode = list(index), encode
        self._numbers = np.arange(len(texts)) if numbers is None else numbers
        self._at_once = at_once
        self._only: EmbeddingBatch | None = None

    def batches(self) -> Iterator[tuple[slice, EmbeddingBatch]]:
        """Each stretch of distinct texts, an empty one if there are none.

        A lone stretch is encoded once, however often it is asked for.
        """
        everything = [slice(0, len(self._texts))]
        pieces = everything if self._at_once else list(chunks(self._texts)) or everything
        for piece in pieces:
            batch = self._encoded(piece) if self._only is None else self._only
            if len(pieces) == 1:
                self._only = batch
            yield piece, batch

    def _encoded(self, piece: slice) -> EmbeddingBatch:
        try:
            return self._encode(self._texts[piece])
        except EncodingError as error:
            first = int(np.argmax(self.places == piece.start + error.position))
            raise EncodingError(error.reason, int(self._numbers[first])) from error

    def inside(self, piece: slice) -> IntArray:
        """Return the positions of the texts of a stretch, ascending."""
        return np.flatnonzero((self.places >= piece.start) & (self.places < piece.stop))


def in_order(texts: Sequence[str], held: list[str], parts: list[EmbeddingBatch]) -> EmbeddingBatch:
    """Return the rows of distinct texts as one row per text of the caller.

    Args:
        texts: All texts of the caller.
        held: The distinct texts, in the order of the parts.
        parts: Their rows, end to end: batches of the same modes, at least one.

    Returns:
        One row per text, in order.
    """
    batch = parts[0] if len(parts) == 1 else EmbeddingBatch.concat(parts)
    if held == list(texts):
        return batch
    place = {text: i for i, text in enumerate(held)}
    return batch.take([place[text] for text in texts])


def hstack_scores(parts: list[Components], left: EmbeddingBatch, weights: Weights) -> Components:
    """Join scores of consecutive stretches of documents to one table of `(q, n)`."""
    none = np.zeros((len(left), 0), np.float32)
    columns = {mode: [none, *(dict(p.items())[mode] for p in parts)] for mode in weights.modes}
    return Components(**{mode: np.concatenate(held, axis=1) for mode, held in columns.items()})


def vstack_scores(rows: list[Components]) -> Components:
    """Join tables of consecutive stretches of queries to one of `(q, n)`."""
    held = [dict(table.items()) for table in rows]
    return Components(**{mode: np.concatenate([t[mode] for t in held]) for mode in held[0]})


def by_query(queries: IntArray, pairs: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Group pairs by query: its number, then the pairs."""
    inside = pairs[np.argsort(queries[pairs], kind="stable")]
    borders = np.flatnonzero(np.diff(queries[inside])) + 1
    for rows in np.split(inside, borders):
        if len(rows):
            yield int(queries[rows[0]]), rows


def unzip(pairs: Sequence[tuple[str, str]], *, surrogates: bool) -> tuple[list[str], list[str]]:
    """Check pairs, and return their queries and their documents."""
    held = as_list(pairs, "pairs", of="(query, document)")
    for i, pair in enumerate(held):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(f"pair {i} must be (query, document), two strings, not {pair!r}")
        for name, text in zip(("query", "document"), pair, strict=True):
            check_text(text, name=f"the {name} of pair {i}", surrogates=surrogates)
    return [query for query, _ in held], [document for _, document in held]
