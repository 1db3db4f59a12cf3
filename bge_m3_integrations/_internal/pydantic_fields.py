"""Fields of pydantic classes: unknown ones are refused, and changed ones checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

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


class CheckedCopies(BaseModel):
    """A model whose changed copies are checked as new objects are."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; an update, by field or alias, makes a new object."""
        if not update:
            return super().model_copy(deep=deep)
        fields = type(self).model_fields
        given = {
            name: getattr(self, name)
            for name in self.model_fields_set
            if fields[name].alias not in update
        }
        return type(self)(**{**given, **update})
