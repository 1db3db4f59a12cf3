"""A deterministic encoder without a model; public through `bge_m3_integrations.testing`."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations._internal.forks import new_lock
from bge_m3_integrations.core.embeddings import (
    ALL_MODES,
    EmbeddingBatch,
    FloatArray,
    Kind,
    Mode,
    Modes,
    SparseRows,
    TokenBatch,
    TokenVectors,
    as_modes,
    offsets_of,
    ordered_modes,
)
from bge_m3_integrations.core.validation import check_texts
from bge_m3_integrations.errors import InputError

_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_CLS, _PAD, _EOS = 0, 1, 2
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_HAN}]|[^\W{_HAN}]+")
_NEIGHBOR = 0.25
_NO_SPAN = (-1, -1)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of `FakeEncoder.encode`."""

    texts: tuple[str, ...]
    kind: Kind
    modes: frozenset[Mode]


@dataclass(frozen=True, slots=True)
class _Tokens:
    """One text's tokens with their spans, special tokens included."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    truncated: int


class FakeEncoder:
    """An encoder whose numbers come from sha256: the same on every machine, and instant.

    Tokens are the lower-cased words of a text, and each Han character by itself. Texts that share
    words are similar in every mode. An encoder by the protocol `encoders.base.Encoder`.

    Args:
        dim: Width of a dense vector.
        colbert_dim: Width of a token vector.
        modes: The modes it can compute.
        max_length: Most tokens of a text, the two special ones included.
        vocab_size: Number of token ids; words get ids from 5 up.
        query_instruction: Put before every query; without one, queries and documents of the same
            text get equal numbers.

    Attributes:
        calls: Every call of `encode`, in order.
        forwards: How often each text was encoded: more than 1 is a wasted forward pass.
    """

    def __init__(
        self,
        *,
        dim: int = 32,
        colbert_dim: int = 16,
        modes: Modes = ALL_MODES,
        max_length: int = 512,
        vocab_size: int = 50_000,
        query_instruction: str = "",
    ) -> None:
        if min(dim, colbert_dim) < 1 or max_length < 2 or vocab_size <= len(_SPECIAL):
            raise InputError(
                f"dim={dim}, colbert_dim={colbert_dim}, max_length={max_length}, "
                f"vocab_size={vocab_size}: need at least 1, 1, 2 and {len(_SPECIAL) + 1}"
            )
        self.dim = dim
        self.colbert_dim = colbert_dim
        self.modes: frozenset[Mode] = as_modes(modes)
        self.max_length = max_length
        self.vocab_size = vocab_size
        self.pad_token_id = _PAD
        self.query_instruction = query_instruction
        self.calls: list[Call] = []
        self.forwards: Counter[str] = Counter()
        self._words = dict(enumerate(_SPECIAL))
        self._lock = new_lock()

    def __repr__(self) -> str:
        return f"FakeEncoder(dim={self.dim}, colbert_dim={self.colbert_dim})"

    @property
    def fingerprint(self) -> str:
        """A sha256 over all that decides the numbers of a document."""
        return hashlib.sha256(
            f"fake {self.dim} {self.colbert_dim} {self.vocab_size}".encode()
        ).hexdigest()

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """See `Encoder.encode`; every call is counted.

        Args:
            texts: Any number of texts.
            kind: A query gets the instruction.
            modes: The modes to compute.
            max_length: Most tokens per text; None is the encoder's own limit.

        Returns:
            One row per text.

        Raises:
            InputError: A text is no string, a mode is not offered, `max_length` is out of range.
        """
        wanted = as_modes(modes)
        if missing := wanted - self.modes:
            raise InputError(
                f"this encoder has no {ordered_modes(missing)}, only {ordered_modes(self.modes)}"
            )
        rows = self._rows(texts, kind, max_length)
        with self._lock:
            self.calls.append(Call(tuple(texts), kind, wanted))
            self.forwards.update(texts)
        return EmbeddingBatch(
            self._dense(rows) if "dense" in wanted else None,
            _sparse(rows) if "sparse" in wanted else None,
            self._colbert(rows) if "colbert" in wanted else None,
            np.array([len(row.ids) for row in rows], np.int64),
            np.array([row.truncated for row in rows], np.int64),
        )

    def tokenize(
        self, texts: Sequence[str], *, kind: Kind, max_length: int | None = None
    ) -> TokenBatch:
        """See `Encoder.tokenize`; the first token of a text alone has no ColBERT row."""
        rows = self._rows(texts, kind, max_length)
        return TokenBatch(
            np.array([i for row in rows for i in row.ids], np.int32),
            np.array([s for row in rows for s in row.spans], np.int32).reshape(-1, 2),
            np.array([i for row in rows for i in range(-1, len(row.ids) - 1)], np.int32),
            offsets_of([len(row.ids) for row in rows]),
            np.array([row.truncated for row in rows], np.int64),
        )

    def id_to_token(self, ids: Sequence[int]) -> list[str]:
        """The first word seen under each id; `<id>` in angle brackets for an id never seen."""
        with self._lock:
            return [self._words.get(int(i), f"<{int(i)}>") for i in ids]

    def _rows(self, texts: Sequence[str], kind: Kind, max_length: int | None) -> list[_Tokens]:
        limit = self.max_length if max_length is None else max_length
        if not 2 <= limit <= self.max_length:
            raise InputError(f"max_length must be from 2 to {self.max_length}, not {limit}")
        check_texts(texts)
        prefix = self.query_instruction if kind == "query" else ""
        return [self._row(text, prefix, limit) for text in texts]

    def _row(self, text: str, prefix: str, limit: int) -> _Tokens:
        words = [(self._id(m[0]), _NO_SPAN) for m in _WORD.finditer(prefix)]
        words += [(self._id(m[0]), m.span()) for m in _WORD.finditer(text)]
        kept = [(_CLS, _NO_SPAN), *words[: limit - 2], (_EOS, _NO_SPAN)]
        ids, spans = zip(*kept, strict=True)
        return _Tokens(ids, spans, max(0, len(words) - (limit - 2)))

    def _id(self, word: str) -> int:
        lowered = word.lower()
        number = int.from_bytes(_digest("id", lowered, 8), "big")
        token = len(_SPECIAL) + number % (self.vocab_size - len(_SPECIAL))
        with self._lock:
            self._words.setdefault(token, lowered)
        return token

    def _dense(self, rows: Sequence[_Tokens]) -> FloatArray:
        # a text without words is its EOS token: no row is ever zero
        sums = [_vectors("dense", row.ids[1:-1] or (_EOS,), self.dim).sum(axis=0) for row in rows]
        return _unit(np.array(sums, np.float32).reshape(-1, self.dim))

    def _colbert(self, rows: Sequence[_Tokens]) -> TokenVectors:
        parts = [_in_context(_vectors("colbert", row.ids[1:], self.colbert_dim)) for row in rows]
        empty = np.zeros((0, self.colbert_dim), np.float32)
        return TokenVectors(np.concatenate([empty, *parts]), offsets_of([len(p) for p in parts]))


def _sparse(rows: Sequence[_Tokens]) -> SparseRows:
    return SparseRows.from_dicts([{i: _weight(i) for i in set(row.ids[1:-1])} for row in rows])


def _in_context(vectors: FloatArray) -> FloatArray:
    """Token vectors with a little of their neighbors, of norm 1."""
    mixed = vectors.copy()
    mixed[1:] += np.float32(_NEIGHBOR) * vectors[:-1]
    mixed[:-1] += np.float32(_NEIGHBOR) * vectors[1:]
    return _unit(mixed)


def _vectors(purpose: str, ids: Sequence[int], dim: int) -> FloatArray:
    return np.asarray([_vector(purpose, i, dim) for i in ids], np.float32)


@lru_cache(maxsize=65536)
def _vector(purpose: str, token: int, dim: int) -> FloatArray:
    """A pseudo-random unit vector that belongs to one token."""
    numbers = np.frombuffer(_digest(purpose, str(token), 4 * dim), dtype="<u4")
    centered = np.asarray(numbers.astype(np.float64) / 2**31 - 1, np.float32)
    vector: FloatArray = _unit(centered[None])[0]
    vector.flags.writeable = False  # the cache hands out one array to all
    return vector


@lru_cache(maxsize=65536)
def _weight(token: int) -> float:
    """The token's lexical weight, in (0.05, 1)."""
    share = (int.from_bytes(_digest("weight", str(token), 4), "big") + 1) / (2**32 + 1)
    return 0.05 + 0.95 * share


def _unit(rows: NDArray[np.float32]) -> FloatArray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, np.float32(1e-12)), np.float32)


def _digest(purpose: str, key: str, length: int) -> bytes:
    """As many sha256 bytes of a key as wanted; `hash()` would differ from process to process."""
    seed = f"{purpose}\0{key}".encode("utf-8", "surrogatepass")
    blocks = -(-length // hashlib.sha256().digest_size)
    return b"".join(hashlib.sha256(i.to_bytes(4, "big") + seed).digest() for i in range(blocks))[
        :length
    ]
