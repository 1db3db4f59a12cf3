from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BGEM3
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Modes
from bge_m3_integrations.engine.memo import MemoEncoder
from bge_m3_integrations.engine.stats import DeclaredModes, Stats, StatsCounter
from bge_m3_integrations.errors import EncodingError, InputError
from bge_m3_integrations.testing import FakeEncoder


def shared_engine(fake: FakeEncoder, **options: int) -> BGEM3:
    engine = BGEM3(fake, **options)
    engine.declare("one", query={"dense"}, document={"dense"})
    engine.declare("two", query={"sparse"}, document={"sparse"})
    return engine


def test_two_roles_share_one_forward_per_text() -> None:
    fake = FakeEncoder()
    engine = shared_engine(fake)
    dense = engine.encode_documents(["a b", "c"], modes={"dense"})
    sparse = engine.encode_documents(["c", "a b"], modes={"sparse"})
    assert sum(fake.forwards.values()) == 2
    assert fake.calls[0].modes == {"dense", "sparse"}
    assert dense.modes == {"dense"}
    lone = BGEM3(FakeEncoder()).encode_documents(["c", "a b"], modes={"sparse"})
    assert [row.sparse for row in sparse] == [row.sparse for row in lone]
    assert engine.stats.memo_hits == 2


def test_what_others_want_of_a_whole_collection_is_computed_in_stretches() -> None:
    fake = FakeEncoder()
    engine = shared_engine(fake, memo_bytes=1024)
    texts = [f"{i} " + "x" * 100_000 for i in range(5)]
    dense = engine.encode_documents(texts, modes={"dense"})
    assert [len(call.texts) for call in fake.calls] == [2, 2, 1]
    lone = BGEM3(FakeEncoder()).encode_documents(texts, modes={"dense"})
    np.testing.assert_array_equal(dense.dense, lone.dense)


def test_a_caller_alone_gets_its_texts_in_one_call() -> None:
    fake = FakeEncoder()
    texts = [f"{i} " + "x" * 100_000 for i in range(5)]
    shared_engine(fake).encode_documents(texts, modes={"dense", "sparse"})
    assert [len(call.texts) for call in fake.calls] == [5]


def test_a_lone_role_remembers_nothing_and_computes_nothing_extra() -> None:
    fake = FakeEncoder()
    engine = BGEM3(fake)
    engine.declare("one", query={"dense"})
    engine.declare("one", query={"dense"})
    engine.encode_queries(["a"], modes={"dense"})
    engine.encode_queries(["a"], modes={"dense"})
    assert fake.forwards["a"] == 2
    assert all(call.modes == {"dense"} for call in fake.calls)


def test_equal_texts_of_one_call_cost_one_forward_and_come_back_in_place() -> None:
    fake = FakeEncoder()
    batch = BGEM3(fake).encode_documents(["x", "y", "x"])
    assert dict(fake.forwards) == {"x": 1, "y": 1}
    assert batch.dense is not None
    np.testing.assert_array_equal(batch.dense[0], batch.dense[2])
    assert np.abs(batch.dense[0] - batch.dense[1]).max() > 0


def test_queries_documents_and_lengths_are_kept_apart() -> None:
    fake = FakeEncoder()
    engine = shared_engine(fake)
    engine.encode_documents(["a b c"])
    engine.encode_queries(["a b c"])
    engine.encode_documents(["a b c"], max_length=100)
    assert fake.forwards["a b c"] == 3


def test_a_mode_asked_for_later_is_computed_and_the_earlier_ones_are_kept() -> None:
    fake = FakeEncoder()
    engine = BGEM3(fake)
    engine.declare("one", document={"dense"})
    engine.declare("two", document={"dense"})
    engine.encode_documents(["a"], modes={"sparse"})
    engine.encode_documents(["a"], modes={"colbert"})
    assert fake.calls[-1].modes == {"dense", "colbert"}
    again = engine.encode_documents(["a"], modes={"dense", "colbert", "sparse"})
    assert fake.forwards["a"] == 2
    lone = BGEM3(FakeEncoder()).encode_documents(["a"])
    assert again.sparse is not None
    assert lone.sparse is not None
    assert again.sparse.weights.tolist() == lone.sparse.weights.tolist()


def test_what_was_asked_for_last_stays_longest() -> None:
    fake = FakeEncoder()
    engine = shared_engine(fake, memo_bytes=30_000, spill_bytes=0)
    for i in range(50):
        engine.encode_documents([f"text {i}"], modes={"dense"})
        engine.encode_documents(["a"], modes={"dense"})
    assert fake.forwards["a"] == 1
    engine.encode_documents(["text 0"], modes={"dense"})
    assert fake.forwards["text 0"] == 2  # the memo was full


