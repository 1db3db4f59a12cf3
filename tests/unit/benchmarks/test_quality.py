from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import quality
from benchmarks._checkpoint import checkpoint
from benchmarks._quality import measure, table
from benchmarks._quality.errors import cosines, score_errors, vector_errors
from benchmarks._quality.gate import Change, change, ndcg
from benchmarks._quality.measure import Result, Texts, compared, random_texts
from benchmarks._shape import TINY
from benchmarks._table import filled
from bge_m3_integrations.core.embeddings import EmbeddingBatch, SparseRows, TokenVectors

BEGIN, END = "<!-- some -->", "<!-- end of some -->"

PASSING = Change(reference=0.5, value=0.499, low=-0.004, high=0.001, queries=9)


def batch(dense: Any, sparse: list[Mapping[int, float]], colbert: Any) -> EmbeddingBatch:
    ones = np.ones(len(sparse), np.int64)
    offsets = np.arange(len(sparse) + 1, dtype=np.int64)
    vectors = TokenVectors(np.array(colbert, np.float32), offsets)
    return EmbeddingBatch(
        np.array(dense, np.float32), SparseRows.from_dicts(sparse), vectors, ones, 0 * ones
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("quality"), shape=TINY)


@pytest.fixture(scope="module")
def result(tiny: Path) -> Result:
    texts = random_texts(tiny)
    queries = {name: texts.documents[name] for name in ("0", "5")}
    texts = replace(texts, queries=queries, qrels={name: {name: 1} for name in queries})
    return next(iter(compared(tiny, texts, ["bfloat16"], isa="full")))


def test_vector_errors_are_those_worked_out_by_hand() -> None:
    reference = batch([[1, 0], [0, 1]], [{1: 0.5, 2: 0.1}, {3: 0.2}], [[1, 0], [0, 1]])
    other = batch([[1, 0], [0.6, 0.8]], [{1: 0.4}, {3: 0.2}], [[0, 1], [0, 1]])

    found = vector_errors(reference, other)

    assert found.dense_min == pytest.approx(0.8)
    assert found.dense_mean == pytest.approx(0.9)
    # about the mean (0.5, 0.5): (-0.5, 0.5) and (0.1, 0.3)
    assert found.centred_min == pytest.approx(0.1 / (np.sqrt(0.5) * np.sqrt(0.1)))
    assert (found.colbert_min, found.colbert_mean) == (0.0, 0.5)
    assert found.sparse_max == pytest.approx(0.1)
    assert found.token_sets == 0.5


def test_cosines_of_equal_rows_are_one_far_beyond_float32() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 1024)).astype(np.float32)

    assert np.abs(cosines(rows, rows) - 1).max() < 1e-14


def test_score_errors_stand_beside_the_spread_of_the_scores() -> None:
    reference = {"dense": np.array([[0.0, 1.0]], np.float32)}

    found = score_errors(reference, {"dense": np.array([[0.1, 0.7]], np.float32)})["dense"]

    assert found.greatest == pytest.approx(0.3)
    assert found.mean == pytest.approx(0.2)
    assert found.spread == 0.5


def test_ndcg_counts_a_judged_query_that_finds_nothing_as_zero() -> None:
    scores = np.array([[0.9, 0.1], [0.0, -1.0], [1.0, 1.0]])

    found = ndcg(scores, ["a", "b", "c"], ["x", "y"], {"a": {"y": 1}, "b": {"x": 1}})

    assert found.tolist() == pytest.approx([1 / np.log2(3), 0.0])


def test_equal_values_pass_with_an_interval_of_no_width() -> None:
    values = np.linspace(0, 1, 50)

    found = change(values, values, resamples=200)

    assert (found.low, found.high, found.relative) == (0.0, 0.0, 0.0)
    assert found.passes


def test_a_loss_of_two_percent_in_every_query_fails() -> None:
    values = np.linspace(0.1, 1, 50)

    found = change(values, 0.98 * values, resamples=200)

    assert found.low == pytest.approx(-0.02)
    assert not found.passes


def test_a_gain_that_is_not_sure_fails() -> None:
    reference = np.full(50, 0.5)
    values = reference + np.tile([0.3, -0.28], 25)

    found = change(reference, values, resamples=500)

    assert found.relative > 0
    assert not found.passes


