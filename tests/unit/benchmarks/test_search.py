from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest

from benchmarks import search
from benchmarks._memory import Memory
from benchmarks._search import measure, report, start, worker
from benchmarks._search.corpus import Block, Corpus, name
from benchmarks._search.growth import Growth, growths
from benchmarks._search.measure import OutOfTimeError, Run, occupied, parts, turns
from benchmarks._search.results import Outcome, Stage, Timing
from benchmarks._search.subjects import KINDS, chosen
from benchmarks._search.subjects.base import Kind, Known, Peer, Setup, Tokens
from benchmarks._search.subjects.ours import batch_of, options
from benchmarks._search.tasks import TASKS

CORPUS = Corpus(1_500, dim=32)
QUERIES = CORPUS.queries(7)


def test_parts_cover_all_documents_in_order() -> None:
    setup = Setup(CORPUS, QUERIES, Path(), colbert=False, storage="", batch=256)

    ids = [key for part in parts(setup) for key in part.ids]
    assert ids == [name(i) for i in range(1_500)]
    assert {len(part) for part in parts(setup)} == {256, 232, 244}


def test_known_vectors_are_looked_up_by_text() -> None:
    known, block = Known(QUERIES), CORPUS.block(0).part(5, 8)
    known.take(block, ["a", "b", "c"])

    assert known.dense(["c", "a"]) == block.dense[[2, 0]].tolist()
    assert known.lexical(["b"]) == [block.lexical.as_dict(1)]
    assert known.query_dense("2") == QUERIES.dense[2].tolist()


def test_our_batches_hold_the_same_arrays() -> None:
    block = CORPUS.block(0).part(0, 4)
    batch = batch_of(block, CORPUS.tokens(block))

    assert batch.modes == {"dense", "sparse", "colbert"}
    assert batch[2].sparse == block.lexical.as_dict(2)
    assert len(batch_of(block, None)) == 4


def test_a_search_of_ours_asks_for_what_the_oracle_computes() -> None:
    asked = options(TASKS["hybrid 1 %"], QUERIES, 2)

    assert asked["weights"] == {"dense": 0.4, "sparse": 0.2, "colbert": 0.0}
    assert asked["candidates"] == {"dense": 100, "sparse": 100}
    assert asked["where"] == {"shelf": f"v{QUERIES.fields[2, 0]}"}
    assert options(TASKS["hybrid+colbert"], QUERIES, 0)["candidates"] == {"dense": 50, "sparse": 50}


@dataclass
class Counting(Peer):
    tasks: frozenset[str] = frozenset({"dense"})
    added: int = 0
    asked: list[int] = field(default_factory=list)

    def add(self, block: Block, texts: Sequence[str], tokens: Tokens | None) -> None:
        self.added += len(block)
        assert tokens is None
        assert len(texts) == len(block)

    def search(self, task: str, query: int) -> list[str]:
        self.asked.append(query)
        return [name(query)]


def setup_in(folder: Path) -> Setup:
    return Setup(CORPUS, QUERIES, folder, colbert=False, storage="", batch=256)


def kind_of(subject: object, *, modules: tuple[str, ...] = ()) -> Kind:
    return Kind("test", modules, (), lambda setup: subject)


def test_every_query_is_asked_and_its_answer_kept_once(tmp_path: Path) -> None:
    subject, saved = Counting(), []

    found = worker.run(kind_of(subject), setup_in(tmp_path), seconds=60, save=saved.append)

    assert (found.status, found.documents, subject.added) == ("ok", 1_500, 1_500)
    (timing,) = found.stages[0].timings
    assert timing.found == tuple((name(i),) for i in range(7))
    assert len(subject.asked) == measure.WARM_UP + len(timing.seconds)
    assert [outcome.doing for outcome in saved][:2] == ["adding", "adding"]
    assert found.doing == ""


def test_adding_is_not_begun_without_time(tmp_path: Path) -> None:
    found = worker.run(kind_of(Counting()), setup_in(tmp_path), seconds=1e-9, save=lambda _: None)

    assert found.status == "stopped"
    assert "before" in found.detail


def test_half_a_collection_is_searched_and_marked(tmp_path: Path) -> None:
    setup = setup_in(tmp_path)
    run = Run(setup, Counting(), Outcome("test", 1_500), lambda _: None, seconds=60)
    run.start -= 31  # as if half of the time were over

    found = run.all()

    assert (found.status, found.documents) == ("stopped", 256)
    assert found.detail == "adding stopped at 256 of 1,500"
    assert len(found.stages) == 1