def test_hits_and_misses_of_one_call_come_back_in_order() -> None:
    engine = shared_engine(FakeEncoder())
    engine.encode_documents(["b", "d"])
    texts = ["a", "b", "c", "d", "b"]
    mixed = engine.encode_documents(texts)
    plain = BGEM3(FakeEncoder()).encode_documents(texts)
    np.testing.assert_array_equal(mixed.dense, plain.dense)
    for ours, theirs in zip(mixed, plain, strict=True):
        assert ours.sparse == theirs.sparse
        np.testing.assert_array_equal(ours.colbert, theirs.colbert)


def test_the_memo_is_bounded_and_counts_what_an_eviction_cost() -> None:
    fake = FakeEncoder()
    engine = shared_engine(fake, memo_bytes=4096, spill_bytes=0)
    engine.encode_documents([f"text {i}" for i in range(50)], modes={"dense"})
    engine.encode_documents(["text 0"], modes={"dense"})
    assert fake.forwards["text 0"] == 2
    assert engine.stats.evicted_forwards == 1


def test_a_row_that_is_larger_than_the_memo_is_spilled_and_pushes_nothing_out() -> None:
    fake = FakeEncoder()
    engine = shared_engine(fake, memo_bytes=8192)
    large = " ".join(f"word{i}" for i in range(400))
    engine.declare("three", document={"colbert"})
    engine.encode_documents(["small"], modes={"sparse"})
    engine.encode_documents([large], modes={"sparse"})
    engine.encode_documents([large, "small"], modes={"dense"})
    assert fake.forwards == {"small": 1, large: 1}
    assert engine.stats.spilled == 1


def test_a_mode_that_was_not_computed_is_no_eviction() -> None:
    engine = shared_engine(FakeEncoder(), memo_bytes=4096, spill_bytes=0)
    engine.encode_documents([f"text {i}" for i in range(50)], modes={"dense"})
    for modes in ({"dense"}, {"colbert"}):
        engine.encode_documents(["text 0"], modes=modes)
    assert engine.stats.evicted_forwards == 1


def test_documents_in_bulk_do_not_push_queries_out() -> None:
    fake = FakeEncoder()
    engine = shared_engine(fake, memo_bytes=40_000)
    engine.encode_queries(["the question"])
    engine.encode_documents([f"document {i}" for i in range(300)])
    engine.encode_queries(["the question"])
    assert fake.forwards["the question"] == 1