def test_the_interval_is_paired_and_the_same_each_time() -> None:
    reference = np.random.default_rng(0).random(200)
    values = reference + 0.01

    found = change(reference, values, resamples=500)

    # unpaired, two means of 200 queries would differ by some 8 % of 0.5
    assert found.high - found.low < 0.01
    assert found == change(reference, values, resamples=500)


def test_float32_differs_from_itself_in_nothing(tiny: Path) -> None:
    texts = Texts("two", {"q": "babeci"}, {"a": "babeci babeca", "b": "bababa"}, {})

    found = next(iter(compared(tiny, texts, ["float32"], isa="full")))

    assert found.vectors.dense_min == pytest.approx(1.0, abs=1e-12)
    assert found.vectors.sparse_max == 0.0
    assert {held.greatest for held in found.scores.values()} == {0.0}
    assert found.quality == {}


def test_every_mode_is_compared_in_scores_and_in_quality(result: Result) -> None:
    modes = {"dense", "sparse", "colbert", "hybrid"}

    assert set(result.scores) == set(result.quality) == modes
    assert result.pairs == (2, 16)
    assert {held.queries for held in result.quality.values()} == {2}
    assert 0.99 < result.vectors.colbert_min < 1 - 1e-7


def test_a_result_comes_back_from_json(result: Result) -> None:
    assert Result.of(json.loads(json.dumps(asdict(result)))) == result


def test_only_the_gated_collection_has_a_verdict(result: Result) -> None:
    held = dict.fromkeys(result.quality, PASSING)
    failing = {**held, "sparse": replace(PASSING, low=-0.011)}
    gated = replace(result, texts="Cranfield", quality=failing)
    beside = replace(result, texts="demo questions", quality=failing)

    lines = table.tables([gated, beside]).splitlines()
    quality = {line.split(" | ")[0][2:]: line for line in lines if "→" in line}

    assert quality["Cranfield"].count("**passes**") == 3
    assert quality["Cranfield"].count("**fails**") == 1
    assert "**" not in quality["demo questions"]


def test_filling_a_page_keeps_what_is_around_the_markers() -> None:
    page = f"above\n{BEGIN}\nold\n{END}\nbelow\n"

    assert filled(page, "new", mark="some") == f"above\n{BEGIN}\nnew\n{END}\nbelow\n"


@pytest.mark.parametrize("page", ["no markers", BEGIN, f"{END}\n{BEGIN}"])
def test_a_page_without_both_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="needs the markers"):
        filled(page, "new", mark="some")


def test_an_earlier_result_is_printed_and_filled_in_without_measuring(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "subprocess", None)
    held = {
        "machine": {"date": "today", "cpu": "a CPU", "flags": "avx2"},
        "results": [asdict(result)],
    }
    source, page = tmp_path / "in.json", tmp_path / "page.md"
    source.write_text(json.dumps(held), encoding="utf-8")
    page.write_text("<!-- quality -->\n<!-- end of quality -->\n", encoding="utf-8")

    quality.main(["--read", str(source), "--markdown", str(page)])

    assert "Measured today on a CPU" in page.read_text(encoding="utf-8")
    assert "| bfloat16 |" in page.read_text(encoding="utf-8")


def test_an_instruction_set_gets_a_process_with_its_variables(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    def run(command: list[str], *, check: bool, env: dict[str, str]) -> None:
        started.append((command, env))
        out = Path(command[command.index("--out") + 1])
        isa = command[command.index("--isa") + 1]
        out.write_text(json.dumps([asdict(replace(result, isa=isa))]), encoding="utf-8")

    monkeypatch.setattr(quality, "subprocess", SimpleNamespace(run=run))
    quality.main(["--full-size", "some", "--json", str(tmp_path / "out.json")])

    (full, plain), (limited, bound) = started
    assert "ONEDNN_MAX_CPU_ISA" not in plain
    assert bound["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert "bfloat16" in full
    assert "bfloat16" not in limited
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [held["isa"] for held in written["results"]] == ["full", "avx2"]


def test_a_worker_writes_what_it_compared(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"

    measure.main(["--dtype", "float32", "--out", str(out), "--full-size", str(tiny)])

    (found,) = json.loads(out.read_text(encoding="utf-8"))
    assert found["dtype"] == "float32"
    assert found["pairs"] == [4, 16]
