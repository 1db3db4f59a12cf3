"""LlamaIndex's `MetadataFilters` as this package's filter tree.

Each operator means what `llama_index.core.vector_stores.utils` does with it, without its errors:
a test that does not fit the held value is false. So null equals nothing (write IS_EMPTY), and 1 and
0 equal true and false, which LlamaIndex's type cannot hold. Nesting and NOT work at any depth, and
a key may lead into nested mappings ("a.b"). "ref_doc_id", "doc_id" and "document_id" mean a node's
source document, as in LlamaIndex's other stores, where the metadata have no such key themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from bge_m3_integrations.core.filter_checks import check_levels
from bge_m3_integrations.core.filter_comparison import lookup
from bge_m3_integrations.core.filters import (
    And,
    Compare,
    Filter,
    FilterLike,
    Ids,
    Not,
    Or,
    Predicate,
    as_filter,
)
from bge_m3_integrations.core.metadata import brief
from bge_m3_integrations.errors import FilterError
from bge_m3_integrations.llama_index.nodes import REF_DOC_KEY, of_documents

_SOURCE_KEYS = ("ref_doc_id", "doc_id", "document_id")
_ORDERINGS = {
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
}


def to_filter(value: MetadataFilters | FilterLike | None) -> Filter | None:
    """Read a filter in LlamaIndex's form, or in any form that this package takes.

    Args:
        value: `MetadataFilters`, a filter tree, a dict, a function over metadata, or None.

    Returns:
        The filter tree, or None for None.

    Raises:
        FilterError: An unknown operator or condition, or a value that does not fit its operator.
    """
    if not isinstance(value, MetadataFilters):
        if _without_group(value):
            raise FilterError(
                f"conditions come in a group, not as {brief(value)}; write "
                "MetadataFilters(filters=[...])"
            )
        return as_filter(value)
    check_levels(value, _inside)
    return _group(value)


def restriction(
    filters: MetadataFilters | FilterLike | None,
    node_ids: Sequence[str] | None,
    doc_ids: Sequence[str] | None,
) -> Filter | None:
    """All that restricts a query; LlamaIndex's retriever always gives ids, and none mean all."""
    parts = [to_filter(filters)]
    parts += [Ids(node_ids)] if node_ids else []
    parts += [of_documents(doc_ids)] if doc_ids else []
    held = [part for part in parts if part is not None]
    return And(held) if len(held) > 1 else next(iter(held), None)


def _without_group(value: object) -> bool:
    parts = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(part, MetadataFilter | MetadataFilters) for part in parts)


def chooses(filters: MetadataFilters) -> bool:
    """Whether there is a condition in it at any depth: without one it is true of every node."""
    check_levels(filters, _inside)
    waiting = list(filters.filters)
    while waiting:
        part = waiting.pop()
        if isinstance(part, MetadataFilter):
            return True
        waiting += part.filters
    return False


def _inside(value: object) -> Iterable[object]:
    return value.filters if isinstance(value, MetadataFilters) else ()


def _group(filters: MetadataFilters) -> Filter:
    parts = [_group(f) if isinstance(f, MetadataFilters) else _one(f) for f in filters.filters]
    condition = filters.condition or FilterCondition.AND
    if condition is FilterCondition.AND:
        return And(parts)
    if condition is FilterCondition.OR:
        return Or(parts) if parts else And(())  # no filters at all restrict nothing
    if condition is FilterCondition.NOT:
        return Not(Or(parts))
    raise FilterError(f"unknown filter condition {condition!r}; known: and, or, not")


def _one(item: MetadataFilter) -> Filter:
    if item.key not in _SOURCE_KEYS:
        return _tested(item, item.key)
    own, source = _tested(item, item.key), _tested(item, REF_DOC_KEY)
    held = Compare(item.key, "$exists", True)
    return Or([And([held, own]), And([Not(held), source])])


def _tested(item: MetadataFilter, key: str) -> Filter:
    if item.operator in _ORDERINGS:
        return Compare(key, _ORDERINGS[item.operator], item.value)
    if item.operator in _BUILDERS:
        return _BUILDERS[item.operator](key, item.value)
    known = sorted(operator.value for operator in [*_ORDERINGS, *_BUILDERS])
    raise FilterError(f"unknown filter operator {item.operator!r} for {item.key!r}; known: {known}")


def _equal(key: str, value: object) -> Filter:
    if value is None:
        return Or(())
    alike = _alike(value)
    return Compare(key, "$eq", value) if len(alike) == 1 else Compare(key, "$in", alike)


def _one_of(key: str, values: object) -> Filter:
    alike = [one for value in _list("in", key, values) for one in _alike(value)]
    return Compare(key, "$in", alike)


def _contains(key: str, value: object) -> Filter:
    return _or([Compare(key, "$contains", one) for one in _alike(value)])


def _any(key: str, values: object) -> Filter:
    return Or([_contains(key, value) for value in _listed("any", key, values)])


def _all(key: str, values: object) -> Filter:
    return And([_contains(key, value) for value in _listed("all", key, values)])


def _alike(value: object) -> list[object]:
    """The value with what equals it in Python but not in this package's filters."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return [value, bool(value)] if number and value in (0, 1) else [value]


def _or(parts: list[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else Or(parts)


def _empty(key: str, value: object) -> Filter:
    del value  # the operator has none; LlamaIndex's type makes users write one
    nothing: tuple[object, ...] = (None, "", [])
    return Or([Compare(key, "$exists", False), *(Compare(key, "$eq", v) for v in nothing)])


def _text(key: str, value: object) -> Filter:
    wanted = _string("text_match", key, value)
    return _held_text(key, lambda held: wanted in held)


def _text_insensitive(key: str, value: object) -> Filter:
    wanted = _string("text_match_insensitive", key, value).lower()
    return _held_text(key, lambda held: wanted in held.lower())


def _held_text(key: str, test: Callable[[str], bool]) -> Filter:
    """A test of a held string; `$contains` would also look into lists."""

    def run(metadata: Mapping[str, Any]) -> bool:
        held = lookup(key, metadata)
        return isinstance(held, str) and test(held)

    return And([Compare(key, "$exists", True), Predicate(run)])  # so that the key is known


def _list(operator: str, key: str, values: object) -> list[object]:
    if not isinstance(values, list):
        raise FilterError(f"{key!r}: {operator} takes a list of values, not {brief(values)}")
    return values


def _listed(operator: str, key: str, values: object) -> list[object]:
    if not isinstance(values, list) or not values:
        raise FilterError(
            f"{key!r}: {operator} takes a list of at least one value, not {brief(values)}"
        )
    return values


def _string(operator: str, key: str, value: object) -> str:
    if not isinstance(value, str):
        raise FilterError(f"{key!r}: {operator} takes a string, not {brief(value)}")
    return value


_BUILDERS: Mapping[FilterOperator, Callable[[str, object], Filter]] = {
    FilterOperator.EQ: _equal,
    FilterOperator.NE: lambda key, value: Not(_equal(key, value)),
    FilterOperator.IN: _one_of,
    FilterOperator.NIN: lambda key, values: Not(_one_of(key, values)),
    FilterOperator.CONTAINS: _contains,
    FilterOperator.ANY: _any,
    FilterOperator.ALL: _all,
    FilterOperator.IS_EMPTY: _empty,
    FilterOperator.TEXT_MATCH: _text,
    FilterOperator.TEXT_MATCH_INSENSITIVE: _text_insensitive,
}
