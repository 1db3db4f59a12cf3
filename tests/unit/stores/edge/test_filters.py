"""Filters in a real shard mean what `filters.matches` says: fresh, optimized and reopened."""

from __future__ import annotations

import math
import random
import struct
import sys
import uuid
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as qdrant

from bge_m3_integrations.core.filters import (
    COMPARISONS,
    And,
    Compare,
    Filter,
    Ids,
    Not,
    Or,
    Predicate,
    matcher,
)
from bge_m3_integrations.errors import FilterError
from bge_m3_integrations.stores.edge.filters import DEEPEST, Pushed, compile_filter
from bge_m3_integrations.stores.edge.terms import TERMS, filter_payload, number_keys
from bge_m3_integrations.testing.store_conformance_data import FILTERS, RECORDS

VALUES: tuple[Any, ...] = (
    *(True, False, 0, 1, -1, 5, 5.0, 0.5, 0.1, -0.0, 0.95, math.nextafter(0.95, 1), 2020, 5e-324),
    *(2**53, 2**53 + 1, 2**53 + 2, 2**53 + 3, 2.0**53, 2**70, 2**70 + 1, 2**70 + 2, -(2**70) - 1),
    *(10**400, 10**400 + 1, -(10**400), sys.float_info.max, math.inf, -math.inf, math.nan),
    *("", "a", "b", "ab", "5", "True", "ключ", "a\nb", "\ud800", "x" * 300, "x" * 300 + "y"),
    *(None, [], [1], [1.0], [True], ["a", "b"], ["b", "a"], [["x", 1], []], [None], (1, "a")),
    *([math.nan], ["a", math.nan], [{"a": 1}], {"c": 1}, {}, {1, 2}),
)
PATHS = ("v", "a.b", "a", "p." + "q" * 10_000)
FIELDS = frozenset({"v", "a.b", "missing"})
SEEDS = range(300)


def _records() -> dict[str, Mapping[str, Any]]:
    """Ids with metadata: each value under a flat, a nested and a dotted key, and odd shapes."""
    floats = random.Random(7)
    held: dict[str, Mapping[str, Any]] = {record.id: record.metadata for record in RECORDS}
    for i, value in enumerate(VALUES):
        held |= {f"v{i}": {"v": value}, f"n{i}": {"a": {"b": value}}, f"d{i}": {"a.b": value}}
    held |= {f"f{i}": {"f": _any_float(floats)} for i in range(300)}
    held["shadow"] = {"a.b": 1, "a": {"b": 2, "b.c": 3}}
    held["deep"] = {"a": {"b": {"c": 5}}, "p": {"q" * 10_000: "a"}}
    return held


def _any_float(chance: random.Random) -> float:
    value: float = struct.unpack("<d", struct.pack("<Q", chance.getrandbits(64)))[0]
    return value if math.isfinite(value) else chance.random()


METADATA = _records()


