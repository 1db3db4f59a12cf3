"""Sizes of a checkpoint, and the made-up words that its tokenizer knows."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from pathlib import Path

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
"""Ids 0 to 3, as in XLM-R; `<mask>` is the last id."""
LETTERS = ("\u2581", *string.ascii_letters, *string.digits, *string.punctuation)
_SYLLABLES = tuple(c + v for c in "bcdfghjklmnpqrstvwxz" for v in "aeiou")


@dataclass(frozen=True, slots=True)
class Shape:
    """An XLM-R encoder's sizes; the defaults are BGE-M3's."""

    layers: int = 24
    hidden: int = 1024
    heads: int = 16
    ffn: int = 4096
    vocabulary: int = 250_002
    positions: int = 8194

    @property
    def words(self) -> int:
        """How many whole words have an id of their own."""
        return self.vocabulary - len(SPECIALS) - len(LETTERS) - 1

    @classmethod
    def of(cls, checkpoint: Path) -> Shape:
        """Read a checkpoint's."""
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=config["num_attention_heads"],
            ffn=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            positions=config["max_position_embeddings"],
        )


BGE_M3 = Shape()
TINY = Shape(layers=2, hidden=32, heads=4, ffn=64, vocabulary=2_000)
"""To try the harness with: seconds, not minutes."""


def word(number: int) -> str:
    """The made-up word of a number below a million: three syllables, and one token."""
    high, low = divmod(number, 100)
    return _SYLLABLES[high // 100] + _SYLLABLES[high % 100] + _SYLLABLES[low]


def pieces(shape: Shape) -> list[tuple[str, float]]:
    """The vocabulary in id order with unigram scores.

    A word outscores its letters, so it is always one token.
    """
    scored = [(special, 0.0) for special in SPECIALS]
    scored += [(letter, -30.0) for letter in LETTERS]
    scored += [(f"\u2581{word(i)}", -10.0) for i in range(shape.words)]
    return [*scored, ("<mask>", 0.0)]
