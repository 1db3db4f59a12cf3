"""A filter on a key that no record has is told of, once, and costs nothing otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bge_m3_integrations.core.filters import And, Compare, Filter, Ids, Not, Or, Predicate, parse
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import FilterWarning
from bge_m3_integrations.index.filter_paths import asked_paths
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.stores.memory.store import MemoryStore
from bge_m3_integrations.testing import FakeEncoder

RECORDS = [
    Record(f"{i:04}", f"the fox {i}", {"lang": "en", "who": {"name": "Ann"}, "n": i})
    for i in range(20)
] + [Record("9999", "the last fox", {"file_name": "a.pdf"})]


@pytest.fixture(params=["memory", "folder", "one field", "isolated"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HybridIndex]:
    engine, kind = BGEM3(FakeEncoder()), request.param
    made = (
        HybridIndex(engine)
        if kind == "memory"
        else HybridIndex.open(
            tmp_path / "index",
            engine,
            isolated=kind == "isolated",
            filter_fields=["n"] if kind == "one field" else None,
        )
    )
    with made as index:
        index.add(RECORDS)
        yield index


def told(index: HybridIndex, where: Any, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        index.search("the fox", where=where, **options)
    assert {warning.category for warning in caught} <= {FilterWarning}
    assert {Path(warning.filename).name for warning in caught} <= {"test_filter_paths.py"}
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("where", "key", "near"),
    [
        ({"langg": "en"}, "langg", "'lang'"),
        ({"Lang": "en"}, "Lang", "'lang'"),
        ({"lang": "en", "filename": "a.pdf"}, "filename", "'file_name'"),
        ({"$or": [{"lang": "de"}, {"filname": {"$in": ["a.pdf"]}}]}, "filname", "'file_name'"),
        ({"name": "Ann"}, "name", "'who.name'"),
        ({"metadata.lang": "en"}, "metadata.lang", "'lang'"),
        ({"who.nam": {"$contains": "A"}}, "who.nam", "'who.name'"),
        ({"langg": {"$exists": True}}, "langg", "'lang'"),
        ({"zzz": 1}, "zzz", "['file_name', 'lang', 'n', 'who', 'who.name']"),
    ],
)
def test_a_mistyped_key_is_told_of_once_with_the_nearest(
    index: HybridIndex, where: Any, key: str, near: str
) -> None:
    (message,) = told(index, where)
    assert f"no record has the metadata key {key!r}" in message
    assert near in message
    assert told(index, where) == told(index, where, exact=True) == []


@pytest.mark.parametrize(
    "where",
    [
        {"lang": "de"},
        {"lang": "en", "n": -1},
        {"langg": {"$ne": "en"}},
        {"langg": {"$exists": False}, "n": -1},
        {"$or": [{"langg": "en"}, {"lang": "en"}]},
        Ids(["gone"]),
        lambda metadata: "langg" in metadata,
    ],
    ids=range(7),
)
def test_no_other_filter_is_told_of(index: HybridIndex, where: Any) -> None:
    assert told(index, where) == []


def test_counting_scrolling_and_deleting_tell_too(index: HybridIndex) -> None:
    for call in (index.count, index.scroll, lambda where: index.delete(where=where)):
        index._searcher.unknown.__init__()  # type: ignore[misc]
        with pytest.warns(FilterWarning, match="'langg'.*'lang'"):
            call({"langg": "en"})


def test_an_empty_index_and_words_that_nothing_has_tell_nothing(index: HybridIndex) -> None:
    both = {"$or": [{"langg": "en"}, {"lang": "en"}]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert index.search("unheard", where=both, weights=Weights.only("sparse")) == []
        index.delete(where=And([]))
        assert index.search("the fox", where={"langg": "en"}) == []


class CountingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.counts = 0

    def count(self, where: Filter | None = None) -> int:
        self.counts += 1
        return super().count(where)


def test_it_costs_nothing_where_something_is_found_and_no_second_look() -> None:
    store = CountingStore()
    index = HybridIndex(BGEM3(FakeEncoder()), store)
    index.add(RECORDS)
    index.search("the fox", where={"lang": "en", "n": {"$lt": 5}})
    assert store.counts == 0
    for where, looks in [({"n": -1}, 2), ({"n": -2}, 2), ({"langg": 1}, 5), ({"langg": 2}, 5)]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            index.search("the fox", where=where)
        assert store.counts == looks


def test_the_paths_of_a_filter_are_those_that_may_not_be_missing() -> None:
    where = And(
        [
            parse({"a": 1, "$or": [{"b": {"$gt": 1}}, {"c.d": {"$not": {"$in": [1]}}}]}),
            Or([Compare("e", "$eq", 1), Not(Compare("e", "$exists", True))]),
            Not(Compare("f", "$exists", False)),
            Predicate(bool),
            Ids(["a"]),
        ]
    )
    assert asked_paths(where) == {"a", "b", "c.d"}
