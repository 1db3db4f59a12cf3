"""Real worker processes on the CPU."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bge_m3_integrations import BGEM3
from bge_m3_integrations._internal.channel import Failure, receive, send
from bge_m3_integrations.core.embeddings import ALL_MODES
from bge_m3_integrations.encoders.torch import load, multi_device, workers
from bge_m3_integrations.encoders.torch.encoder import TorchEncoder
from bge_m3_integrations.encoders.torch.multi_device import SeveralDevices
from bge_m3_integrations.encoders.torch.workers import Workers
from bge_m3_integrations.errors import (
    CheckpointError,
    EncodingError,
    InputError,
    TruncationWarning,
    WorkerError,
)
from tests.batches import assert_equal
from tests.checkpoints import POSITIONS, WORDS, make_xlm_roberta

ROOT = Path(__file__).parents[4]
TWO = ["cpu", "cpu"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS[:20], n)) for n in draw.integers(0, 300, 40)]


@pytest.fixture(scope="module")
def one(xlm_roberta: Path) -> BGEM3:
    return BGEM3(xlm_roberta, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def two(xlm_roberta: Path) -> Iterator[BGEM3]:
    engine = BGEM3(xlm_roberta, device=TWO, dtype="float32")
    yield engine
    engine.close()


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that fork from one process that has imported torch: half a second, not three.

    For tests of what workers do, not of how they start: those, and the numbers, have spawned ones.
    """
    if sys.platform != "linux":
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bge_m3_integrations.encoders.torch.encoder", "transformers"])
    stand_in = SimpleNamespace(get_context=lambda method: {"spawn": context}[method])
    monkeypatch.setattr(workers, "multiprocessing", stand_in)


def inner(engine: BGEM3) -> SeveralDevices:
    encoder = engine.encoder.encoder
    assert isinstance(encoder, SeveralDevices)
    return encoder


def processes(engine: BGEM3) -> list[BaseProcess]:
    workers = inner(engine)._workers
    assert workers is not None
    return list(workers._processes)


# -- numbers -----------------------------------------------------------------------------------


