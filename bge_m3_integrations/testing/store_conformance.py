"""The contract of `stores.base.Store` as tests; public through `bge_m3_integrations.testing`."""

# ruff: noqa: D102 (a test says in its name what it claims)

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import (
    ALL_MODES,
    EmbeddingBatch,
    FloatArray,
    Kind,
    Mode,
    Modes,
    SparseRows,
    ordered_modes,
)
from bge_m3_integrations.core.filters import Compare, Filter, Ids, matches, operators
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import BGEM3Error, InputError, StoreError
from bge_m3_integrations.stores.base import Page, Store
from bge_m3_integrations.testing.fake import FakeEncoder
from bge_m3_integrations.testing.store_conformance_data import FILTERS, QUERIES, RECORDS, TEXTS


class StoreConformance:
    """Subclass it as `Test...`, give it a fixture `store` with a new, empty store, and run pytest.

    Attributes:
        atol: How far a score may be from the reference.
        encoder: Makes the embeddings.
    """

    atol: float = 1e-5
    encoder: FakeEncoder = FakeEncoder()

    def reopen(self, store: Store) -> Store:
        """Close a durable store and open the same data again; a subclass writes it."""
        raise NotImplementedError(f"{type(self).__name__} needs reopen() for a durable store")

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
            queries = _without(self._queries(store, QUERIES), mode)
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

        _together([*(lambda i=i: write(extra[i::4]) for i in range(4)), read, read])
        self._check_scores(store, [*RECORDS, *extra[4:]])
        assert self._ids(store) == _sorted([*RECORDS, *extra[4:]])

    def _encode(self, store: Store, texts: Sequence[str], kind: Kind) -> EmbeddingBatch:
        modes: Modes = store.capabilities.score | store.capabilities.find
        return self.encoder.encode(list(texts), kind=kind, modes=modes)

    def _documents(self, store: Store, texts: Sequence[str]) -> EmbeddingBatch:
        return self._encode(store, texts, "document")

    def _queries(self, store: Store, texts: Sequence[str]) -> EmbeddingBatch:
        return self._encode(store, texts, "query")

    def _fill(self, store: Store, records: Sequence[Record] = RECORDS) -> None:
        store.upsert(records, self._documents(store, [record.text for record in records]))

    def _ids(self, store: Store, where: Filter | None = None, *, limit: int = 3) -> list[str]:
        ids: list[str] = []
        page = store.scroll(where, limit=limit)
        while True:
            assert len(page.records) <= limit
            ids += [record.id for record in page.records]
            if page.after is None:
                return ids
            page = store.scroll(where, after=page.after, limit=limit)

    def _runnable(self, store: Store) -> list[Filter]:
        return [where for where in FILTERS if operators(where) <= store.capabilities.operators]

    def _pairs(self, queries: EmbeddingBatch, held: Sequence[Record], mode: Mode) -> Any:
        """The reference scores, `(queries, records)`."""
        documents = self.encoder.encode([r.text for r in held], kind="document", modes=[mode])
        return dict(scoring.components(queries, documents, [mode]).items())[mode]

    def _reference(
        self, queries: EmbeddingBatch, held: Sequence[Record], mode: Mode
    ) -> list[dict[str, float]]:
        scores = self._pairs(queries, held, mode)
        return [
            {r.id: float(s) for r, s in zip(held, row, strict=True) if mode != "sparse" or s > 0}
            for row in scores
        ]

    def _check_found(
        self, found: Sequence[Any], expected: dict[str, float], mode: Mode, limit: int
    ) -> None:
        """Hits against the reference; which of two scores within `atol` comes first is open."""
        assert len(found) == min(limit, len(expected)), mode
        assert len({candidate.id for candidate in found}) == len(found)
        best = sorted(expected.values(), reverse=True)[:limit]
        for candidate, score in zip(found, best, strict=True):
            assert abs(candidate.score - expected[candidate.id]) <= self.atol, mode
            assert abs(candidate.score - score) <= self.atol, mode

    def _check_scores(self, store: Store, held: Sequence[Record]) -> None:
        queries = self._queries(store, QUERIES)
        ids = [[record.id for record in held]] * len(QUERIES)
        scored = store.score(queries, ids, store.capabilities.score)
        for mode in ordered_modes(store.capabilities.score):
            expected = self._pairs(queries, held, mode)
            for parts, row in zip(scored, expected, strict=True):
                self._close(dict(parts.items())[mode], row)

    def _close(self, given: Any, expected: Any) -> None:
        assert given.dtype == np.float32
        np.testing.assert_allclose(given, expected, rtol=0, atol=self.atol)

    def _same(self, given: EmbeddingBatch, expected: EmbeddingBatch) -> None:
        assert given.modes == expected.modes
        if given.dense is not None and expected.dense is not None:
            self._close(given.dense, expected.dense)
        if given.sparse is not None and expected.sparse is not None:
            assert given.sparse.indptr.tolist() == expected.sparse.indptr.tolist()
            assert given.sparse.token_ids.tolist() == expected.sparse.token_ids.tolist()
            self._close(given.sparse.weights, expected.sparse.weights)
        if given.colbert is not None and expected.colbert is not None:
            assert given.colbert.offsets.tolist() == expected.colbert.offsets.tolist()
            self._close(given.colbert.vectors.astype(np.float32), expected.colbert.vectors)

    def _misfits(self, store: Store) -> Iterator[tuple[str, list[Record], EmbeddingBatch]]:
        """Batches of two records, the first sound, that must be refused."""
        records = [Record("a", "new"), Record("new", "also new")]
        sound = self._documents(store, ["new words", "also new"])
        yield "rows", records, sound.take([0])
        yield "id twice", [records[0], records[0]], sound
        if len(sound.modes) > 1:
            yield "modes", records, sound.only(ordered_modes(sound.modes)[:1])
        if sound.dense is not None:
            wide = np.zeros((2, self.encoder.dim + 1), np.float32)
            yield "width", records, replace(sound, dense=wide)
            bad = sound.dense.copy()
            bad[1, 0] = np.nan
            yield "finite", records, replace(sound, dense=bad)
        if sound.sparse is not None:
            turned = SparseRows(
                sound.sparse.indptr, sound.sparse.token_ids[::-1].copy(), sound.sparse.weights
            )
            yield "token order", records, replace(sound, sparse=turned)
            infinite = replace(sound.sparse, weights=sound.sparse.weights * np.float32(np.inf))
            yield "infinite weight", records, replace(sound, sparse=infinite)


def _without(batch: EmbeddingBatch, mode: Mode) -> EmbeddingBatch:
    return EmbeddingBatch(
        None if mode == "dense" else batch.dense,
        None if mode == "sparse" else batch.sparse,
        None if mode == "colbert" else batch.colbert,
        batch.tokens,
        batch.truncated,
    )


def _arrays(batch: EmbeddingBatch) -> list[FloatArray]:
    """The numbers of a batch, to write over."""
    parts = (
        batch.dense,
        None if batch.sparse is None else batch.sparse.weights,
        None if batch.colbert is None else batch.colbert.vectors,
    )
    return [part for part in parts if part is not None]


def _sorted(records: Sequence[Record]) -> list[str]:
    return sorted(record.id for record in records)


def _listed(page: Page) -> tuple[list[Record], str | None]:
    return list(page.records), page.after


@contextmanager
def _raises(error: type[Exception], about: str) -> Iterator[None]:
    """What `pytest.raises` does: users import this module where pytest is not installed."""
    try:
        yield
    except error:
        return
    raise AssertionError(f"no {error.__name__}: {about}")


def _together(jobs: Sequence[Callable[[], None]]) -> None:
    """Run jobs in threads at once; the first failure is raised."""
    failures: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
