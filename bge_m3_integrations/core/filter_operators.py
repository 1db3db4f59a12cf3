"""The names of filter operators, and what to write for names that are none of ours."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final

from bge_m3_integrations.core.metadata import brief
from bge_m3_integrations.errors import FilterError

COMPARISONS: Final = frozenset(
    {"$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$contains"}
)
LOGICAL: Final = frozenset({"$and", "$or", "$not"})
_PART: Final = "{'$contains': text} finds a part of a text; for patterns give a function as filter"
_FOREIGN: Final[Mapping[str, str]] = {
    **dict.fromkeys(["like", "ilike", "regex", "iregex", "match", "glob", "search"], _PART),
    **dict.fromkeys(["text", "text_match", "substring", "icontains"], _PART),
    **dict.fromkeys(["startswith", "starts_with", "endswith", "ends_with"], _PART),
    **dict.fromkeys(["not_contains", "ncontains"], "write {'$not': {'$contains': value}}"),
    **dict.fromkeys(["all", "any", "has", "elemmatch"], "join {'$contains': value} by $and or $or"),
    **dict.fromkeys(["between", "range"], "write {'$gte': least, '$lte': most}"),
    **dict.fromkeys(["nor", "must_not"], "write {'$not': {'$or': [...]}}"),
}
"""What to write for operators of other filters, named without the dollar and in lower case."""
_SPELLINGS: Final[Mapping[str, str]] = {
    **dict.fromkeys(["equals", "=", "==", "is"], "$eq"),
    **dict.fromkeys(["neq", "not_eq", "!=", "<>"], "$ne"),
    **dict.fromkeys(["ge", ">="], "$gte"),
    **dict.fromkeys(["le", "<="], "$lte"),
    **dict.fromkeys(["not_in", "notin"], "$nin"),
    **{">": "$gt", "<": "$lt", "must": "$and", "should": "$or"},
    **{op.removeprefix("$"): op for op in COMPARISONS | LOGICAL},
}
"""Other names of our operators, which mean nothing else."""
_GUESSED: Final = ("$contains", "$exists", "$and", "$or", "$not")
"""No comparison is near enough to another one to be guessed: a wrong guess finds other records."""


def unknown_operator(op: object, known: frozenset[str], place: str) -> FilterError:
    """The error for an operator that is none of ours, with what to write where that is sure.

    Args:
        op: The operator.
        known: Those that there are in its place.
        place: Where it stands.

    Returns:
        The error, to be raised.
    """
    name = str(op).lower()
    bare = name.removeprefix("$")
    near = difflib.get_close_matches(name, sorted(COMPARISONS | LOGICAL), n=2, cutoff=0.7)
    hint = ""
    if bare in _FOREIGN:
        hint = f"; {_FOREIGN[bare]}"
    elif bare in _SPELLINGS:
        hint = _spelt(_SPELLINGS[bare], known)
    elif len(near) == 1 and near[0] in known.intersection(_GUESSED):
        hint = f"; did you mean {near[0]}?"
    return FilterError(f"unknown filter operator {brief(op)} {place}; known: {sorted(known)}{hint}")


def _spelt(ours: str, known: frozenset[str]) -> str:
    if ours in known:
        return f"; write {ours}"
    if ours in LOGICAL:
        return f"; write {{{ours!r}: [{{key: ...}}, ...]}}, with the keys inside"
    return ""