class Gated(FakeEncoder):
    """Waits before its first text is encoded, until another call had the time to come."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.entries = threading.Semaphore(0)
        self.go = threading.Event()

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        self.entered.set()
        self.entries.release()
        assert self.go.wait(10)
        return super().encode(texts, kind=kind, modes=modes, max_length=max_length)


def test_two_threads_that_ask_at_once_share_one_forward() -> None:
    fake = Gated()
    engine = shared_engine(fake)
    with ThreadPoolExecutor(2) as pool:
        dense = pool.submit(engine.encode_queries, ["a b"], modes={"dense"})
        assert fake.entered.wait(10)
        sparse = pool.submit(engine.encode_queries, ["a b", "c"], modes={"sparse"})
        fake.go.set()
        assert dense.result().modes == {"dense"}
        assert sparse.result().modes == {"sparse"}
    assert fake.forwards == {"a b": 1, "c": 1}


class Failing(Gated):
    """Fails for every batch that holds the word "bad"."""

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        batch = super().encode(texts, kind=kind, modes=modes, max_length=max_length)
        if "bad" in texts:
            raise EncodingError("is not finite", list(texts).index("bad"))
        return batch


def test_a_failed_batch_fails_its_caller_and_not_the_one_who_waited_for_a_good_text() -> None:
    fake = Failing()
    engine = shared_engine(fake)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(engine.encode_queries, ["good", "good", "bad"], modes={"dense"})
        assert fake.entered.wait(10)
        second = pool.submit(engine.encode_queries, ["good"], modes={"dense"})
        fake.go.set()
        assert len(second.result()) == 1
        with pytest.raises(EncodingError, match="text 2 is not finite"):
            first.result()
    assert len(engine.encode_queries(["good"], modes={"dense"})) == 1


def test_an_interrupted_caller_does_not_interrupt_the_one_who_waits_for_its_text() -> None:
    class Interrupted(Gated):
        def encode(self, texts: Sequence[str], **options: Any) -> EmbeddingBatch:
            batch = super().encode(texts, **options)
            if "interrupted" in texts:
                raise KeyboardInterrupt
            return batch

    fake = Interrupted()
    memo = shared_engine(fake).encoder
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(memo.encode, ["a", "interrupted"], kind="query", modes={"dense"})
        assert fake.entered.wait(10)
        second = pool.submit(memo.encode, ["a"], kind="query", modes={"dense"})
        while memo.stats.texts < 3:
            time.sleep(0.001)
        fake.go.set()
        assert len(second.result(10)) == 1
        with pytest.raises(KeyboardInterrupt):
            first.result(10)


def test_a_text_that_runs_without_a_mode_is_run_again_and_nobody_waits_in_vain() -> None:
    fake = Failing()
    engine = BGEM3(fake)
    engine.declare("one", query={"dense"})
    engine.declare("two", query={"dense"})
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(engine.encode_documents, ["a", "b"], modes={"dense"})
        assert fake.entries.acquire(timeout=10)
        waiting = pool.submit(engine.encoder.encode, ["a"], kind="document", modes={"dense"})
        other = pool.submit(engine.encoder.encode, ["a"], kind="document", modes={"sparse"})
        assert fake.entries.acquire(timeout=10)  # the one of another mode runs by itself
        fake.go.set()
        assert len(first.result(10)) == 2
        assert waiting.result(10).modes == {"dense"}
        assert other.result(10).modes == {"sparse"}
    assert engine.encode_documents(["a"], modes={"sparse"}).modes == {"sparse"}


def test_an_error_in_a_text_that_another_caller_failed_at_names_that_text() -> None:
    fake = Failing()
    engine = shared_engine(fake)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(engine.encode_queries, ["bad"], modes={"dense"})
        assert fake.entries.acquire(timeout=10)
        second = pool.submit(engine.encoder.encode, ["good", "bad"], kind="query", modes={"dense"})
        assert fake.entries.acquire(timeout=10)
        fake.go.set()
        with pytest.raises(EncodingError, match="text 0"):
            first.result(10)
        with pytest.raises(EncodingError, match="text 1"):
            second.result(10)


@pytest.mark.parametrize("shared", [True, False])
def test_an_error_names_the_callers_position_also_behind_duplicates(shared: bool) -> None:
    fake = Failing()
    fake.go.set()
    engine = shared_engine(fake) if shared else BGEM3(fake)
    with pytest.raises(EncodingError, match="text 3"):
        engine.encode_documents(["a", "a", "a", "bad"])
    with pytest.raises(InputError, match="text 3 holds the lone surrogate"):
        engine.encode_documents(["a", "a", "a", "x\ud800"])


def test_an_error_in_a_later_stretch_names_the_callers_position_and_keeps_the_others() -> None:
    fake = Failing()
    fake.go.set()
    engine = shared_engine(fake)
    texts = [f"{i} " + "x" * 100_000 for i in range(4)]
    with pytest.raises(EncodingError, match="text 3"):
        engine.encode_documents([*texts[:3], "bad", texts[3]], modes={"dense"})
    engine.encode_documents(texts, modes={"dense"})
    assert max(fake.forwards[text] for text in texts[:2]) == 1


@pytest.mark.parametrize("memo_bytes", [-1, 2.5, None])
def test_a_memo_of_no_size_is_refused(memo_bytes: Any) -> None:
    with pytest.raises(InputError, match="memo_bytes"):
        BGEM3(FakeEncoder(), memo_bytes=memo_bytes)


def test_stats_count_truncation(recwarn: pytest.WarningsRecorder) -> None:
    engine = BGEM3(FakeEncoder(max_length=5))
    engine.encode_documents(["a b c d e f g", "a"])
    stats = engine.stats
    assert (stats.texts, stats.forwards, stats.truncated_texts) == (2, 2, 1)
    assert stats.truncated_tokens > 0
    assert "1 of 2 texts" in str(recwarn.pop().message)


def test_an_encoder_refuses_loading_options_beside_it() -> None:
    with pytest.raises(InputError, match="brings its own options"):
        BGEM3(FakeEncoder(), dtype="float32")


def test_a_memo_counts_into_the_counts_that_the_encoder_behind_keeps() -> None:
    counts, needs = StatsCounter(), DeclaredModes()
    memo = MemoEncoder(FakeEncoder(), needs, max_bytes=1000, counts=counts)
    memo.encode(["a", "b"], kind="query", modes={"dense"})
    assert memo.stats == counts.stats == Stats(texts=2)
    alone = MemoEncoder(FakeEncoder(), needs, max_bytes=1000)
    alone.encode(["a", "b"], kind="query", modes={"dense"})
    assert alone.stats == Stats(texts=2, forwards=2)
