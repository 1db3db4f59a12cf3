"""A synthetic collection in the form of BGE-M3's output, made block by block from a seed.

Dense vectors lie in clusters; token ids are as rare as words are, and documents of a cluster share
some; a token vector is its token's own vector with noise. Nobody's quality can be measured with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks._search.lexical import Lexical, asked, packed, weights, zipf
from benchmarks._shape import word

BLOCK = 1_000
"""Documents that are drawn together; they are the same in every collection of one size."""
SHELVES, SECTIONS, HALVES = 100, 10, 2
FIELDS = {"shelf": SHELVES, "section": SECTIONS, "half": HALVES}
"""Keyword fields and their number of values: 1 %, 10 % and 50 % of the documents have one value."""
DOCUMENT_TOKENS, QUERY_TOKENS = 120, 16
"""Token vectors of a text, on average and exactly."""

_DRAWN, _OF_TOPIC, _TOPIC_WORDS = 69, 10, 40
_WITHIN, _QUERY = 0.55, 0.75
"""Cosines: of two documents of a cluster, and of a query and its document."""
_TYPES, _TYPE_SHARE = 4_096, 0.8
_TEXT = 550
_BANK = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Consecutive documents, or the queries.

    Attributes:
        start: Number of the first.
        dense: `(n, dim) float32` of length 1.
        lexical: Their weights.
        fields: `(n, 3)`, the value of each of `FIELDS` as a number.
        years: `(n,)`.
    """

    start: int
    dense: np.ndarray
    lexical: Lexical
    fields: np.ndarray
    years: np.ndarray

    def __len__(self) -> int:
        return len(self.dense)

    def part(self, start: int, stop: int) -> Block:
        """Documents by their place in the block."""
        stop = min(stop, len(self))
        return Block(
            self.start + start,
            self.dense[start:stop],
            self.lexical.part(start, stop),
            self.fields[start:stop],
            self.years[start:stop],
        )

    @property
    def ids(self) -> list[str]:
        """Of the documents; their order is that of the numbers."""
        return [name(self.start + i) for i in range(len(self))]

    def metadata(self, i: int) -> dict[str, str | int]:
        """One document's."""
        values = zip(FIELDS, self.fields[i].tolist(), strict=True)
        return {**{field: value_name(v) for field, v in values}, "year": int(self.years[i])}


def name(number: int) -> str:
    """The id of a document."""
    return f"d{number:08d}"


def number_of(identifier: str) -> int:
    """The document of an id."""
    return int(identifier[1:])


def value_name(value: int) -> str:
    """How a keyword is written."""
    return f"v{value}"


