"""ColBERT scores of documents whose token vectors are not kept: the storage kind "reencode"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from bge_m3_integrations._internal.forks import new_lock
from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    FloatArray,
    IntArray,
    TokenVectors,
    offsets_of,
)
from bge_m3_integrations.core.validation import check_int, chunks
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import EncodingError, InputError

CACHE_BYTES = 256 * 1024 * 1024
_GONE = -1
_Vectors = NDArray[np.floating[Any]]
_Documents = Sequence[Sequence[tuple[str, str] | None]]


class Reencoder:
    """Scores candidates by ColBERT without kept token vectors: encodes them again when asked.

    A token vector takes 2 to 4 KiB: hundreds of times the text that it stands for. Where that is
    too much to keep, a search pays one forward pass per candidate that is not in the cache: use it
    with few candidates. Thread-safe; two threads that ask for one text at once may both encode it.

    Args:
        engine: Encodes the documents; the same model that encodes the queries.
        cache_bytes: Most bytes of token vectors kept for later calls, least recently used first
            out; 0 keeps none.
    """

    def __init__(self, engine: BGEM3, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._engine = engine
        self._cache = _Cache(check_int("cache_bytes", cache_bytes, least=0))

    @property
    def encoded(self) -> int:
        """The number of documents encoded so far, each a forward pass."""
        return self._cache.misses

    @property
    def reused(self) -> int:
        """The number of documents that came from the cache so far, each counted once per call."""
        return self._cache.hits

    @property
    def cached_bytes(self) -> int:
        """Bytes of token vectors in the cache now, at most `cache_bytes`."""
        return int(self._cache.currsize)

    def scores(self, queries: EmbeddingBatch, documents: _Documents) -> list[FloatArray]:
        """Score each query's own documents.

        All queries' documents that are not in the cache are encoded together, each distinct text
        once, in stretches that bound the token vectors in memory; each stretch is scored as soon
        as it is there, so a call needs no cache to be right, whatever its size.

        Args:
            queries: `q` queries that hold ColBERT vectors.
            documents: For each query its documents as (`Record.text_hash`, `Record.text`), or
                None where the document is gone.

        Returns:
            For each query `(len(documents[i]),) float32` in [-1, 1], NaN for None.

        Raises:
            InputError: The queries hold no ColBERT vectors, or are not as many as `documents`.
            EncodingError: The model gives a document no finite numbers; the message has its
                beginning, `position` counts through all of `documents`.
        """
        colbert = queries.only(["colbert"]).colbert
        if colbert is None or len(colbert) != len(documents):
            raise InputError(
                f"{len(queries)} queries came with {len(documents)} lists of documents; give each "
                "query its own list"
            )
        texts = {key: text for row in documents for key, text in filter(None, row)}
        held = self._cache.find(texts)
        fresh = {key: text for key, text in texts.items() if key not in held}
        numbers = _numbers([*held, *fresh], documents)
        scores = [np.full(len(row), np.nan, np.float32) for row in documents]
        start = 0
        try:
            for vectors in self._parts(texts, held, fresh):
                part = range(start, start + len(vectors))
                for i, row in enumerate(numbers):
                    self._fill(scores[i], row, colbert.take(np.array([i])), vectors, part)
                start = part.stop
                del vectors  # before the next part takes as much memory
        except EncodingError as error:
            raise _named(error, list(fresh)[error.position], documents) from error
        return scores

    def _parts(
        self, texts: Mapping[str, str], held: dict[str, _Vectors], fresh: Mapping[str, str]
    ) -> Iterator[TokenVectors]:
        """The vectors of the held, then of the fresh documents, a stretch at a time."""
        keys = list(held)
        for piece in chunks([texts[key] for key in keys]):
            # let go of what is used: it may leave the cache while the fresh are encoded
            yield _packed([held.pop(key) for key in keys[piece]])
        keys = list(fresh)
        for piece in chunks(list(fresh.values())):
            yield self._encoded(fresh, keys[piece], start=piece.start)

    def _encoded(
        self, fresh: Mapping[str, str], keys: Sequence[str], *, start: int
    ) -> TokenVectors:
        """Encode a stretch of the fresh documents, which starts at a place among them."""
        try:
            batch = self._engine.encode_documents([fresh[key] for key in keys], modes=["colbert"])
        except EncodingError as error:
            raise EncodingError(error.reason, start + error.position) from error
        self._cache.keep(keys, batch.colbert)
        return batch.colbert

    def _fill(
        self,
        scores: FloatArray,
        numbers: IntArray,
        query: TokenVectors,
        vectors: TokenVectors,
        part: range,
    ) -> None:
        """Score one query's documents that lie in a part of all distinct documents."""
        inside = np.flatnonzero((numbers >= part.start) & (numbers < part.stop))
        if not len(inside):
            return
        rows, back = np.unique(numbers[inside] - part.start, return_inverse=True)
        some = vectors if len(rows) == len(vectors) else vectors.take(rows)
        scores[inside] = self._engine.maxsim(query, some)[0][back]


class _Cache(LRUCache[str, _Vectors]):
    """Token vectors by text hash, bounded in bytes, least recently used first out."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, getsizeof=lambda vectors: vectors.nbytes)
        self._lock = new_lock()
        self.hits = self.misses = 0

    def find(self, keys: Iterable[str]) -> dict[str, _Vectors]:
        """Return the vectors of those of the keys that are here."""
        with self._lock:
            found = {key: self[key] for key in keys if key in self}
            self.hits += len(found)
        return found

    def keep(self, keys: Sequence[str], vectors: TokenVectors) -> None:
        """Keep copies of the rows that fit: a view would keep its whole batch alive."""
        with self._lock:
            self.misses += len(keys)
            for i, key in enumerate(keys):
                row = vectors.row(i)
                if key not in self and row.nbytes <= self.maxsize:
                    self[key] = row.copy()


def _numbers(keys: Sequence[str], documents: _Documents) -> list[IntArray]:
    """Each query's documents as places among the distinct ones."""
    place = {key: i for i, key in enumerate(keys)}
    return [
        np.array([_GONE if item is None else place[item[0]] for item in row], np.int64)
        for row in documents
    ]


def _packed(rows: Sequence[_Vectors]) -> TokenVectors:
    return TokenVectors(np.concatenate(rows), offsets_of([len(row) for row in rows]))


def _named(error: EncodingError, key: str, documents: _Documents) -> EncodingError:
    """The error in the caller's terms: the document's beginning and first place."""
    flat = [item or ("", "") for row in documents for item in row]
    place = [known for known, _ in flat].index(key)
    return EncodingError(error.reason, place, f"the document that begins {flat[place][1][:60]!r}")
