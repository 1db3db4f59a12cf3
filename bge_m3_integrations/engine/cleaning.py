"""Optional repair of text before encoding: broken encodings, control characters, white space."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Modes, TokenBatch
from bge_m3_integrations.encoders.wrapper import EncoderWrapper

_SPACES = re.compile(r"[^\S\n]+")
_EMPTY_LINES = re.compile(r"\n[\n ]*\n")
_LINE_ENDS = re.compile(r" ?\n ?")
# Only damage is mended: quotes, ligatures, full-width forms and HTML entities are the author's.
_REPAIRS: dict[str, Any] = {
    "unescape_html": False,
    "fix_latin_ligatures": False,
    "fix_character_width": False,
    "uncurl_quotes": False,
    "normalization": None,
}


def clean_text(text: str) -> str:
    """Repair broken encodings, control characters and repeated spaces; nothing else changes.

    Broken encodings ("sÃ³" to "só"), control characters, lone surrogates and odd line breaks are
    mended by the library ftfy; runs of spaces become one, runs of empty lines one.

    Args:
        text: Any string.

    Returns:
        The repaired text, without white space at its ends.

    Raises:
        MissingExtraError: ftfy is not installed.
    """
    ftfy = require("ftfy", extra="clean")
    mended = _SPACES.sub(" ", ftfy.fix_text(text, **_REPAIRS))
    return _LINE_ENDS.sub("\n", _EMPTY_LINES.sub("\n\n", mended)).strip()


class CleaningEncoder(EncoderWrapper):
    """Cleans every text with `clean_text`, then encodes it; token spans are of the clean text."""

    @property
    def fingerprint(self) -> str:
        """Another one than without cleaning: the same text gives other numbers."""
        return _cleaning(self.encoder.fingerprint)

    @property
    def former_fingerprints(self) -> frozenset[str]:
        """See `encoders.base.HasFormerFingerprints`."""
        return frozenset(map(_cleaning, super().former_fingerprints))

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """See `Encoder.encode`."""
        return super().encode(_clean(texts), kind=kind, modes=modes, max_length=max_length)

    def tokenize(
        self, texts: Sequence[str], *, kind: Kind, max_length: int | None = None
    ) -> TokenBatch:
        """See `Encoder.tokenize`."""
        return super().tokenize(_clean(texts), kind=kind, max_length=max_length)


def _cleaning(fingerprint: str) -> str:
    return hashlib.sha256(f"clean {fingerprint}".encode()).hexdigest()


def _clean(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str):
        return texts  # the encoder's own error says what is wrong
    return [clean_text(text) if isinstance(text, str) else text for text in texts]
