from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import _cases, _parity, _run, _table, _worker, score
from benchmarks._checkpoint import checkpoint
from benchmarks._machine import isa_environment, machine
from benchmarks._memory import Memory, family, memory
from benchmarks._peers import PEERS, Encoded, Peer, Setting, chosen
from benchmarks._results import Measured, Run
from benchmarks._shape import TINY
from benchmarks._workloads import Workload

MIXED = Workload("mixed", (5, 6, 7))


@dataclass
class Counting:
    calls: list[int] = field(default_factory=list)

    def encode(self, texts: list[str], *, query: bool) -> Any:
        self.calls.append(len(texts))
        return len(texts)

    def read(self, raw: Any) -> Encoded:
        return Encoded(np.eye(raw, 4, dtype=np.float32))


def run_of(peer: str, *seconds: float, workload: str = "mixed", single: bool = False) -> Run:
    measured = Measured(workload, 0 if single else 100, seconds, single, peak=50.0)
    memory = Memory(total=40.0, anonymous=30.0, peak=45.0)
    return Run(peer, 0, "ok", load_seconds=1.0, loaded=memory, measured=(measured,))


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(checkpoint(tmp_path, shape=TINY), tmp_path)


def peer_that(load: Any, *, modules: tuple[str, ...] = ()) -> Peer:
    return Peer("ours-test", heads=3, modules=modules, distributions=(), load=load)


def test_texts_that_come_singly_are_one_call_each() -> None:
    model = Counting()

    measured = _worker.measure(
        model, replace(MIXED, single=True), shape=TINY, keep=lambda raw: None
    )

    assert {*model.calls} == {1}
    assert len(measured.seconds) == len(model.calls)
    assert len(model.calls) % 3 == 0


def test_a_fast_workload_is_passed_over_several_times_but_not_for_ever() -> None:
    model = Counting()

    measured = _worker.measure(model, MIXED, shape=TINY, keep=lambda raw: None)

    assert model.calls == [3] * _worker.MAX_PASSES
    assert len(measured.seconds) == _worker.MAX_PASSES


def test_only_the_first_pass_is_kept_for_comparison() -> None:
    kept: list[Any] = []

    _worker.measure(Counting(), MIXED, shape=TINY, keep=kept.append)

    assert kept == [3]


def test_a_peer_that_is_not_installed_is_a_result(setting: Setting) -> None:
    peer = peer_that(lambda _: Counting(), modules=("no_such_module",))

    found = _worker.run(peer, setting, ["mixed"], repetition=0, parity=None)

    assert (found.status, found.detail) == ("not installed", "no module no_such_module")


def test_a_peer_that_fails_is_a_result_with_the_error(setting: Setting) -> None:
    def load(_: Setting) -> Any:
        raise MemoryError("no room\nat all")

    found = _worker.run(peer_that(load), setting, ["mixed"], repetition=2, parity=None)

    assert (found.status, found.detail) == ("error", "MemoryError: no room at all")
    assert found.repetition == 2


def test_a_peer_is_warmed_up_before_it_is_measured(setting: Setting, tmp_path: Path) -> None:
    model = Counting()

    found = _worker.run(
        peer_that(lambda _: model), setting, ["short"], repetition=0, parity=tmp_path / "p.npz"
    )

    assert model.calls[:2] == [4, 48]
    assert [m.workload for m in found.measured] == ["short"]
    assert not (tmp_path / "p.npz").exists()


def test_every_repetition_has_every_peer_in_another_order() -> None:
    peers = [replace(PEERS["ours-fp32"], name=name) for name in "abc"]

    order = [(repetition, peer.name) for repetition, peer in _run.interleaved(peers, 3)]

    assert Counter(name for _, name in order) == {"a": 3, "b": 3, "c": 3}
    assert ["".join(n for r, n in order if r == i) for i in range(3)] == ["abc", "bca", "cab"]


def test_secondary_peers_are_measured_once() -> None:
    peers = [PEERS["flag-b12"], PEERS["flag-b1"]]

    order = [peer.name for _, peer in _run.interleaved(peers, 3)]

    assert Counter(order) == {"flag-b12": 3, "flag-b1": 1}


def test_peers_are_chosen_by_name_or_beginning() -> None:
    assert [p.name for p in chosen(["ours-bf16", "flag"])] == ["ours-bf16", "flag-b12", "flag-b1"]
    assert len(chosen([])) == len(PEERS)
    with pytest.raises(SystemExit, match="no peer is called nobody"):
        chosen(["nobody"])


def test_a_rate_is_of_the_median_pass_and_a_latency_of_the_median_call() -> None:
    assert run_of("a", 1.0, 2.0, 10.0).measured[0].value == 50.0
    assert run_of("a", 0.001, 0.002, 0.9, single=True).measured[0].value == pytest.approx(2.0)


def test_a_run_survives_json() -> None:
    run = run_of("ours-fp32", 1.0, 2.0)

    assert Run.of(asdict(run)) == run
    assert Run.of(asdict(Run("x", 1, "error", "why"))) == Run("x", 1, "error", "why")


def test_the_best_other_peer_has_three_heads_and_is_not_ours() -> None:
    runs = [
        run_of("ours-bf16", 0.1),
        run_of("flag-b12", 4.0),
        run_of("m3serve-b1", 2.0),
        run_of("openvino-int8", 0.2),
    ]

    assert _table.best_three_heads(_table.by_peer(runs), "mixed") == "m3serve-b1"


