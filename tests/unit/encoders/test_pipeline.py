from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from bge_m3_integrations.core.embeddings import IntArray
from bge_m3_integrations.encoders.batching import TokenBudget
from bge_m3_integrations.encoders.pipeline import Overlap, RunOptions, run_stages

ALONE = Overlap()
AHEAD = Overlap(ahead=True)
FULL = Overlap(ahead=True, in_flight=2)
ALL = pytest.mark.parametrize("overlap", [ALONE, AHEAD, FULL], ids=["alone", "ahead", "full"])


@dataclass(frozen=True)
class Stretch:
    name: int
    lengths: IntArray


Pass = tuple[int, tuple[int, ...]]


def never(stretch: int, rows: tuple[int, ...]) -> None:
    """Raise nothing."""


@dataclass
class Device:
    """Counts what is under way; each stage may raise."""

    on_start: Callable[[int, tuple[int, ...]], None] = never
    on_finish: Callable[[int, tuple[int, ...]], None] = never
    on_prepare: Callable[[int], None] = lambda piece: None
    lengths: IntArray = field(default_factory=lambda: np.full(40, 10))
    tried: list[Pass] = field(default_factory=list)
    done: list[Pass] = field(default_factory=list)
    prepared: int = 0
    taken: set[int] = field(default_factory=set)
    most_waiting: int = 0
    most_under_way: int = 0
    rooms: list[int] = field(default_factory=list)
    under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def prepare(self, piece: int) -> Stretch:
        self.on_prepare(piece)
        with self.lock:
            self.prepared += 1
            self.most_waiting = max(self.most_waiting, self.prepared - len(self.taken))
        return Stretch(piece, self.lengths)

    def start(self, stretch: Stretch, rows: IntArray) -> Pass:
        work = (stretch.name, tuple(rows.tolist()))
        self.taken.add(stretch.name)
        self.tried.append(work)
        self.on_start(*work)
        with self.lock:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        return work

    def finish(self, started: Pass) -> None:
        try:
            self.on_finish(*started)
        finally:
            with self.lock:
                self.under_way -= 1
        with self.lock:
            self.done.append(started)

    def make_room(self) -> None:
        self.rooms.append(self.under_way)


def go(device: Device, overlap: Overlap, *, tokens: int = 100, pieces: int = 5) -> TokenBudget:
    budget = TokenBudget(tokens)
    terms = RunOptions(
        budget,
        padded=False,
        overlap=overlap,
        is_out_of_memory=lambda error: isinstance(error, MemoryError),
        make_room=device.make_room,
    )
    run_stages(device, range(pieces), terms)
    return budget


def texts(passes: list[Pass]) -> list[tuple[int, int]]:
    return sorted((name, row) for name, rows in passes for row in rows)


def everything(device: Device, *, pieces: int = 5) -> list[tuple[int, int]]:
    return [(name, row) for name in range(pieces) for row in range(len(device.lengths))]


@pytest.fixture
def started_threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    start = threading.Thread.start

    def noted(self: threading.Thread) -> None:
        names.append(self.name)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", noted)
    return names


@ALL
def test_every_text_is_finished_once(overlap: Overlap) -> None:
    device = Device()
    go(device, overlap)
    assert texts(device.done) == everything(device)
    assert all(len(rows) == 10 for _, rows in device.done)


@ALL
def test_nothing_to_do_is_done(overlap: Overlap) -> None:
    device = Device()
    go(device, overlap, pieces=0)
    assert device.done == []


def test_passes_may_come_back_in_any_order() -> None:
    second = threading.Event()

    def held_back(*work: object) -> None:
        if work == device.tried[0]:
            assert second.wait(60)
        else:
            second.set()

    device = Device(on_finish=held_back)
    go(device, FULL)
    assert texts(device.done) == everything(device)
    assert device.done[0] == device.tried[1]


