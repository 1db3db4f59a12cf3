from __future__ import annotations

import enum
import gc
import math
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations.filters import Predicate
from bge_m3_integrations.stores.memory import MemoryStore
from bge_m3_integrations.stores.resting import awake, flat, resting, seen
from bge_m3_integrations.testing import FakeEncoder
from bge_m3_integrations.types import ALL_MODES, Record


class Colour(enum.StrEnum):
    RED = "red"


class Own:
    def __init__(self, parts: list[int]) -> None:
        self.parts = parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own) and self.parts == other.parts

    __hash__ = None  # type: ignore[assignment]


PLAIN: dict[str, Any] = {
    "null": None,
    "truth": True,
    "small": 1,
    "large": 2**90,
    "float": -0.0,
    "infinite": math.inf,
    "text": "漢\ud800\x00",
    "halves": "\ud83d\ude00",
    "list": [1, [True, 2.5], {"a": None, "\ud83d": "\ude00"}, []],
    "nested": {"deeper": {"and": {"deeper": [1]}}},
}
OTHER: dict[str, Any] = {
    "bytes": b"[1]",
    "pair": (1, (2, [3])),
    "pairs": [(1, 2)],
    "numbered": {1: "a"},
    "set": {1, 2},
    "frozen": frozenset({"a"}),
    "day": date(2026, 1, 2),
    "moment": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    "length": timedelta(seconds=1.5),
    "days": [date(2026, 1, 2)],
    "endless": 10**5000,
    "endless ones": [10**5000],
    "colour": Colour.RED,
    "colours": [Colour.RED],
    "number": np.float64(0.1),
    "numbers": [np.float32(0.1), np.int64(3)],
    "array": bytearray(b"a"),
    "ordered": OrderedDict(a=[1]),
    "own": Own([1]),
    "function": len,
    "local": lambda: None,
}


def deep_types(value: Any) -> Any:
    if isinstance(value, Mapping):
        return type(value), [(key, deep_types(held)) for key, held in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [deep_types(held) for held in value]
    return type(value)


@pytest.mark.parametrize("values", [PLAIN, OTHER, PLAIN | OTHER], ids=["plain", "other", "both"])
def test_a_record_comes_back_as_it_was(values: dict[str, Any]) -> None:
    record = Record("a", "text \ud800", values, content="shown", payload={"held": values})
    back = awake(resting(record))
    assert back == record
    assert deep_types(back.metadata) == deep_types(record.metadata)
    assert deep_types(back.payload) == deep_types(record.payload)


@pytest.mark.parametrize("values", [PLAIN, OTHER, PLAIN | OTHER], ids=["plain", "other", "both"])
@pytest.mark.parametrize("whole", [True, False])
def test_filters_see_the_metadata_as_it_was(values: dict[str, Any], whole: bool) -> None:
    found = seen(flat(values), whole=whole)
    assert dict(found) == values
    assert deep_types(dict(found)) == deep_types(values)
    assert len(found) == len(values)
    assert all(key in found for key in values)
    assert "nothing" not in found
    with pytest.raises(KeyError):
        found["nothing"]


@pytest.mark.parametrize("values", [{"parts": [1]}, {"own": Own([1]), "parts": [1]}])
def test_what_is_given_and_what_comes_back_are_copies(values: dict[str, Any]) -> None:
    record = Record("a", "text", values, payload={"held": [1]})
    held, seeable = resting(record), flat(record.metadata)
    for changed in (record, awake(held)):
        changed.metadata["parts"].append(2)
        assert changed.payload is not None
        changed.payload["held"].append(2)
        changed.metadata.get("own", Own([])).parts.append(2)
    assert awake(held).metadata["parts"] == seen(seeable, whole=False)["parts"] == [1]
    assert awake(held).metadata.get("own", Own([1])) == Own([1])
    assert awake(held).payload == {"held": [1]}


@pytest.mark.parametrize("parts", [[1], [Own([1])]])
def test_what_metadata_and_payload_share_comes_back_apart(parts: list[Any]) -> None:
    back = awake(resting(Record("a", "text", {"parts": parts}, payload={"parts": parts})))
    assert back.payload is not None
    back.metadata["parts"].append(2)
    assert back.payload["parts"] == parts


def test_a_function_over_nested_metadata_changes_nothing_that_is_kept() -> None:
    def changing(metadata: Mapping[str, Any]) -> bool:
        metadata["parts"].append(2)
        return len(metadata["parts"]) == 2

    store = MemoryStore()
    record = Record("a", "one", {"parts": [1]})
    store.upsert([record], FakeEncoder().encode(["one"], kind="document", modes=ALL_MODES))
    assert store.count(Predicate(changing)) == store.count(Predicate(changing)) == 1
    assert store.get(["a"]) == [record]


def test_a_record_at_rest_has_nothing_that_the_collector_walks() -> None:
    record = Record("a", "text", PLAIN, payload={"held": PLAIN})
    assert not gc.is_tracked(resting(record))
    assert not gc.is_tracked(flat(PLAIN))
