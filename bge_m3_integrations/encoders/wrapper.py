"""The common part of encoders that stand in front of another one."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Mode, Modes, TokenBatch
from bge_m3_integrations.encoders.base import Encoder, HasFormerFingerprints


def _passed_on(name: str) -> Any:
    return property(attrgetter(f"encoder.{name}"), doc=f"See `Encoder.{name}`.")


class EncoderWrapper:
    """A wrapper that passes everything on; a subclass changes its own part.

    Args:
        encoder: Does the work.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __repr__(self) -> str:
        return f"{type(self).__name__}(over {self.encoder!r})"

    modes: frozenset[Mode] = _passed_on("modes")
    dim: int = _passed_on("dim")
    colbert_dim: int = _passed_on("colbert_dim")
    max_length: int = _passed_on("max_length")
    vocab_size: int = _passed_on("vocab_size")
    pad_token_id: int = _passed_on("pad_token_id")

    @property
    def fingerprint(self) -> str:
        """See `Encoder.fingerprint`."""
        return self.encoder.fingerprint

    @property
    def former_fingerprints(self) -> frozenset[str]:
        """See `encoders.base.HasFormerFingerprints`."""
        encoder: object = self.encoder
        if isinstance(encoder, HasFormerFingerprints):
            return encoder.former_fingerprints
        return frozenset()

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """See `Encoder.encode`."""
        return self.encoder.encode(texts, kind=kind, modes=modes, max_length=max_length)

    def tokenize(
        self, texts: Sequence[str], *, kind: Kind, max_length: int | None = None
    ) -> TokenBatch:
        """See `Encoder.tokenize`."""
        return self.encoder.tokenize(texts, kind=kind, max_length=max_length)

    def id_to_token(self, ids: Sequence[int]) -> list[str]:
        """See `Encoder.id_to_token`."""
        return self.encoder.id_to_token(ids)


def innermost(encoder: Encoder) -> Encoder:
    """Return the encoder behind all wrappers."""
    while isinstance(encoder, EncoderWrapper):
        encoder = encoder.encoder
    return encoder