def test_no_step_is_begun_after_the_time(tmp_path: Path) -> None:
    run = Run(setup_in(tmp_path), Counting(), Outcome("test", 1_500), lambda _: None, seconds=60)
    run.start -= 61

    with pytest.raises(OutOfTimeError, match="before adding"):
        run._step("adding", run._ingest)


def test_a_subject_that_fails_is_a_result_with_what_went_before(tmp_path: Path) -> None:
    class Failing(Counting):
        def search(self, task: str, query: int) -> list[str]:
            raise KeyError("no index\nat all")

    found = worker.run(kind_of(Failing()), setup_in(tmp_path), seconds=60, save=lambda _: None)

    assert (found.status, found.documents) == ("error", 1_500)
    assert found.detail.startswith("searching before optimize: KeyError")
    assert found.ingest_seconds > 0


def test_a_subject_that_is_not_installed_is_a_result(tmp_path: Path) -> None:
    kind = kind_of(Counting(), modules=("no_such_module.at_all",))

    found = worker.run(kind, setup_in(tmp_path), seconds=60, save=lambda _: None)

    assert (found.status, found.detail) == ("not installed", "no module no_such_module.at_all")


def test_an_interpreter_that_is_not_there_is_a_result(tmp_path: Path) -> None:
    starter = start.Starter(tmp_path, [], minutes=1, pythons={"test": str(tmp_path / "python")})

    found = starter.run(kind_of(Counting()), 1_000)

    assert found.status == "error"
    assert found.detail.startswith("FileNotFoundError")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_ended_leaves_what_it_wrote(tmp_path: Path) -> None:
    lines = "import json, sys, time; at = sys.argv.index('--out') + 1\n"
    lines += f"open(sys.argv[at], 'w').write({json.dumps(asdict(outcome_of('test', 5)))!r})\n"
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{lines}time.sleep(60)\n", encoding="utf-8")
    script.chmod(0o755)
    starter = start.Starter(tmp_path / "w", [], minutes=1 / 60, pythons={"test": str(script)})

    found = starter.run(kind_of(Counting()), 5)

    assert (found.status, found.documents, len(found.stages)) == ("stopped", 5, 3)
    assert found.detail.startswith("ended in closing: TimeoutExpired")


def test_queries_are_repeated_but_not_for_ever() -> None:
    assert list(turns(3)) == [0, 1, 2] * measure.MAX_PASSES


def test_holes_of_files_are_not_disk(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "hole").open("wb") as file:
        file.truncate(1 << 20)
    (tmp_path / "full").write_bytes(b"x" * 8192)

    assert 8192 <= occupied(tmp_path) < 1 << 16


def test_a_line_through_sizes_gives_slope_and_what_lies_beyond() -> None:
    growth = Growth("disk", "MiB", (1_000, 10_000), (5.0, 14.0))

    assert growth.slope == pytest.approx(0.001)
    assert growth.at(10_000_000) == pytest.approx(14 + 9_990)


def test_what_was_measured_at_one_size_does_not_grow() -> None:
    found = growths([("a", "ms", 10, 1.0), ("b", "ms", 20, 2.0), ("b", "ms", 10, 1.0)])

    assert [(g.name, g.sizes, g.values) for g in found] == [("b", (10, 20), (1.0, 2.0))]


def outcome_of(subject: str, documents: int) -> Outcome:
    timings = (Timing("hybrid", (0.001, 0.002, 0.003), (), 0.9), Timing("colbert", (1.0,)))
    stages = tuple(
        Stage(name, documents * 5_000, Memory(100.0, 50.0, 200.0), timings)
        for name in ("before", "after")
    )
    text = Stage("text", 0, Memory(0, 0, 0), (Timing("text: hybrid", (0.03,)),))
    return Outcome(
        subject,
        documents,
        documents,
        empty=Memory(40.0, 30.0, 40.0),
        ingest_seconds=2.0,
        stages=(*stages, text),
    )


def test_an_outcome_survives_json() -> None:
    outcome = outcome_of("ours-edge", 1_000)

    assert Outcome.of(json.loads(json.dumps(asdict(outcome)))) == outcome
    assert Outcome.of(asdict(Outcome("x", 1))) == Outcome("x", 1)


