"""Documents encoded again when they are scored, over a counting fake."""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bge_m3_integrations import BGEM3
from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    FloatArray,
    Kind,
    Modes,
    TokenVectors,
)
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import EncodingError, InputError
from bge_m3_integrations.index.reencode import Reencoder
from bge_m3_integrations.testing import FakeEncoder

QUERIES = ["fox on the bridge", "token weights", "bread"]
TEXTS = [" ".join(["fox", "dog", "bridge", "bread", "token"][: i % 5 + 1]) for i in range(5)]
TEXTS += ["weights of a token", "the dog and the fox", ""]
ROW_BYTES = 16 * 4

Item = tuple[str, str] | None


@pytest.fixture
def fake() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def engine(fake: FakeEncoder) -> BGEM3:
    return BGEM3(fake)


def item(text: str) -> Item:
    return hashlib.sha256(text.encode()).hexdigest(), text


def items(*texts: str) -> list[Item]:
    return [item(text) for text in texts]


def encoded(engine: BGEM3, *texts: str) -> EmbeddingBatch:
    return engine.encode_queries(list(texts), modes=["colbert"])


def nbytes(text: str) -> int:
    return (len(text.split()) + 1) * ROW_BYTES


def document_calls(fake: FakeEncoder) -> list[tuple[str, ...]]:
    return [call.texts for call in fake.calls if call.kind == "document"]


def test_a_record_s_text_hash_is_the_key() -> None:
    record = Record("a", "fox")
    assert item("fox") == (record.text_hash, record.text)


@given(
    rows=st.lists(st.lists(st.none() | st.sampled_from(TEXTS)), max_size=3),
    cache_bytes=st.sampled_from([0, 3 * ROW_BYTES, 8 * ROW_BYTES, 1 << 20]),
)
def test_scores_are_those_of_direct_scoring_whatever_the_cache(
    rows: list[list[str | None]], cache_bytes: int
) -> None:
    engine = BGEM3(FakeEncoder())
    reencoder = Reencoder(engine, cache_bytes=cache_bytes)
    table = engine.score(QUERIES, TEXTS, weights=(0, 0, 1)).colbert
    assert table is not None
    documents = [[None if text is None else item(text) for text in row] for row in rows]
    for _ in range(2):
        scores = reencoder.scores(encoded(engine, *QUERIES[: len(rows)]), documents)
        assert len(scores) == len(rows)
        for i, row in enumerate(rows):
            wanted = [np.nan if text is None else table[i, TEXTS.index(text)] for text in row]
            assert scores[i].dtype == np.float32
            np.testing.assert_allclose(scores[i], np.array(wanted, np.float32), atol=1e-6)
        assert reencoder.cached_bytes <= cache_bytes


def test_a_document_that_is_gone_is_nan_and_costs_nothing(engine: BGEM3, fake: FakeEncoder) -> None:
    scores = Reencoder(engine).scores(encoded(engine, "fox", "dog"), [[None, None], []])
    assert np.isnan(scores[0]).tolist() == [True, True]
    assert scores[1].shape == (0,)
    assert document_calls(fake) == []


def test_all_queries_documents_are_encoded_in_one_call_each_text_once(
    engine: BGEM3, fake: FakeEncoder
) -> None:
    reencoder = Reencoder(engine)
    queries = encoded(engine, "fox", "dog")
    reencoder.scores(queries, [items("a", "b", "a"), items("c", "b")])
    assert document_calls(fake) == [("a", "b", "c")]
    assert fake.calls[-1].modes == {"colbert"}
    assert (reencoder.encoded, reencoder.reused) == (3, 0)


def test_a_later_call_encodes_only_what_is_new(engine: BGEM3, fake: FakeEncoder) -> None:
    reencoder = Reencoder(engine)
    queries = encoded(engine, "fox", "dog")
    reencoder.scores(queries, [items("a", "b"), items("c")])
    reencoder.scores(queries, [items("d", "c"), items("b", "c", "b")])
    assert document_calls(fake) == [("a", "b", "c"), ("d",)]
    assert (reencoder.encoded, reencoder.reused) == (4, 2)


