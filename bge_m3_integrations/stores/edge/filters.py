"""Metadata filters as qdrant-edge runs them, over the terms that `terms` stores.

A filter becomes two engine filters that enclose it: every point of the first passes, no point
outside the second does. Mostly they are one. Where they differ, the points between them are
*doubtful*, and the store looks at their metadata. `Not` swaps the two, so a weaker filter can
never become a stronger one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import qdrant_edge as qdrant

from bge_m3_integrations.core.filters import And, Compare, Filter, Ids, Not, Or
from bge_m3_integrations.stores.edge.terms import (
    GREATEST_LOW,
    TERMS,
    code_parts,
    equal_term,
    item_term,
    number_code,
    number_keys,
    other_term,
    text_term,
)

DEEPEST: Final = 24
"""Nested conditions above which a part counts as doubtful: the engine overflows its stack."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """A filter as the engine can run it; an engine filter of None is true for every point.

    Attributes:
        certain: Every point that it matches passes.
        condition: Every point that passes matches it.
        exact: Whether the two are one: then `condition` is the whole answer.
    """

    certain: qdrant.Filter | None
    condition: qdrant.Filter | None
    exact: bool

    @property
    def doubtful(self) -> qdrant.Filter | None:
        """The points whose metadata decides; None where there are none, as `exact` says.

        Where the engine counts 0 of them, `condition` is the whole answer too.
        """
        if self.exact or self.certain is None:
            return None
        return qdrant.Filter(
            must=None if self.condition is None else [self.condition], must_not=[self.certain]
        )

    def settled(self, passed: Collection[Any]) -> qdrant.Filter | None:
        """Return the exact filter, once it is known which of the doubtful points pass."""
        if self.exact or self.certain is None:
            return self.condition
        if not passed:
            return self.certain
        return qdrant.Filter(should=[self.certain, qdrant.HasIdCondition(set(passed))])


@dataclass(frozen=True, slots=True)
class _AnyTerm:
    """Points that hold one of these terms; kept apart because alternatives of them merge."""

    terms: frozenset[str]


_Condition: TypeAlias = qdrant.HasIdCondition | qdrant.FieldCondition | qdrant.Filter
_Clause: TypeAlias = bool | _AnyTerm | _Condition
"""True is every point, False is none."""


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The clauses that enclose a filter; the same object twice where it is exact."""

    certain: _Clause
    possible: _Clause

    @property
    def exact(self) -> bool:
        return self.certain is self.possible


_Join: TypeAlias = Callable[[Sequence[_Clause]], _Clause]
_UNKNOWN: Final = _Bounds(False, True)


def compile_filter(
    where: Filter, fields: frozenset[str] | None, *, point_id: Callable[[str], Any]
) -> Pushed:
    """Translate a filter for points that hold the terms of the same fields.

    `fields` are as in `terms.filter_payload` of every point; `point_id` gives the engine's id for a
    record's id.
    """
    bounds = _Compiler(fields, point_id).bounds(where, 0)
    return Pushed(_filter(bounds.certain), _filter(bounds.possible), bounds.exact)


@dataclass(frozen=True, slots=True)
class _Compiler:
    """Translates every part of one filter; see `compile_filter`."""

    fields: frozenset[str] | None
    point_id: Callable[[str], Any]

    def bounds(self, where: Filter, depth: int) -> _Bounds:
        """Return the clauses that enclose a filter which lies so deep in others."""
        if depth > DEEPEST:
            return _UNKNOWN
        match where:
            case And(parts) | Or(parts):
                join = _all_of if isinstance(where, And) else _any_of
                return _joined(join, [self.bounds(part, depth + 1) for part in parts])
            case Not(part):
                return _opposite(self.bounds(part, depth + 1))
            case Compare(path, op, value) if self.fields is None or path in self.fields:
                return _TESTS[op](path, value)
            case Ids(ids):
                points = set(map(self.point_id, ids))
                return _same(bool(points) and qdrant.HasIdCondition(points))
        return _UNKNOWN  # a Python function, or a path without terms


def _joined(join: _Join, parts: Sequence[_Bounds]) -> _Bounds:
    certain = join([part.certain for part in parts])
    if all(part.exact for part in parts):
        return _same(certain)
    return _Bounds(certain, join([part.possible for part in parts]))


def _opposite(bounds: _Bounds) -> _Bounds:
    possible = _none_of(bounds.certain)
    return _same(possible) if bounds.exact else _Bounds(_none_of(bounds.possible), possible)


def _same(clause: _Clause) -> _Bounds:
    return _Bounds(clause, clause)


