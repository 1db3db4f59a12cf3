"""The command line: what it imports, what it prints, how it fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner, Result

from bge_m3_integrations._version import __version__
from bge_m3_integrations.cli.main import app
from bge_m3_integrations.cli.options import PLAIN_WIDTH
from bge_m3_integrations.cli.score import read_weights
from bge_m3_integrations.demo import (
    Quality,
    checkpoint_path,
    load_corpus,
    load_quality,
    load_questions,
)
from bge_m3_integrations.demo.run import to_ask
from bge_m3_integrations.demo.show import compared, quality_sentence
from bge_m3_integrations.encoders.torch.native.binding import unavailable_reason
from bge_m3_integrations.errors import BGEM3Error, CheckpointError, InputError


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bge_m3_integrations.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)


def test_help_imports_neither_torch_nor_a_framework() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from bge_m3_integrations.cli.main import app\n"
        "from bge_m3_integrations.cli.options import PLAIN_WIDTH\n"
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
    assert report["hardware"]["computed_by"].startswith(
        "torch: " if unavailable_reason() else "compiled"
    )
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


LONG = "BGE-M3 gives three representations of a text in one forward pass: dense, sparse, ColBERT."
CHINESE = "稀疏权重是模型为每个词元学到的权重，两段文本共有的词元的权重相乘再相加，就是稀疏分数。"
NUMBERS = re.compile(r"-?\d+\.\d{4}")


def rows(output: str) -> list[str]:
    """The lines of a table that hold numbers."""
    return [line for line in output.splitlines() if NUMBERS.search(line)]


@pytest.mark.parametrize("columns", ["30", "60", "80", "120", ""])
def test_numbers_are_whole_at_any_width(
    xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    texts = [LONG * 3, CHINESE * 2, "short", "\U0001f98a" * 90]
    result = run("score", "--model", xlm_roberta, "sparse weights", *texts)
    assert result.exit_code == 0, result.output
    for name in ("document", "dense", "sparse", "colbert", "hybrid"):
        assert name in result.stdout
    assert [len(NUMBERS.findall(row)) for row in rows(result.stdout)] == [4] * 4
    width = max(int(columns or PLAIN_WIDTH), 50)
    assert max(cell_len(line) for line in result.stdout.splitlines()) <= width


def test_a_text_is_one_line_whatever_is_in_it(xlm_roberta: Path) -> None:
    texts = ["a\nb\r\nc\td", "evil \x1b[31mred\x1b[0m \u202eback", "", " [bold]markup[/bold] "]
    result = run("score", "--model", xlm_roberta, "query", *texts)
    assert len(rows(result.stdout)) == 4
    for words in ("a b c d", "evil �[31mred", "(empty)", "[bold]markup[/bold]"):
        assert words in result.stdout
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout


def test_the_best_document_comes_first(xlm_roberta: Path) -> None:
    result = run(
        "score", "--model", xlm_roberta, "dense vector", "稀疏 权重", "dense vector", "dense"
    )
    hybrid = [float(NUMBERS.findall(row)[-1]) for row in rows(result.stdout)]
    assert hybrid == sorted(hybrid, reverse=True)
    assert "dense vector" in rows(result.stdout)[0]
    first = run("score", "--model", xlm_roberta, "--limit", 1, "dense vector", "a", "dense vector")
    assert rows(first.stdout) == [row for row in rows(first.stdout) if "dense vector" in row]


def test_scores_as_json_hold_whole_texts_and_all_numbers(xlm_roberta: Path) -> None:
    result = run("score", "--model", xlm_roberta, "--json", "query", LONG, CHINESE)
    made = json.loads(result.stdout)
    assert made["query"] == "query"
    assert made["weights"] == {"dense": 0.4, "sparse": 0.2, "colbert": 0.4}
    assert {row["text"] for row in made["results"]} == {LONG, CHINESE}
    assert {row["index"] for row in made["results"]} == {0, 1}
    assert made["results"][0]["hybrid"] >= made["results"][1]["hybrid"]
    assert all(row.keys() >= {"dense", "sparse", "colbert"} for row in made["results"])


@pytest.mark.parametrize(
    ("given", "weights"),
    [
        ("keyword", {"dense": 0.3, "sparse": 0.5, "colbert": 0.2}),
        ("1, 0, 0.5", {"dense": 1.0, "sparse": 0.0, "colbert": 0.5}),
        ("0.4 0.2 0.4", {"dense": 0.4, "sparse": 0.2, "colbert": 0.4}),
        ("0.4/0.2/0.4", {"dense": 0.4, "sparse": 0.2, "colbert": 0.4}),
    ],
)
def test_weights_are_a_preset_or_three_numbers(
    xlm_roberta: Path, given: str, weights: dict[str, float]
) -> None:
    result = run("score", "--model", xlm_roberta, "--json", "--weights", given, "query", "text")
    made = json.loads(result.stdout)
    assert made["weights"] == weights
    assert {mode for mode in weights if mode in made["results"][0]} == {
        mode for mode, weight in weights.items() if weight
    }


@pytest.mark.parametrize("given", ["nonsense", "1,2", "a,b,c", "-1,0,0", "0,0,0", "nan,1,1", ""])
def test_weights_that_are_none_are_refused_before_a_model_is_loaded(given: str) -> None:
    result = run("score", "--model", "./nowhere", "--weights", given, "query", "text")
    assert result.exit_code == 1
    assert "weights" in result.stderr
    assert "nowhere" not in result.stderr


def test_documents_come_from_files_and_standard_input(xlm_roberta: Path, tmp_path: Path) -> None:
    file = tmp_path / "doc.txt"
    file.write_text("a file\nof two lines\n", encoding="utf-16")
    arguments = ["score", "--model", xlm_roberta, "--json", "query", "typed", "-", "--file", file]
    piped = "one line\r\n\n  \nanother 稀疏\n".encode()
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=piped)
    assert result.exit_code == 0, result.output
    texts = sorted((row["index"], row["text"]) for row in json.loads(result.stdout)["results"])
    assert [text for _, text in texts] == [
        "typed",
        "one line",
        "another 稀疏",
        "a file\nof two lines\n",
    ]


def test_lines_that_are_piped_in_need_no_dash(xlm_roberta: Path) -> None:
    arguments = ["score", "--model", str(xlm_roberta), "query"]
    result = CliRunner().invoke(app, arguments, input="one\ntwo\n")
    assert len(rows(result.stdout)) == 2


def test_a_document_that_is_the_name_of_a_file_is_scored_as_a_text_and_said_so(
    xlm_roberta: Path, tmp_path: Path
) -> None:
    file = tmp_path / "doc.txt"
    file.write_text("text", encoding="utf-8")
    result = run("score", "--model", xlm_roberta, "query", file)
    assert result.exit_code == 0
    assert "--file" in result.stderr


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    result = run("score", "--model", "./nowhere", "query", "--file", tmp_path / name)
    assert result.exit_code == 1
    assert "cannot read" in result.stderr


def test_standard_input_that_is_no_text_is_named() -> None:
    result = CliRunner().invoke(
        app, ["score", "--model", "./x", "q", "-"], input=b"\x00\x01\xff" * 9
    )
    assert result.exit_code == 1
    assert "standard input is no text" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_terminal_shows_whole_numbers(xlm_roberta: Path, columns: int) -> None:
    import fcntl
    import os
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [
        sys.executable,
        "-m",
        "bge_m3_integrations.cli.main",
        "score",
        "--model",
        str(xlm_roberta),
    ]
    with subprocess.Popen(
        [*command, "query", LONG, CHINESE],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env={**environment, "TERM": "xterm"},
    ):
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown.decode()).splitlines()
    assert [len(NUMBERS.findall(line)) for line in lines if NUMBERS.search(line)] == [4, 4]
    assert max(cell_len(line) for line in lines) <= columns


@pytest.mark.parametrize("columns", ["60", "100"])
def test_the_demo_names_files_that_it_does_not_read_and_shows_whole_numbers(
    xlm_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    (tmp_path / "a.md").write_text(f"# A title {CHINESE}\n\nThe fox.", encoding="utf-8")
    (tmp_path / "b.html").write_text("<p>fox</p>", encoding="utf-8")
    result = run("demo", "--model", xlm_roberta, "--docs", tmp_path, "--query", "fox")
    assert result.exit_code == 0, result.output
    assert "1 file passed over" in " ".join(result.stderr.split())
    assert "b.html" in result.stderr
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("  1  ")]
    assert len(re.findall(r"\d\.\d{3}\*?", row)) == 4
    assert cell_len(row) <= int(columns)


@pytest.mark.parametrize(
    ("given", "told"), [("0,0,0", "positive"), ("nan,1,1", "finite"), ("1,2", "three numbers")]
)
def test_weights_that_mean_nothing_are_refused_for_their_own_reason(given: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_weights(given)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
def test_an_output_that_cannot_be_written_is_an_error_in_a_line(form: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "bge_m3_integrations.cli.main", "score", "fox", "a fox", *form]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "error: the output cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    texts = [f"text {i} of a fox" for i in range(3000)]
    command = [sys.executable, "-m", "bge_m3_integrations.cli.main", "score", "--json", "fox", "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("\n".join(texts))
        process.stdin.close()
        assert process.stdout.readline() == "{\n"
        process.stdout.close()
        told = process.stderr.read()
    assert "Traceback" not in told
    assert "Exception ignored" not in told


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "bge_m3_integrations", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("bge-m3-integrations ")
