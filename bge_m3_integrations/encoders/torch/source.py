"""The protocol of where an encoder's model comes from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch

from bge_m3_integrations.core.embeddings import ALL_MODES, Kind, Mode, Modes
from bge_m3_integrations.encoders.torch.heads import Pooling
from bge_m3_integrations.encoders.torch.modules import M3Modules
from bge_m3_integrations.encoders.torch.tokenizer import TextTokenizer


class Source(Protocol):
    """Where an encoder's model comes from; everything is read when first asked for.

    The defaults are those of a model with all heads and without files.
    """

    @property
    def config(self) -> Any:
        """The backbone's transformers config."""
        ...

    @property
    def colbert_dim(self) -> int:
        """Width of a token vector."""
        ...

    @property
    def pooling(self) -> Pooling:
        """The pooling of the dense vector."""
        ...

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer."""
        ...

    @property
    def modules(self) -> M3Modules:
        """The model, in memory."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def precision(self) -> str:
        """The precision of its numbers, such as "bfloat16" or "int8/4/127/bfloat16/compiled"."""
        ...

    @property
    def weights_digest(self) -> str:
        """Digest of backbone and heads."""
        ...

    @property
    def loaded_as(self) -> tuple[str, str] | None:
        """Device and dtype of a model that is in memory; nothing is read for it."""
        ...

    @property
    def modes(self) -> frozenset[Mode]:
        """The modes that it has heads for."""
        return ALL_MODES

    def check_modes(self, modes: Modes) -> None:
        """Raise `MissingHeadError` for modes that it has no head for."""
        ...

    def prompt(self, kind: Kind) -> str:
        """The prompt for queries or documents that comes with the model; "" is none."""
        return ""

    def rebuilt(self) -> Iterable[TextTokenizer]:
        """The tokenizers that earlier versions of this package read from the same files."""
        return ()
