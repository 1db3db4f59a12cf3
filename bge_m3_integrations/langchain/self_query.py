"""Filters of LangChain's `SelfQueryRetriever`, translated into ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.structured_query import (
    Comparator,
    Comparison,
    Operation,
    Operator,
    StructuredQuery,
    Visitor,
)

from bge_m3_integrations.errors import FilterError

_OPERATORS: Mapping[Comparator, str] = {
    Comparator.EQ: "$eq",
    Comparator.NE: "$ne",
    Comparator.GT: "$gt",
    Comparator.GTE: "$gte",
    Comparator.LT: "$lt",
    Comparator.LTE: "$lte",
    Comparator.IN: "$in",
    Comparator.NIN: "$nin",
    Comparator.CONTAIN: "$contains",
}


class BGEM3Translator(Visitor):
    """Makes filters for `BGEM3VectorStore`: `SelfQueryRetriever(structured_query_translator=)`.

    A date is compared as its ISO text, as which the store keeps a `date` of a document. `like` is
    left out: a pattern is no filter here, and `contain` finds a part of a text.
    """

    allowed_comparators: Sequence[Comparator] | None = tuple(_OPERATORS)
    allowed_operators: Sequence[Operator] | None = tuple(Operator)

    def visit_operation(self, operation: Operation) -> dict[str, Any]:
        """Translate "and", "or" and "not"; the last holds where none of its arguments does.

        Args:
            operation: LangChain's.

        Returns:
            A filter in dict form.
        """
        parts = [argument.accept(self) for argument in operation.arguments]
        if operation.operator is Operator.NOT:
            return {"$not": parts[0] if len(parts) == 1 else {"$or": parts}}
        return {"$and" if operation.operator is Operator.AND else "$or": parts}

    def visit_comparison(self, comparison: Comparison) -> dict[str, Any]:
        """Translate a comparison of one metadata value.

        Args:
            comparison: LangChain's.

        Returns:
            A filter in dict form.

        Raises:
            FilterError: The comparator is "like".
        """
        operator = _OPERATORS.get(comparison.comparator)
        if operator is None:
            raise FilterError(
                f"{comparison.attribute!r}: the comparator {comparison.comparator.value!r} is not "
                f"supported, only {[known.value for known in _OPERATORS]}; 'contain' finds a part "
                "of a text"
            )
        value = _plain(comparison.value)
        if operator in {"$in", "$nin"} and not isinstance(value, list):
            value = [value]
        return {comparison.attribute: {operator: value}}

    def visit_structured_query(
        self, structured_query: StructuredQuery
    ) -> tuple[str, dict[str, Any]]:
        """Translate a whole query.

        Args:
            structured_query: LangChain's.

        Returns:
            The text to search by, and the keywords of the search.
        """
        where = structured_query.filter
        return structured_query.query, {} if where is None else {"filter": where.accept(self)}


def _plain(value: Any) -> Any:
    """A value as metadata hold it; LangChain's dates are dicts of a text and its type."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping) and value.get("type") in {"date", "datetime"}:
        return value[value["type"]]
    return value