def test_no_cache_encodes_every_time(engine: BGEM3, fake: FakeEncoder) -> None:
    reencoder = Reencoder(engine, cache_bytes=0)
    for _ in range(3):
        reencoder.scores(encoded(engine, "fox"), [items("a", "b")])
    assert document_calls(fake) == [("a", "b")] * 3
    assert (reencoder.encoded, reencoder.reused, reencoder.cached_bytes) == (6, 0, 0)


def test_the_cache_counts_the_bytes_of_token_vectors(engine: BGEM3) -> None:
    reencoder = Reencoder(engine)
    reencoder.scores(encoded(engine, "fox"), [items("a", "b c", "d e f")])
    assert reencoder.cached_bytes == (2 + 3 + 4) * ROW_BYTES


def test_the_least_recently_used_leaves_first(engine: BGEM3, fake: FakeEncoder) -> None:
    reencoder = Reencoder(engine, cache_bytes=2 * nbytes("a"))
    query = encoded(engine, "fox")
    for text in ["a", "b", "a", "c", "a", "b"]:
        reencoder.scores(query, [items(text)])
    assert document_calls(fake) == [("a",), ("b",), ("c",), ("b",)]


def test_what_leaves_the_cache_during_a_call_is_still_scored(engine: BGEM3) -> None:
    reencoder = Reencoder(engine, cache_bytes=2 * nbytes("a"))
    query = encoded(engine, "a b")
    reencoder.scores(query, [items("a", "b")])
    scores = reencoder.scores(query, [items("c", "a", "d", "b")])[0]
    assert (reencoder.encoded, reencoder.reused) == (4, 2)
    direct = engine.score(["a b"], ["c", "a", "d", "b"], weights=(0, 0, 1)).hybrid[0]
    np.testing.assert_allclose(scores, direct, atol=1e-6)


def test_a_document_larger_than_the_cache_is_scored_and_pushes_nothing_out(
    engine: BGEM3, fake: FakeEncoder
) -> None:
    reencoder = Reencoder(engine, cache_bytes=nbytes("a b"))
    query, large = encoded(engine, "fox"), "one two three"
    reencoder.scores(query, [items("a b")])
    assert np.isfinite(reencoder.scores(query, [items(large)])[0]).all()
    reencoder.scores(query, [items("a b", large)])
    assert document_calls(fake) == [("a b",), (large,), (large,)]
    assert reencoder.cached_bytes == nbytes("a b")


class OwnKernel(FakeEncoder):
    """Counts the pairs that its MaxSim scores."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = 0

    def maxsim(self, queries: TokenVectors, documents: TokenVectors) -> FloatArray:
        self.pairs += len(queries) * len(documents)
        return scoring.maxsim(queries, documents)


def test_a_query_is_scored_against_its_own_documents_by_the_encoders_kernel() -> None:
    fake = OwnKernel()
    engine = BGEM3(fake)
    reencoder = Reencoder(engine)
    documents = [items("a", "b", "a"), items("c"), [None]]
    reencoder.scores(encoded(engine, *QUERIES), documents)
    assert fake.pairs == 3
    reencoder.scores(encoded(engine, *QUERIES), documents)
    assert fake.pairs == 6


class Watched(FakeEncoder):
    """Notes how many earlier batches of documents are alive when the next is encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[weakref.ref[object]] = []
        self.alive: list[int] = []

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        if kind == "document":
            self.alive.append(sum(batch() is not None for batch in self.batches))
        batch = super().encode(texts, kind=kind, modes=modes, max_length=max_length)
        assert batch.colbert is not None
        if kind == "document":
            self.batches.append(weakref.ref(batch.colbert.vectors))
        return batch


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_long_texts_come_in_stretches_and_each_is_let_go_before_the_next(cache_bytes: int) -> None:
    fake = Watched()
    engine = BGEM3(fake)
    texts = [letter * 200_000 + " fox" for letter in "abcd"]
    reencoder = Reencoder(engine, cache_bytes=cache_bytes)
    scores = reencoder.scores(encoded(engine, "fox"), [items(*texts)])
    assert document_calls(fake) == [(text,) for text in texts]
    assert fake.alive == [0, 0, 0, 0]
    assert all(batch() is None for batch in fake.batches)
    direct = engine.score(["fox"], texts, weights=(0, 0, 1)).hybrid
    np.testing.assert_allclose(scores[0], direct[0], atol=1e-6)


