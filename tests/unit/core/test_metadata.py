"""The rule for metadata values, and that every store keeps to it."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.core.filters import Compare, Not
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.stores.base import Store
from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig
from bge_m3_integrations.stores.memory.store import MemoryStore
from bge_m3_integrations.testing import FakeEncoder


class Number(enum.IntEnum):
    ONE = 1


class Name(enum.StrEnum):
    A = "a"


class OldName(str, enum.Enum):  # noqa: UP042 (as a user writes it)
    A = "a"


class Other(enum.Enum):
    A = "a"


class Text(str):
    __slots__ = ()


Pair = namedtuple("Pair", "a b")


def nested(levels: int) -> Any:
    value: Any = 1
    for i in range(levels):
        value = [value] if i % 2 else {"k": value}
    return value


def holding_itself() -> Any:
    value: dict[str, Any] = {}
    value["me"] = [value, value]
    return value


BECOMES: list[tuple[Any, Any]] = [
    (np.int64(2020), 2020),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.float32(0.1), float(np.float32(0.1))),
    (np.float16(0.1), float(np.float16(0.1))),
    (np.float64(0.1), 0.1),
    (np.longdouble(0.5), 0.5),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (Number.ONE, 1),
    (Name.A, "a"),
    (OldName.A, "a"),
    (Text("a"), "a"),
    ((1, (2, [3])), [1, [2, [3]]]),
    (Pair(1, 2), [1, 2]),
    ([np.int64(1)], [1]),
    ({"k": np.int64(1)}, {"k": 1}),
    ({Name.A: {np.str_("b"): 1}}, {"a": {"b": 1}}),
    (MappingProxyType({"k": (1,)}), {"k": [1]}),
    (OrderedDict(a=1), {"a": 1}),
    (UserDict(a=UserDict(b=1)), {"a": {"b": 1}}),
    ("\ud83d\ude00", "\U0001f600"),
    ({"\ud83d\ude00": 1}, {"\U0001f600": 1}),
]
KEPT: list[Any] = [
    *(None, True, 0, -1, 2**63, -(2**64), 2**200, 10**4299, 1.5, -0.0, math.inf, -math.inf),
    *(
        "",
        "a",
        "\x00",
        "\ud800",
        "\udc00\ud800",
        "漢",
        [],
        {},
        [[]],
        {"": {"": [None]}},
        nested(99),
    ),
]
REFUSED: list[tuple[Any, str]] = [
    (b"bytes", "decode"),
    (bytearray(b"x"), "decode"),
    (datetime.now(UTC), "isoformat"),
    (date(2024, 1, 1), "isoformat"),
    (time(1, 2), "isoformat"),
    (timedelta(1), "total_seconds"),
    (np.datetime64("2024-01-01"), "str"),
    (Decimal("0.1"), "float"),
    (UUID(int=1), "str"),
    (Path("a"), "str"),
    (Other.A, "value.value"),
    ({1, 2}, "sorted"),
    (frozenset("a"), "sorted"),
    (np.zeros(2), "tolist"),
    (np.zeros(()), "tolist"),
    (1j, "real"),
    (np.complex64(1), "real"),
    (object(), "store a string"),
    (range(3), "store a string"),
    (iter([]), "store a string"),
    (len, "store a string"),
    ({1: "int"}, "str"),
    ({None: "none"}, "str"),
    ({("a", "b"): "tuple"}, "str"),
    ([{"deep": [{2: 1}]}], "str"),
    (10**4300, "4,301 digits"),
    (-(10**5000), "5,001 digits"),
    (2**100_000, "30,103 digits"),
    (nested(100), "100 levels"),
    (nested(1000), "100 levels"),
    (nested(100_000), "100 levels"),
    (holding_itself(), "100 levels"),
]


def kinds(value: Any) -> Any:
    if isinstance(value, dict):
        return type(value), {key: (type(key), kinds(held)) for key, held in value.items()}
    return (type(value), list(map(kinds, value))) if isinstance(value, list) else type(value)


@pytest.mark.parametrize(("value", "expected"), BECOMES, ids=range(len(BECOMES)))
def test_what_is_nearly_json_becomes_json(value: Any, expected: Any) -> None:
    record = Record("a", "text", {"v": value}, payload={"v": value})
    assert record.metadata == {"v": expected} == record.payload
    assert kinds(record.metadata) == kinds({"v": expected}) == kinds(record.payload)


@pytest.mark.parametrize("value", KEPT, ids=range(len(KEPT)))
def test_json_stays_the_very_same(value: Any) -> None:
    metadata = {"v": value}
    assert Record("a", "text", metadata).metadata is metadata


@pytest.mark.parametrize(("value", "fix"), REFUSED, ids=range(len(REFUSED)))
@pytest.mark.parametrize("place", ["metadata", "payload"])
def test_what_json_does_not_keep_is_refused_with_place_and_fix(
    value: Any, fix: str, place: str
) -> None:
    given: dict[str, Any] = {place: {"v": value}}
    with pytest.raises(InputError, match="the-id") as error:
        Record("the-id", "", **given)
    assert fix in str(error.value)
    assert f"{place}['v']" in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("content", [b"bytes", 1, ["a"]])
def test_a_content_that_is_no_text_is_refused(content: Any) -> None:
    with pytest.raises(InputError, match="record 'the-id': content must be str or None"):
        Record("the-id", "", content=content)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Store]]:
    path = tmp_path_factory.mktemp("values") / "index"
    folder = EdgeStore.open(path, FolderConfig(modes=["dense"], dim=4))
    yield [MemoryStore(modes=["dense"]), folder]
    folder.close()


ONE = FakeEncoder(dim=4).encode(["text"], kind="document", modes=["dense"])

ODD = [value for value, _ in BECOMES + REFUSED]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None), max_size=5)  # lone surrogates too
    | st.dates()
    | st.decimals()
    | st.integers(0, len(ODD) - 1).map(lambda i: ODD[i])  # some of them cannot be written
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=8,
)


def outcome(store: Store, made: Callable[[], Record], batch: EmbeddingBatch) -> Any:
    try:
        store.upsert([made()], batch)
    except InputError as error:
        return str(error)
    return store.get(["a"])


@settings(deadline=None, max_examples=150)
@given(value=VALUES)
def test_memory_and_folder_keep_and_refuse_the_same(stores: list[Store], value: Any) -> None:
    def late() -> Record:
        record = Record("a", "text", {"v": [0]})
        record.metadata["v"][0] = value
        return record

    def early() -> Record:
        return Record("a", "text", {"v": value})

    for made in (early, late):
        in_memory, in_folder = (outcome(store, made, ONE) for store in stores)
        assert in_memory == in_folder
        assert repr(in_memory) == repr(in_folder)
        if not isinstance(in_memory, str) and made is early:
            assert in_memory == [made()]


@pytest.mark.parametrize("number", [np.int64(2020), np.float32(2020), Number.ONE])
def test_a_number_of_numpy_is_found_by_its_value(stores: list[Store], number: Any) -> None:
    for store in stores:
        store.upsert([Record("a", "text", {"year": number})], ONE)
        for value in (number, int(number), float(number)):
            assert store.count(Compare("year", "$eq", value)) == 1
            assert store.count(Not(Compare("year", "$eq", value))) == 0
            assert store.count(Compare("year", "$ne", value)) == 0
            assert store.count(Compare("year", "$in", [value])) == 1
        assert store.count(Compare("year", "$lt", np.float64(3000))) == 1
