"""Terms are equal exactly when values are, and codes stand in the order of the numbers."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bge_m3_integrations.core.filter_comparison import equal
from bge_m3_integrations.stores.edge.terms import (
    LONGEST,
    code_parts,
    equal_term,
    filter_payload,
    item_term,
    number_code,
    number_keys,
    other_term,
    text_term,
)

NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(2**1100), 2**1100),
    st.floats(),
    st.sampled_from([2**53 - 1, 2**53, 2**53 + 1, 2.0**53, 2**70, 2**70 + 1, 0, -0.0, 1, 0.1]),
    st.sampled_from([10**400, -(10**400), math.inf, -math.inf, sys.float_info.max, 5e-324]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=4))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
AWKWARD = [
    "",
    "a",
    "as",
    "sa",
    "a.b",
    "1:a",
    "a1:",
    "quote\"s'",
    "back\\slash",
    "ключ",
    "鍵",
    "line\nbreak",
    "\0",
    "\ud800",
    "\ud83d\ude00",
    "\U0001f600",
    "e1:a",
    "p" * 10_000,
    "p" * 9_999 + "q",
]


@given(VALUES, VALUES)
def test_terms_are_equal_exactly_when_values_are(left: Any, right: Any) -> None:
    one, other = equal_term("p", left), equal_term("p", right)
    assert (one is not None and one == other) is equal(left, right)


@given(VALUES, VALUES)
def test_item_terms_are_equal_exactly_when_items_are(left: Any, right: Any) -> None:
    one, other = item_term("p", left), item_term("p", right)
    assert (one is not None and one == other) is equal(left, right)


@pytest.mark.parametrize("value", [0, 5, -7, 2**53 + 1, 0.5, "x", None, True, [1, ["a"]]])
def test_a_value_has_the_term_of_its_equals(value: Any) -> None:
    twin = float(value) if value in (0, 5, -7) else value
    assert equal_term("p", value) == equal_term("p", twin)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (True, 1),
        (False, 0),
        (1, "1"),
        (None, "None"),
        (None, "z"),
        ("", None),
        (2**53 + 1, 2.0**53),
        ([], ""),
        ([1], 1),
        ([1, 2], [12]),
        (["a", "b"], ["ab"]),
        (["a", "b"], ["a,b"]),
        ([["a"], "b"], [["a", "b"]]),
        (["1:sa"], ["a"]),
        (math.inf, 10**400),
        ("s" * 300, "s" * 301),
        ("\ud83d\ude00", "\U0001f600"),
    ],
)
def test_values_of_other_kinds_or_shapes_have_other_terms(left: Any, right: Any) -> None:
    assert equal_term("p", left) != equal_term("p", right)


@pytest.mark.parametrize("value", [math.nan, [math.nan], [[1], [math.nan]], {"a": 1}, {1}, [{}]])
def test_what_equals_nothing_has_no_equality_term(value: Any) -> None:
    assert equal_term("p", value) is None
    terms = filter_payload({"p": value}, frozenset("p")).terms
    assert other_term("p") in terms
    assert not any(term.startswith("e") for term in terms)


def test_zero_has_one_term_whatever_its_sign_and_type() -> None:
    assert len({equal_term("p", zero) for zero in (0, 0.0, -0.0)}) == 1


def test_no_two_paths_and_values_share_a_term_of_any_kind() -> None:
    kinds = (equal_term, item_term)
    terms = [kind(path, value) for kind in kinds for path in AWKWARD for value in AWKWARD]
    terms += [kind(path) for kind in (text_term, other_term) for path in AWKWARD]
    assert len(set(terms)) == len(terms) == 2 * len(AWKWARD) ** 2 + 2 * len(AWKWARD)


def test_terms_and_keys_are_short_and_can_be_written_as_utf8() -> None:
    for path in AWKWARD[1:]:
        found = filter_payload({path: [*AWKWARD, 10**5000], "n": -(10**5000)}, None)
        assert max(map(len, found.terms)) <= LONGEST
        assert "".join(found.terms).encode()
        assert not set("".join(number_keys(path))) & set(".\"'[]")


def test_paths_have_keys_of_their_own() -> None:
    assert len({key for path in AWKWARD for key in number_keys(path)}) == 2 * len(AWKWARD)


@given(NUMBERS, NUMBERS)
def test_codes_keep_the_order_of_numbers(left: float, right: float) -> None:
    one, other = number_code(left), number_code(right)
    if one is None or other is None:
        assert math.isnan(left if one is None else right)
    elif one != other:
        assert (one < other) is (left < right)
        assert (code_parts(one) < code_parts(other)) is (left < right)
    else:
        assert left == right or (one % 2 and isinstance(left, int) and isinstance(right, int))


@given(NUMBERS)
def test_code_parts_survive_decimal_text_and_64_bit_floats(value: float) -> None:
    code = number_code(value)
    for part in () if code is None else code_parts(code):
        assert abs(part) < 2**53
        assert json.loads(json.dumps(part)) == float(part) == part


@pytest.mark.parametrize("value", [True, "5", None, [5], math.nan, {}])
def test_what_is_no_number_has_no_code(value: Any) -> None:
    assert number_code(value) is None
    assert filter_payload({"p": value}, None).numbers == {}


def test_a_small_integer_needs_one_number_and_others_two() -> None:
    assert [len(filter_payload({"p": n}, None).numbers) for n in (0, 2024, -3, 0.1)] == [1, 1, 1, 2]


def test_a_list_has_a_term_for_itself_and_one_for_each_different_item() -> None:
    found = filter_payload({"p": ["a", "b", "a", 1, 1.0, math.nan]}, None)
    items = {item_term("p", value) for value in ("a", "b", 1)}
    assert set(found.terms) == {other_term("p"), *items}  # NaN: the whole equals nothing
    assert equal_term("p", ["a"]) in filter_payload({"p": ("a",)}, None).terms


def test_terms_are_sorted_and_unique() -> None:
    terms = filter_payload({"b": [2, 2], "a": "x", "c": None}, None).terms
    assert list(terms) == sorted(set(terms))


@pytest.mark.parametrize(
    ("metadata", "paths"),
    [
        ({"a": {"b": {"c": 1}}}, {"a", "a.b", "a.b.c"}),
        ({"a": {"b.c": 1, "d": 2}}, {"a", "a.d"}),
        ({"a": {"b.c": {"d": 1}, "b": 2}}, {"a", "a.b"}),
        ({"a.b": {"c": 1}}, {"a.b"}),
        ({"a": [{"b": 1}]}, {"a"}),
        ({"a": {1: 2, None: 3}, 5: {"b": 1}}, {"a"}),
        ({"": {"": 1}}, {"", "."}),
        ({"a": {}}, {"a"}),
        ({}, set()),
    ],
)
def test_every_path_that_leads_somewhere_is_covered(metadata: Any, paths: set[str]) -> None:
    assert filter_payload(metadata, None) == filter_payload(metadata, frozenset(paths))
    kinds = {term for term in filter_payload(metadata, None).terms if term.startswith("o")}
    assert kinds == {other_term(path) for path in paths}


def test_an_exact_key_shadows_a_nested_one() -> None:
    terms = filter_payload({"a.b": "flat", "a": {"b": "deep"}}, None).terms
    assert equal_term("a.b", "flat") in terms
    assert equal_term("a.b", "deep") not in terms


def test_only_chosen_fields_are_kept() -> None:
    metadata = {"a": 1, "b": {"c": "x"}, "d": 0.1}
    found = filter_payload(metadata, frozenset({"b.c", "d", "gone"}))
    expected = {text_term("b.c"), other_term("d"), equal_term("b.c", "x"), equal_term("d", 0.1)}
    assert set(found.terms) == expected
    assert set(found.numbers) == set(number_keys("d"))
