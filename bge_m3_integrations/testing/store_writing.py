"""Tests of what a store writes, deletes and lists."""

# ruff: noqa: D102 (a test says in its name what it claims)

from __future__ import annotations

from typing import Any

import numpy as np

from bge_m3_integrations.core.embeddings import ordered_modes
from bge_m3_integrations.core.filters import Compare, Ids
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import BGEM3Error, InputError, StoreError
from bge_m3_integrations.stores.base import Store
from bge_m3_integrations.testing.store_checks import StoreChecks, _arrays, _listed, _raises, _sorted
from bge_m3_integrations.testing.store_conformance_data import RECORDS, TEXTS


class StoreWriting(StoreChecks):
    """Records in, records out."""

    def test_what_was_upserted_comes_back_unchanged(self, store: Store) -> None:
        self._fill(store)
        assert store.get([record.id for record in RECORDS]) == list(RECORDS)

    def test_get_keeps_the_order_and_gives_none_for_an_unknown_id(self, store: Store) -> None:
        self._fill(store)
        found = store.get(["z", "gone", "a", "z"])
        assert [None if record is None else record.id for record in found] == ["z", None, "a", "z"]
        assert store.get([]) == []

    def test_upsert_replaces_the_whole_record_and_its_numbers(self, store: Store) -> None:
        self._fill(store)
        new = Record("a", "bread and cheese", {"only": 1})
        self._fill(store, [new])
        assert store.get(["a"]) == [new]
        assert store.count() == len(RECORDS)
        self._check_scores(store, [new, *RECORDS[1:]])

    def test_an_empty_upsert_changes_nothing(self, store: Store) -> None:
        self._fill(store, [])
        assert store.count() == 0
        self._fill(store)
        self._fill(store, [])
        assert store.count() == len(RECORDS)

    def test_what_the_caller_changes_afterwards_is_not_seen(self, store: Store) -> None:
        metadata: dict[str, Any] = {"tags": ["old"]}
        embeddings = self._documents(store, ["old text"])
        expected = embeddings.take([0])
        store.upsert([Record("m", "old text", metadata)], embeddings)
        metadata["tags"].append("new")
        for array in _arrays(embeddings):
            array[:] = 7
        held = store.get(["m"])[0]
        assert held is not None
        assert held.metadata == {"tags": ["old"]}
        self._same(store.vectors(["m"], store.capabilities.vectors), expected)

    def test_a_batch_that_does_not_fit_is_refused_as_a_whole(self, store: Store) -> None:
        self._fill(store)
        for reason, records, embeddings in self._misfits(store):
            with _raises(BGEM3Error, reason):
                store.upsert(records, embeddings)
            assert store.count() == len(RECORDS), reason
            assert store.get([record.id for record in RECORDS]) == list(RECORDS), reason
        self._check_scores(store, RECORDS)

    def test_text_hashes_tell_which_text_is_kept(self, store: Store) -> None:
        self._fill(store)
        hashes = store.text_hashes(["z", "gone", "a"])
        assert hashes == [RECORDS[-1].text_hash, None, RECORDS[0].text_hash]
        assert store.text_hashes([]) == []

    def test_rewrite_replaces_all_but_the_numbers(self, store: Store) -> None:
        self._fill(store)
        new = Record("a", TEXTS["a"], {"only": 1}, content="shown", payload={"n": 1})
        store.rewrite([new])
        assert store.get(["a"]) == [new]
        assert store.count(Compare("only", "$eq", 1)) == 1
        assert "a" not in self._ids(store, Compare("lang", "$eq", "en"))
        self._check_scores(store, RECORDS)

    def test_rewrite_refuses_what_has_no_numbers_yet(self, store: Store) -> None:
        self._fill(store)
        known = Record("z", TEXTS["z"], {"new": True})
        for other in (Record("gone", "text"), Record("a", "another text")):
            with _raises(StoreError, other.id):
                store.rewrite([known, other])
        assert store.get([record.id for record in RECORDS]) == list(RECORDS)

    def test_delete_by_ids_counts_what_was_there(self, store: Store) -> None:
        self._fill(store)
        assert store.delete(ids=["a", "gone", "z", "a"]) == 2
        assert store.delete(ids=["a"]) == 0
        assert store.delete(ids=[]) == 0
        left = [record for record in RECORDS if record.id not in {"a", "z"}]
        assert self._ids(store) == _sorted(left)
        self._check_scores(store, left)

    def test_delete_by_filter_takes_the_matching_ones_only(self, store: Store) -> None:
        self._fill(store)
        where = Ids(["a", "0", "gone"])
        assert store.delete(where=where) == 2
        assert store.count(where) == 0
        assert self._ids(store) == _sorted([r for r in RECORDS if r.id not in {"a", "0"}])

    def test_delete_needs_exactly_one_of_ids_and_where(self, store: Store) -> None:
        self._fill(store)
        with _raises(InputError, "neither"):
            store.delete()
        with _raises(InputError, "both"):
            store.delete(ids=["a"], where=Ids(["a"]))
        assert store.count() == len(RECORDS)

    def test_a_deleted_document_is_found_by_no_mode_and_scores_nan(self, store: Store) -> None:
        self._fill(store)
        store.delete(ids=["a"])
        queries = self._queries(store, [TEXTS["a"]])
        for mode in ordered_modes(store.capabilities.find):
            found = store.find(queries, mode, limit=100)[0]
            assert "a" not in [candidate.id for candidate in found], mode
        parts = store.score(queries, [["a"]], store.capabilities.score)[0]
        assert all(np.isnan(scores).all() for _, scores in parts.items())

    def test_a_document_put_back_after_deletion_has_its_new_numbers(self, store: Store) -> None:
        self._fill(store)
        store.delete(ids=["a"])
        new = Record("a", "cheese")
        self._fill(store, [new])
        self._check_scores(store, [new, *RECORDS[1:]])

    def test_scroll_pages_through_all_ids_in_ascending_order(self, store: Store) -> None:
        self._fill(store)
        for limit in (1, 3, len(RECORDS), 100):
            assert self._ids(store, limit=limit) == _sorted(RECORDS)

    def test_scroll_goes_on_behind_an_id_that_is_gone(self, store: Store) -> None:
        self._fill(store)
        store.delete(ids=["a"])
        page = store.scroll(after="a", limit=2)
        assert [record.id for record in page.records] == ["b2", "blank"]
        assert page.after == "blank"

    def test_the_last_page_has_no_after(self, store: Store) -> None:
        assert _listed(store.scroll()) == ([], None)
        self._fill(store)
        last = _sorted(RECORDS)[-1]
        assert _listed(store.scroll(after=last)) == ([], None)
        assert store.scroll(limit=len(RECORDS)).after is None

    def test_ids_are_those_of_the_scroll(self, store: Store) -> None:
        assert list(store.ids()) == []
        self._fill(store)
        assert list(store.ids()) == _sorted(RECORDS)
        where = Ids(frozenset(["a", "b2", "nowhere"]))
        assert list(store.ids(where)) == self._ids(store, where=where, limit=3)
