"""An encoder that repairs texts first."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Modes, TokenBatch
from bge_m3_integrations.encoders.wrapper import EncoderWrapper
from bge_m3_integrations.engine.cleaning import clean_text


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
