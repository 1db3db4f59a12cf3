"""The command line: what it imports, what it prints, how it fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bge_m3_integrations import __version__
from bge_m3_integrations.cli import app
from bge_m3_integrations.demo import (
    Quality,
    checkpoint_path,
    load_corpus,
    load_quality,
    load_questions,
)
from bge_m3_integrations.demo.run import to_ask
from bge_m3_integrations.demo.show import compared, quality_sentence
from bge_m3_integrations.encoders.torch.native.binding import why_not
from bge_m3_integrations.errors import BGEM3Error, CheckpointError


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bge_m3_integrations.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)


def test_help_imports_neither_torch_nor_a_framework() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from bge_m3_integrations.cli import app\n"
        "for command in ([], ['demo'], ['verify'], ['score']):\n"
        "    assert CliRunner().invoke(app, [*command, '--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'langchain_core', 'llama_index'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_is_the_packages() -> None:
    result = run("--version")
    assert (result.exit_code, result.output.strip()) == (0, f"bge-m3-integrations {__version__}")


def test_help_names_all_commands() -> None:
    output = run("--help").output
    assert [name for name in ("demo", "score", "verify") if name not in output] == []


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["score", "only a query"], ["demo", "--limit", "0"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_own_documents_without_a_question_are_wrong_usage(tmp_path: Path) -> None:
    result = run("demo", "--docs", tmp_path)
    assert result.exit_code == 2
    assert "--query" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "--model", "./nowhere", "a", "b"], "no folder './nowhere'"),
        (["verify", "--model", "./nowhere"], "no folder './nowhere'"),
        (["demo", "--docs", "./nowhere", "--query", "a"], "nowhere does not exist"),
    ],
)
def test_an_error_is_one_line_without_traceback(arguments: list[str], words: str) -> None:
    done = in_a_process(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_debug_lets_the_error_through_before_and_after_the_command() -> None:
    wrong = ["score", "--model", "./nowhere", "a", "b"]
    for arguments in (["--debug", *wrong], [*wrong, "--debug"]):
        assert isinstance(run(*arguments).exception, BGEM3Error)


def test_score_shows_each_document_with_four_numbers(xlm_roberta: Path) -> None:
    result = run("score", "--model", xlm_roberta, "dense vector", "dense vector", "稀疏 权重")
    assert result.exit_code == 0
    numbers = [re.findall(r"\d+\.\d{4}", line) for line in result.stdout.splitlines()]
    itself, other = filter(None, numbers)
    assert (len(itself), len(other)) == (4, 4)
    assert float(itself[0]) == pytest.approx(1, abs=1e-3)


def test_verify_passes_and_writes_what_it_found(xlm_roberta: Path, tmp_path: Path) -> None:
    pytest.importorskip("FlagEmbedding")
    out = tmp_path / "reports" / "verify.json"
    result = run("verify", "--model", xlm_roberta, "--device", "cpu", "--out", out)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["passed"] is True
    assert report["hardware"]["dtype"] == "float32"
    assert report["hardware"]["computed_by"].startswith("torch: " if why_not() else "compiled")
    assert len(report["fingerprint"]) == 64
    assert {"model.safetensors", "colbert_linear.pt", "sparse_linear.pt"} <= report["files"].keys()
    names = [check["name"] for check in report["checks"]]
    assert "FlagEmbedding, score colbert+sparse+dense" in names
    assert max(check["difference"] for check in report["checks"]) < 1e-4


def test_verify_fails_when_the_published_figures_are_not_met(xlm_roberta: Path) -> None:
    result = run("verify", "--model", xlm_roberta, "--device", "cpu", "--published")
    assert result.exit_code == 1
    assert "FAIL  published lexical weights" in result.stdout


def test_the_corpus_has_its_titles_in_text_and_metadata() -> None:
    record = next(record for record in load_corpus() if record.id == "en/hnsw")
    assert record.text.startswith("HNSW graphs\n\nHNSW is an approximate")
    assert dict(record.metadata) == {
        "title": "HNSW graphs",
        "lang": "en",
        "source": "en/hnsw.md",
    }


def test_every_judged_document_is_in_the_corpus() -> None:
    ids = {record.id for record in load_corpus()}
    assert [q.id for q in load_questions() if not q.relevant.keys() <= ids] == []


def test_the_demo_asks_the_first_question_of_each_group_and_language() -> None:
    questions = load_questions()
    asked = list(to_ask([], questions))
    assert len(asked) == len({(q.group, q.lang) for q in questions})
    assert asked[0].text == questions[0].text
    assert all(query.relevant for query in asked)


def test_a_users_query_is_asked_alone_and_judged_only_if_it_is_a_demo_question() -> None:
    questions = load_questions()
    known, unknown = to_ask([questions[3].text, "something else"], questions)
    assert known.relevant == questions[3].relevant
    assert unknown.relevant == {}


def test_rankings_agree_or_the_first_difference_is_named() -> None:
    ours = [("a", 0.5), ("b", 0.25)]
    assert compared(ours, [("a", 0.5), ("b", 0.25)]) == "agrees, same scores"
    assert compared(ours, [("a", 0.5), ("b", 0.35)]) == "agrees, scores within 1e-01"
    assert compared(ours, [("a", 0.5), ("c", 0.25)]) == "DIFFERS at 2: c instead of b"
    assert compared(ours, [("a", 0.5)]) == "DIFFERS at 2: nothing instead of b"


def test_the_quality_sentence_holds_the_measured_numbers_only() -> None:
    measured = [
        Quality("checkpoint hybrid 0.4/0.2/0.4", "handbook", 0.61),
        Quality("bm25", "handbook", 0.66),
        Quality("bm25", "cranfield", 0.4),
    ]
    expected = "nDCG@10 on the demo questions: hybrid 0.610, BM25 for comparison 0.660."
    assert quality_sentence(measured) == expected
    assert "not measured" in quality_sentence([])


def test_quality_is_read_from_the_file_beside_the_weights(tmp_path: Path) -> None:
    systems = {"bm25": {"all": {"ndcg@10": 0.5, "queries": 94}}, "seconds": 3}
    report = {"handbook": systems, "remark": "measured on a CPU"}
    (tmp_path / "evaluation.json").write_text(json.dumps(report), encoding="utf-8")
    assert load_quality(tmp_path) == [Quality("bm25", "handbook", 0.5)]


def test_a_missing_demo_checkpoint_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bge_m3_integrations.demo.FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="pass --model"):
        checkpoint_path()
