"""Values as plain Python: for `json.dumps`, for pydantic, and so for FastAPI."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bge_m3_integrations.core.metadata import plain


class Exported:
    """Gives a subclass with `to_dict` a form that pydantic serializes, as FastAPI asks for."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The value as plain Python, which `json.dumps` takes."""
        raise NotImplementedError

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return {**cls._pydantic_schema(source, handler), "serialization": _SERIALIZED}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        del schema, handler
        return {"type": "object", "title": cls.__name__, "additionalProperties": True}

    @classmethod
    def _pydantic_schema(cls, source: Any, handler: Any) -> dict[str, Any]:
        """The schema to validate by: an object of this class."""
        del source, handler
        return {"type": "is-instance", "cls": cls}


class ExportedFields(Exported):
    """Is validated by pydantic as the dataclass that it is, from a dict too."""

    __slots__ = ()

    @classmethod
    def _pydantic_schema(cls, source: Any, handler: Any) -> dict[str, Any]:
        return dict(handler(source))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        if handler.mode == "validation":
            return dict(handler(schema))
        return super().__get_pydantic_json_schema__(schema, handler)


# Written out: a schema is a dict, and nothing of pydantic is imported for it.
_SERIALIZED = {
    "type": "function-plain",
    "function": lambda value: value.to_dict(),
    "return_schema": {"type": "dict"},
}


def plain_json(value: Any, place: str) -> Any:
    """A copy of metadata or of a payload for strict JSON: a number that is not finite is None.

    Args:
        value: A record's value.
        place: Where it stands, for an error.

    Returns:
        dict, list, str, int, float, bool or None.

    Raises:
        InputError: JSON has no form for something that was put there since the record was made.
    """
    return _finite(plain(value, place))


def plain_array(array: Any) -> Any:
    """An array as lists of floats; a number that is not finite is None."""
    array = np.asarray(array)
    if np.isfinite(array).all():
        return array.tolist()
    return np.asarray(np.where(np.isfinite(array), array.astype(object), None)).tolist()


def plain_number(value: float) -> float | None:
    """A float; None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def plain_scores(scores: Mapping[Any, float]) -> dict[str, float | None]:
    """Scores by their names."""
    return {str(name): plain_number(score) for name, score in scores.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_finite(held) for held in value]
    return plain_number(value) if isinstance(value, float) else value