def test_tables_hold_every_state_and_the_reason_of_a_missing_row() -> None:
    missing = Outcome("milvus-langchain", 1_000, status="not installed", detail="no module x")
    outcomes = [outcome_of("ours-edge", 1_000), missing]

    header, ours, other = report.collection_rows(outcomes)
    cells = dict(zip(header, ours, strict=True))
    assert (cells["added/s"], cells["disk B/doc"]) == ("500", "5,000 / 5,000")
    assert cells["RSS B/doc (anonymous)"].startswith("62,915 (20,972)")
    assert other == ["milvus-langchain", "1,000", "not installed: no module x"]
    unsearched = replace(outcome_of("ours-edge", 1_000), stages=(), status="error", detail="why")
    assert report.collection_rows([unsearched])[1][2::9] == ["500", "error: why"]
    rows = report.search_rows(outcomes)
    assert rows[1][2:] == ["hybrid", "2", "2.9", "0.900", "3", "2", "2.9", "0.900", "3"]
    assert rows[2][5] == ""
    assert report.text_rows(outcomes)[1][2:] == ["hybrid", "30", "30", "1"]


def test_growth_is_of_our_stores() -> None:
    outcomes = [outcome_of(s, n) for s in ("ours-edge", "inmemory-langchain") for n in (10, 100)]

    rows = report.growth_rows(outcomes)

    assert {row[0] for row in rows[1:]} == {"ours-edge"}
    assert {"disk, as added", "memory, optimized", "p50 hybrid, as added"} <= {r[1] for r in rows}
    cells = {row[1]: row[3:] for row in rows}
    assert cells["disk, as added"] == ["n^1.00", "4.77 MiB", "46.6 GiB"]
    assert cells["p50 hybrid, as added"] == ["n^0.00", "no more", "2 ms"]


def test_what_fell_with_size_is_not_continued_below_nothing() -> None:
    growth = Growth("p50", "ms", (1_000, 10_000), (2.0, 1.0))

    assert growth.at(10_000_000) == 1.0
    assert growth.exponent == pytest.approx(-0.301, abs=1e-3)
    assert math.isnan(Growth("disk", "MiB", (1, 2), (0.0, 1.0)).exponent)


def kept_in(file: Path, *, documents: int, colbert: bool = True) -> Path:
    held = {"machine": {"date": f"day {documents}"}, "colbert": colbert, "storage": "turbo8"}
    held |= {"colbert_documents": None, "dim": 8, "queries": 3, "minutes": 1}
    held["outcomes"] = [asdict(outcome_of("ours-edge", documents))]
    file.write_text(json.dumps(held), encoding="utf-8")
    return file


def test_runs_of_one_kind_are_printed_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [kept_in(tmp_path / f"{n}.json", documents=n) for n in (1_000, 10_000)]

    search.main(["--read", *map(str, files)])

    printed = capsys.readouterr().out
    assert "- date: day 1000, day 10000" in printed
    assert "line to 10,000,000" in printed


def test_runs_that_kept_other_things_are_not(tmp_path: Path) -> None:
    one = kept_in(tmp_path / "a.json", documents=1_000)
    other = kept_in(tmp_path / "b.json", documents=10_000, colbert=False)

    with pytest.raises(SystemExit, match=r"b.json has colbert False, .*a.json True"):
        search.main(["--read", str(one), str(other)])


def test_subjects_are_chosen_by_beginning_and_our_stores_by_name() -> None:
    assert [kind.name for kind in chosen(["ours"], ["memory"])] == ["ours-memory"]
    assert len(chosen([], ["edge", "memory"])) == len(KINDS)
    with pytest.raises(SystemExit, match="nothing is called nobody"):
        chosen(["nobody"], ["edge"])


def test_the_reference_store_finds_what_the_oracle_expects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--sizes", "300", "--dim", "24", "--queries", "5", "--colbert", "--minutes", "2"]
    arguments += ["--store", "memory", "--only", "ours", "bgem3index", "--threads", "1"]
    arguments += ["--folder", str(tmp_path / "w"), "--json", str(tmp_path / "out.json")]

    search.main(arguments)

    ours, _ = json.loads((tmp_path / "out.json").read_text())["outcomes"]
    recalls = {t["task"]: t["recall"] for t in ours["stages"][0]["timings"]}
    assert recalls == {name: None if name == "colbert" else 1.0 for name in TASKS}
    assert "ours-memory" in capsys.readouterr().out
    search.main(["--read", str(tmp_path / "out.json")])
    assert "hybrid+colbert" in capsys.readouterr().out
