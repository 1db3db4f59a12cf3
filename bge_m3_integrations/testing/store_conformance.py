"""The contract of `stores.base.Store` as tests; public through `bge_m3_integrations.testing`."""

# ruff: noqa: D102 (a test says in its name what it claims)

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from bge_m3_integrations.core.embeddings import ALL_MODES, ordered_modes
from bge_m3_integrations.core.filters import matches, operators
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import BGEM3Error, InputError, StoreError
from bge_m3_integrations.stores.base import Store
from bge_m3_integrations.testing.fake import FakeEncoder
from bge_m3_integrations.testing.store_checks import _raises, _sorted
from bge_m3_integrations.testing.store_conformance_data import FILTERS, QUERIES, RECORDS, TEXTS
from bge_m3_integrations.testing.store_writing import StoreWriting


class StoreConformance(StoreWriting):
    """Subclass it as `Test...`, give it a fixture `store` with a new, empty store, and run pytest.

    Attributes:
        atol: How far a score may be from the reference.
        encoder: Makes the embeddings.
    """

    def test_find_gives_the_reference_scores_best_first(self, store: Store) -> None:
        self._fill(store)
        queries = self._queries(store, QUERIES)
        for mode in ordered_modes(store.capabilities.find):
            reference = self._reference(queries, RECORDS, mode)
            for limit in (1, 3, 100):
                found = store.find(queries, mode, limit=limit)
                assert len(found) == len(QUERIES)
                for row, expected in zip(found, reference, strict=True):
                    self._check_found(row, expected, mode, limit)

    def test_find_orders_equal_documents_by_id(self, store: Store) -> None:
        ids = [f"tie-{i}" for i in range(9, -1, -1)]
        self._fill(store, [*RECORDS, *(Record(i, "fox on the bridge") for i in ids)])
        queries = self._queries(store, ["fox on the bridge"])
        for mode in ordered_modes(store.capabilities.find):
            for limit in (10, 4):
                found = [c.id for c in store.find(queries, mode, limit=limit)[0]]
                assert found == sorted(ids)[:limit], mode

    def test_sparse_does_not_find_what_shares_no_token(self, store: Store) -> None:
        if "sparse" not in store.capabilities.find:
            return
        self._fill(store)
        queries = self._queries(store, ["cheese", "", "unheard"])
        found = store.find(queries, "sparse", limit=100)
        assert [[candidate.id for candidate in row] for row in found] == [["z"], [], []]

    def test_find_in_an_empty_store_finds_nothing(self, store: Store) -> None:
        queries = self._queries(store, QUERIES)
        for mode in ordered_modes(store.capabilities.find):
            assert store.find(queries, mode, limit=3) == [[], [], []]

    def test_score_in_an_empty_store_is_nan(self, store: Store) -> None:
        queries = self._queries(store, QUERIES[:2])
        modes = store.capabilities.score
        none, gone = store.score(queries, [[], ["gone"]], modes)
        assert none.modes == gone.modes == modes
        assert none.shape == (0,)
        assert all(np.isnan(scores).tolist() == [True] for _, scores in gone.items())

    def test_find_and_score_refuse_queries_without_the_mode(self, store: Store) -> None:
        self._fill(store)
        for mode in ordered_modes(store.capabilities.find):
            absent: dict[str, Any] = {mode: None}
            queries = replace(self._queries(store, QUERIES), **absent)
            with _raises(BGEM3Error, mode):
                store.find(queries, mode, limit=3)
            with _raises(BGEM3Error, mode):
                store.score(queries, [["a"]] * len(QUERIES), [mode])

    def test_find_and_score_refuse_queries_of_another_width(self, store: Store) -> None:
        self._fill(store)
        other = FakeEncoder(dim=self.encoder.dim + 1, colbert_dim=self.encoder.colbert_dim + 1)
        queries = other.encode(["fox"], kind="query", modes=ALL_MODES)
        for mode in ordered_modes(store.capabilities.find - {"sparse"}):
            with _raises(BGEM3Error, mode):
                store.find(queries, mode, limit=3)
            with _raises(BGEM3Error, mode):
                store.score(queries, [["a"]], [mode])

    def test_a_limit_below_one_is_refused(self, store: Store) -> None:
        self._fill(store)
        queries = self._queries(store, QUERIES)
        for mode in ordered_modes(store.capabilities.find):
            with _raises(InputError, mode):
                store.find(queries, mode, limit=0)
        with _raises(InputError, "scroll"):
            store.scroll(limit=0)

    def test_score_gives_the_reference_for_every_pair(self, store: Store) -> None:
        self._fill(store)
        self._check_scores(store, RECORDS)

    def test_score_takes_other_ids_for_each_query(self, store: Store) -> None:
        self._fill(store)
        queries = self._queries(store, QUERIES)
        ids = [["z", "a"], [], ["0", "0", "b2"]]
        for mode in ordered_modes(store.capabilities.score):
            scored = store.score(queries, ids, [mode])
            for i, (wanted, parts) in enumerate(zip(ids, scored, strict=True)):
                held = [next(r for r in RECORDS if r.id == key) for key in wanted]
                expected = self._pairs(queries.take([i]), held, mode)[0]
                self._close(dict(parts.items())[mode], expected)

    def test_an_unknown_id_scores_nan_and_the_others_as_ever(self, store: Store) -> None:
        self._fill(store)
        queries = self._queries(store, QUERIES[:1])
        modes = store.capabilities.score
        parts = store.score(queries, [["gone", "a", "lost"]], modes)[0]
        assert parts.modes == modes
        for mode, scores in parts.items():
            expected = self._pairs(queries, RECORDS[:1], mode)[0, 0]
            self._close(scores, np.array([np.nan, expected, np.nan], np.float32))

    def test_score_computes_the_asked_modes_only(self, store: Store) -> None:
        self._fill(store)
        queries = self._queries(store, QUERIES[:1])
        for mode in store.capabilities.score:
            assert store.score(queries, [["a"]], [mode])[0].modes == {mode}

    def test_score_needs_one_list_of_ids_per_query(self, store: Store) -> None:
        self._fill(store)
        with _raises(InputError, "lists"):
            store.score(self._queries(store, QUERIES), [["a"]], store.capabilities.score)

    def test_no_token_shared_scores_zero(self, store: Store) -> None:
        if "sparse" not in store.capabilities.score:
            return
        self._fill(store)
        parts = store.score(self._queries(store, ["cheese"]), [["a", "blank"]], ["sparse"])[0]
        assert parts.sparse is not None
        assert parts.sparse.tolist() == [0.0, 0.0]

    def test_vectors_come_back_in_the_order_of_the_ids(self, store: Store) -> None:
        self._fill(store)
        modes = store.capabilities.vectors
        ids = ["z", "a", "blank", "z"]
        expected = self._documents(store, [TEXTS[key] for key in ids]).only(modes)
        self._same(store.vectors(ids, modes), expected)
        assert len(store.vectors([], modes)) == 0

    def test_vectors_of_an_unknown_id_are_an_error(self, store: Store) -> None:
        self._fill(store)
        with _raises(BGEM3Error, "unknown"):
            store.vectors(["a", "gone"], store.capabilities.vectors)

    def test_a_lexical_lookup_finds_only_what_shares_a_token(self, store: Store) -> None:
        if "sparse" not in store.capabilities.find:
            return
        self._fill(store)
        for query in ("unheard", "", "unheard bread"):
            found = store.find(self._queries(store, [query]), "sparse", limit=len(RECORDS))[0]
            assert [candidate.id for candidate in found] == (["z"] if "bread" in query else [])
            assert all(candidate.score > 0 for candidate in found)

    def test_every_filter_means_the_same_in_count_scroll_and_find(self, store: Store) -> None:
        self._fill(store)
        queries = self._queries(store, QUERIES)
        for where in self._runnable(store):
            held = [r for r in RECORDS if matches(where, r.metadata, record_id=r.id)]
            assert store.count(where) == len(held), where
            for limit in (2, 100):
                assert self._ids(store, where, limit=limit) == _sorted(held), where
            for mode in ordered_modes(store.capabilities.find):
                reference = self._reference(queries, held, mode)
                found = store.find(queries, mode, limit=2, where=where)
                for row, expected in zip(found, reference, strict=True):
                    self._check_found(row, expected, mode, 2)

    def test_delete_by_every_filter_leaves_the_others(self, store: Store) -> None:
        for where in self._runnable(store):
            self._fill(store)
            left = [r for r in RECORDS if not matches(where, r.metadata, record_id=r.id)]
            assert store.delete(where=where) == len(RECORDS) - len(left), where
            assert self._ids(store) == _sorted(left), where

    def test_a_filter_that_the_store_does_not_run_is_refused(self, store: Store) -> None:
        self._fill(store)
        for where in FILTERS:
            if not operators(where) <= store.capabilities.operators:
                with _raises(BGEM3Error, str(where)):
                    store.count(where)
                with _raises(BGEM3Error, str(where)):
                    store.delete(where=where)
        assert store.count() == len(RECORDS)

    def test_flush_and_optimize_change_no_result(self, store: Store) -> None:
        self._fill(store)
        store.flush()
        store.optimize()
        assert self._ids(store) == _sorted(RECORDS)
        self._check_scores(store, RECORDS)

    def test_a_durable_store_has_everything_after_reopening(self, store: Store) -> None:
        if not store.capabilities.durable:
            return
        self._fill(store)
        store.delete(ids=["a"])
        store.flush()
        again = self.reopen(store)
        try:
            assert again.get([r.id for r in RECORDS]) == [None, *RECORDS[1:]]
            self._check_scores(again, RECORDS[1:])
        finally:
            again.close()

    def test_every_call_after_close_is_an_error(self, store: Store) -> None:
        self._fill(store)
        queries, modes = self._queries(store, QUERIES[:1]), store.capabilities.score
        embeddings = self._documents(store, [RECORDS[0].text])
        mode = ordered_modes(store.capabilities.find)[0]
        store.close()
        calls: dict[str, Callable[[], object]] = {
            "upsert": lambda: store.upsert(RECORDS[:1], embeddings),
            "delete": lambda: store.delete(ids=["a"]),
            "get": lambda: store.get(["a"]),
            "scroll": store.scroll,
            "find": lambda: store.find(queries, mode, limit=1),
            "score": lambda: store.score(queries, [["a"]], modes),
            "vectors": lambda: store.vectors(["a"], modes),
            "count": store.count,
            "flush": store.flush,
            "optimize": store.optimize,
        }
        for name, call in calls.items():
            with _raises(StoreError, name):
                call()

    def test_threads_may_write_and_search_at_once(self, store: Store) -> None:
        self._fill(store)
        queries = self._queries(store, QUERIES)
        extra = [Record(f"t{i:02}", f"text {i} of the fox", {"n": i}) for i in range(24)]

        def write(part: Sequence[Record]) -> None:
            for record in part:
                self._fill(store, [record])
            store.delete(ids=[part[0].id])

        def read() -> None:
            for _ in range(8):
                for mode in ordered_modes(store.capabilities.find):
                    for row in store.find(queries, mode, limit=5):
                        scores = [candidate.score for candidate in row]
                        assert scores == sorted(scores, reverse=True)
                store.scroll(limit=5)

        with ThreadPoolExecutor(6) as pool:
            writing = [pool.submit(write, extra[i::4]) for i in range(4)]
            for job in [*writing, pool.submit(read), pool.submit(read)]:
                job.result()
        self._check_scores(store, [*RECORDS, *extra[4:]])
        assert self._ids(store) == _sorted([*RECORDS, *extra[4:]])