def test_as_many_passes_are_under_way_as_the_device_asks_for() -> None:
    enough = threading.Event()

    def full(*_: object) -> None:
        if device.under_way == FULL.in_flight:  # before the one that starts now is counted
            enough.set()

    device = Device(on_start=full, on_finish=lambda *_: None if enough.wait(60) else 1 / 0)
    go(device, FULL)
    assert device.most_under_way == FULL.in_flight + 1
    go(device := Device(), ALONE)
    assert device.most_under_way == 1


def test_a_slow_device_holds_two_prepared_stretches_at_most() -> None:
    device = Device(on_start=lambda *_: time.sleep(0.001))
    go(device, FULL, pieces=20)
    assert device.most_waiting <= 2
    go(device := Device(), ALONE, pieces=20)
    assert device.most_waiting == 1


def test_a_device_that_gains_nothing_gets_no_thread(started_threads: list[str]) -> None:
    go(Device(), ALONE)
    assert started_threads == []


def test_a_single_pass_gets_no_thread_on_any_device(started_threads: list[str]) -> None:
    go(Device(), FULL, tokens=400, pieces=1)
    assert started_threads == []


# -- failures ----------------------------------------------------------------------------------


class BrokenError(Exception):
    """Known by identity."""


@ALL
@pytest.mark.parametrize("stage", ["on_prepare", "on_start", "on_finish"])
@pytest.mark.parametrize("place", [0, 3])
def test_an_error_of_any_stage_is_raised_as_it_was(
    overlap: Overlap, stage: str, place: int
) -> None:
    broken = BrokenError()

    def fail(stretch: int, *_: object) -> None:
        if stretch == place:
            raise broken

    device = Device(**{stage: fail})
    before = threading.active_count()
    with pytest.raises(BrokenError) as caught:
        go(device, overlap)
    assert caught.value is broken
    assert threading.active_count() == before
    assert len(set(texts(device.done))) == len(texts(device.done))
    assert all(name <= place for name, _ in device.done)


def test_an_interrupt_ends_every_thread() -> None:
    def interrupt(stretch: int, *_: object) -> None:
        if stretch == 2:
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        go(Device(on_start=interrupt), FULL)
    assert threading.active_count() == before


def room_for(texts: int) -> Callable[[int, tuple[int, ...]], None]:
    def check(stretch: int, rows: tuple[int, ...]) -> None:
        if len(rows) > texts:
            raise MemoryError("full")

    return check


@ALL
@pytest.mark.parametrize("stage", ["on_start", "on_finish"])
def test_out_of_memory_halves_the_batches_and_loses_nothing(overlap: Overlap, stage: str) -> None:
    device = Device(**{stage: room_for(3)})
    budget = go(device, overlap)
    assert texts(device.done) == everything(device)
    assert budget.tokens == 25  # 100 and 50 did not fit
    assert device.rooms
    assert set(device.rooms) == {0}  # with no pass under way


def test_what_runs_beside_a_pass_that_does_not_fit_is_kept() -> None:
    failed: list[tuple[int, ...]] = []

    def once(stretch: int, rows: tuple[int, ...]) -> None:
        if stretch == 1 and not failed:
            failed.append(rows)
            raise MemoryError("full")

    device = Device(on_finish=once)
    budget = go(device, FULL)
    assert texts(device.done) == everything(device)
    assert budget.tokens == 50


def test_a_single_text_that_does_not_fit_beside_others_is_tried_alone() -> None:
    device = Device(lengths=np.full(6, 90))

    def crowded(stretch: int, rows: tuple[int, ...]) -> None:
        if device.under_way:
            raise MemoryError("full")

    device.on_start = crowded
    go(device, FULL, pieces=1)
    assert texts(device.done) == everything(device, pieces=1)


@ALL
@pytest.mark.parametrize("stage", ["on_start", "on_finish"])
def test_a_single_text_that_does_not_fit_alone_is_the_original_error(
    overlap: Overlap, stage: str
) -> None:
    device = Device(lengths=np.array([50, 10, 10]), **{stage: room_for(0)})
    with pytest.raises(MemoryError, match="full"):
        go(device, overlap, pieces=1)
    assert device.done == []
