"""The whole demo, with a tiny random checkpoint in place of a trained one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bge_m3_integrations import demo
from bge_m3_integrations.cli.main import app

ESCAPE = "\x1b"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["demo", *map(str, arguments), "--device", "cpu"])


@pytest.fixture(scope="module")
def whole(xlm_roberta: Path) -> Result:
    """One full run over the handbook."""
    pytest.importorskip("langchain_core")
    pytest.importorskip("llama_index.core")
    return run("--model", xlm_roberta)


def test_the_demo_runs_to_its_end(whole: Result) -> None:
    assert whole.exit_code == 0, whole.output
    assert "Next steps" in whole.stdout


def test_output_for_a_file_has_no_colour_codes_and_no_line_of_a_table_over_100(
    whole: Result,
) -> None:
    assert ESCAPE not in whole.stdout
    rows = [line for line in whole.stdout.splitlines() if re.match(r"^\s+\d\s{2,}", line)]
    assert rows
    assert max(map(len, rows)) <= 100


def test_each_shown_question_has_five_documents_with_four_scores(whole: Result) -> None:
    rows = [line for line in whole.stdout.splitlines() if re.match(r"^\s+\d\s{2,}", line)]
    asked = len({(q.group, q.lang) for q in demo.load_questions()})
    assert len(rows) == 5 * asked
    assert {len(re.findall(r"\d+\.\d{3}\b", row)) for row in rows} == {4}


def test_the_best_of_each_column_is_marked_in_every_table(whole: Result) -> None:
    tables = whole.stdout.split("  document ")[1:]
    assert [table.count("*") >= 3 for table in tables] == [True] * len(tables)


@pytest.mark.parametrize("framework", ["LangChain", "LlamaIndex"])
def test_both_frameworks_agree_with_the_index_on_every_question(
    whole: Result, framework: str
) -> None:
    lines = [line for line in whole.stdout.splitlines() if line.startswith(f"  {framework}: ")]
    assert len(lines) == len({(q.group, q.lang) for q in demo.load_questions()})
    assert [line for line in lines if "agrees" not in line or "DIFFERS" in line] == []


def test_every_text_goes_through_the_model_once(whole: Result) -> None:
    done = re.search(r"(\d+) texts were asked for .* (\d+) went through", whole.stdout)
    assert done is not None
    texts = len(demo.load_corpus()) + len(demo.load_questions())
    assert int(done[2]) == texts
    assert int(done[1]) > texts


def test_the_summary_counts_every_question_once(whole: Result) -> None:
    totals = re.findall(
        r"^ (?:plain|keyword|cross|paraphrase|all)\b.*?  (\d+) ", whole.stdout, re.M
    )
    *groups, together = map(int, totals)
    assert len(groups) == 4
    assert sum(groups) == together == len(demo.load_questions())


def test_a_model_of_ones_own_is_named_and_nothing_is_promised(
    whole: Result, xlm_roberta: Path
) -> None:
    first = whole.stdout.splitlines()[0]
    assert str(xlm_roberta) in first
    assert "nothing is known here about its quality" in first


def test_the_demo_model_says_what_it_is_not(
    xlm_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(xlm_roberta, folder)
    report = '{"handbook": {"checkpoint hybrid 0.4/0.2/0.4": {"all": {"ndcg@10": 0.4321}}}}'
    (folder / "evaluation.json").write_text(report, encoding="utf-8")
    for module in ("run", "show"):
        monkeypatch.setattr(f"bge_m3_integrations.demo.{module}.checkpoint_path", lambda: folder)
    output = run("--query", "ef_construct m HNSW", "--limit", "1").stdout
    assert "a small demo model trained for this package" in output
    assert "it is NOT BAAI/bge-m3" in output
    assert "hybrid 0.432" in output
    assert "bge-m3 demo --model BAAI/bge-m3" in output


def test_a_chinese_file_in_an_old_encoding_is_found(xlm_roberta: Path, tmp_path: Path) -> None:
    text = "# 会议记录\n\n稠密 向量 和 稀疏 权重 的 检索。"
    (tmp_path / "旧文件.txt").write_bytes(text.encode("gb18030"))
    (tmp_path / "other.md").write_text("Nothing about that.", encoding="utf-8")
    result = run("--model", xlm_roberta, "--docs", tmp_path, "--query", text)
    assert result.exit_code == 0, result.output
    (best,) = [line for line in result.stdout.splitlines() if re.match(r"^\s+1\s", line)]
    assert "会议记录" in best
    assert "read as gb18030" in result.stderr
    assert "hit@3" not in result.stdout  # nobody judged these documents


@pytest.mark.parametrize(
    ("missing", "kept", "extra"),
    [("langchain_core", "LlamaIndex", "langchain"), ("llama_index", "LangChain", "llama-index")],
)
def test_without_one_framework_the_demo_says_how_to_get_it_and_shows_the_other(
    xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch, missing: str, kept: str, extra: str
) -> None:
    hide(monkeypatch, missing)
    result = run("--model", xlm_roberta, "--query", "what is dense", "--limit", "2")
    assert result.exit_code == 0, result.output
    assert f'pip install "bge-m3-integrations[{extra}]"' in " ".join(result.stderr.split())
    names = re.findall(r"^  (LangChain|LlamaIndex): ", result.stdout, re.M)
    assert names == [kept]


def test_the_demo_runs_as_a_program_with_a_narrow_pipe(xlm_roberta: Path) -> None:
    command = [sys.executable, "-m", "bge_m3_integrations.cli.main", "demo", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--model", str(xlm_roberta), "--query", "稀疏 权重", "--limit", "2"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"Next steps" in done.stdout


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package look not installed, to us and to our folder over it."""
    ours = {"langchain_core": "langchain", "llama_index": "llama_index"}[package]
    for name in list(sys.modules):
        if name.startswith((package, f"bge_m3_integrations.{ours}")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
