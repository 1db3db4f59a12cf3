from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.core.filters import as_filter
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig, selection, writes
from bge_m3_integrations.stores.edge.points import metadata_of
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.stores.edge.programs import encoded

LANGS = ("en", "zh", None)
RECORDS = [
    Record(f"id-{i}", f"number{i} stone", {"lang": LANGS[i % 3], "year": i % 7, "deep": {"x": i}})
    for i in range(2300)
]
FILTERS: tuple[Any, ...] = (
    {"lang": "en"},
    {"year": {"$gte": 5}},
    {"lang": "zh", "year": {"$in": [1, 2]}},
    {"$not": {"year": 3}},
    {"deep.x": {"$lt": 10}},
    {"lang": {"$exists": False}},
)
NEW_FIELDS = ["lang", "year", "deep.x"]


class Reads:
    """How many records' metadata a filter had to read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0

        def counted(payload: Any) -> Any:
            self.count += 1
            return metadata_of(payload)

        monkeypatch.setattr(selection, "metadata_of", counted)


@pytest.fixture(scope="module")
def expected() -> list[list[str]]:
    index = HybridIndex(BGEM3(FakeEncoder(dim=8, colbert_dim=4)))
    index.add(RECORDS)
    return [sorted(index.store.ids(as_filter(where))) for where in FILTERS]


def opened(path: Path, **options: Any) -> EdgeStore:
    return EdgeStore.open(path, FolderConfig(dim=8, colbert_dim=4, colbert="float32", **options))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    held = opened(tmp_path / "index", filter_fields=["lang"])
    held.upsert(RECORDS, encoded(RECORDS))
    yield held
    held.close()


def answers(store: EdgeStore) -> list[list[str]]:
    return [sorted(store.ids(as_filter(where))) for where in FILTERS]


def test_new_fields_are_filtered_by_the_engine_and_mean_the_same(
    store: EdgeStore, expected: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(monkeypatch)
    assert answers(store) == expected
    assert reads.count > len(RECORDS)
    store.set_filter_fields(NEW_FIELDS)
    reads.count = 0
    assert answers(store) == expected
    assert reads.count == 0


def test_nothing_else_changes(store: EdgeStore) -> None:
    ids = [record.id for record in RECORDS]
    before = store.vectors(ids, {"dense", "sparse", "colbert"}), store.text_hashes(ids)
    store.set_filter_fields(None)
    after = store.vectors(ids, {"dense", "sparse", "colbert"}), store.text_hashes(ids)
    assert store.get(ids) == RECORDS
    assert before[1] == after[1]
    np.testing.assert_array_equal(before[0].dense, after[0].dense)
    np.testing.assert_array_equal(before[0].tokens, after[0].tokens)
    assert before[0].colbert is not None
    assert after[0].colbert is not None
    np.testing.assert_array_equal(before[0].colbert.vectors, after[0].colbert.vectors)


def test_the_folder_remembers_them(store: EdgeStore, tmp_path: Path) -> None:
    store.set_filter_fields(NEW_FIELDS)
    store.close()
    again = opened(tmp_path / "index", filter_fields=NEW_FIELDS)
    assert again.manifest.filter_fields == tuple(sorted(NEW_FIELDS))
    again.close()
    with pytest.raises(StoreError, match=r"has filter_fields .*call its set_filter_fields"):
        opened(tmp_path / "index", filter_fields=["lang"])


def test_searches_are_right_while_payloads_are_rewritten(
    store: EdgeStore, expected: list[list[str]]
) -> None:
    seen: list[list[list[str]]] = []
    store.set_filter_fields(NEW_FIELDS, progress=lambda _: seen.append(answers(store)))
    assert len(seen) >= 3
    assert all(found == expected for found in seen)


def test_what_was_cut_is_right_and_can_be_repeated(
    store: EdgeStore, expected: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(message: str) -> None:
        if not message.startswith("rewriting 0 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.set_filter_fields(NEW_FIELDS, progress=cut)
    assert store.manifest.filter_fields == ("lang",)
    assert answers(store) == expected
    store.set_filter_fields(NEW_FIELDS)
    reads = Reads(monkeypatch)
    assert answers(store) == expected
    assert reads.count == 0


def test_fewer_fields_rewrite_nothing_and_records_written_then_are_found_later(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "rewrite_payloads", None)
    store.set_filter_fields([])
    monkeypatch.undo()
    new = [Record("new", "one more", {"lang": "en"})]
    store.upsert(new, encoded(new))
    found = list(store.ids(as_filter({"lang": "en"})))
    assert "new" in found
    store.set_filter_fields(["lang"])
    assert list(store.ids(as_filter({"lang": "en"}))) == found


def new_years(store: EdgeStore) -> None:
    new = [Record(f"new-{i}", f"another{i} stone", {"year": 2020}) for i in range(300)]
    store.upsert(new, encoded(new))


def old_years(store: EdgeStore) -> None:
    held = [record for record in store.get([f"id-{i}" for i in range(300)]) if record is not None]
    store.rewrite([replace(record, metadata={"year": 2020}) for record in held])


@pytest.mark.parametrize("write", [new_years, old_years])
def test_a_write_that_waited_for_other_fields_is_found_by_them(
    store: EdgeStore, write: Callable[[EdgeStore], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    filed = threading.Event()
    monkeypatch.setattr(writes, "check_room", lambda *_: filed.set())
    writer = threading.Thread(target=write, args=[store])

    def meanwhile(_: str) -> None:
        if writer.ident is None:
            writer.start()
            assert filed.wait(10)

    store.set_filter_fields(["lang", "year"], progress=meanwhile)
    writer.join(10)
    assert not writer.is_alive()
    assert store.count(as_filter({"year": 2020})) == 300
    assert store.count(as_filter({"year": {"$ne": 2020}})) == store.count() - 300


def test_an_index_offers_it_in_a_folder_only(tmp_path: Path) -> None:
    engine = BGEM3(FakeEncoder(dim=8, colbert_dim=4))
    with HybridIndex.open(tmp_path / "index", engine, filter_fields=["a"]) as index:
        index.add([Record("x", "text", {"b": 1})])
        index.set_filter_fields(["b"])
        assert index.count(where={"b": 1}) == 1
        with pytest.raises(InputError, match="must be a list"):
            index.set_filter_fields("b")
    with pytest.raises(StoreError, match="needs an index in a folder"):
        HybridIndex(engine).set_filter_fields(["b"])
