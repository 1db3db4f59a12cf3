from __future__ import annotations

import enum
import json
import math
import weakref
from collections import UserDict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from bge_m3_integrations.core.embeddings import ALL_MODES, EmbeddingBatch, TokenVectors, offsets_of
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.stores.edge import points
from bge_m3_integrations.stores.edge.points import (
    checked,
    embeddings_of,
    metadata_of,
    name_of,
    payload_of,
    point_id,
    record_of,
    spans_of,
    upsert_of,
    vectors_of,
)
from bge_m3_integrations.testing import FakeEncoder

IDS = [
    "a",
    "é漢🎉",
    "x" * 10_000,
    "12",
    "012",
    "-1",
    str(2**64),
    "2f0b7a1e-4ac9-4a6c-9a1c-0123456789ab",
    "\ud800",
    "\udc00\ud800",
    " ",
    "a ",
    "\x00",
    "a\x00b",
    "null",
    '"',
    "\n",
    "e\u0301",
    "\u00e9",
]
DEEP = 90


def nested(levels: int, value: Any = 1) -> Any:
    for _ in range(levels):
        value = {"k": value}
    return value


def holding_itself() -> Any:
    held: dict[str, Any] = {}
    held["me"] = held
    return held


def list_of_itself() -> Any:
    held: list[Any] = []
    held.append(held)
    return {"a": held}


KEPT: list[Any] = [
    math.nan,
    math.inf,
    -math.inf,
    -0.0,
    5e-324,
    2**70,
    -(2**70),
    10**400,
    2**53 + 1,
    0.1,
    True,
    1,
    1.0,
    None,
    "",
    "\ud83d",
    "\udc00x",
    "\x00",
    "🎉",
    "x" * 100_000,
    [],
    {},
    [[], [None, {"a": []}]],
    {"": {"": ""}, "a.b": 1, "\ud800": 2, "$eq": 3, "name": 4, "terms": [5], "n_": 6},
    nested(DEEP),
]


@pytest.fixture(scope="module")
def batch() -> EmbeddingBatch:
    texts = ["fox on the bridge", "", "a", "stone " * 300, "river"]
    return FakeEncoder(dim=8, colbert_dim=4).encode(texts, kind="document", modes=ALL_MODES)


def test_every_id_has_a_point_of_its_own() -> None:
    assert len({point_id(name) for name in IDS}) == len(IDS)
    assert point_id("a") == UUID("ca978112-ca1b-bdca-fac2-31b39a23dc4d")


@pytest.mark.parametrize("name", IDS, ids=range(len(IDS)))
def test_every_id_comes_back(name: str) -> None:
    payload = payload_of(Record(name, "text"), None)
    assert name_of(payload) == name
    payload["name"].encode()
    assert record_of(payload) == Record(name, "text")


@pytest.mark.parametrize("value", KEPT, ids=range(len(KEPT)))
@pytest.mark.parametrize("fields", [None, frozenset(["v", "v.k"])])
def test_every_json_value_comes_back_of_its_type(value: Any, fields: Any) -> None:
    record = Record("a", "text", {"v": value}, payload={"v": value})
    payload = payload_of(record, fields)
    json.dumps(payload, allow_nan=False).encode()  # what the engine takes without loss
    again = record_of(payload)
    assert repr(again) == repr(record)
    assert repr(metadata_of(payload)) == repr(record.metadata)


@pytest.mark.parametrize("text", ["", "\ud800", "\x00", "é" * 1000])
def test_texts_come_back_unchanged(text: str) -> None:
    record = Record("a", text, content=text, payload={})
    assert record_of(payload_of(record, None)) == record


def test_a_tuple_comes_back_as_a_list() -> None:
    assert record_of(payload_of(Record("a", "", {"v": (1, (2,))}), None)).metadata == {
        "v": [1, [2]]
    }


def test_a_mapping_that_is_no_dict_comes_back_as_one() -> None:
    record = Record("a", "", UserDict({"v": UserDict({"k": 1})}), payload=UserDict({"p": 1}))
    again = record_of(payload_of(record, None))
    assert again.metadata == {"v": {"k": 1}}
    assert again.payload == {"p": 1}


class Colour(enum.IntEnum):
    RED = 1


def test_a_number_of_a_richer_class_comes_back_equal() -> None:
    held = {"a": Colour.RED, "b": np.float64(0.5)}
    assert record_of(payload_of(Record("a", "", held), None)).metadata == held


def test_what_was_put_into_a_record_after_it_was_made_is_checked_too() -> None:
    record = Record("the-id", "", {"v": [1]})
    record.metadata["v"].append(b"bytes")
    with pytest.raises(InputError, match="the-id"):
        payload_of(record, None)
    with pytest.raises(InputError, match="the-id"):
        checked(record)


def names(count: int) -> list[str]:
    return [f"id-{i}" for i in range(count)]


