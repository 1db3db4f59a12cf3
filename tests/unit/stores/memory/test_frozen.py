from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from typing import Any

import pytest

from bge_m3_integrations.core.embeddings import ALL_MODES
from bge_m3_integrations.core.filters import Predicate
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.stores.memory.frozen import (
    metadata_view,
    pack_metadata,
    pack_record,
    unpack_record,
)
from bge_m3_integrations.stores.memory.store import MemoryStore
from bge_m3_integrations.testing import FakeEncoder

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


def deep_types(value: Any) -> Any:
    if isinstance(value, Mapping):
        return type(value), [(key, deep_types(held)) for key, held in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [deep_types(held) for held in value]
    return type(value)


def test_a_record_comes_back_as_it_was() -> None:
    record = Record("a", "text \ud800", PLAIN, content="shown", payload={"held": PLAIN})
    back = unpack_record(pack_record(record))
    assert back == record
    assert deep_types(back.metadata) == deep_types(record.metadata)
    assert deep_types(back.payload) == deep_types(record.payload)


@pytest.mark.parametrize("whole", [True, False])
def test_filters_see_the_metadata_as_it_was(whole: bool) -> None:
    found = metadata_view(pack_metadata(PLAIN), whole=whole)
    assert dict(found) == PLAIN
    assert deep_types(dict(found)) == deep_types(PLAIN)
    assert len(found) == len(PLAIN)
    assert all(key in found for key in PLAIN)
    assert "nothing" not in found
    with pytest.raises(KeyError):
        found["nothing"]


def test_what_is_given_and_what_comes_back_are_copies() -> None:
    record = Record("a", "text", {"parts": [1]}, payload={"held": [1]})
    held, seeable = pack_record(record), pack_metadata(record.metadata)
    for changed in (record, unpack_record(held)):
        changed.metadata["parts"].append(2)
        assert changed.payload is not None
        changed.payload["held"].append(2)
    assert (
        unpack_record(held).metadata["parts"] == metadata_view(seeable, whole=False)["parts"] == [1]
    )
    assert unpack_record(held).payload == {"held": [1]}


def test_what_metadata_and_payload_share_comes_back_apart() -> None:
    parts = [1]
    back = unpack_record(
        pack_record(Record("a", "text", {"parts": parts}, payload={"parts": parts}))
    )
    assert back.payload is not None
    back.metadata["parts"].append(2)
    assert back.payload["parts"] == [1]


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
    assert not gc.is_tracked(pack_record(record))
    assert not gc.is_tracked(pack_metadata(PLAIN))
