"""Texts to token ids, with exact counts of what the length limit dropped.

The Rust tokenizer is used without padding or truncation settings: changing those is what makes
shared tokenizers fail under threads. `tokenizer_file` reads it from a checkpoint's files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.core.embeddings import IntArray, TokenBatch, offsets_of
from bge_m3_integrations.core.validation import check_texts
from bge_m3_integrations.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# The special tokens that FlagEmbedding keeps out of the lexical weights. BERT's [SEP] is not among
# them: its tokenizer calls it sep, not eos.
_UNWEIGHTED = ("cls_token", "eos_token", "pad_token", "unk_token")
SPECIAL = (*_UNWEIGHTED, "bos_token", "sep_token", "mask_token")
"""The names of special tokens."""
_NO_LIMIT = 1_000_000_000
_PROBE = "a"
_SLICE = 1024


@dataclass(frozen=True, slots=True)
class PackedIds:
    """The token ids of `n` texts, end to end.

    Attributes:
        ids: `(t,) int32`, special tokens included.
        offsets: `(n + 1,) int64`; text `i` owns `offsets[i]:offsets[i + 1]`.
        truncated: `(n,) int64`, tokens dropped at the length limit.
    """

    ids: NDArray[np.int32]
    offsets: IntArray
    truncated: IntArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> IntArray:
        """`(n,)` tokens per text."""
        return np.diff(self.offsets)

    @classmethod
    def concat(cls, parts: Sequence[PackedIds]) -> PackedIds:
        """Lay parts end to end; no parts give no texts."""
        if not parts:
            return cls(np.zeros(0, np.int32), offsets_of([]), np.zeros(0, np.int64))
        return cls(
            np.concatenate([part.ids for part in parts]),
            offsets_of(np.concatenate([part.lengths for part in parts])),
            np.concatenate([part.truncated for part in parts]),
        )

    def row(self, i: int) -> NDArray[np.int32]:
        """The ids of text `i`, as a view."""
        return self.ids[int(self.offsets[i]) : int(self.offsets[i + 1])]


@dataclass(frozen=True, slots=True)
class TextTokenizer:
    """A checkpoint's tokenizer; immutable, so threads may share it.

    Attributes:
        core: The Rust tokenizer, without padding and truncation.
        prefix: Special ids before a text's own tokens.
        suffix: Special ids after them.
        unweighted: `(k,) int64`, ids that never get a lexical weight.
        pad_token_id: The id that fills a batch.
        vocab_size: Number of ids.
        length_limit: The tokenizer's own limit, or None.
    """

    core: Tokenizer
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    unweighted: IntArray
    pad_token_id: int
    vocab_size: int
    length_limit: int | None

    def pack(self, texts: Sequence[str], *, instruction: str, max_length: int) -> PackedIds:
        """Tokenize texts to what a model reads.

        Args:
            texts: Checked texts, also empty ones.
            instruction: Put in front of each text.
            max_length: Most tokens of a text, special ones included; the text's end is dropped.

        Returns:
            Packed ids.

        """
        room, parts = max_length - len(self.prefix) - len(self.suffix), []
        # in slices: the tokenizer's own objects weigh a hundred bytes a token
        for start in range(0, len(texts), _SLICE):
            encoded = self._encoded(texts[start : start + _SLICE], instruction)
            parts.append(self._packed(encoded, room))
        return parts[0] if len(parts) == 1 else PackedIds.concat(parts)

    def split(self, texts: Sequence[str], *, instruction: str, max_length: int) -> TokenBatch:
        """Tokenize texts and tell where each token stands; see `pack` and `Encoder.tokenize`."""
        check_texts(texts)
        room = max_length - len(self.prefix) - len(self.suffix)
        encoded = self._encoded(texts, instruction)
        packed = self._packed(encoded, room)
        spans = [self._spans(e, room, len(instruction)) for e in encoded]
        places = np.arange(len(packed.ids)) - np.repeat(packed.offsets[:-1], packed.lengths)
        return TokenBatch(
            ids=packed.ids,
            spans=np.array([s for row in spans for s in row], np.int32).reshape(-1, 2),
            # every token but the first (cls) has a vector
            colbert_rows=(places - 1).astype(np.int32),
            offsets=packed.offsets,
            truncated=packed.truncated,
        )

    def words(self, ids: Sequence[int]) -> list[str]:
        """The readable form of ids: a piece, with the word boundary mark that it carries."""
        pieces = [self.core.id_to_token(int(i)) for i in ids]
        for i, piece in zip(ids, pieces, strict=True):
            if piece is None:
                raise InputError(f"token id {i} is not in the vocabulary of {self.vocab_size}")
        return [str(piece) for piece in pieces]

    def _encoded(self, texts: Sequence[str], instruction: str) -> list[Encoding]:
        return self.core.encode_batch(
            list(map(instruction.__add__, texts)), add_special_tokens=False
        )

    def _packed(self, encoded: Sequence[Encoding], room: int) -> PackedIds:
        rows = [(*self.prefix, *e.ids[:room], *self.suffix) for e in encoded]
        offsets = offsets_of(list(map(len, rows)))
        ids = np.fromiter(chain.from_iterable(rows), np.int32, count=int(offsets[-1]))
        cut = np.maximum(0, np.fromiter(map(len, encoded), np.int64, len(encoded)) - room)
        return PackedIds(ids, offsets, cut)

    def _spans(self, encoded: Encoding, kept: int, shift: int) -> list[tuple[int, int]]:
        own = [
            (max(0, start - shift), end - shift) if end > shift else (-1, -1)
            for start, end in encoded.offsets[:kept]
        ]
        return [(-1, -1)] * len(self.prefix) + own + [(-1, -1)] * len(self.suffix)


def wrap_tokenizer(tokenizer: Any, *, source: str) -> TextTokenizer:
    """Take what this package needs from a transformers tokenizer, which stays as it is.

    Args:
        tokenizer: A fast transformers tokenizer.
        source: Where it comes from, for the error.

    Returns:
        A tokenizer over a copy of its Rust core.

    Raises:
        CheckpointError: It has no Rust core, or no padding token.
    """
    from tokenizers import Tokenizer

    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None or tokenizer.pad_token_id is None:
        raise CheckpointError(
            f"{source} has no fast tokenizer with a padding token ({type(tokenizer).__name__}); "
            "save one there as tokenizer.json"
        )
    named = {name: getattr(tokenizer, name, None) for name in SPECIAL}
    limit = int(tokenizer.model_max_length)
    return text_tokenizer(
        Tokenizer.from_str(core.to_str()),
        {name: str(token) for name, token in named.items() if token is not None},
        limit=limit,
        source=source,
    )


def text_tokenizer(
    core: Tokenizer, special: Mapping[str, str], *, limit: float | None, source: str
) -> TextTokenizer:
    """A tokenizer over a Rust core of our own, whose settings change.

    Args:
        core: Padding and truncation are switched off.
        special: Tokens by name, of those in `SPECIAL`.
        limit: The tokenizer's own limit; None, or a huge number, is none.
        source: Where it comes from, for the error.

    Returns:
        The tokenizer.

    Raises:
        CheckpointError: A special token is not in the vocabulary, or there is none for padding.
    """
    core.no_truncation()
    core.no_padding()
    found = {name: core.token_to_id(token) for name, token in special.items()}
    if absent := [f"{name} {special[name]!r}" for name, i in found.items() if i is None]:
        raise CheckpointError(
            f"the tokenizer in {source} names {', '.join(absent)}, which its vocabulary of "
            f"{core.get_vocab_size()} does not hold; save tokenizer.json again with these tokens"
        )
    ids = {name: i for name, i in found.items() if i is not None}
    if "pad_token" not in ids:
        raise CheckpointError(
            f"the tokenizer in {source} names no pad_token; add one to tokenizer_config.json, "
            'such as "pad_token": "<pad>"'
        )
    bare = core.encode(_PROBE, add_special_tokens=False).ids
    full = core.encode(_PROBE).ids
    start = next(i for i in range(len(full) + 1) if full[i : i + len(bare)] == bare)
    return TextTokenizer(
        core=core,
        prefix=tuple(full[:start]),
        suffix=tuple(full[start + len(bare) :]),
        unweighted=np.array([ids[name] for name in _UNWEIGHTED if name in ids], np.int64),
        pad_token_id=int(ids["pad_token"]),
        vocab_size=core.get_vocab_size(),
        length_limit=None if limit is None or limit >= _NO_LIMIT else int(limit),
    )
