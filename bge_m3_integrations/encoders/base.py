"""The protocol of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    FloatArray,
    Kind,
    Mode,
    Modes,
    TokenBatch,
    TokenVectors,
)


@runtime_checkable
class Encoder(Protocol):
    """Turns texts into dense vectors, lexical weights and token vectors, in one forward pass.

    Implementations are thread-safe. Attributes may read configuration files, never weights.
    """

    @property
    def modes(self) -> frozenset[Mode]:
        """The modes that this encoder can compute."""
        ...

    @property
    def dim(self) -> int:
        """Width of a dense vector."""
        ...

    @property
    def colbert_dim(self) -> int:
        """Width of a token vector."""
        ...

    @property
    def max_length(self) -> int:
        """Most tokens of one text, special tokens included."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    @property
    def pad_token_id(self) -> int:
        """The id that fills a batch; it never carries a lexical weight."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identity of the numbers: equal fingerprints give equal document embeddings.

        A sha256 over tokenizer, architecture, weights, pooling and document instruction; never
        over device, dtype, name or path.
        """
        ...

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """Encode texts in one forward pass each.

        Args:
            texts: Any number of texts, also none, also empty ones.
            kind: Whether they are queries or documents: chooses the instruction.
            modes: The modes to compute; others cost nothing.
            max_length: Most tokens per text; None is the encoder's own limit.

        Returns:
            One row per text, in order.

        Raises:
            InputError: A text is not an encodable string, or `max_length` is out of range.
            EncodingError: A text gives numbers that are not finite even in float32.
        """
        ...

    def tokenize(
        self, texts: Sequence[str], *, kind: Kind, max_length: int | None = None
    ) -> TokenBatch:
        """Split texts into the tokens that `encode` would see, with their place in the text."""
        ...

    def id_to_token(self, ids: Sequence[int]) -> list[str]:
        """Return the readable form of token ids."""
        ...


@runtime_checkable
class OffersMaxsim(Protocol):
    """An encoder that also computes ColBERT scores faster than plain numpy does."""

    def maxsim(self, queries: TokenVectors, documents: TokenVectors) -> FloatArray:
        """Compute the scores of `scoring.maxsim`, to 1e-5.

        Args:
            queries: Token vectors of `q` texts.
            documents: Token vectors of `n` texts.

        Returns:
            `(q, n) float32`.

        Raises:
            InputError: The widths differ, or a text has no vector.
        """
        ...


@runtime_checkable
class TellsLoaded(Protocol):
    """An encoder that says whether its weights are in memory, for a `repr`."""

    @property
    def loaded_as(self) -> tuple[str, str] | None:
        """Device and dtype of the weights in memory; nothing is read, imported or waited for."""
        ...


@runtime_checkable
class ChecksModes(Protocol):
    """An encoder that can say why it lacks a mode."""

    def check_modes(self, modes: Modes) -> None:
        """Refuse modes that the encoder lacks.

        Args:
            modes: The modes to compute.

        Raises:
            InputError: One is lacking; the message says why, and how to mend it.
        """
        ...


@runtime_checkable
class HasFormerFingerprints(Protocol):
    """An encoder whose fingerprint was another one in earlier versions of this package."""

    @property
    def former_fingerprints(self) -> frozenset[str]:
        """Fingerprints that earlier versions gave this same model."""
        ...