def long_batch(lengths: list[int]) -> EmbeddingBatch:
    vectors = np.ones((sum(lengths), 2), np.float32)
    counts = np.zeros(len(lengths), np.int64)
    return EmbeddingBatch(None, None, TokenVectors(vectors, offsets_of(lengths)), counts, counts)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([1024], [1]),
        ([1025], [1]),
        ([512, 512, 1], [2, 1]),
        ([1, 8191, 1], [1, 1, 1]),
        ([8191, 8191], [1, 1]),
        ([1023, 1, 1, 1023], [2, 2]),
        ([1] * 600, [256, 256, 88]),
        ([3] * 300, [256, 44]),
        ([4] * 300, [256, 44]),
        ([5] * 300, [204, 96]),
        ([], []),
    ],
)
def test_a_write_has_at_most_1024_token_vectors_or_one_long_text(
    lengths: list[int], expected: list[int]
) -> None:
    spans = list(spans_of(long_batch(lengths)))
    assert [span.stop - span.start for span in spans] == expected
    assert [i for span in spans for i in range(span.start, span.stop)] == list(range(len(lengths)))


def test_texts_without_token_vectors_go_256_at_a_time(batch: EmbeddingBatch) -> None:
    spans = spans_of(batch.only(["dense", "sparse"]).take([0] * 513))
    assert [span.stop - span.start for span in spans] == [256, 256, 1]


def test_a_point_has_its_record_s_id_payload_and_counts(
    batch: EmbeddingBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, made = slice(1, 4), list[Any]()
    monkeypatch.setattr(points, "UpdateOperation", SimpleNamespace(upsert_points=made.extend))
    payloads: list[dict[str, Any]] = [{"p": i} for i in range(5)]
    upsert_of(payloads, names(5), batch, rows, rounded=False)
    assert [point.id for point in made] == [point_id(n) for n in names(5)[rows]]
    for i, point in enumerate(made, rows.start):
        counts = {"tokens": int(batch.tokens[i]), "truncated": int(batch.truncated[i])}
        assert point.payload == {"p": i, **counts}


def test_vectors_live_until_the_operation_is_made_and_no_longer(
    batch: EmbeddingBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Any]] = []

    class Vectors(UserDict[str, Any]):
        pass

    def spied(*given: Any, **options: Any) -> Vectors:
        held = Vectors(vectors_of(*given, **options))
        made.append(weakref.ref(held))
        return held

    class Operation:
        @staticmethod
        def upsert_points(points: Sequence[Any]) -> int:
            return sum(ref() is not None for ref in made)

    monkeypatch.setattr(points, "vectors_of", spied)
    monkeypatch.setattr(points, "UpdateOperation", Operation)
    assert upsert_of([{}] * 5, names(5), batch, slice(1, 4), rounded=True) == 3
    assert [ref() for ref in made] == [None] * 3


def token_vectors(rows: Any) -> EmbeddingBatch:
    held = TokenVectors(np.asarray(rows), offsets_of([len(rows)]))
    return EmbeddingBatch(None, None, held, np.array([len(rows)]), np.array([0]))


def test_rounded_token_vectors_are_those_of_float16() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 1024), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = np.array(vectors_of(token_vectors(rows), 0, rounded=True)["colbert"], np.float32)
    np.testing.assert_array_equal(found, rows.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("value", [65520.0, -1e6, 3.4028235e38])
def test_vectors_with_a_number_too_large_for_float16_stay_as_they_are(value: float) -> None:
    rows = np.array([[value, 1 / 3]], np.float32)
    found = vectors_of(token_vectors(rows), 0, rounded=True)["colbert"]
    np.testing.assert_array_equal(np.array(found), rows)


def test_what_is_written_is_what_was_encoded(batch: EmbeddingBatch) -> None:
    assert batch.dense is not None
    assert batch.colbert is not None
    for i in range(len(batch)):
        vectors = vectors_of(batch, i)
        assert vectors["dense"] == batch.dense[i].tolist()
        np.testing.assert_array_equal(np.array(vectors["colbert"]), batch.colbert.row(i))
        held = vectors.get("sparse")
        pairs = {} if held is None else dict(zip(held.indices, held.values, strict=True))
        assert pairs == batch[i].sparse
    assert "sparse" not in vectors_of(batch, 1)


def test_half_precision_token_vectors_are_written_as_numbers(batch: EmbeddingBatch) -> None:
    assert batch.colbert is not None
    halves = TokenVectors(batch.colbert.vectors.astype(np.float16), batch.colbert.offsets)
    vectors = vectors_of(EmbeddingBatch(None, None, halves, batch.tokens, batch.truncated), 0)
    np.testing.assert_array_equal(np.array(vectors["colbert"]), halves.row(0).astype(np.float32))


def test_no_points_are_an_empty_batch_of_the_widths() -> None:
    empty = embeddings_of([], ["dense", "colbert"], {"dense": 8, "colbert": 4})
    assert empty.modes == {"dense", "colbert"}
    assert empty.dense is not None
    assert empty.colbert is not None
    assert (empty.dense.shape, empty.colbert.vectors.shape) == ((0, 8), (0, 4))
