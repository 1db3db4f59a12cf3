"""Adding records: each encoded once, in batches, and a bad one refused before any."""

from __future__ import annotations

from typing import Any

import pytest

from bge_m3_integrations.core.records import Record, text_hash
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.testing.fake import FakeEncoder
from tests.unit.index.spy import RECORDS, by_hand, make


def test_every_document_is_encoded_once_in_batches() -> None:
    fake = FakeEncoder()
    index = HybridIndex(BGEM3(fake))
    seen: list[tuple[int, int]] = []
    ids = index.add(
        iter(RECORDS), batch_size=12, progress=lambda done, total: seen.append((done, total))
    )
    assert ids == [record.id for record in RECORDS]
    assert [len(call.texts) for call in fake.calls] == [12, 12, 6]
    assert {call.kind for call in fake.calls} == {"document"}
    assert seen == [(12, 30), (24, 30), (30, 30)]
    assert index.count() == 30


def test_adding_nothing_encodes_nothing() -> None:
    index, fake = make(records=[])
    assert index.add(record for record in ()) == []
    assert fake.calls == []


def test_a_bad_batch_of_records_is_refused_before_anything_is_encoded() -> None:
    index, fake = make()
    wrong: Any = 3
    with pytest.raises(InputError, match="'x' comes twice"):
        index.add([Record("x", "a"), Record("y", "b"), Record("x", "c")])
    with pytest.raises(InputError, match="record 1 must be a Record"):
        index.add([Record("x", "a"), wrong])
    with pytest.raises(InputError, match="batch_size"):
        index.add([Record("x", "a")], batch_size=0)
    assert fake.calls == []
    assert index.count() == 30


def test_texts_and_dicts_get_ids_of_their_content() -> None:
    index, _ = make(records=[])
    given: list[Any] = ["a b", {"text": "c", "metadata": {"k": 1}}, Record("id", "d")]
    given += [{"text": "e", "id": "mine"}, {"text": "c", "metadata": {"k": 2}}, {"text": "f"}]
    ids = index.add(given)
    assert len(set(ids)) == len(index) == 6
    assert ids[0] == text_hash("a b")
    assert ids[2:4] == ["id", "mine"]
    assert [record and record.text for record in index.get(ids)] == ["a b", "c", "d", "e", "c", "f"]
    assert [record and record.metadata for record in index.get(ids[1:2])] == [{"k": 1}]
    assert index.add(given) == ids
    assert len(index) == 6


def test_a_text_that_comes_twice_is_one_record() -> None:
    index, fake = make(records=[])
    ids = index.add(["a", "b", {"text": "a", "metadata": None}, "a"])
    assert ids == [text_hash(text) for text in ("a", "b", "a", "a")]
    assert len(index) == 2
    assert fake.forwards == {"a": 1, "b": 1}


def test_ingest_takes_texts_and_dicts_too() -> None:
    index, fake = make(records=[])
    given: list[Any] = ["a", {"text": "b", "metadata": {"k": 1}}]
    assert index.ingest(iter(given)).encoded == 2
    assert index.ingest(given).unchanged == 2
    assert fake.forwards == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("a text", "not one str"),
        ({"text": "a"}, "not one dict"),
        (Record("a", "b"), "not one Record"),
        (b"a", "not one bytes"),
        (3, "not one int"),
        ([{"text": "a", "page": 3, "lang": "en"}], r"unknown keys \['page', 'lang'\].*metadata"),
        ([{"id": "a"}], "record 0: .text. must be str, not missing"),
        (["a", {"text": 3}], "record 1: .text. must be str, not int"),
        ([{"text": "a", "id": 3}], "id must be a non-empty string"),
        ([{"text": "a", "metadata": "en"}], "metadata must be a mapping"),
    ],
)
def test_what_is_no_list_of_records_is_refused(given: Any, words: str) -> None:
    index, fake = make(records=[])
    for take in (index.add, index.ingest):
        with pytest.raises(InputError, match=words):
            take(given)
    assert fake.calls == []


def test_a_table_of_pandas_is_added_by_its_rows_only() -> None:
    pandas = pytest.importorskip("pandas")
    index, fake = make(records=[])
    table = pandas.DataFrame({"text": ["a", "b"], "id": ["1", "2"]})
    with pytest.raises(InputError, match="to_dict"):
        index.add(table)
    assert fake.calls == []
    assert index.add(table.to_dict("records")) == ["1", "2"]
    assert index.add(table["text"]) == [text_hash("a"), text_hash("b")]


def test_an_added_id_is_replaced() -> None:
    index, _ = make()
    index.add([Record("00", "unheard words")])
    assert index.count() == 30
    assert index.search("unheard words", limit=1)[0].record == Record("00", "unheard words")


def test_documents_are_encoded_by_the_modes_of_the_index_only() -> None:
    fake = FakeEncoder()
    index = HybridIndex(BGEM3(fake, memo_bytes=0), modes=["colbert"])
    index.add(RECORDS)
    assert [call.modes for call in fake.calls] == [{"colbert"}]
    assert index.store.capabilities.find == {"colbert"}
    hits = index.search("fox bridge", limit=30)
    expected = by_hand("fox bridge", Weights.only("colbert"), RECORDS)
    assert {hit.id: hit.score for hit in hits} == pytest.approx(dict(expected), abs=1e-6)


@pytest.mark.filterwarnings("ignore::bge_m3_integrations.errors.TruncationWarning")
def test_long_texts_make_smaller_batches() -> None:
    fake = FakeEncoder()
    index = HybridIndex(BGEM3(fake))
    index.add([Record(str(i), f"{i} " + "long " * 20_000) for i in range(6)])
    assert [len(call.texts) for call in fake.calls] == [2, 2, 2]


def test_a_text_that_no_tokenizer_reads_is_named_by_its_record_before_anything_is_encoded() -> None:
    fake = FakeEncoder()
    index = HybridIndex(BGEM3(fake))
    with pytest.raises(InputError, match="record 'b' holds the lone surrogate"):
        index.add([Record("a", "fine"), Record("b", "x\ud800")])
    assert fake.calls == []


def test_metadata_must_be_a_mapping() -> None:
    with pytest.raises(InputError, match="'a': metadata must be a mapping, not list"):
        Record("a", "text", metadata=[1])  # type: ignore[arg-type]
