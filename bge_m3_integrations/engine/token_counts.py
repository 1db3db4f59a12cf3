"""Lengths in tokens, for splitters; only the tokenizer is loaded, never the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bge_m3_integrations.core.embeddings import Kind
from bge_m3_integrations.encoders.base import Encoder

_CHARACTERS_PER_TOKEN = 4


def token_counts(encoder: Encoder, texts: Sequence[str], *, kind: Kind) -> list[int]:
    """Count the tokens of each text, special ones and an instruction included, before a cut."""
    tokens = encoder.tokenize(texts, kind=kind)
    return [int(n) for n in np.diff(tokens.offsets) + tokens.truncated]


def own_token_count(encoder: Encoder, text: str) -> int:
    """Count the tokens of a text itself, before any is cut off: see `own_token_ids`."""
    tokens = encoder.tokenize([text], kind="document")
    return int((tokens.spans[:, 0] >= 0).sum() + tokens.truncated[0])


def own_token_ids(encoder: Encoder, text: str) -> list[int]:
    """Return the ids of a text's own tokens: neither special ones nor those of an instruction.

    A text that is longer than the model takes is tokenized in pieces, which begin with a word where
    there are white spaces.

    Args:
        encoder: Its tokenizer is used.
        text: Of any length.

    Returns:
        All ids, in order.
    """
    ids: list[int] = []
    start, window = 0, _CHARACTERS_PER_TOKEN * encoder.max_length
    while start < len(text):
        piece = text[start : start + window]
        tokens = encoder.tokenize([piece], kind="document")
        own = tokens.spans[:, 0] >= 0
        found, spans = tokens.ids[own].tolist(), tokens.spans[own].tolist()
        whole = start + window >= len(text) and not tokens.truncated[0]
        kept = len(found) if whole else _last_word(piece, spans)
        ids += found[:kept]
        start += len(piece) if whole or not kept else max(1, spans[kept - 1][1])
    return ids


def _last_word(text: str, spans: Sequence[Sequence[int]]) -> int:
    """Count the tokens before the last word, which may go on behind the text."""
    for i in range(len(spans) - 1, 0, -1):
        start = spans[i][0]
        if text[start].isspace() or text[start - 1].isspace():
            return i
    return max(min(1, len(spans)), len(spans) - 1)
