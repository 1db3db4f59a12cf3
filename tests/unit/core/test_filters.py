"""Filters: one meaning, in a table, in laws, and against an oracle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bge_m3_integrations.core.filters import (
    COMPARISONS,
    OPERATORS,
    And,
    Compare,
    Filter,
    Ids,
    Not,
    Or,
    Predicate,
    as_filter,
    matches,
    operators,
    parse,
)
from bge_m3_integrations.errors import FilterError

HELD: Mapping[str, Any] = {
    "yes": True,
    "five": 5,
    "half": 0.5,
    "nan": math.nan,
    "inf": math.inf,
    "word": "fox",
    "empty": "",
    "null": None,
    "list": ["a", 1, True, None, ["n"]],
    "tuple": ("a",),
    "none": [],
    "a.b": "exact",
    "a": {"b": "nested", "c": {"d": 7}, "items": [{"x": 1}]},
    "set": {"a"},
}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        # booleans are no numbers
        ({"yes": True}, True),
        ({"yes": 1}, False),
        ({"yes": 1.0}, False),
        ({"yes": "true"}, False),
        ({"yes": {"$gte": 0}}, False),
        ({"yes": {"$lte": True}}, False),
        ({"five": {"$gt": False}}, False),
        ({"yes": {"$in": [1, "True"]}}, False),
        # numbers by value
        ({"five": 5.0}, True),
        ({"five": "5"}, False),
        ({"half": {"$lt": 1}}, True),
        ({"half": {"$gte": 0.5}}, True),
        ({"five": {"$gt": 5}}, False),
        ({"five": {"$gt": 4.999}}, True),
        ({"inf": {"$gt": 10**400}}, True),
        ({"nan": {"$ne": 0}}, True),
        ({"nan": {"$gte": 0}}, False),
        ({"nan": {"$lt": 0}}, False),
        # strings by code point
        ({"word": "fox"}, True),
        ({"word": "Fox"}, False),
        ({"word": {"$gt": "Zoo"}}, True),
        ({"word": {"$lt": "f"}}, False),
        ({"empty": ""}, True),
        ({"empty": {"$lt": "a"}}, True),
        ({"word": {"$gt": 1}}, False),
        ({"five": {"$lt": "9"}}, False),
        ({"word": {"$contains": "ox"}}, True),
        ({"word": {"$contains": ""}}, True),
        ({"word": {"$contains": 1}}, False),
        ({"five": {"$contains": 5}}, False),
        # null is not missing
        ({"null": None}, True),
        ({"missing": None}, False),
        ({"missing": {"$ne": None}}, True),
        ({"null": {"$exists": True}}, True),
        ({"missing": {"$exists": True}}, False),
        ({"missing": {"$exists": False}}, True),
        ({"null": {"$in": [None]}}, True),
        ({"missing": {"$in": [None]}}, False),
        ({"missing": {"$nin": [None]}}, True),
        ({"missing": {"$ne": 5}}, True),
        ({"null": {"$gte": None}}, False),
        ({"missing": {"$lt": 5}}, False),
        ({"missing": {"$contains": "a"}}, False),
        # lists
        ({"list": ["a", 1, True, None, ["n"]]}, True),
        ({"list": ["a", 1.0, True, None, ["n"]]}, True),
        ({"list": ["a", True, True, None, ["n"]]}, False),
        ({"list": "a"}, False),
        ({"tuple": ["a"]}, True),
        ({"none": []}, True),
        ({"none": ["a"]}, False),
        ({"list": {"$contains": "a"}}, True),
        ({"list": {"$contains": 1.0}}, True),
        ({"list": {"$contains": None}}, True),
        ({"list": {"$contains": ["n"]}}, True),
        ({"list": {"$contains": "n"}}, False),
        ({"list": {"$gt": ["a"]}}, False),
        ({"list": {"$in": [["a"], ["a", 1, True, None, ["n"]]]}}, True),
        ({"list": {"$in": ["a"]}}, False),
        ({"set": "a"}, False),
        ({"set": {"$contains": "a"}}, False),
        # dotted keys
        ({"a.b": "exact"}, True),
        ({"a.b": "nested"}, False),
        ({"a.c.d": 7}, True),
        ({"a.c": {"$exists": True}}, True),
        ({"a.items.x": {"$exists": True}}, False),
        ({"a.items.0": {"$exists": True}}, False),
        ({"word.x": {"$exists": False}}, True),
        # logic
        ({}, True),
        ({"five": {"$gt": 1, "$lt": 5}}, False),
        ({"five": 5, "word": "fox"}, True),
        ({"five": 5, "word": "dog"}, False),
        ({"$and": [{"five": 5}, {"word": "dog"}]}, False),
        ({"$or": [{"five": 4}, {"word": "fox"}]}, True),
        ({"$and": []}, True),
        ({"$or": []}, False),
        ({"$not": {"five": 5}}, False),
        ({"five": {"$not": {"$gt": 5}}}, True),
        ({"missing": {"$not": {"$gt": 5}}}, True),
        ({"five": {"$not": 5}}, False),
        ({"five": {"$not": {"$gt": 1}, "$lt": 9}}, False),
    ],
)
def test_a_condition_means_what_the_table_says(condition: dict[str, Any], expected: bool) -> None:
    assert matches(parse(condition), HELD) is expected


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"a": {"$gtt": 1}}, ["$gtt", "known: ['$contains', '$eq'"]),
        ({"$nor": []}, ["$nor", "{'$not': {'$or': [...]}}"]),
        ({"a": {"$like": "x"}}, ["$like", "$contains", "a function as filter"]),
        ({"a": {"$regex": "x"}}, ["$regex", "$contains", "a function as filter"]),
        ({"a": {"$between": [1, 2]}}, ["{'$gte': least, '$lte': most}"]),
        ({"a": {"$ge": 1}}, ["write $gte"]),
        ({"a": {"$GTE": 1}}, ["write $gte"]),
        ({"a": {"gte": 1}}, ["write $gte"]),
        ({"a": {"!=": 1}}, ["write $ne"]),
        ({"a": {"$exist": True}}, ["did you mean $exists?"]),
        ({"$eq": 1}, ["$eq", "{key: {operator: value}}"]),
        ({"a": {"b": 1}}, ["'b'", "'a.b'"]),
        ({"a": {"$in": 1}}, ["$in", "list", "1"]),
        ({"a": {"$nin": "abc"}}, ["$nin", "list", "'abc'"]),
        ({"a": {"$exists": 1}}, ["$exists", "true or false"]),
        ({"a": {}}, ["'a'", "empty"]),
        ({"$and": {"a": 1}}, ["$and", "list"]),
        ({"$or": [1]}, ["$or", "dict", "1"]),
        ({"$or": [{}]}, ["$or", "non-empty"]),
        ({"$not": {}}, ["$not", "non-empty"]),
        ({"$not": [{"a": 1}]}, ["$not", "dict"]),
        ({"a": math.nan}, ["'a'", "finite", "nan"]),
        ({"a": {"$in": [1, math.inf]}}, ["finite", "inf"]),
        ({"a": {1, 2}}, ["set"]),
        ({"a": [b"x"]}, ["bytes"]),
        ({"a": {"$eq": {"b": 1}}}, ["dict"]),
        ({"": 1}, ["non-empty string"]),
        ({1: 2}, ["non-empty string", "1"]),
    ],
)
def test_a_malformed_condition_is_an_error_that_says_why(
    condition: dict[Any, Any], words: list[str]
) -> None:
    with pytest.raises(FilterError) as caught:
        parse(condition)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("op", ["$like", "$regex", "$gtt", "$lge", "$te", "$inn", "$nen", "$qe"])
def test_no_comparison_is_guessed(op: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse({"a": {op: 1}})
    assert "did you mean" not in str(caught.value)


def nested(levels: int, key: str) -> Any:
    condition: Any = {"a": 1}
    for _ in range(levels):
        condition = {key: condition if key == "$not" else [condition]}
    return condition


def in_lists(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def holding_itself() -> Any:
    condition: dict[str, Any] = {}
    condition["$and"] = [condition, condition]
    return condition


DEEP = [
    *(nested(levels, key) for levels in (101, 1000, 100_000) for key in ("$and", "$or", "$not")),
    *({"a": in_lists(levels)} for levels in (101, 1000, 100_000)),
    {"a": {"$in": in_lists(1000)}},
    holding_itself(),
]


@pytest.mark.parametrize("condition", DEEP, ids=range(len(DEEP)))
def test_a_filter_too_deep_to_be_read_is_refused(condition: Any) -> None:
    with pytest.raises(FilterError, match="more than 100 levels"):
        as_filter(condition)


@pytest.mark.parametrize("key", ["$and", "$or", "$not"])
def test_a_filter_of_a_hundred_levels_is_read(key: str) -> None:
    where = as_filter(nested(100, key))
    assert where is not None
    assert matches(where, {"a": 1})
    with pytest.raises(FilterError, match="more than 100 levels"):
        Not(where)
    with pytest.raises(FilterError, match="more than 100 levels"):
        Or([Compare("b", "$eq", 1), where])


@pytest.mark.parametrize("op", ["$eq", "$gt", "$in", "$contains"])
@pytest.mark.parametrize(
    ("number", "digits"), [(10**5000, "5,001"), (1 - 10**5000, "5,000")], ids=["over", "under"]
)
def test_an_integer_of_too_many_digits_is_refused_with_their_number(
    op: str, number: int, digits: str
) -> None:
    with pytest.raises(FilterError, match=f"{digits} digits"):
        parse({"year": {op: [number] if op == "$in" else number}})


@pytest.mark.parametrize(
    "condition", [{"$and": 10**5000}, {"$not": 10**5000}, {"a": {"$exists": 10**5000}}]
)
def test_no_error_is_too_large_to_be_written(condition: Any) -> None:
    with pytest.raises(FilterError, match="too large to be shown"):
        parse(condition)


class Lang(StrEnum):
    EN = "en"


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (np.int64(2020), 2020),
        (np.uint8(7), 7),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.float64(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("en"), "en"),
        (Lang.EN, "en"),
        ([np.int64(1), (np.bool_(False),)], (1, (False,))),
    ],
)
def test_values_of_numpy_and_of_richer_classes_become_plain(value: Any, same: Any) -> None:
    where = parse({"a": value})
    assert where == Compare("a", "$eq", same)
    assert isinstance(where, Compare)
    assert type(where.value) is type(same)


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        (date(2024, 1, 1), "isoformat"),
        (datetime(2024, 1, 1, tzinfo=UTC), "isoformat"),
        (Decimal("1.5"), "float"),
        (np.zeros(2), "tolist"),
        (np.float32("nan"), "finite"),
        (UUID(int=1), "str"),
    ],
)
def test_a_value_that_no_metadata_hold_is_refused_with_the_fix(value: Any, fix: str) -> None:
    for op in ("$eq", "$gte", "$contains"):
        with pytest.raises(FilterError, match=fix):
            parse({"when": {op: value}})


def test_numpys_booleans_say_whether_a_key_exists() -> None:
    assert parse({"a": {"$exists": np.True_}}) == parse({"a": {"$exists": True}})


@pytest.mark.parametrize(
    ("condition", "fix"),
    [
        ('{"a": 1}', r"json\.loads"),
        ({"and": [{"a": 1}]}, r"write \$and"),
        ({"OR": [{"a": 1}]}, r"write \$or"),
        ({"must": [{"a": 1}]}, r"write \$and"),
        ({"must_not": [{"a": 1}]}, r"'\$not': \{'\$or'"),
        ({"a": {"$or": [1, 2]}}, r"write \{'\$or': \[\{key"),
        ({"a": {"$in": {1, 2}}}, r"write list\("),
        ({"a": {"$nin": range(3)}}, r"write list\("),
        ({"a": {"$in": np.arange(3)}}, r"write list\("),
    ],
)
def test_forms_of_other_filters_are_told_what_to_write(condition: Any, fix: str) -> None:
    with pytest.raises(FilterError, match=fix):
        as_filter(condition)


def test_compare_checks_itself_without_parse() -> None:
    no_name: Any = ["$eq"]
    tests = [("a", "$gtt"), ("a", "$in"), ("", "$eq"), ("a", "eq"), ("a", no_name)]
    for path, op in tests:
        with pytest.raises(FilterError):
            Compare(path, op, 1)


def test_a_filter_does_not_change_with_the_list_it_was_made_from() -> None:
    wanted = ["a"]
    where = parse({"tag": {"$in": wanted}})
    wanted.append("b")
    assert not matches(where, {"tag": "b"})
    assert where == parse({"tag": {"$in": ["a"]}})
    assert hash(where) == hash(parse({"tag": {"$in": ["a"]}}))


def test_as_filter_reads_every_form() -> None:
    tree = Compare("a", "$eq", 1)
    assert as_filter(None) is None
    assert as_filter(tree) is tree
    assert as_filter({"a": 1}) == tree
    assert as_filter({}) == And(())
    where = as_filter(lambda metadata: metadata["a"] > 1)
    assert isinstance(where, Predicate)
    assert matches(where, {"a": 2}) is True
    assert matches(where, {"a": 1}) is False


@pytest.mark.parametrize("wrong", [5, "lang == 'en'", ["a"]])
def test_as_filter_refuses_what_is_no_filter(wrong: Any) -> None:
    with pytest.raises(FilterError, match="dict, a function or a filter tree"):
        as_filter(wrong)


def test_trees_of_what_is_no_filter_are_refused() -> None:
    wrong: Any = {"a": 1}
    for make in (lambda: And([wrong]), lambda: Or([wrong]), lambda: Not(wrong)):
        with pytest.raises(FilterError, match=r"parse\(\) reads dicts"):
            make()
    with pytest.raises(FilterError, match="collection of ids"):
        Ids("abc")
    with pytest.raises(FilterError, match="function"):
        Predicate(wrong)


def test_ids_look_at_the_record_id_only() -> None:
    assert matches(Ids(["a"]), {}, record_id="a")
    assert not matches(Ids(["a"]), {"id": "a"}, record_id="b")
    assert not matches(Ids(["a"]), {})
    assert matches(Not(Ids(["a"])), {}, record_id="b")
    assert Ids(["b", "a"]) == Ids(("a", "b", "a"))


def test_operators_names_everything_but_ids() -> None:
    where = And([Or([Compare("a", "$eq", 1), Predicate(bool)]), Not(Compare("a", "$in", []))])
    assert operators(where) == {"$and", "$or", "$not", "$eq", "$in", "$predicate"}
    assert operators(Ids(["a"])) == frozenset()
    assert operators(where) <= OPERATORS


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False, width=16)
    | st.sampled_from(["", "a", "ab", "b", "1"])
)
VALUES = SCALARS | st.lists(SCALARS, max_size=2)
METADATA = st.dictionaries(
    st.sampled_from(["a", "b", "a.b"]),
    VALUES | st.just(math.nan) | st.dictionaries(st.sampled_from(["b", "c"]), VALUES, max_size=2),
    max_size=3,
)
PATHS = st.sampled_from(["a", "b", "a.b", "a.c"])
PLAIN = COMPARISONS - {"$in", "$nin", "$exists"}
COMPARES = st.one_of(
    st.builds(Compare, PATHS, st.sampled_from(sorted(PLAIN)), VALUES),
    st.builds(Compare, PATHS, st.sampled_from(["$in", "$nin"]), st.lists(VALUES, max_size=3)),
    st.builds(Compare, PATHS, st.just("$exists"), st.booleans()),
)
TREES: st.SearchStrategy[Filter] = st.recursive(
    COMPARES,
    lambda parts: (
        st.builds(And, st.lists(parts, max_size=3))
        | st.builds(Or, st.lists(parts, max_size=3))
        | st.builds(Not, parts)
    ),
    max_leaves=6,
)


@given(TREES, METADATA)
def test_not_is_always_the_negation(where: Filter, metadata: dict[str, Any]) -> None:
    assert matches(Not(where), metadata) is (not matches(where, metadata))


@given(TREES, TREES, METADATA)
def test_and_and_or_follow_de_morgan(a: Filter, b: Filter, metadata: dict[str, Any]) -> None:
    both, either = matches(And([a, b]), metadata), matches(Or([a, b]), metadata)
    assert both is (matches(a, metadata) and matches(b, metadata))
    assert either is (matches(a, metadata) or matches(b, metadata))
    assert matches(Not(And([a, b])), metadata) is matches(Or([Not(a), Not(b)]), metadata)


@given(PATHS, VALUES, st.lists(VALUES, max_size=3), METADATA)
def test_ne_and_nin_negate_eq_and_in(
    path: str, value: Any, values: list[Any], metadata: dict[str, Any]
) -> None:
    for op, negated, operand in [("$eq", "$ne", value), ("$in", "$nin", values)]:
        assert matches(Compare(path, op, operand), metadata) is (
            not matches(Compare(path, negated, operand), metadata)
        )


@given(COMPARES, METADATA)
def test_every_operator_agrees_with_a_plainly_written_oracle(
    where: Compare, metadata: dict[str, Any]
) -> None:
    dict_form = {where.path: {where.op: _thawed(where.value)}}
    assert parse(dict_form) == where
    assert matches(where, metadata) is oracle(where, metadata)


def oracle(where: Compare, metadata: dict[str, Any]) -> bool:
    """The two tables of the module, case by case, sharing no code with it."""
    there, held = _find(where.path, metadata)
    value = _thawed(where.value)
    if where.op == "$exists":
        return bool(there == value)
    if where.op in {"$ne", "$nin"}:
        positive = {"$ne": "$eq", "$nin": "$in"}[where.op]
        return not oracle(Compare(where.path, positive, value), metadata)
    return there and _holds(where.op, held, value)


def _holds(op: str, held: Any, value: Any) -> bool:
    if op == "$eq":
        return _same(held, value)
    if op == "$in":
        return any(_same(held, one) for one in value)
    if op == "$contains" and type(held) is list:
        return any(_same(one, value) for one in held)
    texts = type(held) is str and type(value) is str
    if op == "$contains":
        return texts and held.find(value) >= 0
    if not texts and not {type(held), type(value)} <= {int, float}:
        return False
    below, above = held < value, held > value
    same = held == value
    return {"$gt": above, "$gte": above or same, "$lt": below, "$lte": below or same}[op]


def _find(path: str, metadata: dict[str, Any]) -> tuple[bool, Any]:
    if path in metadata:
        return True, metadata[path]
    if "." in path:
        first, second = path.split(".")
        inner = metadata.get(first)
        if type(inner) is dict and second in inner:
            return True, inner[second]
    return False, None


def _same(left: Any, right: Any) -> bool:
    if type(left) is list and type(right) is list:
        return len(left) == len(right) and all(map(_same, left, right))
    if type(left) in {int, float} and type(right) in {int, float}:
        return bool(left == right)
    return type(left) is type(right) and type(left) is not dict and bool(left == right)


def _thawed(value: Any) -> Any:
    return [_thawed(one) for one in value] if isinstance(value, tuple) else value
