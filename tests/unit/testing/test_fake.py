"""The public fake encoder, and the conformance class's ability to fail."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bge_m3_integrations.core.embeddings import ALL_MODES, EmbeddingBatch, Kind, Mode
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.encoders.base import Encoder
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.stores.memory.store import MemoryStore
from bge_m3_integrations.testing import Call, FakeEncoder, StoreConformance


def encode(text: str, *, kind: Kind = "document", **options: Any) -> EmbeddingBatch:
    return FakeEncoder(**options).encode([text], kind=kind, modes=ALL_MODES)


def test_the_fake_is_an_encoder() -> None:
    assert isinstance(FakeEncoder(), Encoder)


def test_its_numbers_are_the_same_on_every_machine() -> None:
    batch = encode("The quick 狐狸")
    assert batch.tokens.tolist() == [6]
    assert batch.sparse is not None
    assert batch.sparse.token_ids.tolist() == GOLDEN_IDS
    assert batch.dense is not None
    np.testing.assert_allclose(batch.dense[0, :3], GOLDEN_DENSE, rtol=0, atol=1e-6)


GOLDEN_IDS = [3380, 34129, 34147, 49580]
GOLDEN_DENSE = [0.0043001, -0.1072724, 0.2255349]


def test_importing_it_does_not_import_pytest() -> None:
    code = "import sys, bge_m3_integrations.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.lists(st.text(max_size=30), max_size=4))
def test_any_text_has_unit_vectors_and_sorted_weights(texts: list[str]) -> None:
    batch = FakeEncoder().encode(texts, kind="document", modes=ALL_MODES)
    assert len(batch) == len(texts)
    for row in batch:
        assert row.dense is not None
        assert row.sparse is not None
        assert row.colbert is not None
        assert np.linalg.norm(row.dense) == pytest.approx(1, abs=1e-5)
        assert len(row.colbert) == row.tokens - 1 >= 1
        assert np.linalg.norm(row.colbert, axis=1) == pytest.approx(1, abs=1e-5)
        assert list(row.sparse) == sorted(row.sparse)
        assert all(0.05 < weight < 1 for weight in row.sparse.values())
        assert all(5 <= token < 50_000 for token in row.sparse)


def test_a_text_scores_the_same_in_every_batch() -> None:
    together = FakeEncoder().encode(["a", "b c", ""], kind="query", modes=ALL_MODES)
    for row, text in zip(together, ["a", "b c", ""], strict=True):
        alone = encode(text)[0]
        assert row.sparse == alone.sparse
        assert np.array_equal(row.dense, alone.dense)
        assert np.array_equal(row.colbert, alone.colbert)


def test_texts_that_share_words_are_more_alike() -> None:
    texts = ["the red fox", "the red dog", "bread and cheese"]
    dense = FakeEncoder(dim=256).encode(texts, kind="document", modes=["dense"]).dense
    assert dense is not None
    near, far = dense[0] @ dense[1], dense[0] @ dense[2]
    assert near > 0.5 > far


def test_words_are_lower_cased_and_every_han_character_is_a_token() -> None:
    encoder = FakeEncoder()
    tokens = encoder.tokenize(["Fox模型2 fox"], kind="document")
    assert encoder.id_to_token(tokens.row(0).tolist()) == [
        "<s>",
        "fox",
        "模",
        "型",
        "2",
        "fox",
        "</s>",
    ]
    assert tokens.spans.tolist() == [[-1, -1], [0, 3], [3, 4], [4, 5], [5, 6], [7, 10], [-1, -1]]
    assert tokens.colbert_rows.tolist() == [-1, 0, 1, 2, 3, 4, 5]


def test_queries_and_documents_differ_only_with_an_instruction() -> None:
    plain, other = encode("fox", kind="query"), encode("fox")
    assert plain[0].sparse == other[0].sparse
    assert np.array_equal(plain.dense, other.dense)
    instructed = FakeEncoder(query_instruction="search for")
    query = instructed.encode(["fox"], kind="query", modes=ALL_MODES)
    document = instructed.encode(["fox"], kind="document", modes=ALL_MODES)
    assert query.tokens.tolist() == [5]
    assert not np.array_equal(query.dense, document.dense)
    assert np.array_equal(document.dense, other.dense)
    assert instructed.tokenize(["fox"], kind="query").spans.tolist()[1:4] == [
        [-1, -1],
        [-1, -1],
        [0, 3],
    ]
    assert instructed.fingerprint == FakeEncoder().fingerprint


def test_truncation_is_counted() -> None:
    batch = FakeEncoder().encode(["a b c d e", "a"], kind="query", modes=ALL_MODES, max_length=4)
    assert batch.tokens.tolist() == [4, 3]
    assert batch.truncated.tolist() == [3, 0]
    assert len(batch[0].sparse or {}) == 2


def test_what_is_not_asked_for_is_not_computed() -> None:
    for mode in ALL_MODES:
        assert FakeEncoder().encode(["a"], kind="query", modes=[mode]).modes == {mode}


def test_a_mode_that_it_lacks_is_an_error() -> None:
    with pytest.raises(InputError, match=r"no \['colbert'\], only \['dense'\]"):
        FakeEncoder(modes=["dense"]).encode(["a"], kind="query", modes=["dense", "colbert"])


@pytest.mark.parametrize("wrong", ["one string", [1], [None]])
def test_what_is_no_list_of_strings_is_an_error(wrong: Any) -> None:
    with pytest.raises(InputError, match="str"):
        FakeEncoder().encode(wrong, kind="query", modes=ALL_MODES)


@pytest.mark.parametrize("length", [0, 1, 513])
def test_a_length_out_of_range_is_an_error(length: int) -> None:
    with pytest.raises(InputError, match="from 2 to 512"):
        FakeEncoder().encode(["a"], kind="query", modes=ALL_MODES, max_length=length)


def test_calls_and_forwards_are_counted_across_threads() -> None:
    encoder = FakeEncoder()

    def work(i: int) -> None:
        encoder.encode(["same", f"own {i}"], kind="query", modes=["dense"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(64)))
    assert len(encoder.calls) == 64
    assert encoder.calls[0].kind == "query"
    assert Call(("same", "own 7"), "query", frozenset({"dense"})) in encoder.calls
    assert encoder.forwards["same"] == 64
    assert encoder.forwards["own 63"] == 1


def test_the_fingerprint_tells_other_numbers_apart() -> None:
    prints = [FakeEncoder().fingerprint, FakeEncoder(dim=8).fingerprint]
    prints += [FakeEncoder(vocab_size=99).fingerprint, FakeEncoder(colbert_dim=8).fingerprint]
    assert len(set(prints)) == 4
    assert FakeEncoder(max_length=9).fingerprint == prints[0]


def _claims() -> list[str]:
    return [name for name in dir(StoreConformance) if name.startswith("test_")]


def _failing(make: type[MemoryStore]) -> set[str]:
    failed = set()
    for name in _claims():
        try:
            getattr(StoreConformance(), name)(make())
        except AssertionError:
            failed.add(name)
    return failed


class Unordered(MemoryStore):
    """Finds in the wrong order."""

    def find(self, *args: Any, **options: Any) -> Any:
        return [row[::-1] for row in super().find(*args, **options)]


class Careless(MemoryStore):
    """Forgets to delete."""

    def delete(self, *, ids: Any = None, where: Any = None) -> int:
        return len(ids or [])


class Partial(MemoryStore):
    """Keeps the first record of a batch that it then refuses."""

    def upsert(self, records: Any, embeddings: EmbeddingBatch) -> None:
        if len(records) > 1 and records[0].id == "a" and records[0].text == "new":
            super().upsert(records[:1], embeddings.take([0]))
        super().upsert(records, embeddings)


class Zeroing(MemoryStore):
    """Scores an unknown id 0."""

    def score(self, *args: Any, **options: Any) -> Any:
        parts = super().score(*args, **options)
        for _, scores in (pair for part in parts for pair in part.items()):
            np.nan_to_num(scores, copy=False)
        return parts


class LateFilter(MemoryStore):
    """Filters behind the limit."""

    def find(self, queries: Any, mode: Mode, *, limit: int, where: Any = None) -> Any:
        found = super().find(queries, mode, limit=limit)
        kept = {r.id for r in self.scroll(where).records}
        return [[c for c in row if c.id in kept] for row in found]


def test_the_conformance_class_passes_the_reference() -> None:
    assert _failing(MemoryStore) == set()
    assert len(_claims()) >= 30


@pytest.mark.parametrize(
    ("broken", "claim"),
    [
        (Unordered, "test_find_gives_the_reference_scores_best_first"),
        (Careless, "test_delete_by_ids_counts_what_was_there"),
        (Partial, "test_a_batch_that_does_not_fit_is_refused_as_a_whole"),
        (Zeroing, "test_an_unknown_id_scores_nan_and_the_others_as_ever"),
        (LateFilter, "test_every_filter_means_the_same_in_count_scroll_and_find"),
    ],
)
def test_the_conformance_class_fails_a_broken_store(broken: type[MemoryStore], claim: str) -> None:
    assert claim in _failing(broken)


def test_a_record_that_was_read_is_a_copy() -> None:
    store = MemoryStore()
    embeddings = encode("x")
    store.upsert([Record("m", "x", {"tags": ["a"]})], embeddings)
    held = store.get(["m"])[0]
    assert held is not None
    held.metadata["tags"].append("b")
    again = store.get(["m"])[0]
    assert again is not None
    assert again.metadata == {"tags": ["a"]}