def _point_id(record_id: str, *, group: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{group}:{record_id!r}")


RECORD_IDS = {_point_id(key, group=group): key for group in ("all", "some") for key in METADATA}


def _points(group: str, fields: frozenset[str] | None) -> Iterator[qdrant.Point]:
    for record_id, metadata in METADATA.items():
        found = filter_payload(metadata, fields)
        payload = {"group": group, TERMS: list(found.terms), **found.numbers}
        yield qdrant.Point(_point_id(record_id, group=group), [1.0, 0.0], payload)


def _filled(path: Path) -> qdrant.EdgeShard:
    """A shard with every record twice, and an index on the numbers of some paths only."""
    shard = qdrant.EdgeShard.create(
        str(path),
        qdrant.EdgeConfig(
            vectors=qdrant.EdgeVectorParams(size=2, distance=qdrant.Distance.Dot),
            optimizers=qdrant.EdgeOptimizersConfig(
                deleted_threshold=0.01, vacuum_min_vector_number=1
            ),
        ),
    )
    indexed = [key for name in ("v", "f") for key in number_keys(name)]
    keyword, number = qdrant.PayloadSchemaType.Keyword, qdrant.PayloadSchemaType.Float
    for key, kind in [(TERMS, keyword), *((key, number) for key in indexed)]:
        shard.update(qdrant.UpdateOperation.create_field_index(key, kind))
    extra = [qdrant.Point(i, [0.0, 1.0], {}) for i in range(1000)]
    points = [*_points("all", None), *_points("some", FIELDS), *extra]
    shard.update(qdrant.UpdateOperation.upsert_points(points))
    shard.update(qdrant.UpdateOperation.delete_points([point.id for point in extra]))
    return shard


@pytest.fixture(scope="module", params=["fresh", "optimized and reopened"])
def shard(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[qdrant.EdgeShard]:
    path = tmp_path_factory.mktemp("shard") / "edge"
    held = _filled(path)
    if request.param != "fresh":
        assert held.optimize() is True
        held.close()
        held = qdrant.EdgeShard.load(str(path))
    yield held
    held.close()


def _within(condition: qdrant.Filter | None, group: str) -> qdrant.Filter:
    own = qdrant.FieldCondition(key="group", match=qdrant.MatchValue(group))
    return qdrant.Filter(must=[own] if condition is None else [own, condition])


def _found(shard: qdrant.EdgeShard, condition: qdrant.Filter | None, group: str) -> set[str]:
    """The ids that match, as scroll, count and search agree on them."""
    where = _within(condition, group)
    limit = 2 * len(METADATA)
    scroll = qdrant.ScrollRequest(limit=limit, filter=where, with_payload=False)
    listed = [point.id for point in shard.scroll(scroll)[0]]
    assert shard.count(qdrant.CountRequest(filter=where)) == len(set(listed)) == len(listed)
    nearest = qdrant.QueryRequest(
        limit=limit, query=qdrant.Query.Nearest([1.0, 0.0]), filter=where, with_payload=False
    )
    assert {point.id for point in shard.query(nearest)} == set(listed)
    return {RECORD_IDS[point] for point in listed}


def _pushed(where: Filter, group: str = "all") -> Pushed:
    fields = None if group == "all" else FIELDS
    return compile_filter(where, fields, point_id=partial(_point_id, group=group))


def _passing(where: Filter) -> set[str]:
    passes = matcher(where)  # `matches`, made once for all records
    return {key for key, held in METADATA.items() if passes(held, key, None)}


def _check(shard: qdrant.EdgeShard, where: Filter, group: str = "all") -> bool:
    """Hold every promise of `Pushed` against the oracle; True where it is exact."""
    pushed, passing = _pushed(where, group), _passing(where)
    possible = _found(shard, pushed.condition, group)
    if pushed.exact:
        assert possible == passing
        assert pushed.doubtful is None
        assert pushed.settled([]) is pushed.condition
        return True
    certain = _found(shard, pushed.certain, group)
    assert certain <= passing <= possible
    doubtful = _found(shard, pushed.doubtful, group)
    assert doubtful == possible - certain
    points = [_point_id(key, group=group) for key in passing & doubtful]
    assert _found(shard, pushed.settled(points), group) == passing
    return False


@cache
def _compares(path: str) -> list[Compare]:
    """Every operator with every value that a filter can hold."""
    return list(_all_compares(path))


def _all_compares(path: str) -> Iterator[Compare]:
    listed = [value for value in VALUES if isinstance(value, list | tuple)]
    for op in sorted(COMPARISONS):
        operands = [True, False] if op == "$exists" else VALUES
        if op in {"$in", "$nin"}:
            operands = [*listed, [1, "a", None, [1]], [5.0, True, 2**53 + 1], list(range(2000))]
        for value in operands:
            try:
                yield Compare(path, op, value)
            except FilterError:
                assert op not in {"$exists"}  # NaN, an infinity or a mapping


def _is_float(value: object) -> bool:
    try:
        return isinstance(value, int | float) and float(value) == value
    except OverflowError:
        return False


def _should_be_exact(where: Compare) -> bool:
    """Strings are neither ordered nor searched by the engine, nor integers between two floats."""
    if where.op in {"$gt", "$gte", "$lt", "$lte"}:
        return not isinstance(where.value, str | int | float) or _is_float(where.value)
    return where.op != "$contains" or not isinstance(where.value, str) or not where.value


@pytest.mark.parametrize("path", PATHS)
def test_every_operator_with_every_value_means_what_matches_says(
    shard: qdrant.EdgeShard, path: str
) -> None:
    checked = [(_check(shard, where), _should_be_exact(where)) for where in _compares(path)]
    assert len(checked) > 300
    assert all(exact is expected for exact, expected in checked)


@pytest.mark.parametrize("path", ["v", "a"])
def test_the_same_holds_for_chosen_fields_and_other_paths_are_left_to_python(
    shard: qdrant.EdgeShard, path: str
) -> None:
    for where in _compares(path):
        exact = _check(shard, where, "some")
        assert exact is (path in FIELDS and _should_be_exact(where))


@pytest.mark.parametrize("where", FILTERS, ids=[f"filter{i}" for i in range(len(FILTERS))])
def test_conformance_filters_mean_what_matches_says(shard: qdrant.EdgeShard, where: Filter) -> None:
    _check(shard, where)


def test_any_float_is_compared_to_its_last_bit(shard: qdrant.EdgeShard) -> None:
    held = [metadata["f"] for metadata in METADATA.values() if "f" in metadata]
    for value in held[:40]:
        for bound in (value, math.nextafter(value, math.inf), math.nextafter(value, -math.inf)):
            for op in ("$gt", "$gte", "$lt", "$lte", "$eq"):
                assert _check(shard, Compare("f", op, bound))


def _tree(chance: random.Random, depth: int) -> Filter:
    kind = chance.randrange(10)
    if depth and kind < 5:
        parts = [_tree(chance, depth - 1) for _ in range(chance.randrange(4))]
        return And(parts) if kind < 3 else Or(parts)
    if depth and kind < 7:
        return Not(_tree(chance, depth - 1))
    if kind == 7:
        return Ids(chance.sample(sorted(METADATA), chance.randrange(60)))
    if kind == 8 and chance.random() < 0.5:
        return Predicate(lambda metadata: len(metadata) > 1)
    return chance.choice(_compares(chance.choice(["v", "a.b", "a"])))


@pytest.mark.parametrize("group", ["all", "some"])
def test_random_trees_mean_what_matches_says(shard: qdrant.EdgeShard, group: str) -> None:
    exact = [_check(shard, _tree(random.Random(seed), 4), group) for seed in SEEDS]
    assert 50 < sum(exact) < len(SEEDS) - 50


@pytest.mark.parametrize(
    ("where", "everything"),
    [(And(()), True), (Or(()), False), (Compare("v", "$in", ()), False), (Ids([]), False)],
)
def test_empty_filters_mean_all_or_nothing_and_so_do_their_opposites(
    shard: qdrant.EdgeShard, where: Filter, everything: bool
) -> None:
    for filtered, expected in ((where, everything), (Not(where), not everything)):
        pushed = _pushed(filtered)
        assert pushed.exact
        assert (pushed.condition is None) is expected
        assert _found(shard, pushed.condition, "all") == (set(METADATA) if expected else set())


def test_a_weaker_filter_under_not_never_becomes_a_stronger_one(shard: qdrant.EdgeShard) -> None:
    weak = Compare("v", "$contains", "x")
    for where in (Not(weak), Not(Not(weak)), Not(And([weak, Compare("v", "$ne", 1)]))):
        assert _check(shard, where) is False


def test_what_one_part_decides_is_exact_whatever_the_others_are() -> None:
    unknown = Predicate(bool)
    assert _pushed(And([unknown, Or(())])).exact
    assert _pushed(Or([unknown, And(())])).condition is None
    assert not _pushed(And([unknown, Compare("v", "$eq", 1)])).exact


def test_only_strings_are_doubtful_when_a_list_is_searched_for_one(
    shard: qdrant.EdgeShard,
) -> None:
    pushed = _pushed(Compare("tags", "$contains", "short"))
    tagged = {key for key, held in METADATA.items() if isinstance(held.get("tags"), str)}
    assert _found(shard, pushed.doubtful, "all") == tagged


def test_only_neighbours_between_the_same_floats_are_doubtful_for_a_huge_integer(
    shard: qdrant.EdgeShard,
) -> None:
    pushed = _pushed(Compare("v", "$gt", 2**70 + 1))
    found = {METADATA[key]["v"] for key in _found(shard, pushed.doubtful, "all")}
    assert found == {2**70 + 1, 2**70 + 2}


def _nested(depth: int) -> Filter:
    where: Filter = Compare("v", "$gt", 0.1)
    for i in range(depth):
        join = Or if i % 4 else And
        where = Not(where) if i % 2 else join([where, Compare("a.b", "$exists", i % 8 == 0)])
    return where


def _height(condition: Any) -> int:
    if not isinstance(condition, qdrant.Filter):
        return 1
    parts = [*(condition.must or ()), *(condition.should or ()), *(condition.must_not or ())]
    return 1 + max(map(_height, parts), default=0)


def test_deep_nesting_is_left_to_python_before_the_engine_overflows(
    shard: qdrant.EdgeShard,
) -> None:
    assert _check(shard, _nested(DEEPEST))
    assert not _check(shard, _nested(99))
    assert _height(_pushed(_nested(99)).doubtful) < DEEPEST + 10


def test_wide_alternatives_are_one_condition(shard: qdrant.EdgeShard) -> None:
    wide = Or([Compare("v", "$eq", i) for i in range(3000)])
    assert _check(shard, wide)
    condition = _pushed(wide).condition
    assert condition is not None
    assert len(condition.must or []) == 1
