"""Options that more than one class here takes: their forms and their checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeAlias

from langchain_core.documents import Document
from pydantic.json_schema import SkipJsonSchema

from bge_m3_integrations.core.embeddings import MODES, Mode
from bge_m3_integrations.core.filters import Filter
from bge_m3_integrations.core.fusion import Fusion, ReciprocalRank, ScaledSum, WeightedSum
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.core.validation import whole
from bge_m3_integrations.errors import InputError

FUSIONS: Mapping[str, type[WeightedSum | ScaledSum | ReciprocalRank]] = {
    "weighted_sum": WeightedSum,
    "scaled_sum": ScaledSum,
    "reciprocal_rank": ReciprocalRank,
}
# JSON schemas, as servers of chains make them, show the forms that JSON has
DocumentFilter: TypeAlias = (
    SkipJsonSchema[Filter] | Mapping[str, Any] | SkipJsonSchema[Callable[[Document], bool]]
)
FusionLike: TypeAlias = SkipJsonSchema[Fusion] | str | Mapping[str, Any]


def parsed_weights(value: Any) -> Weights | None:
    """Weights in any form, checked; None stays None."""
    return None if value is None else Weights.parse(value)


def checked_candidates(value: Any) -> Mapping[Mode, int] | None:
    """How many documents each mode looks up, as a mapping of its own.

    Args:
        value: A mapping of modes to numbers, or None.

    Returns:
        A copy, or None for None; whether an index can look up by these modes is its own to say.

    Raises:
        InputError: It is no mapping of modes to whole numbers.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping) or not value or not set(value) <= set(MODES):
        raise InputError(
            f"candidates must map one or more of {list(MODES)} to numbers, such as "
            f'{{"dense": 100}}, not {value!r}'
        )
    return {mode: whole(f"candidates[{mode!r}]", number) for mode, number in value.items()}


def checked_fusion(value: Any) -> Fusion | None:
    """Read a fusion in any of its forms.

    Args:
        value: A fusion; the name of one of this package's; a mapping of "name" and its
            parameters, such as `{"name": "reciprocal_rank", "k": 10}`; or None.

    Returns:
        The fusion, or None for None.

    Raises:
        InputError: An unknown name or parameter, or no fusion.
    """
    if value is None or isinstance(value, str | Mapping):
        return (
            None if value is None else _named({"name": value} if isinstance(value, str) else value)
        )
    if not isinstance(value, Fusion):
        raise InputError(
            f"fusion must be one of {list(FUSIONS)}, or have name, rank_values and greatest; not "
            f"{value!r}"
        )
    return value


def _named(form: Mapping[str, Any]) -> Fusion:
    name = str(form.get("name"))
    if name not in FUSIONS:
        raise InputError(f"unknown fusion {name!r}; there are {list(FUSIONS)}")
    kind = FUSIONS[name]
    known = {field.name for field in fields(kind)}
    if unknown := set(form) - known:
        raise InputError(f"{name} has no {sorted(unknown)}; it has {sorted(known - {'name'})}")
    return kind(**form)