def test_two_workers_give_what_one_process_gives(
    one: BGEM3, two: BGEM3, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = multi_device.Lane.ask

    def noted(self: multi_device.Lane, job: multi_device.Job) -> object:
        asked.append(str(self._process.pid))
        return ask(self, job)

    monkeypatch.setattr(multi_device.Lane, "ask", noted)
    assert_equal(two.encode_documents(texts), one.encode_documents(texts))
    assert len(set(asked)) == 2


def test_modes_that_are_not_asked_for_do_not_travel(two: BGEM3, texts: list[str]) -> None:
    assert two.encode_documents(texts, modes={"sparse"}).modes == {"sparse"}


def test_no_texts_start_no_worker(xlm_roberta: Path) -> None:
    engine = BGEM3(xlm_roberta, device=TWO, dtype="float32")
    batch = engine.encode_documents([])
    assert batch.modes == ALL_MODES
    assert inner(engine)._workers is None


def test_truncation_is_counted_and_warned_of_as_on_one_device(two: BGEM3) -> None:
    with pytest.warns(TruncationWarning, match="1 of 2 texts"):
        batch = two.encode_documents(["a", "dense " * 2000])
    assert batch.tokens[1] == POSITIONS
    assert batch.truncated[1] > 900


def test_the_caller_knows_the_model_without_loading_its_weights(
    two: BGEM3, one: BGEM3, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the caller loads the weights")

    fingerprint = one.fingerprint
    monkeypatch.setattr(load, "_load", refused)
    monkeypatch.setattr(load, "_LOADED", {})
    assert two.fingerprint == fingerprint
    assert two.encoder.max_length == POSITIONS
    assert two.encoder.dim == one.encoder.dim
    assert len(two.tokenize(["dense vector"]).ids) > 2
    assert len(two.encode_queries(["dense"])) == 1


def test_token_vectors_are_scored_by_the_callers_kernel(two: BGEM3, one: BGEM3) -> None:
    assert isinstance(inner(two).encoder, TorchEncoder)
    ours = two.score(["dense vector"], ["sparse", "dense"])
    np.testing.assert_allclose(ours.hybrid, one.score(["dense vector"], ["sparse", "dense"]).hybrid)


def test_threads_share_the_workers(two: BGEM3, one: BGEM3, texts: list[str]) -> None:
    expected = one.encode_documents(texts)
    with ThreadPoolExecutor(4) as threads:
        for batch in threads.map(lambda _: two.encode_documents(texts), range(6)):
            assert_equal(batch, expected)


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("warm")
def test_a_workers_encoding_error_names_the_callers_position(
    xlm_roberta: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_xlm_roberta(tmp_path / "damaged")
    tokens = BGEM3(folder).tokenize(["index"]).row(0)
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][int(tokens[1])] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    engine = BGEM3(folder, device=TWO, dtype="float32")
    texts = ["dense vector " * 100] * 30
    texts[23] = "index"
    with pytest.raises(EncodingError, match="text 23 gives numbers") as caught:
        engine.encode_documents(texts)
    assert caught.value.position == 23
    assert len(engine.encode_documents(["dense"])) == 1  # the workers live on
    engine.close()


@pytest.mark.usefixtures("warm")
def test_a_checkpoint_that_a_worker_cannot_load_is_our_error(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_xlm_roberta(tmp_path / "incomplete")
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    engine = BGEM3(folder, device=TWO, dtype="float32")
    with pytest.raises(CheckpointError, match="missing") as caught:
        engine.encode_documents(["dense"])
    assert "In the other process" in caught.value.__notes__[0]
    engine.close()


@pytest.mark.parametrize("device", [[], 3, [3], {"cpu": 1}])
def test_what_is_no_list_of_devices_is_refused(xlm_roberta: Path, device: object) -> None:
    with pytest.raises(InputError, match="neither a torch device nor a list"):
        BGEM3(xlm_roberta, device=device)  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_refused_before_a_worker_starts(xlm_roberta: Path) -> None:
    engine = BGEM3(xlm_roberta, device=["cpu", "cuda:77"])
    with pytest.raises(InputError, match="cuda:77"):
        engine.encode_documents(["dense"])
    assert inner(engine)._workers is None


def test_a_list_of_one_device_needs_no_worker_and_close_changes_nothing(xlm_roberta: Path) -> None:
    engine = BGEM3(xlm_roberta, device=["cpu"], dtype="float32")
    engine.close()
    assert isinstance(engine.encoder.encoder, TorchEncoder)
    engine.close()
    assert len(engine.encode_queries(["dense"])) == 1


def test_an_engine_over_several_devices_pickles_as_its_options(xlm_roberta: Path) -> None:
    again = pickle.loads(pickle.dumps(BGEM3(xlm_roberta, device=TWO, token_budget=64)))
    assert again.options["device"] == ("cpu", "cpu")
    assert isinstance(again.encoder.encoder, SeveralDevices)


class OddError(Exception):
    """Does not come through a pickle as itself."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"odd {one} {two}")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (EncodingError("is bad", 3), EncodingError, "text 3 is bad"),
        (InputError("no"), InputError, "no"),
        (torch.OutOfMemoryError("full"), torch.OutOfMemoryError, "full"),
        (OddError(1, 2), RuntimeError, "OddError: odd 1 2"),
    ],
)
def test_an_error_travels_as_itself_or_says_what_it_was(
    error: Exception, kind: type[Exception], text: str
) -> None:
    found = Failure.from_error(error).error
    assert type(found) is kind
    assert str(found) == text


# -- death -------------------------------------------------------------------------------------


def encode_on_and_on(engine: BGEM3, texts: list[str]) -> None:
    while True:
        engine.encode_documents(texts)


def dies(engine: BGEM3, texts: list[str], kill: Callable[[], object]) -> str:
    timer = threading.Timer(0.2, kill)
    timer.start()
    with pytest.raises(WorkerError) as caught:
        encode_on_and_on(engine, texts)
    timer.join()
    return str(caught.value)


@pytest.mark.usefixtures("warm")
def test_a_killed_worker_is_an_error_that_says_so_and_the_next_call_starts_anew(
    xlm_roberta: Path, one: BGEM3, texts: list[str]
) -> None:
    engine = BGEM3(xlm_roberta, device=TWO, dtype="float32")
    engine.encode_documents(texts)
    old = processes(engine)
    victim = old[1].pid
    assert victim is not None
    message = dies(engine, texts, lambda: os.kill(victim, signal.SIGKILL))
    assert f"pid {victim}) was killed by SIGKILL" in message
    assert not any(process.is_alive() for process in old)
    assert_equal(engine.encode_documents(texts), one.encode_documents(texts))
    for process in processes(engine):  # and between two calls
        process.kill()
        process.join()
    with pytest.raises(WorkerError, match="was killed by SIGKILL"):
        engine.encode_documents(texts)


@pytest.mark.usefixtures("warm")
def test_workers_end_with_close_and_with_the_engine(xlm_roberta: Path, texts: list[str]) -> None:
    engine = BGEM3(xlm_roberta, device=TWO, dtype="float32")
    engine.close()
    engine.encode_queries(["dense"])
    closed = processes(engine)
    assert "ended by close()" in dies(engine, texts, engine.close)
    assert len(engine.encode_queries(["dense"])) == 1
    dropped = processes(engine)
    del engine
    gc.collect()
    assert not any(process.is_alive() for process in [*closed, *dropped])


@pytest.mark.usefixtures("warm")
def test_an_answer_that_the_caller_has_no_room_for_ends_the_conversation(
    xlm_roberta: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = BGEM3(xlm_roberta, device=TWO, dtype="float32")
    engine.encode_queries(["dense"])

    def full(*_: object) -> None:
        raise MemoryError("no room for 4 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(workers, "receive", full)
        with pytest.raises(MemoryError, match="no room"):
            engine.encode_queries(["dense"])
    assert inner(engine)._workers is not None
    assert not inner(engine)._workers.running
    engine.close()


# -- the interpreter ---------------------------------------------------------------------------

ENGINE = """
import signal
from bge_m3_integrations import BGEM3
if __name__ == "__main__":
    # a shell starts what runs in its background with this signal ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    engine = BGEM3({folder!r}, device=["cpu", "cpu"], dtype="float32")
    engine.encode_documents(["dense vector"])
    print(*(p.pid for p in engine.encoder.encoder._workers._processes), flush=True)
    while True:
        engine.encode_documents(["dense vector " * 300] * 20)
"""
# The same workers and half the seconds: the caller imports no torch.
WORKERS = """
import sys
from pathlib import Path
import numpy as np
from bge_m3_integrations.encoders.torch.tokenizer import PackedIds
from bge_m3_integrations.encoders.config import ModelConfig
from bge_m3_integrations.encoders.torch.worker import Job, WorkerConfig
from bge_m3_integrations.encoders.torch.workers import Workers
if {guard}:
    model = ModelConfig(device="cpu", dtype="float32", pooling="cls")
    config = WorkerConfig(folder=Path({folder!r}), model=model, threads=1, lanes=1)
    workers = Workers([config, config])
    lanes = [workers.acquire(), workers.acquire()]
    ids = np.full(1000, 5, np.int32)
    job = Job(PackedIds(ids, np.array([0, 1000]), np.array([0])), frozenset({{"dense"}}))
    print(*(len(lane.ask(job)) for lane in lanes), *(p.pid for p in workers._processes), flush=True)
    while "loop" in sys.argv:
        for lane in lanes:
            lane.ask(job)
"""


def program(
    tmp_path: Path, folder: Path, text: str = WORKERS, guard: str = '__name__ == "__main__"'
) -> Path:
    path = tmp_path / "program.py"
    path.write_text(text.format(guard=guard, folder=str(folder)), encoding="utf-8")
    return path


def alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split()[2] != "Z"


def gone(pids: list[str]) -> bool:
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


posix = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at /proc")


@posix
def test_workers_end_with_the_interpreter(tmp_path: Path, xlm_roberta: Path) -> None:
    command = [sys.executable, str(program(tmp_path, xlm_roberta))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=True
    )
    *answered, one, two = done.stdout.split()
    assert answered == ["1", "1"]
    assert gone([one, two])


@posix
@pytest.mark.parametrize(("sent", "text"), [(signal.SIGINT, ENGINE), (signal.SIGKILL, WORKERS)])
def test_an_interrupted_caller_leaves_no_worker(
    tmp_path: Path, xlm_roberta: Path, sent: signal.Signals, text: str
) -> None:
    command = [sys.executable, str(program(tmp_path, xlm_roberta, text)), "loop"]
    log = tmp_path / "stderr"  # a pipe would not end before a worker that is left
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        ) as caller,
    ):
        assert caller.stdout is not None
        pids = caller.stdout.readline().split()[-2:]
        assert all(alive(pid) for pid in pids)
        time.sleep(0.3)
        if sent == signal.SIGINT:
            os.killpg(caller.pid, sent)  # as a terminal does: to the workers too
        else:
            caller.kill()
        try:
            caller.wait(60)
        finally:
            caller.kill()  # or the end of the block waits for ever for one that lives
    assert caller.returncode == -sent
    assert gone(pids)
    if sent == signal.SIGINT:
        errors = log.read_text(encoding="utf-8")
        assert errors.count("KeyboardInterrupt") == 1  # the caller's, not the workers'


def test_a_script_without_a_guard_is_told_so(tmp_path: Path, xlm_roberta: Path) -> None:
    command = [sys.executable, str(program(tmp_path, xlm_roberta, guard="True"))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )
    assert done.returncode == 1
    # a worker that ends may have the last word
    assert '`if __name__ == "__main__":`' in done.stderr


# -- the pipe ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 700])
def test_arrays_travel_outside_of_the_pickle_and_arrive_writable(rows: int) -> None:
    left, right = Pipe()
    message = (np.arange(rows * 1000, dtype=np.float32).reshape(rows, 1000), "x", None)
    sender = threading.Thread(target=send, args=(left, message))
    sender.start()
    array, *rest = receive(right)
    sender.join()
    np.testing.assert_array_equal(array, message[0])
    assert array.flags.writeable
    assert rest == ["x", None]


def test_a_pipe_that_closes_in_the_middle_is_an_error() -> None:
    left, right = Pipe()
    left.send((b"", [10]))
    left.close()
    with pytest.raises(EOFError):
        receive(right)


def test_workers_that_cannot_all_start_are_all_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[list[BaseProcess]] = []
    monkeypatch.setattr(Workers, "_start", lambda self, config: (_ for _ in ()).throw(OSError))
    monkeypatch.setattr(
        "bge_m3_integrations.encoders.torch.workers._stop", lambda p, o: ended.append(p)
    )
    with pytest.raises(OSError):  # noqa: PT011 (the system's own)
        Workers([None])  # type: ignore[list-item]
    gc.collect()
    assert ended == [[]]
