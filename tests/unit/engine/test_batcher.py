from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BGEM3
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Modes
from bge_m3_integrations.engine import batch_calls, batcher
from bge_m3_integrations.errors import EncodingError, InputError
from bge_m3_integrations.testing import FakeEncoder
from tests.batches import assert_equal

LONG = 60.0


class Watched(FakeEncoder):
    """Holds calls whose first text begins with "hold", fails on "poison", notes threads."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.go = threading.Event()
        self.threads: list[int] = []
        self.before: Callable[[Sequence[str]], object] = lambda texts: None

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        self.threads.append(threading.get_ident())
        batch = super().encode(texts, kind=kind, modes=modes, max_length=max_length)
        if any(text.startswith("hold") for text in texts):
            self.entered.set()
            assert self.go.wait(LONG)
        self.before(texts)
        for position, text in enumerate(texts):
            if text == "poison":
                raise EncodingError("has no finite numbers", position)
        return batch


@pytest.fixture
def fake() -> Iterator[Watched]:
    encoder = Watched()
    yield encoder
    encoder.go.set()


@pytest.fixture
def engine(fake: Watched) -> Iterator[BGEM3]:
    engine = BGEM3(fake)
    yield engine
    fake.go.set()
    engine.close()


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "bge-m3-batcher"]


@pytest.fixture(autouse=True)
def _no_workers_left() -> None:
    for thread in workers():  # of another test
        thread.join(LONG)


def held(engine: BGEM3, fake: Watched, kind: Kind = "query") -> Future[EmbeddingBatch]:
    """A call that keeps its lane busy until `fake.go`."""
    future = engine.submit(["hold"], kind=kind)
    assert fake.entered.wait(LONG)
    return future


def same(batch: EmbeddingBatch, other: EmbeddingBatch) -> None:
    assert batch.dense is not None
    assert batch.sparse is not None
    assert batch.colbert is not None
    assert other.dense is not None
    assert other.sparse is not None
    assert other.colbert is not None
    np.testing.assert_array_equal(batch.dense, other.dense)
    np.testing.assert_array_equal(batch.sparse.indptr, other.sparse.indptr)
    np.testing.assert_array_equal(batch.sparse.token_ids, other.sparse.token_ids)
    np.testing.assert_array_equal(batch.sparse.weights, other.sparse.weights)
    np.testing.assert_array_equal(batch.colbert.offsets, other.colbert.offsets)
    np.testing.assert_array_equal(batch.colbert.vectors, other.colbert.vectors)
    np.testing.assert_array_equal(batch.tokens, other.tokens)


async def coroutines(engine: BGEM3, shares: list[list[str]]) -> list[tuple[str, EmbeddingBatch]]:
    async def ask(texts: list[str]) -> list[tuple[str, EmbeddingBatch]]:
        return [(text, await engine.aencode_queries([text])) for text in texts]

    return [pair for part in await asyncio.gather(*map(ask, shares)) for pair in part]


def test_5000_calls_of_64_threads_and_200_coroutines_are_few_batches_and_equal_serial_ones() -> (
    None
):
    fake = FakeEncoder()
    engine = BGEM3(fake)
    texts = [f"text number {i}" for i in range(5000)]
    shares = [texts[i::264] for i in range(264)]

    def ask(share: list[str]) -> list[tuple[str, EmbeddingBatch]]:
        return [(text, engine.encode_queries([text])) for text in share]

    with ThreadPoolExecutor(64) as pool:
        parts = [pool.submit(ask, share) for share in shares[:64]]
        results = asyncio.run(coroutines(engine, shares[64:]))
        results += [pair for part in parts for pair in part.result(LONG)]
    engine.close()
    calls = len(fake.calls)
    print(f"gathered calls: {calls}")  # noqa: T201
    assert calls <= 1000
    assert sorted(text for text, _ in results) == sorted(texts)
    assert set(fake.forwards.values()) == {1}
    serial = FakeEncoder()
    for text, batch in results:
        same(batch, serial.encode([text], kind="query", modes=engine.modes))


def test_200_waiting_coroutines_share_one_thread(engine: BGEM3, fake: Watched) -> None:
    before = threading.active_count()

    async def main() -> int:
        engine_calls = [engine.aencode_queries([f"hold {i}"]) for i in range(200)]
        tasks = [asyncio.create_task(call) for call in engine_calls]
        while not fake.entered.is_set():
            await asyncio.sleep(0.001)
        alive = threading.active_count()
        fake.go.set()
        await asyncio.gather(*tasks)
        return alive

    assert asyncio.run(main()) - before <= 1


def test_40_threads_that_ask_one_after_another_compute_in_one_thread(
    engine: BGEM3, fake: Watched
) -> None:
    """Each thread that once computed keeps a team of OpenMP threads for as long as it lives."""
    turn, asked, leave = threading.Lock(), threading.Barrier(41), threading.Event()

    def ask(i: int) -> None:
        with turn:
            engine.encode_queries([f"text {i}"])
        asked.wait(LONG)
        assert leave.wait(LONG)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    asked.wait(LONG)
    assert len(fake.threads) == 40
    assert set(fake.threads) == {thread.ident for thread in workers()}
    leave.set()
    for thread in threads:
        thread.join(LONG)


def test_the_main_thread_runs_its_calls_itself_and_starts_none(
    engine: BGEM3, fake: Watched
) -> None:
    before = workers()
    for i in range(20):
        engine.encode_queries([f"q {i}"])
        engine.encode_documents([f"d {i}"])
    assert set(fake.threads) == {threading.get_ident()}
    assert len(fake.threads) == 40
    assert workers() == before


def test_what_is_cancelled_before_its_batch_is_not_encoded(engine: BGEM3, fake: Watched) -> None:
    first = held(engine, fake)
    gone, kept = engine.submit(["gone"]), engine.submit(["kept"])
    assert gone.cancel()
    fake.go.set()
    assert len(kept.result(LONG)) == len(first.result(LONG)) == 1
    assert fake.forwards["gone"] == 0
    with pytest.raises(CancelledError):
        gone.result(LONG)


async def test_a_cancelled_coroutine_is_not_encoded(engine: BGEM3, fake: Watched) -> None:
    held(engine, fake)
    gone = asyncio.create_task(engine.aencode_queries(["gone"]))
    kept = asyncio.create_task(engine.aencode_queries(["kept"]))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    fake.go.set()
    await asyncio.wait_for(kept, LONG)
    assert fake.forwards["gone"] == 0


def test_a_poisoned_text_fails_its_caller_alone_with_its_own_position(
    engine: BGEM3, fake: Watched
) -> None:
    held(engine, fake)
    good = [engine.submit([f"a {i}", f"b {i}"]) for i in range(5)]
    bad = engine.submit(["fine", "poison"])
    more = engine.submit(["after"])
    fake.go.set()
    with pytest.raises(EncodingError, match="text 1 has no finite numbers") as caught:
        bad.result(LONG)
    assert caught.value.position == 1
    assert [len(future.result(LONG)) for future in [*good, more]] == [2] * 5 + [1]
    assert len(fake.calls) == 3  # the held one, all of them, all but one
    expected = FakeEncoder().encode(["a 3", "b 3"], kind="query", modes=engine.modes)
    same(good[3].result(), expected)


def test_many_poisoned_texts_cost_each_call_at_most_three_forwards(
    engine: BGEM3, fake: Watched
) -> None:
    held(engine, fake)
    bad = [engine.submit([f"w {i}", "poison"]) for i in range(10)]
    good = engine.submit(["good"])
    fake.go.set()
    for future in bad:
        with pytest.raises(EncodingError, match="text 1"):
            future.result(LONG)
    assert len(good.result(LONG)) == 1
    assert max(fake.forwards[f"w {i}"] for i in range(10)) <= 3


@pytest.mark.parametrize("error", [ValueError, SystemExit, StopIteration, MemoryError])
def test_a_failing_encoder_fails_all_and_nobody_hangs(
    engine: BGEM3, fake: Watched, error: type[BaseException]
) -> None:
    def fail(texts: Sequence[str]) -> None:
        raise error("broken")

    first = held(engine, fake)
    fake.before = fail
    waiting = [engine.submit([f"t {i}"]) for i in range(10)]
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            engine.encode_queries(["sync"])
        except BaseException as raised:
            caught.append(raised)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    fake.go.set()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    wanted = (error, RuntimeError) if error is StopIteration else (error,)
    assert all(isinstance(future.exception(LONG), wanted) for future in [first, *waiting])
    assert len(caught) == 4
    fake.before = lambda texts: None
    assert len(engine.submit(["well again"]).result(LONG)) == 1


def test_each_call_of_a_failed_batch_gets_its_own_result(engine: BGEM3, fake: Watched) -> None:
    def fail(texts: Sequence[str]) -> None:
        if "bad" in texts:
            raise ValueError("bad text")

    held(engine, fake)
    fake.before = fail
    good, bad = engine.submit(["good"]), engine.submit(["bad"])
    fake.go.set()
    assert len(good.result(LONG)) == 1
    with pytest.raises(ValueError, match="bad text"):
        bad.result(LONG)


def test_a_query_is_not_held_up_by_documents(engine: BGEM3, fake: Watched) -> None:
    documents = held(engine, fake, kind="document")
    assert len(engine.submit(["query"]).result(LONG)) == 1
    assert len(engine.encode_queries(["another"])) == 1
    assert not documents.done()


def test_large_calls_do_not_join_and_are_not_held_up(engine: BGEM3, fake: Watched) -> None:
    held(engine, fake)
    many = [f"text {i}" for i in range(batch_calls.LARGE_TEXTS + 1)]
    assert len(engine.encode_queries(many)) == len(many)
    assert fake.threads[-1] == threading.get_ident()
    big, bigger = engine.submit(many), engine.submit(["x" * (batch_calls.LARGE_CHARACTERS + 1)])
    assert (len(big.result(LONG)), len(bigger.result(LONG))) == (len(many), 1)
    assert [len(call.texts) for call in fake.calls] == [1, len(many), len(many), 1]


def test_a_batch_is_bounded_in_texts(engine: BGEM3, fake: Watched) -> None:
    held(engine, fake)
    waiting = [engine.submit([f"{i} {j}" for j in range(60)]) for i in range(20)]
    fake.go.set()
    assert all(len(future.result(LONG)) == 60 for future in waiting)
    sizes = [len(call.texts) for call in fake.calls]
    assert max(sizes) <= batcher.MOST_TEXTS
    assert len(sizes) == 1 + 3


def test_calls_that_want_different_things_do_not_share_a_batch(
    engine: BGEM3, fake: Watched
) -> None:
    held(engine, fake)
    dense = [engine.submit([f"d {i}"], modes=["dense"]) for i in range(3)]
    short = [engine.submit([f"s {i}"], modes=["dense"], max_length=9) for i in range(3)]
    fake.go.set()
    assert all(future.result(LONG).modes == {"dense"} for future in dense + short)
    assert [len(call.texts) for call in fake.calls] == [1, 3, 3]


def test_an_idle_worker_ends_and_comes_again(
    engine: BGEM3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "IDLE_SECONDS", 0.01)
    for i in range(2):
        engine.submit([f"text {i}"]).result(LONG)
        for thread in workers():
            thread.join(LONG)
        assert workers() == []


def test_close_ends_idle_workers_and_encoding_starts_new_ones(engine: BGEM3) -> None:
    for i in range(2):
        engine.submit([f"text {i}"]).result(LONG)
        engine.close()
        for thread in workers():
            thread.join(LONG)
        assert workers() == []


def test_a_call_that_is_interrupted_holds_up_no_other(engine: BGEM3, fake: Watched) -> None:
    waiting: list[Future[EmbeddingBatch]] = []

    def interrupt(texts: Sequence[str]) -> None:
        if "leader" in texts:
            waiting.append(engine_thread.submit(lambda: engine.submit(["other"])).result(LONG))
            raise KeyboardInterrupt

    fake.before = interrupt
    with ThreadPoolExecutor(1) as engine_thread:
        with pytest.raises(KeyboardInterrupt):
            engine.encode_queries(["leader"])
        assert len(waiting[0].result(LONG)) == 1
    assert len(engine.encode_queries(["again"])) == 1


def test_an_encoder_may_call_the_engine(engine: BGEM3, fake: Watched) -> None:
    def ask_again(texts: Sequence[str]) -> None:
        if "outer" in texts:
            engine.encode_queries(["inner"])
            engine.submit(["inner of submit"]).result(LONG)

    fake.before = ask_again
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(engine.encode_queries, ["outer"]).result(LONG)) == 1
    assert len(engine.submit(["outer"]).result(LONG)) == 1
    assert (fake.forwards["inner"], fake.forwards["inner of submit"]) == (2, 2)


def test_a_callback_may_call_the_engine_and_may_raise(engine: BGEM3, fake: Watched) -> None:
    done: Future[int] = Future()

    def encode(_: object) -> None:
        done.set_result(len(engine.encode_queries(["from a callback"])))

    def leave(_: object) -> None:
        raise ValueError("of a callback")

    first = held(engine, fake)
    first.add_done_callback(encode)
    first.add_done_callback(leave)
    fake.go.set()
    assert done.result(LONG) == 1
    assert len(engine.submit(["next"]).result(LONG)) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_killed_by_a_callback_is_replaced(engine: BGEM3, fake: Watched) -> None:
    def leave(_: object) -> None:
        raise SystemExit

    first = held(engine, fake)
    first.add_done_callback(leave)
    second = engine.submit(["second"])
    [killed] = workers()
    fake.go.set()
    assert len(second.result(LONG)) == 1
    killed.join(LONG)
    assert not killed.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_child_gathers_anew(engine: BGEM3, fake: Watched) -> None:
    held(engine, fake)  # the lane is busy, with a worker that the child does not have
    child = os.fork()
    if child == 0:
        fine = len(engine.encode_queries(["a"])) == len(engine.submit(["b"]).result(LONG)) == 1
        os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_idle_worker_does_not_keep_the_model() -> None:
    fake = FakeEncoder()
    gone = weakref.ref(fake)
    engine = BGEM3(fake)
    engine.submit(["text"]).result(LONG)
    fake.calls.clear()
    waiting = workers()
    del fake
    del engine
    gc.collect()
    assert waiting
    assert gone() is None


def test_submit_says_at_once_what_is_malformed_and_later_what_the_model_lacks() -> None:
    engine = BGEM3(FakeEncoder(modes={"dense"}))
    with pytest.raises(InputError, match="list of strings"):
        engine.submit("text")
    with pytest.raises(InputError, match="kind must be one of"):
        engine.submit(["text"], kind="passage")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_length"):
        engine.submit(["text"], max_length=0)
    with pytest.raises(InputError, match="colbert"):
        engine.submit(["text"], modes=["colbert"]).result(LONG)
    engine.close()


@pytest.mark.parametrize("batch_window_ms", [-1, float("nan"), float("inf"), "2", None, True])
def test_a_window_that_is_no_time_is_refused(batch_window_ms: Any) -> None:
    with pytest.raises(InputError, match="batch_window_ms"):
        BGEM3(FakeEncoder(), batch_window_ms=batch_window_ms)


def test_without_a_window_what_waits_is_gathered(fake: Watched) -> None:
    engine = BGEM3(fake, batch_window_ms=0)
    held(engine, fake)
    waiting = [engine.submit([f"t {i}"]) for i in range(10)]
    fake.go.set()
    assert all(len(future.result(LONG)) == 1 for future in waiting)
    assert len(fake.calls) == 2
    engine.close()


def test_gathered_results_of_a_checkpoint_equal_serial_ones(xlm_roberta: Path) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    texts = [f"dense vectors {'of tokens ' * (i % 5)}{i}" for i in range(40)]
    results = asyncio.run(coroutines(engine, [[text] for text in texts]))
    for text, batch in results:
        alone = engine.encode_queries([text])
        assert_equal(batch, alone)
        assert batch.dense is not None
        assert alone.dense is not None
        np.testing.assert_allclose(batch.dense, alone.dense, atol=1e-6)
    engine.close()


LEAVES = """
import asyncio
from bge_m3_integrations import BGEM3
from bge_m3_integrations.demo import checkpoint_path
engine = BGEM3(checkpoint_path(), device="cpu")
texts = [f"{i} " + "tea leaves " * 250 for i in range(3000)]
async def main():
    await engine.aencode_queries(["warm"])
    await asyncio.wait_for(engine.aencode_documents(texts), 1.0)
try:
    asyncio.run(main())
except TimeoutError:
    print(engine.stats.forwards)
"""


def test_the_interpreter_ends_cleanly_while_the_worker_is_inside_a_forward() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVES], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "1", "")
