"""LlamaIndex's filters keep their meaning."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from bge_m3_integrations import BGEM3, FilterError, FilterWarning, HybridIndex, InputError
from bge_m3_integrations.core.filters import matches
from bge_m3_integrations.llama_index import BGEM3VectorStore, to_filter
from bge_m3_integrations.llama_index.filters import chooses
from bge_m3_integrations.testing import FakeEncoder

HELD: list[dict[str, Any]] = [
    {},
    {"k": None},
    {"k": ""},
    {"k": []},
    {"k": "Red wine"},
    {"k": "red"},
    {"k": ["red", "blue"]},
    {"k": ["green"]},
    {"k": 3},
    {"k": 4.5},
    {"k": 1},
    {"k": True},
    {"k": False},
    {"k": [True, 0]},
]
STRINGS = [h for h in HELD if isinstance(h.get("k"), str)]
NUMBERS = [h for h in HELD if isinstance(h.get("k"), int | float) and not isinstance(h["k"], bool)]
HOLDERS = [h for h in HELD if not isinstance(h.get("k"), int | float)]
LISTS = [h for h in HELD if not isinstance(h.get("k"), str | int | float)]
NOTHING: list[dict[str, Any]] = [{}, {"k": None}]

# LlamaIndex raises where a test does not fit the held value; it is asked only where it answers
CASES: list[tuple[FilterOperator, Any, list[dict[str, Any]]]] = [
    (FilterOperator.EQ, "red", HELD),
    (FilterOperator.EQ, 3, HELD),
    (FilterOperator.EQ, 1, HELD),
    (FilterOperator.EQ, 0.0, HELD),
    (FilterOperator.EQ, None, HELD),
    (FilterOperator.EQ, ["red", "blue"], HELD),
    (FilterOperator.NE, "red", HELD),
    (FilterOperator.NE, 1, HELD),
    (FilterOperator.NE, None, HELD),
    (FilterOperator.GT, 3, NUMBERS + NOTHING),
    (FilterOperator.GTE, 3, NUMBERS + NOTHING),
    (FilterOperator.LT, 4.5, NUMBERS + NOTHING),
    (FilterOperator.LTE, 4.5, NUMBERS + NOTHING),
    (FilterOperator.GT, "S", STRINGS + NOTHING),
    (FilterOperator.IN, ["red", "green"], HELD),
    (FilterOperator.IN, [1, 3], HELD),
    (FilterOperator.IN, [], HELD),
    (FilterOperator.NIN, ["red", "green"], HELD),
    (FilterOperator.NIN, [0, 3], HELD),
    (FilterOperator.ANY, ["red", "green"], HOLDERS),
    (FilterOperator.ALL, ["red", "blue"], HOLDERS),
    (FilterOperator.ANY, [1, 7], LISTS),
    (FilterOperator.ALL, [0, 1], LISTS),
    (FilterOperator.CONTAINS, "red", HOLDERS),
    (FilterOperator.CONTAINS, 0, LISTS),
    (FilterOperator.TEXT_MATCH, "red", STRINGS + NOTHING),
    (FilterOperator.TEXT_MATCH_INSENSITIVE, "RED", STRINGS + NOTHING),
    (FilterOperator.IS_EMPTY, None, HELD),
]


def one(operator: FilterOperator, value: object, key: str = "k") -> MetadataFilter:
    return MetadataFilter(key=key, operator=operator, value=value)


def passes(filters: MetadataFilters, metadata: dict[str, Any]) -> bool:
    tree = to_filter(filters)
    assert tree is not None
    return matches(tree, metadata)


def test_every_operator_that_llama_index_has_is_among_the_cases() -> None:
    assert {operator for operator, _, _ in CASES} == set(FilterOperator)


@pytest.mark.parametrize(("operator", "value", "held"), CASES)
@pytest.mark.parametrize("condition", list(FilterCondition))
def test_an_operator_means_what_llama_index_does_with_it(
    operator: FilterOperator, value: object, held: list[dict[str, Any]], condition: FilterCondition
) -> None:
    filters = MetadataFilters(filters=[one(operator, value)], condition=condition)
    expected = [build_metadata_filter_fn(lambda _, h=h: h, filters)("id") for h in held]
    assert [passes(filters, h) for h in held] == expected


def test_a_test_that_does_not_fit_the_held_value_is_false() -> None:
    for operator in (FilterOperator.GT, FilterOperator.TEXT_MATCH, FilterOperator.CONTAINS):
        assert not passes(MetadataFilters(filters=[one(operator, "a")]), {"k": 5})


def test_text_match_does_not_look_into_lists() -> None:
    filters = MetadataFilters(filters=[one(FilterOperator.TEXT_MATCH, "red")])
    assert not passes(filters, {"k": ["red"]})


def test_conditions_nest_at_any_depth() -> None:
    inner = MetadataFilters(
        filters=[one(FilterOperator.EQ, "en", "lang"), one(FilterOperator.EQ, "de", "lang")],
        condition=FilterCondition.OR,
    )
    negated = MetadataFilters(
        filters=[one(FilterOperator.LT, 2020, "year")], condition=FilterCondition.NOT
    )
    filters = MetadataFilters(filters=[inner, negated])
    assert passes(filters, {"lang": "de", "year": 2021})
    assert not passes(filters, {"lang": "de", "year": 2019})
    assert not passes(filters, {"lang": "zh", "year": 2021})


def test_not_over_several_filters_is_none_of_them() -> None:
    filters = MetadataFilters(
        filters=[one(FilterOperator.EQ, 1, "a"), one(FilterOperator.EQ, 1, "b")],
        condition=FilterCondition.NOT,
    )
    assert [passes(filters, {"a": a, "b": b}) for a in (0, 1) for b in (0, 1)] == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("condition", list(FilterCondition))
def test_no_filters_restrict_nothing(condition: FilterCondition) -> None:
    assert passes(MetadataFilters(filters=[], condition=condition), {})


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        (FilterOperator.ANY, "red"),
        (FilterOperator.ALL, []),
        (FilterOperator.IN, "red"),
        (FilterOperator.TEXT_MATCH, 5),
    ],
)
def test_a_value_that_does_not_fit_its_operator_is_named(
    operator: FilterOperator, value: object
) -> None:
    with pytest.raises(FilterError, match=r"'k'.*takes a"):
        to_filter(MetadataFilters(filters=[one(operator, value)]))


def test_an_operator_of_a_later_llama_index_is_refused_by_name() -> None:
    later = MetadataFilter.model_construct(key="k", operator="near", value=1)
    with pytest.raises(FilterError, match="near"):
        to_filter(MetadataFilters.model_construct(filters=[later], condition=FilterCondition.AND))


def test_a_dict_a_tree_and_a_function_pass_through() -> None:
    tree = to_filter({"a": 1})
    assert tree is not None
    assert to_filter(tree) is tree
    assert to_filter(None) is None
    predicate = to_filter(lambda metadata: metadata["a"] == 1)
    assert predicate is not None
    assert matches(predicate, {"a": 1})


@pytest.mark.parametrize("operator", [FilterOperator.EQ, FilterOperator.TEXT_MATCH])
def test_a_mistyped_key_is_told_of_with_the_nearest(operator: FilterOperator) -> None:
    engine = BGEM3(FakeEncoder())
    store = BGEM3VectorStore(HybridIndex(engine))
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc")}
    node = TextNode(text="a fox", metadata={"file_name": "a.pdf"}, relationships=source)
    store.add([node])
    typed = MetadataFilter(key="filename", value="a.pdf", operator=operator)
    query = VectorStoreQuery(query_str="fox", filters=MetadataFilters(filters=[typed]))
    with pytest.warns(FilterWarning, match="'filename': did you mean 'file_name'"):
        assert store.query(query).nodes == []
    other = MetadataFilter(key="doc_id", value="gone")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        query = VectorStoreQuery(query_str="fox", filters=MetadataFilters(filters=[other]))
        assert store.query(query).nodes == []


@pytest.mark.parametrize("levels", [101, 1000])
def test_filters_too_deep_to_be_read_are_refused(levels: int) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key="k", value=1)])
    for _ in range(levels):
        filters = MetadataFilters(filters=[filters])
    with pytest.raises(FilterError, match="more than 100 levels"):
        to_filter(filters)
    if levels > 200:
        with pytest.raises(FilterError, match="more than 100 levels"):
            chooses(filters)


def test_an_integer_of_too_many_digits_is_refused_with_their_number() -> None:
    for operator in (FilterOperator.EQ, FilterOperator.GTE, FilterOperator.CONTAINS):
        typed = MetadataFilter(key="k", value=10**5000, operator=operator)
        with pytest.raises(FilterError, match="5,001 digits"):
            to_filter(MetadataFilters(filters=[typed]))


CONDITION = MetadataFilter(key="k", value=1)


@pytest.mark.parametrize("wrong", [CONDITION, [CONDITION], (CONDITION,), [{"k": 1}, CONDITION]])
def test_conditions_without_a_group_are_told_how_to_be_grouped(wrong: Any) -> None:
    with pytest.raises(FilterError, match=r"write MetadataFilters\(filters=\[\.\.\.\]\)"):
        to_filter(wrong)


@pytest.mark.parametrize("wrong", ["a fox", ["a fox"], TextNode(text="a fox"), None, [None], 5])
def test_what_are_no_nodes_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="node"):
        BGEM3VectorStore(BGEM3(FakeEncoder())).add(wrong)
