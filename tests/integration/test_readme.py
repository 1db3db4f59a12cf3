"""What the README shows runs, with a tiny checkpoint in place of the real one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from bge_m3_integrations.cli.main import app
from bge_m3_integrations.demo import checkpoint_path, load_corpus

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")
]
PAGES += sorted((ROOT / "docs").glob("*.md"))
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)
LANGCHAIN = [block for block in BLOCKS if ".langchain" in block]
LLAMA_INDEX = [block for block in BLOCKS if ".llama_index" in block]
FOLDER = [block for block in BLOCKS if "HybridIndex.open" in block]
DEMO = [block for block in BLOCKS if "checkpoint_path" in block]
COMPAT = [block for block in BLOCKS if ".compat" in block]
OTHERS = (*LANGCHAIN, *LLAMA_INDEX, *FOLDER, *DEMO, *COMPAT)
PLAIN = [block for block in BLOCKS if block not in OTHERS]


def run(block: str, checkpoint: Path) -> dict[str, Any]:
    assert '"BAAI/bge-m3"' in block
    names: dict[str, Any] = {}
    exec(block.replace('"BAAI/bge-m3"', repr(str(checkpoint))), names)
    return names


def test_there_is_code_for_both_frameworks_in_both_languages() -> None:
    assert [*map(len, (LANGCHAIN, LLAMA_INDEX, FOLDER, COMPAT, DEMO, PLAIN))] == [2, 2, 2, 1, 1, 1]


def test_the_code_for_each_framework_is_five_lines_or_fewer() -> None:
    for block in (*LANGCHAIN, *LLAMA_INDEX):
        assert len([line for line in block.splitlines() if line.strip()]) <= 5


def test_the_first_program_prints_the_order_that_the_readme_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    exec(DEMO[0], {})
    said = capsys.readouterr().out.splitlines()
    assert [line[6:9] for line in said] == ["Tea", "茶是用", "Cof"]
    assert "It prints the first text, then the Chinese one, then coffee" in README


def test_every_example_is_listed() -> None:
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"\((\w+\.py)\)", page)
    assert listed == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("block", LANGCHAIN)
def test_the_langchain_code_finds_one_document(
    block: str, xlm_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("langchain_core")
    monkeypatch.chdir(tmp_path)
    names = run(block, xlm_roberta)
    (document,) = names["documents"]
    assert document.page_content in block
    names["store"].close()


@pytest.mark.parametrize("block", LLAMA_INDEX)
def test_the_llama_index_code_finds_one_node(block: str, xlm_roberta: Path) -> None:
    pytest.importorskip("llama_index.core")
    names = run(block, xlm_roberta)
    (node,) = names["nodes"]
    held = names["index"].vector_store.index
    assert node.score == held.search(_query(block), limit=1)[0].score


@pytest.mark.parametrize("block", FOLDER)
def test_the_code_with_a_folder_finds_what_it_added(
    block: str, xlm_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run(block, xlm_roberta)
    assert len(names["hits"]) == 1
    assert (tmp_path / "my_index" / "manifest.json").exists()


def test_the_plain_code_scores_and_reranks(xlm_roberta: Path) -> None:
    names = run(PLAIN[0], xlm_roberta)
    scores = names["scores"]
    for values in (scores.dense, scores.sparse, scores.colbert, scores.hybrid):
        assert values.shape == (1, 2)
    assert [ranked.index in (0, 1) for ranked in names["best"]] == [True]


def test_the_code_of_flag_embedding_gives_all_three(xlm_roberta: Path) -> None:
    output = run(COMPAT[0], xlm_roberta)["output"]
    assert {"dense_vecs", "lexical_weights", "colbert_vecs"} <= output.keys()


def test_both_languages_name_the_same_classes() -> None:
    english, chinese = README.split("## 中文")
    table = english.split("## Which class for which job")[1].split("## Speed")[0]
    wanted = set(
        re.findall(r"`((?:BGEM3|HybridIndex|langchain|llama_index|retriever)[\w.]*)`", table)
    )
    assert len(wanted) >= 12
    assert wanted <= set(re.findall(r"`([\w.]+)`", chinese))


@pytest.mark.parametrize("text", [README, (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")])
def test_every_command_and_option_that_is_shown_exists(text: str) -> None:
    commands = typer.main.get_group(app).commands
    shown = re.findall(r"(?<!/)bge-m3 ([a-z]+)([^`\n#]*)", text) + re.findall(
        r"bge_m3_integrations\.cli ([a-z]+)([^`\n#]*)", text
    )
    assert shown
    for name, rest in shown:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z]+", rest)) <= options


def test_the_number_of_documents_is_the_corpus_own() -> None:
    assert f"indexes {len(load_corpus())} short documents" in README


def test_the_demo_models_numbers_are_those_of_its_evaluation() -> None:
    names = {"ColBERT": "checkpoint colbert", "BM25": "bm25"}
    names |= {"untrained, hybrid": "random hybrid 0.4/0.2/0.4"}
    report = json.loads((checkpoint_path() / "evaluation.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")
    part = page.split("<!-- demo numbers -->")[1].split("<!-- end of demo numbers -->")[0]
    rows = re.findall(r"^\| ([^|]+) \| (0\.\d+) \|.* (0\.\d+) \|$", part, re.M)
    assert len(rows) == 6
    for name, cranfield, handbook in rows:
        key = names.get(name, f"checkpoint {name}")
        assert f"{report['cranfield'][key]['all']['ndcg@10']:.3f}" == cranfield
        assert f"{report['handbook'][key]['all']['hit@3']:.2f}" == handbook


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def _query(block: str) -> str:
    found = re.search(r'retrieve\("([^"]+)"\)', block)
    assert found is not None
    return found[1]
