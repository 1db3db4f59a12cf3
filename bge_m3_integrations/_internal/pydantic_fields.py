"""Unknown keywords of pydantic classes: see `_keywords`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from bge_m3_integrations._internal.keywords import told


def refuse_fields(
    cls: type[BaseModel], given: Mapping[str, Any], *, more: Collection[str] = ()
) -> None:
    """Raise pydantic's error for keywords that are no fields, with the names that were meant.

    Args:
        cls: The class that is made; its fields may be given by their aliases, too.
        given: What it is made of. Values are not shown: a token may be among them.
        more: What its constructor takes besides fields.

    Raises:
        ValidationError: There is an unknown keyword.
    """
    aliases = {name: field.alias for name, field in cls.model_fields.items() if field.alias}
    unknown = [n for n in given if n not in {*cls.model_fields, *aliases.values(), *more}]
    if not unknown:
        return
    known = dict.fromkeys([*more, *(aliases.get(name, name) for name in cls.model_fields)])
    errors = [_error(name, told(name, list(known)), given[name]) for name in unknown]
    raise ValidationError.from_exception_data(cls.__name__, errors, hide_input=True)


def _error(name: str, message: str, value: object) -> InitErrorDetails:
    kind = PydanticCustomError("extra_forbidden", "{message}", {"message": message})
    return InitErrorDetails(type=kind, loc=(name,), input=value)
