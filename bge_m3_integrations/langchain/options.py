"""Checks of options that more than one pydantic class here takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bge_m3_integrations.errors import InputError
from bge_m3_integrations.types import Weights


def parsed_weights(value: Any) -> Weights | None:
    """Weights in any form, checked; None stays None."""
    return None if value is None else Weights.parse(value)


def checked_fusion(value: Any) -> Any:
    """Something that ranks, or None; `Fusion` is a protocol, which pydantic cannot check."""
    rank: Callable[..., Any] | None = getattr(value, "rank_values", None)
    if value is not None and not (callable(rank) and hasattr(value, "name")):
        raise InputError(
            f"fusion must be one of this package's, or have its methods, not {value!r}"
        )
    return value
