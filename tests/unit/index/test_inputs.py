"""Calls of an index with what callers hand over by mistake or by habit, in memory and in a folder.

Whatever is taken means the same in both, and all else is an error of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest

from bge_m3_integrations import BGEM3, BGEM3Error, FilterError, HybridIndex, InputError, Record
from bge_m3_integrations.core.filters import And, Compare, Ids, Not, Or
from bge_m3_integrations.core.fusion import ReciprocalRank
from bge_m3_integrations.testing import FakeEncoder


@pytest.fixture(params=["memory", "folder", "folder without fields"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HybridIndex]:
    engine = BGEM3(FakeEncoder())
    fields = ["other"] if request.param.endswith("fields") else None
    made = (
        HybridIndex(engine)
        if request.param == "memory"
        else HybridIndex.open(tmp_path / "index", engine, filter_fields=fields)
    )
    with made:
        made.add([Record(key, f"the {key} fox", {"n": i}) for i, key in enumerate("abcd")])
        yield made


def ids_of(index: HybridIndex) -> list[str]:
    return sorted(hit.id for hit in index.search("fox"))


MANY: list[Callable[[list[str]], Any]] = [
    list,
    tuple,
    iter,
    lambda ids: (one for one in ids),
    np.array,
    pd.Series,
    lambda ids: dict.fromkeys(ids).keys(),
]


@pytest.mark.parametrize("make", MANY)
def test_what_is_deleted_is_gone_whatever_holds_its_ids(
    index: HybridIndex, make: Callable[[list[str]], Any]
) -> None:
    assert ids_of(index) == list("abcd")
    assert index.delete(ids=make(["a", "c", "nobody"])) == 2
    assert ids_of(index) == ["b", "d"]
    assert [record.id for record in index.scroll().records] == ["b", "d"]
    assert [r is None for r in index.get(make(["a", "b"]))] == [True, False]
    assert len(index.store.vectors(make(["b", "d"]), ["dense"])) == 2


@pytest.mark.parametrize("wrong", [5, None, "a", b"a", {"a": 1}, [1], ["a", None], [b"a"], [["a"]]])
def test_what_are_no_ids_is_refused(index: HybridIndex, wrong: Any) -> None:
    for call in (index.get, index.store.text_hashes, lambda ids: index.delete(ids=ids)):
        with pytest.raises(InputError):
            call(wrong)
    assert len(index) == 4


@pytest.mark.parametrize("make", MANY)
def test_queries_and_texts_come_in_anything_that_has_an_order(
    index: HybridIndex, make: Callable[[list[str]], Any]
) -> None:
    assert [hits[0].id for hits in index.search_batch(make(["b fox", "d fox"]))] == ["b", "d"]
    assert len(index.engine.encode(make(["b fox", "d fox"]))) == 2
    assert index.search_batch(make([])) == []


@pytest.mark.parametrize(
    "wrong", [5, None, "fox", b"fox", {"fox": 1}, np.array("fox"), pd.DataFrame({"text": ["fox"]})]
)
async def test_what_is_no_list_of_texts_is_refused(index: HybridIndex, wrong: Any) -> None:
    for call in (index.search_batch, index.engine.encode, index.engine.encode_queries):
        with pytest.raises(InputError, match="must be a list of strings"):
            call(wrong)
    with pytest.raises(InputError, match="must be a list of strings"):
        await index.asearch_batch(wrong)


@pytest.mark.parametrize("make", [list, tuple, iter])
def test_pairs_come_in_anything_that_has_an_order(make: Callable[[Any], Any]) -> None:
    engine = BGEM3(FakeEncoder())
    pairs = [("fox", "a fox"), ("fox", "a dog")]
    assert engine.score_pairs(make(pairs)).hybrid.shape == (2,)
    assert engine.score_pairs(zip(["fox"], ["a fox"], strict=True)).hybrid.shape == (1,)


@pytest.mark.parametrize("wrong", [None, 5, "", "ab", b"", {("a", "b"): 1}])
def test_what_are_no_pairs_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"pairs must be a list of \(query, document\)"):
        BGEM3(FakeEncoder()).score_pairs(wrong)


class Framework:
    page_content = "a fox"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (np.array("fox"), "not the one value"),
        ([Framework()], "record 0 is a Framework of a framework; add it to BGEM3VectorStore"),
        (["fox", {"text": "dog", "metadata": [1]}], "record 'number 1': metadata must be"),
        ([{"text": "dog", "metadata": {"v": {1}}}], r"record 'number 0': metadata\['v'\]"),
    ],
)
def test_what_is_no_record_is_told_by_its_place(index: HybridIndex, wrong: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        index.add(wrong)
    assert len(index) == 4


@pytest.mark.parametrize("limit", [4, 10**9, 10**18, 10**30])
def test_any_limit_finds_what_there_is(index: HybridIndex, limit: int) -> None:
    assert len(index.search("fox", limit=limit)) == 4
    assert len(index.search("fox", limit=1, candidates={"dense": limit, "sparse": limit})) == 1
    assert len(index.search("fox", limit=limit, where={"n": {"$gt": 1}})) == 2
    assert len(index.scroll(limit=limit).records) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"fusion": ReciprocalRank},
        {"fusion": "rrf"},
        {"observe": 5},
        {"exact": True, "candidates": 5},
        {"where": '{"n": 1}'},
    ],
    ids=str,
)
def test_options_of_another_type_are_refused(index: HybridIndex, options: dict[str, Any]) -> None:
    with pytest.raises(BGEM3Error):
        index.search("fox", **options)


def test_a_page_begins_behind_an_id(index: HybridIndex) -> None:
    with pytest.raises(InputError, match="after must be an id or None, not 5"):
        index.scroll(after=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("tree", [And, Or])
def test_parts_of_a_filter_come_in_any_collection(
    index: HybridIndex, tree: type[And] | type[Or]
) -> None:
    tests = [Compare("n", "$gte", 2), Compare("n", "$gte", 3)]
    parts: list[Any] = [tests, tuple(tests), iter(tests), (test for test in tests)]
    assert {index.count(tree(each)) for each in parts} == {1 if tree is And else 2}
    assert index.delete(where=Not(tree(parts_of(tests)))) == (3 if tree is And else 2)


@pytest.mark.parametrize("tree", [And, Or])
@pytest.mark.parametrize("wrong", [5, None, "abc", Compare("n", "$eq", 1)], ids=str)
def test_a_tree_of_no_collection_is_refused(tree: Any, wrong: Any) -> None:
    with pytest.raises(FilterError, match=f"{tree.__name__} "):
        tree(wrong)


@pytest.mark.parametrize("wrong", [5, None, "a", [1], ["a", None]])
def test_ids_of_a_filter_are_strings(wrong: Any) -> None:
    with pytest.raises(FilterError, match="ids"):
        Ids(wrong)


def parts_of(tests: list[Compare]) -> Any:
    return (test for test in tests)


class Counted(int):
    """A number that counts its comparisons."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return int(self) == other

    __hash__ = int.__hash__


def test_one_of_many_values_is_looked_up_and_not_compared_with_each() -> None:
    from bge_m3_integrations.core.filter_comparison import tester

    test = tester("$in", [Counted(n) for n in range(1000)])
    Counted.compared = 0
    assert test(999)
    assert not test(1000)
    assert not test(True)
    assert Counted.compared < 10