def test_what_left_the_cache_is_let_go_while_more_is_encoded() -> None:
    fake = Watched()
    engine = BGEM3(fake)
    reencoder = Reencoder(engine, cache_bytes=2 * nbytes("a"))
    query = encoded(engine, "fox")
    reencoder.scores(query, [items("a", "b")])
    fake.batches = [weakref.ref(vectors) for vectors in reencoder._cache.values()]
    reencoder.scores(query, [items("a", "b", *(letter * 200_000 for letter in "cde"))])
    assert fake.alive[1:] == [2, 1, 0]


def test_a_text_that_two_threads_encode_at_once_is_kept_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = BGEM3(FakeEncoder())
    both, encode = threading.Barrier(2, timeout=30), engine.encode_documents

    def meeting(texts: Sequence[str], *, modes: Modes) -> EmbeddingBatch:
        both.wait()  # neither found the text in the cache
        return encode(texts, modes=modes)

    monkeypatch.setattr(engine, "encode_documents", meeting)
    reencoder = Reencoder(engine)
    query = encoded(engine, "fox")
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda _: reencoder.scores(query, [items("a b")])[0], range(2)))
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (reencoder.encoded, reencoder.reused) == (2, 0)
    assert reencoder.cached_bytes == nbytes("a b")


def test_threads_get_right_scores_from_a_cache_that_turns_over() -> None:
    engine = BGEM3(FakeEncoder())
    reencoder = Reencoder(engine, cache_bytes=10 * ROW_BYTES)
    queries = encoded(engine, *QUERIES)
    table = engine.score(QUERIES, TEXTS, weights=(0, 0, 1)).hybrid
    threads, rounds, width = 8, 30, 3
    together = threading.Barrier(threads)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        together.wait()
        for _ in range(rounds):
            chosen = rng.choice(len(TEXTS), width, replace=False)
            documents = [items(*(TEXTS[i] for i in chosen))] * len(QUERIES)
            for i, row in enumerate(reencoder.scores(queries, documents)):
                np.testing.assert_allclose(row, table[i, chosen], atol=1e-6)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    assert reencoder.encoded + reencoder.reused == threads * rounds * width
    assert 0 < reencoder.cached_bytes <= 10 * ROW_BYTES
    held = reencoder.cached_bytes
    reencoder.scores(encoded(engine, "fox"), [items("x" * 20)])
    assert reencoder.cached_bytes <= held + nbytes("x")


class Stumbles(FakeEncoder):
    """Has no finite numbers for one text."""

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        for position, text in enumerate(texts):
            if text.startswith("bad"):
                raise EncodingError("has no finite dense vector", position)
        return super().encode(texts, kind=kind, modes=modes, max_length=max_length)


def test_a_document_without_finite_numbers_is_named_by_its_beginning_and_place() -> None:
    engine = BGEM3(Stumbles())
    reencoder = Reencoder(engine)
    queries = encoded(engine, "fox", "dog")
    reencoder.scores(queries, [items("a"), items("b")])
    long = "c" * 300_000
    with pytest.raises(EncodingError, match="document that begins 'bad one' has no") as caught:
        reencoder.scores(queries, [[None, *items("b", long)], items("a", "d", "bad one")])
    assert caught.value.position == 5
    assert reencoder.encoded == 3


def test_queries_and_lists_of_documents_must_be_as_many(engine: BGEM3) -> None:
    with pytest.raises(InputError, match="2 queries came with 1 lists"):
        Reencoder(engine).scores(encoded(engine, "fox", "dog"), [items("a")])


def test_queries_without_token_vectors_are_refused(engine: BGEM3) -> None:
    dense = engine.encode_queries(["fox"], modes=["dense"])
    with pytest.raises(InputError, match="colbert"):
        Reencoder(engine).scores(dense, [items("a")])


@pytest.mark.parametrize("wrong", [-1, 1.5, True, None])
def test_cache_bytes_is_a_whole_number(engine: BGEM3, wrong: int) -> None:
    with pytest.raises(InputError, match="cache_bytes"):
        Reencoder(engine, cache_bytes=wrong)
