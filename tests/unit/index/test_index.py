"""HybridIndex over a real engine, a fake encoder and the exact store."""

from __future__ import annotations

from typing import Any

import pytest

from bge_m3_integrations.core.filters import And
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import FilterError, InputError, StoreError
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.testing.fake import FakeEncoder
from tests.unit.index.spy import RECORDS, make


def test_a_malformed_filter_is_an_error_before_anything_is_encoded() -> None:
    index, fake = make()
    with pytest.raises(FilterError, match=r"unknown filter operator '\$gtt'"):
        index.search("fox", where={"n": {"$gtt": 1}})
    assert fake.calls == []


def test_modes_that_the_engine_lacks_are_an_error() -> None:
    index = HybridIndex(BGEM3(FakeEncoder(modes=["dense"])), modes=["dense", "sparse"])
    with pytest.raises(InputError, match=r"the engine has \['dense'\]"):
        index.add(RECORDS)
    assert HybridIndex(BGEM3(FakeEncoder(modes=["dense"]))).modes == {"dense"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "limit"),
        ({"candidates": {}}, "one or more"),
        ({"candidates": {"bm25": 5}}, "bm25"),
        ({"candidates": {"dense": 0}}, "at least 1"),
        ({"candidates": {"dense": 5}, "exact": True}, "no candidates"),
        ({"weights": "unheard"}, "preset"),
    ],
)
def test_options_that_do_not_fit_are_an_error_before_anything_is_encoded(
    options: dict[str, Any], words: str
) -> None:
    index, fake = make()
    with pytest.raises(InputError, match=words):
        index.search("fox", **options)
    assert fake.calls == []


def test_an_unknown_option_is_an_error() -> None:
    index, _ = make()
    wrong: dict[str, Any] = {"top_k": 3}
    with pytest.raises(TypeError, match="top_k"):
        index.search_batch(["fox"], **wrong)


def test_one_string_is_no_batch() -> None:
    index, _ = make()
    with pytest.raises(InputError, match="list of strings"):
        index.search_batch("fox")


def test_the_index_closes_its_store_at_the_end_of_with() -> None:
    index, _ = make()
    with index as same:
        assert same is index
        assert index.get(["00", "gone"]) == [RECORDS[0], None]
        assert index.delete(ids=["00", "gone"]) == 1
        index.flush()
        index.optimize()
    with pytest.raises(StoreError, match="closed"):
        index.search("fox")


def test_an_empty_filter_deletes_nothing_unless_it_is_spelled_out() -> None:
    index, _ = make()
    with pytest.raises(InputError, match=f"would delete all {len(RECORDS)}"):
        index.delete(where={})
    assert index.count() == len(RECORDS)
    assert index.delete(where=And([])) == len(RECORDS)


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 2.5},
        {"limit": True},
        {"limit": "3"},
        {"candidates": {"dense": 5.5}},
        {"candidates": ["dense"]},
        {"score_threshold": float("nan")},
        {"score_threshold": "0.5"},
        {"score_threshold": True},
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_name(options: dict[str, Any]) -> None:
    index, _ = make()
    with pytest.raises(InputError, match=next(iter(options))):
        index.search("fox", **options)


def test_a_function_as_filter_cannot_change_what_the_index_holds() -> None:
    index, _ = make()
    before = index.get([record.id for record in RECORDS])
    with pytest.raises((AttributeError, TypeError)):
        index.count(lambda metadata: metadata.clear() or True)  # type: ignore[attr-defined]
    assert index.get([record.id for record in RECORDS]) == before


@pytest.mark.parametrize("engine", ["BAAI/bge-m3", FakeEncoder(), None])
def test_what_is_no_engine_is_refused_at_once(engine: Any) -> None:
    with pytest.raises(InputError, match="engine must be a BGEM3, not "):
        HybridIndex(engine)


def test_a_fusion_that_lacks_a_method_is_refused_before_the_search() -> None:
    class Half:
        name = "half"

    index = HybridIndex(BGEM3(FakeEncoder()))
    with pytest.raises(InputError, match="name, rank_values and max_score"):
        index.search("fox", fusion=Half())  # type: ignore[arg-type]