def _all_of(clauses: Sequence[_Clause]) -> _Clause:
    if any(clause is False for clause in clauses):
        return False
    kept = [clause for clause in clauses if clause is not True]
    if len(kept) < 2:
        return kept[0] if kept else True
    return qdrant.Filter(must=[_condition(clause) for clause in kept])


def _any_of(clauses: Sequence[_Clause]) -> _Clause:
    """Alternatives; those over terms become one, as the engine slows down with their square."""
    if any(clause is True for clause in clauses):
        return True
    terms = [clause.terms for clause in clauses if isinstance(clause, _AnyTerm)]
    kept: list[_Clause] = [_AnyTerm(frozenset().union(*terms))] if terms else []
    kept += [c for c in clauses if c is not False and not isinstance(c, _AnyTerm)]
    if len(kept) < 2:
        return kept[0] if kept else False
    return qdrant.Filter(should=[_condition(clause) for clause in kept])


def _none_of(clause: _Clause) -> _Clause:
    if isinstance(clause, bool):
        return not clause
    return qdrant.Filter(must_not=[_condition(clause)])


def _condition(clause: _Clause) -> _Condition:
    """Translate a clause into the engine's words."""
    if isinstance(clause, bool):
        everything = qdrant.Filter()
        return everything if clause else qdrant.Filter(must_not=[everything])
    if not isinstance(clause, _AnyTerm):
        return clause
    match = qdrant.MatchAny(sorted(clause.terms))
    return qdrant.FieldCondition(key=TERMS, match=match)


def _filter(clause: _Clause) -> qdrant.Filter | None:
    condition = None if clause is True else _condition(clause)
    if condition is None or isinstance(condition, qdrant.Filter):
        return condition
    return qdrant.Filter(must=[condition])


def _any_term(terms: Iterable[str | None]) -> _Clause:
    known = frozenset(term for term in terms if term is not None)
    return bool(known) and _AnyTerm(known)


def _eq(path: str, value: object) -> _Bounds:
    return _same(_any_term([equal_term(path, value)]))


def _in(path: str, values: Sequence[object]) -> _Bounds:
    return _same(_any_term(equal_term(path, value) for value in values))


def _exists(path: str, wanted: bool) -> _Bounds:
    held = _same(_any_term([text_term(path), other_term(path)]))
    return held if wanted else _opposite(held)


def _contains(path: str, value: object) -> _Bounds:
    item = item_term(path, value)
    if not isinstance(value, str):
        return _same(_any_term([item]))
    possible = _any_term([item, text_term(path)])
    if not value:  # the empty string is inside every string
        return _same(possible)
    return _Bounds(_any_term([item, equal_term(path, value)]), possible)


def _ordered(path: str, value: object, *, step: int, or_equal: bool) -> _Bounds:
    """Values above (step 1) or below (step -1) the given one."""
    equal = or_equal and _any_term([equal_term(path, value)])
    if isinstance(value, str):
        return _Bounds(equal, _any_term([text_term(path)]))
    code = number_code(value)
    if code is None:
        return _same(False)
    if code % 2 == 0:  # a float64: no other number shares its code
        return _same(_from(path, code if or_equal else code + step, step))
    return _Bounds(_any_of([_from(path, code + step, step), equal]), _from(path, code, step))


def _from(path: str, code: int, step: int) -> _Clause:
    """Numbers whose code is this one or lies beyond it, upwards or downwards."""
    high, low = code_parts(code)
    high_key, low_key = number_keys(path)
    if low == (0 if step > 0 else GREATEST_LOW):
        return _range(high_key, high, step)
    same = qdrant.FieldCondition(key=high_key, range=qdrant.RangeFloat(gte=high, lte=high))
    # a missing low part is zero: above no bound that is used here, and below every one
    above = _range(low_key, low if step > 0 else low + 1, 1)
    tie = (
        qdrant.Filter(must=[same, above])
        if step > 0
        else qdrant.Filter(must=[same], must_not=[above])
    )
    return qdrant.Filter(should=[_range(high_key, high + step, step), tie])


def _range(key: str, number: int, step: int) -> _Condition:
    span = qdrant.RangeFloat(gte=number) if step > 0 else qdrant.RangeFloat(lte=number)
    return qdrant.FieldCondition(key=key, range=span)


_TESTS: Final[Mapping[str, Callable[[str, Any], _Bounds]]] = {
    "$eq": _eq,
    "$ne": lambda path, value: _opposite(_eq(path, value)),
    "$gt": partial(_ordered, step=1, or_equal=False),
    "$gte": partial(_ordered, step=1, or_equal=True),
    "$lt": partial(_ordered, step=-1, or_equal=False),
    "$lte": partial(_ordered, step=-1, or_equal=True),
    "$in": _in,
    "$nin": lambda path, values: _opposite(_in(path, values)),
    "$exists": _exists,
    "$contains": _contains,
}
