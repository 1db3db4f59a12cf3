"""The request of a call: what is to be computed of its texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, get_args

from bge_m3_integrations.core.embeddings import Kind, Mode, Modes, as_modes
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.errors import InputError

_KINDS = get_args(Kind)


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """Kind, modes and length limit of a call; calls of equal requests can share a batch.

    Attributes:
        kind: Query or document.
        modes: The modes to compute.
        max_length: Most tokens per text; None is the encoder's own limit.
    """

    kind: Kind
    modes: frozenset[Mode]
    max_length: int | None

    @classmethod
    def checked(cls, kind: Kind, modes: Modes, max_length: int | None) -> Self:
        """Check a caller's arguments."""
        if kind not in _KINDS:
            check_kind(kind)
        limit = None if max_length is None else check_int("max_length", max_length)
        return cls(kind, as_modes(modes), limit)


def check_kind(kind: Kind) -> None:
    """Refuse a kind that there is not."""
    if kind not in _KINDS:
        raise InputError(f"kind must be one of {list(_KINDS)}, not {kind!r}")