@dataclass(frozen=True)
class Corpus:
    """A collection of `documents` documents; everything follows from its arguments.

    Args:
        documents: How many; another number makes other documents.
        dim: Width of dense and of token vectors.
        distinct: So many documents have token vectors of their own, and the others repeat them
            cyclically; None for all.
        seed: Of everything.
    """

    documents: int
    dim: int = 1024
    distinct: int | None = None
    seed: int = 0

    @property
    def clusters(self) -> int:
        """Topics, of 50 documents each on average."""
        return max(1, self.documents // 50)

    def blocks(self) -> Iterator[Block]:
        """All documents in order."""
        for number in range(-(-self.documents // BLOCK)):
            yield self.block(number)

    def block(self, number: int) -> Block:
        """The documents from `number * BLOCK` on."""
        start = number * BLOCK
        count = min(BLOCK, self.documents - start)
        generator = np.random.default_rng((self.seed, 1, number))
        topics = generator.integers(self.clusters, size=count)
        fields = [generator.integers(values, size=count) for values in FIELDS.values()]
        return Block(
            start,
            near(self._centres[topics], np.sqrt(_WITHIN), generator),
            self._lexical(topics, generator),
            np.stack(fields, axis=1),
            generator.integers(1990, 2026, size=count),
        )

    def texts(self, start: int, count: int) -> list[str]:
        """About 560 characters each, every text different."""
        room = len(self._letters) - _TEXT
        places = [(i * 7_919) % room for i in range(start, start + count)]
        numbered = enumerate(places, start)
        return [f"{name(i)} {self._letters[at : at + _TEXT]}" for i, at in numbered]

    def queries(self, count: int) -> Block:
        """Perturbed documents, spread over the first block: near vectors, some of the tokens."""
        block = self.block(0)
        rows = np.linspace(0, len(block) - 1, count).astype(np.int64)
        generator = np.random.default_rng((self.seed, 2))
        own = [asked(block.lexical.row(int(row))[0], generator) for row in rows]
        return Block(
            0,
            near(block.dense[rows], _QUERY, generator),
            packed(own, [weights(ids, generator) for ids in own]),
            block.fields[rows],
            block.years[rows],
        )

    def query_tokens(self, queries: Block) -> tuple[np.ndarray, np.ndarray]:
        """Token vectors of queries, `QUERY_TOKENS` each, and their offsets."""
        rows = [
            self._token_rows(queries.lexical.row(i)[0], QUERY_TOKENS, (self.seed, 4, i))
            for i in range(len(queries))
        ]
        return np.concatenate(rows), QUERY_TOKENS * np.arange(len(rows) + 1)

    def tokens(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """Token vectors of documents, `(t, dim) float32`, and their offsets `(n + 1,)`.

        Args:
            block: Any part of a block; ask for few documents, each takes half a megabyte.
        """
        rows = [self._document_tokens(block, i) for i in range(len(block))]
        ends = np.cumsum([0, *(len(row) for row in rows)])
        return np.concatenate(rows), ends

    def _document_tokens(self, block: Block, i: int) -> np.ndarray:
        number, ids = block.start + i, block.lexical.row(i)[0]
        if self.distinct is not None and number >= self.distinct:
            number %= self.distinct
            ids = self._repeated.row(number)[0]
        count = DOCUMENT_TOKENS + (number * 37) % 41 - 20
        return self._token_rows(ids, count, (self.seed, 3, number))

    def _token_rows(self, ids: np.ndarray, count: int, seed: Sequence[int]) -> np.ndarray:
        """Vectors of a text's tokens, some of them more than once, each with noise of its own."""
        generator = np.random.default_rng(seed)
        kinds = np.resize(ids, count) % _TYPES
        at = int(generator.integers(_BANK - count * self.dim))
        noise = self._bank[at : at + count * self.dim].reshape(count, self.dim)
        return _unit(self._types[kinds] * np.float32(_TYPE_SHARE) + noise)

    def _lexical(self, topics: np.ndarray, generator: np.random.Generator) -> Lexical:
        drawn = zipf((len(topics), _DRAWN), generator)
        places = generator.integers(_TOPIC_WORDS, size=(len(topics), _OF_TOPIC))
        drawn[:, :_OF_TOPIC] = self._words_of_topics[topics[:, None], places]
        drawn.sort(axis=1)
        kept = np.diff(drawn, axis=1, prepend=-1) > 0
        ids = drawn[kept].astype(np.int32)
        indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
        return Lexical(indptr, ids, weights(ids, generator))

    @cached_property
    def _centres(self) -> np.ndarray:
        generator = np.random.default_rng((self.seed, 10))
        return _unit(generator.standard_normal((self.clusters, self.dim), np.float32))

    @cached_property
    def _words_of_topics(self) -> np.ndarray:
        return zipf((self.clusters, _TOPIC_WORDS), np.random.default_rng((self.seed, 11)))

    @cached_property
    def _types(self) -> np.ndarray:
        """Unit vectors of kinds of tokens, about one common direction."""
        generator = np.random.default_rng((self.seed, 12))
        rows = generator.standard_normal((_TYPES, self.dim), np.float32)
        return _unit(rows + 0.5 * generator.standard_normal(self.dim, np.float32))

    @cached_property
    def _bank(self) -> np.ndarray:
        """Noise that is cut out at any place: a thousand times cheaper than drawing it."""
        drawn = np.random.default_rng((self.seed, 13)).standard_normal(_BANK, np.float32)
        return drawn * np.float32(np.sqrt((1 - _TYPE_SHARE**2) / self.dim))

    @cached_property
    def _repeated(self) -> Lexical:
        """The lexical weights of the documents whose token vectors are repeated."""
        numbers = range(-(-(self.distinct or 0) // BLOCK))
        parts = [self.block(number).lexical for number in numbers]
        lengths = np.concatenate([[0], *(np.diff(part.indptr) for part in parts)])
        ids = np.concatenate([part.token_ids for part in parts])
        return Lexical(np.cumsum(lengths), ids, np.empty(0, np.float32))

    @cached_property
    def _letters(self) -> str:
        numbers = np.random.default_rng((self.seed, 14)).integers(1_000_000, size=30_000)
        return " ".join(word(int(number)) for number in numbers)


def near(rows: np.ndarray, cosine: float, generator: np.random.Generator) -> np.ndarray:
    """Unit vectors of about this cosine to the given ones."""
    noise = generator.standard_normal(rows.shape, np.float32)
    noise *= np.float32(np.sqrt((1 / cosine**2 - 1) / rows.shape[1]))
    return _unit(rows + noise)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
