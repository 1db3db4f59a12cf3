"""Metadata of many numeric paths: the engine keeps ten files for each that it indexes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bge_m3_integrations.core.filters import matches, parse
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig
from tests.unit.stores.edge.programs import OPTIONS, encoded

PATHS = [f"number{i}" for i in range(100)]


def filled(folder: Path, fields: Sequence[str] | None = None) -> tuple[EdgeStore, list[Record]]:
    store = EdgeStore.open(folder, FolderConfig(**OPTIONS, filter_fields=fields))
    records = [
        Record(f"id-{i}", f"text {i}", {path: i + j for j, path in enumerate(PATHS)})
        for i in range(6)
    ]
    store.upsert(records, encoded(records))
    store.flush()
    return store, records


def files_of(store: EdgeStore) -> int:
    return sum(file.is_file() for file in store.path.rglob("*"))


def test_a_hundred_numeric_paths_have_no_more_files_than_16(tmp_path: Path) -> None:
    few, _ = filled(tmp_path / "few", [])
    many, _ = filled(tmp_path / "many")
    chosen, _ = filled(tmp_path / "chosen", PATHS[:64])
    assert 0 < files_of(many) - files_of(few) <= 16 * 11
    assert files_of(chosen) - files_of(few) > 60 * 9
    for store in (few, many, chosen):
        store.close()


@pytest.mark.parametrize("fields", [None, PATHS[:70]])
def test_filters_on_numbers_with_and_without_an_index_mean_the_same(
    tmp_path: Path, fields: Sequence[str] | None
) -> None:
    store, records = filled(tmp_path, fields)
    for number, path in enumerate(PATHS):
        for condition in ({"$gt": number + 2}, {"$lte": number}, {"$eq": number + 5}):
            where = parse({path: condition})
            expected = [r.id for r in records if matches(where, r.metadata, record_id=r.id)]
            assert list(store.ids(where)) == expected, (path, condition)
    store.close()
