"""bge-m3 calibrate and ab-report: what they print, write and keep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bge_m3_integrations import BGEM3, Calibration, HybridIndex, Probability
from bge_m3_integrations.cli.main import app
from bge_m3_integrations.core.weighting import CALIBRATION_FILE as NAME
from bge_m3_integrations.demo import checkpoint_path, load_corpus, load_questions
from bge_m3_integrations.evaluation import ABTest, Dataset
from tests.beir import write


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    with HybridIndex.open(folder / "index", BGEM3(checkpoint_path())) as index:
        index.add(load_corpus())
    questions = load_questions()
    texts = {question.id: question.text for question in questions}
    write(Dataset("data", texts, {q.id: dict(q.relevant) for q in questions}), folder / "data")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_percentiles_alone_are_kept_beside_the_index(place: Path) -> None:
    found = run("calibrate", place / "index")
    assert found.exit_code == 0, found.output
    assert "unrelated pairs" in found.stdout
    assert "no judgements" in found.stdout
    assert Calibration.load(place / "index" / NAME).relevance is None


def test_judgements_give_probabilities_thresholds_and_a_report(place: Path) -> None:
    found = run(
        *("calibrate", place / "index", place / "data", "--precision", "0.7", "--recall", "0.5"),
        *("--report", place / "report.html", "--out", place / "mine.json"),
    )
    assert found.exit_code == 0, found.output
    assert "For a precision of 0.7: score_threshold=Probability(0." in found.stdout
    with HybridIndex.open(place / "index") as index:
        assert index.calibration is not None
        assert index.calibration.measured.collection == "data"
        question = load_questions()[0].text
        assert index.search(question, score_threshold=Probability(0.01))
    assert Calibration.load(place / "mine.json").relevance is not None
    report = (place / "report.html").read_text(encoding="utf-8")
    assert report.count("<circle") >= 3
    assert "<script" not in report
    assert "http://" not in report.replace("http://www.w3.org/2000/svg", "")
    evaluated = run(
        "evaluate", place / "data", "--index", place / "index", "--report", place / "e.html"
    )
    assert evaluated.exit_code == 0, evaluated.output
    assert "Reliability diagram" in (place / "e.html").read_text(encoding="utf-8")


def test_json_has_the_figures(place: Path) -> None:
    found = run(
        *("calibrate", place / "index", place / "data", "--json", "--precision", "0.999"),
        *("--weights", "0.5,0.1,0.4", "--fusion", "scaled_sum", "--method", "isotonic"),
    )
    assert found.exit_code == 0, found.output
    held = json.loads(found.stdout)
    assert held["relevance"]["ece"] * 3 < held["relevance"]["raw_ece"]
    assert held["measured"]["fusion"] == "scaled_sum"
    assert held["thresholds"]["precision"]["probability"] is None
    assert "no threshold" in held["thresholds"]["precision"]["reason"]


def test_a_dry_run_changes_nothing(place: Path) -> None:
    (place / "index" / NAME).unlink(missing_ok=True)
    assert run("calibrate", place / "index", "--dry-run").exit_code == 0
    assert not (place / "index" / NAME).exists()


def test_errors_are_one_line(place: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (["calibrate", tmp_path], "error: "),
        (["calibrate", place / "index", tmp_path / "none"], "there is no data set"),
        (["calibrate", place / "index", "--fusion", "max"], "there are ['weighted_sum'"),
        (["calibrate", place / "index", "--fusion", "reciprocal_rank"], "depends on the others"),
        (["ab-report", tmp_path / "none"], "cannot be read"),
    ):
        found = run(*arguments)
        assert found.exit_code == 1
        assert said in found.stderr.replace("\n", " ")
        assert "Traceback" not in found.output


def test_the_report_of_a_log(place: Path, tmp_path: Path) -> None:
    with HybridIndex.open(place / "index", BGEM3(checkpoint_path())) as index:
        test = ABTest(index, {"a": "default", "b": "keyword"}, log=tmp_path / "log", name="w")
        for i in range(40):
            answer = test.search("vectors", key=str(i))
            test.feedback(answer.id, answer.hits[0].id)
    found = run("ab-report", tmp_path / "log")
    assert found.exit_code == 0, found.output
    assert "within chance" in found.stdout
    assert json.loads(run("ab-report", tmp_path / "log", "--json").stdout)["experiment"] == "w"