def test_the_fastest_at_single_calls_is_the_one_with_the_least_latency() -> None:
    runs = [run_of(name, s, single=True) for name, s in (("flag-b12", 0.4), ("m3serve-b1", 0.2))]

    assert _table.best_three_heads(_table.by_peer(runs), "mixed") == "m3serve-b1"


def test_rows_hold_medians_spreads_and_ratios() -> None:
    runs = [run_of("flag-b12", 4.0), *(run_of("ours-fp32", s) for s in (1.0, 0.5, 0.8))]

    header, ours, flag = _table.encode_rows(runs, {}, ["mixed"], isa="full")

    cells = dict(zip(header, ours, strict=True))
    assert cells["mixed tok/s"] == "125 (100-200)"
    assert (cells["n"], cells["x flag-b12"]) == ("3", "5.00")
    assert cells["loaded MiB (anonymous)"] == "40 (30)"
    assert flag[header.index("x flag-b12")] == "1.00"


def test_a_missing_peer_is_a_row_that_says_so() -> None:
    runs = [run_of("flag-b12", 4.0), Run("m3serve-b1", 0, "not installed", "no module m3serve")]

    rows = _table.encode_rows(runs, {}, ["mixed"], isa="full")

    assert rows[2] == ["m3serve-b1", "3", "0", "not installed: no module m3serve"]
    assert "not installed" in _table.plain(rows)
    assert _table.markdown(rows).splitlines()[-1].count("|") == len(rows[0]) + 1


def test_peers_whose_kernels_no_setting_limits_are_marked() -> None:
    runs = [run_of("onnx-fp32", 1.0), run_of("ours-fp32", 1.0)]

    names = [row[0] for row in _table.encode_rows(runs, {}, ["mixed"], isa="avx2")[1:]]

    assert names == ["ours-fp32", "onnx-fp32 [not limited]"]


def test_differences_are_the_greatest_of_each_head(tmp_path: Path) -> None:
    dense = np.eye(3, 8, dtype=np.float32)
    vectors = [np.ones((2, 8), np.float32)] * 3
    reference = Encoded(dense, [{5: 1.0}, {6: 0.5}, {}], vectors)
    other = Encoded(dense + 0.25, [{5: 1.0}, {6: 0.25, 7: 0.125}, {}], [v + 0.5 for v in vectors])
    _parity.save(tmp_path / "a.npz", reference)
    _parity.save(tmp_path / "b.npz", other)

    found = _run.parity_of(tmp_path / "b.npz", tmp_path / "a.npz")

    assert found is not None
    assert (found.dense, found.sparse, found.colbert) == (0.25, 0.25, 0.5)
    assert found.cosine == pytest.approx(1.25 / np.linalg.norm(dense[0] + 0.25))


def test_a_dense_encoder_is_compared_in_dense_only() -> None:
    dense = np.eye(3, 8, dtype=np.float32)

    found = _parity.compare(Encoded(dense, [{5: 1.0}], [dense]), Encoded(dense))

    assert (found.cosine, found.sparse, found.colbert) == (1.0, None, None)


def test_instruction_sets_are_limited_by_environment_and_full_sets_nothing() -> None:
    assert isa_environment("full") == {}
    limited = isa_environment("avx2")
    assert (limited["ATEN_CPU_CAPABILITY"], limited["ONEDNN_MAX_CPU_ISA"]) == ("avx2", "AVX2")


def test_the_machine_is_described_in_text() -> None:
    assert all(isinstance(value, str) for value in machine().values())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_memory_counts_what_this_process_holds() -> None:
    before = memory().anonymous
    held = np.ones(32 * 1024 * 1024, np.uint8)

    assert memory().anonymous - before > 24
    assert memory().peak >= memory().total - 1
    assert held.all()


def test_a_process_is_in_its_own_family() -> None:
    import os

    assert family(os.getpid())[0] == os.getpid()


def test_a_call_is_repeated_after_one_that_does_not_count_unless_it_is_slow() -> None:
    calls: list[int] = []

    def call() -> np.ndarray:
        calls.append(1)
        return np.zeros(1)

    seconds, _, _ = _cases.timed(call, slow=False)
    assert len(calls) == len(seconds) + 1 == _cases.MAX_CALLS + 1

    calls.clear()
    seconds, _, _ = _cases.timed(call, slow=True)
    assert len(calls) == len(seconds) == 1


def test_our_lexical_scores_are_flag_embeddings(setting: Setting) -> None:
    pytest.importorskip("FlagEmbedding")
    ours, flag = (c for c in score.CASES if c.task == "lexical")

    assert np.allclose(ours.make(setting)(), flag.make(setting)(), atol=1e-5)


def test_a_process_gives_numbers_and_vectors(setting: Setting, tmp_path: Path) -> None:
    harness = _run.Harness(setting, isa="avx2", threads=1)
    path = tmp_path / "ours.npz"

    run = harness.measure(PEERS["ours-fp32"], ["mixed"], repetition=3, parity=path)

    assert (run.peer, run.repetition, run.status, run.detail) == ("ours-fp32", 3, "ok", "")
    assert run.versions["torch kernels"] == "AVX2"
    assert [m.tokens for m in run.measured] == [6_315]
    assert _parity.load(path).dense.shape == (48, TINY.hidden)


def test_a_process_that_dies_is_a_result(tmp_path: Path) -> None:
    code = "import sys; sys.exit('gone')"

    run = _run.start([sys.executable, "-c", code], tmp_path, isa="full", threads=None)

    assert (run.status, run.detail) == ("error", "exit 1: gone")
