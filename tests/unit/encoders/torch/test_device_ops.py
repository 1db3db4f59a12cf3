"""The encoder over a fake device: what a GPU does to timing and memory, on a CPU."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from bge_m3_integrations import BGEM3
from bge_m3_integrations.core.embeddings import ALL_MODES, EmbeddingBatch
from bge_m3_integrations.encoders.config import ModelConfig
from bge_m3_integrations.encoders.pipeline import Overlap
from bge_m3_integrations.encoders.torch import device_ops, encode_job
from bge_m3_integrations.encoders.torch.device_ops import Cuda, Device, Mps, device_of
from bge_m3_integrations.encoders.torch.encoder import TorchEncoder
from bge_m3_integrations.encoders.torch.load import CheckpointSource
from bge_m3_integrations.encoders.torch.modules import BatchOutput, Output, PackOutput
from bge_m3_integrations.encoders.torch.packing import Pack, moved
from bge_m3_integrations.encoders.torch.tokenizer import TextTokenizer
from bge_m3_integrations.errors import EncodingError, InputError
from tests.batches import assert_equal
from tests.checkpoints import WORDS

CPU = torch.device("cpu")


class FakeFullError(MemoryError):
    """This device's own out of memory."""


@dataclass
class Fake(Device):
    """A device of its own clock and memory; a pack holds its tokens until it was fetched."""

    room: int = 10**9
    wait: Callable[[], float] = lambda: 0.0
    on_fetch: Callable[[PackOutput], None] = lambda output: None
    on_arrival: Callable[[BatchOutput], None] = lambda output: None
    overlap: Overlap = Overlap(ahead=True, in_flight=2)  # noqa: RUF009 (frozen)
    placed: list[int] = field(default_factory=list)
    arrived: list[int] = field(default_factory=list)
    held: int = 0
    freed: int = 0
    lock: Any = field(default_factory=threading.Lock)
    number: threading.local = field(default_factory=threading.local)

    def fetch(self, output: PackOutput) -> Callable[[], BatchOutput]:
        assert output.sparse is not None
        tokens = len(output.sparse)
        with self.lock:
            if self.held + tokens > self.room:
                raise FakeFullError("full")
            self.held += tokens
        self.placed.append(tokens)
        self.on_fetch(output)
        number, copied = len(self.placed) - 1, output.map(torch.clone)

        def arrive() -> BatchOutput:
            time.sleep(self.wait())
            with self.lock:
                self.held -= self.placed[number]
            self.arrived.append(number)
            numbers = copied.map(torch.Tensor.numpy)
            self.number.held = number
            self.on_arrival(numbers)
            return numbers

        return arrive

    def make_room(self) -> None:
        self.freed += 1


def over(folder: Path, fake: Fake, *, token_budget: int = 256) -> TorchEncoder:
    config = ModelConfig(device="cpu", dtype="float32", token_budget=token_budget)
    made = TorchEncoder(CheckpointSource(folder, config), config)
    made._devices[CPU] = fake
    return made


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_job, "_STRETCH_TEXTS", 20)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS[:20], n)) for n in draw.integers(0, 80, 110)]


@pytest.fixture(scope="module")
def expected(xlm_roberta: Path, texts: list[str]) -> EmbeddingBatch:
    return BGEM3(xlm_roberta, device="cpu", dtype="float32").encode_documents(texts)


def encode(made: TorchEncoder, texts: list[str]) -> EmbeddingBatch:
    return made.encode(texts, kind="document", modes=ALL_MODES)


def first_row(texts: list[str]) -> int:
    """The longest text of the first stretch, which the first pass begins with."""
    return max(range(20), key=lambda i: len(texts[i].split()))


def test_results_are_in_order_though_passes_come_back_out_of_it(
    xlm_roberta: Path,
    texts: list[str],
    expected: EmbeddingBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake, second = Fake(), threading.Event()

    def held_back(output: BatchOutput) -> None:
        if fake.number.held == 0:
            assert second.wait(60)

    fake.on_arrival = held_back
    made = over(xlm_roberta, fake)
    write, order = encode_job.Results.write, list[int]()

    def noted(self: encode_job.Results, rows: np.ndarray, *numbers: Any) -> None:
        order.append(int(rows[0]))
        write(self, rows, *numbers)
        second.set()

    monkeypatch.setattr(encode_job.Results, "write", noted)
    assert_equal(encode(made, texts), expected)
    assert order[0] != first_row(texts)
    assert len(fake.placed) > 10


def test_a_padded_backbone_gives_the_same_through_the_stages(bert: Path) -> None:
    plain = BGEM3(bert, device="cpu", dtype="float32").encode_documents(["dense vector", "a", ""])
    assert_equal(encode(over(bert, Fake()), ["dense vector", "a", ""]), plain)


def test_a_device_that_fills_up_shrinks_the_passes_and_loses_nothing(
    xlm_roberta: Path, texts: list[str], expected: EmbeddingBatch
) -> None:
    fake = Fake(room=120, wait=lambda: 0.001)
    made = over(xlm_roberta, fake)
    assert_equal(encode(made, texts), expected)
    assert fake.freed
    assert made._budget.tokens <= 120
    assert fake.held == 0


def test_numbers_that_do_not_fit_on_their_way_back_run_again(
    xlm_roberta: Path, texts: list[str], expected: EmbeddingBatch
) -> None:
    fake = Fake()

    def full(output: BatchOutput) -> None:
        if len(fake.arrived) in (2, 3, 8):
            raise FakeFullError("full")

    fake.on_arrival = full
    assert_equal(encode(over(xlm_roberta, fake), texts), expected)
    assert fake.freed


def test_a_text_that_fits_no_device_is_the_devices_own_error(xlm_roberta: Path) -> None:
    with pytest.raises(FakeFullError, match="full"):
        encode(over(xlm_roberta, Fake(room=10)), ["dense vector " * 20, "a"])


def breaks_at(count: int, broken: Exception) -> Callable[[Any], None]:
    calls: list[int] = []

    def check(_: Any) -> None:
        calls.append(1)
        if len(calls) == count:
            raise broken

    return check


@pytest.mark.parametrize("stage", ["on_fetch", "on_arrival"])
@pytest.mark.parametrize("count", [1, 5])
def test_a_failure_on_the_device_comes_out_as_it_was(
    xlm_roberta: Path, texts: list[str], stage: str, count: int
) -> None:
    broken = RuntimeError("the device fell off the bus")
    fake = Fake(**{stage: breaks_at(count, broken)})
    before = threading.active_count()
    with pytest.raises(RuntimeError) as caught:
        encode(over(xlm_roberta, fake), texts)
    assert caught.value is broken
    assert threading.active_count() == before


def test_a_failure_of_the_tokenizer_comes_out_as_it_was(
    xlm_roberta: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, pack = OSError("no such disk"), TextTokenizer.pack
    check = breaks_at(3, broken)

    def failing(self: TextTokenizer, *args: Any, **limits: Any) -> Any:
        check(None)
        return pack(self, *args, **limits)

    monkeypatch.setattr(TextTokenizer, "pack", failing)
    with pytest.raises(OSError, match="no such disk") as caught:
        encode(over(xlm_roberta, Fake()), texts)
    assert caught.value is broken


def test_numbers_that_are_not_finite_in_float32_either_name_the_callers_position(
    xlm_roberta: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = "dense " * 100
    run, wides = encode_job.run_pack, list[bool]()

    def poisoned(modules: Any, pack: Pack, *args: Any, wide: bool = False, **rest: Any) -> Any:
        output = run(modules, pack, *args, wide=wide, **rest)
        for place in np.flatnonzero(pack.lengths > 100):
            wides.append(wide)
            with torch.inference_mode():
                output.dense_sums[place] = torch.nan
        return output

    monkeypatch.setattr(encode_job, "run_pack", poisoned)
    with pytest.raises(EncodingError, match="text 67 gives numbers that are not finite"):
        encode(over(xlm_roberta, Fake()), [*texts[:67], longest, *texts[67:]])
    assert wides == [False, True]


def test_a_text_that_cannot_be_read_is_named_by_its_place_in_the_whole_list(
    xlm_roberta: Path, texts: list[str]
) -> None:
    with pytest.raises(InputError, match="text 70 holds the lone surrogate"):
        encode(over(xlm_roberta, Fake()), [*texts[:70], "\ud800"])


def test_a_long_input_is_tokenised_as_it_is_used(
    xlm_roberta: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack, sizes, waiting = TextTokenizer.pack, [], []
    fake = Fake(wait=lambda: 0.001)

    def noted(self: TextTokenizer, some: list[str], **limits: Any) -> Any:
        sizes.append(len(some))
        waiting.append(sum(sizes) - len(fake.arrived))
        return pack(self, some, **limits)

    monkeypatch.setattr(TextTokenizer, "pack", noted)
    encode(over(xlm_roberta, fake, token_budget=1), texts)  # a pass is a text
    assert sizes == [20, 20, 20, 20, 20, 10]
    assert max(waiting) <= 3 * 20 + 3


def test_the_cpu_encodes_without_a_thread(
    xlm_roberta: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    engine.encode_queries(["dense"])

    def refused(self: threading.Thread) -> None:
        raise AssertionError(f"{self.name} was started")

    monkeypatch.setattr(threading.Thread, "start", refused)
    engine.encode_documents(texts)


def test_token_vectors_of_many_stretches_are_held_once(xlm_roberta: Path) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    texts = ["dense vector of a document " * 30] * 200
    engine.encode_documents(texts[:1])
    tracemalloc.start()
    try:
        batch = engine.encoder.encoder.encode(texts, kind="document", modes={"colbert"})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert batch.colbert is not None
    assert batch.colbert.vectors.nbytes > 2_000_000
    assert peak < 1.3 * batch.colbert.vectors.nbytes


def test_each_kind_of_device_has_its_own_way() -> None:
    assert isinstance(device_of(torch.device("cuda:1")), Cuda)
    assert isinstance(device_of(torch.device("mps")), Mps)
    assert type(device_of(CPU)) is Device


def test_cuda_copies_behind_the_pass_and_waits_before_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the order of calls is all that a machine without CUDA can check
    calls: list[str] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            calls.append(f"stream on {device}")

        def wait_stream(self, other: str) -> None:
            calls.append(f"copies wait for {other}")

    class Event:
        def __init__(self, *, blocking: bool) -> None:
            assert blocking

        def record(self, stream: Stream) -> None:
            assert isinstance(stream, Stream)
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("wait")

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        calls.append("copy")
        return tensor.clone()

    for name, made in (("Stream", Stream), ("Event", Event), ("stream", nullcontext)):
        monkeypatch.setattr(torch.cuda, name, made)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the passes on {device}")
    monkeypatch.setattr(device_ops, "_pinned", copied)
    device = Cuda(torch.device("cuda:1"))
    arrived = device.fetch(Output(torch.ones(2, 3), None, torch.ones(4, 3), None, None))
    passes = "copies wait for the passes on cuda:1"
    assert calls == ["stream on cuda:1", passes, "copy", "copy", "record"]
    numbers = arrived()
    assert calls[5:] == ["wait"]
    assert numbers.dense is not None
    assert numbers.dense.tolist() == [[1.0] * 3] * 2
    device.fetch(Output(None, torch.ones(2), None, None, None))
    assert calls[6:] == [passes, "copy", "record"]  # one stream for all


def test_one_thread_at_a_time_computes_where_a_device_takes_no_two(
    xlm_roberta: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, most, lock = 0, 0, threading.Lock()
    run_pack = encode_job.run_pack

    def counted(*args: Any, **options: Any) -> PackOutput:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.002)
        output = run_pack(*args, **options)
        with lock:
            inside -= 1
        return output

    monkeypatch.setattr(encode_job, "run_pack", counted)
    fake = Fake()
    monkeypatch.setattr(fake, "alone", Mps().alone)
    made = over(xlm_roberta, fake)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(lambda _: encode(made, texts[:20]), range(4)))) == 4
    assert most == 1


def test_indices_come_to_cuda_from_pinned_memory_without_waiting() -> None:
    # the calls are all that a machine without CUDA can check
    cuda, pinned, indices = torch.device("cuda:1"), Mock(), Mock()
    indices.pin_memory.return_value = pinned
    assert moved(indices, cuda) is pinned.to.return_value
    pinned.to.assert_called_once_with(cuda, non_blocking=True)


def test_indices_come_to_other_devices_as_they_are() -> None:
    pack = Pack.from_rows([np.array(ids, np.int32) for ids in ([0, 5, 1, 2], [0, 2], [0, 7, 2])])
    assert moved(pack.ids, CPU) is pack.ids
    assert moved(pack.ids, torch.device("meta")).device.type == "meta"
