"""Datasets: the layouts that people have, and errors with file, line and fix."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bge_m3_integrations import InputError, Record
from bge_m3_integrations.evaluation import Dataset, LabelledPairs, load_dataset

CORPUS = [
    {"_id": "a", "title": "Cats", "text": "they sleep"},
    {"_id": "b", "title": "", "text": "dogs bark"},
    {"_id": "c", "text": ""},
]
PAIR = {"query": "q", "document": "d", "label": 1}
QUERIES = [{"_id": "1", "text": "what sleeps"}, {"_id": "2", "text": "汪汪"}]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def beir(folder: Path, qrels: str, name: str = "qrels/test.tsv") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_text(lines(CORPUS), "utf-8")
    (folder / "queries.jsonl").write_text(lines(QUERIES), "utf-8")
    (folder / name).write_text(qrels, "utf-8")
    return folder


@pytest.mark.parametrize("name", ["qrels/test.tsv", "qrels.tsv"])
@pytest.mark.parametrize("header", ["", "query-id\tcorpus-id\tscore\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_beir_folder_with_and_without_header(
    tmp_path: Path, name: str, header: str, end: str
) -> None:
    made = load_dataset(beir(tmp_path, f"{header}1\ta\t2\n1\tb\t0\n2\tb\t1{end}", name))
    assert isinstance(made, Dataset)
    assert made.qrels == {"1": {"a": 2, "b": 0}, "2": {"b": 1}}
    assert made.queries == {"1": "what sleeps", "2": "汪汪"}
    assert made.records[0] == Record("a", "Cats they sleep", {"title": "Cats"})
    assert [record.text for record in made.records[1:]] == ["dogs bark", ""]
    assert made.judged == ["1", "2"]


def test_trec_qrels_a_byte_order_mark_and_compressed_files(tmp_path: Path) -> None:
    beir(tmp_path, "﻿1 0 a 1\n2 0 b 0\n")
    plain = tmp_path / "corpus.jsonl"
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    made = load_dataset(tmp_path)
    assert isinstance(made, Dataset)
    assert made.judged == ["1"]
    assert len(made.records) == 3


def test_flag_embeddings_layout(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(lines([{"id": "a", "text": "x"}]))
    (tmp_path / "dev_queries.jsonl").write_text(lines([{"id": 7, "text": "q"}]))
    (tmp_path / "dev_qrels.jsonl").write_text(lines([{"qid": 7, "docid": "a", "relevance": 1}]))
    made = load_dataset(tmp_path, split="dev")
    assert isinstance(made, Dataset)
    assert made.qrels == {"7": {"a": 1}}
    with pytest.raises(InputError, match=r"has none of \['queries.jsonl', 'test_queries.jsonl'\]"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.jsonl", lines([PAIR, {"query": "q", "text": "e", "label": 0}])),
        ("p.csv", 'question,passage,score\nq,d,1\n"q","e",0.0\n'),
        ("p.tsv", "\ufeffQuery\tText\tLabel\nq\td\t1\nq\te\t0\n"),
    ],
)  # fmt: skip
def test_labelled_pairs_of_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    made = load_dataset(tmp_path / name)
    assert isinstance(made, LabelledPairs)
    assert made.pairs == [("q", "d"), ("q", "e")]
    assert made.labels == [1, 0]


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("1\ta\tgood\n2\tb\t1\n", r"test.tsv, line 1: expected a query id, a document id"),
        ("1\ta\t0.5\n2\tb\t1\n", r"test.tsv, line 1: expected .* whole number"),
        ("q\td\trel\n2\tb\t1\nx\n", r"test.tsv, line 3: expected a query id, a document id"),
        ("1,a,1\n", r"test.tsv, line 1: expected .* separated by tabs"),
        ("1\ta\t1\n1\ta\t0.5\n", r"line 2: expected .* whole number"),
        ("1\ta\t1\n1\ta\t2\n", r"line 2: query '1' and .*'a' are judged 2, and 1 in .*line 1"),
        ("1\ta\t1\n9\ta\t1\n", r"judges queries that it does not hold: '9' \(.*line 2\)"),
        ("1\tzz\t1\n", r"query '1' judges documents that the collection lacks: 'zz' \(.*line 1\)"),
        ("1\ta\t0\n", r"no query with a relevant document"),
        ("", r"no query with a relevant document"),
    ],
)  # fmt: skip
def test_malformed_judgements_are_errors_with_file_line_and_fix(
    tmp_path: Path, qrels: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_dataset(beir(tmp_path, qrels))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "corpus.jsonl",
            '{"_id": "a", "title": NaN, "text": ""}\n',
            r"line 1: a title must be a text",
        ),
        (
            "corpus.jsonl",
            '{"_id": 1.5, "text": ""}\n',
            r"line 1: expected an .* whole number, not 1.5",
        ),
        ("corpus.jsonl", "[" * 100_000, r"corpus.jsonl, line 1 is no JSON"),
        ("corpus.jsonl", '{"_id": "a"}\n', r"corpus.jsonl, line 1: expected a \"text\", not None"),
        ("corpus.jsonl", '{"text": "a"}\n', r"corpus.jsonl, line 1: expected an \"_id\" or \"id\""),
        ("corpus.jsonl", lines(CORPUS[:1] * 2), r"line 2: the id 'a' was there before"),
        ("corpus.jsonl", "{\n", r"corpus.jsonl, line 1 is no JSON"),
        ("corpus.jsonl", "[1]\n", r"line 1: expected an object"),
        ("queries.jsonl", '{"_id": "1", "text": " "}\n', r"line 1: a query must not be empty"),
        ("queries.jsonl", "", r"has no queries"),
    ],
)
def test_malformed_rows_are_errors_with_file_and_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    beir(tmp_path, "1\ta\t1\n")
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "query,document,label\nq,d,1\nq,e,1\n", r"both kinds, 0 and 1.*all 2 labels"),
        ("p.csv", "query,document,label\nq,d,yes\n", r"line 2: the label must be 0 or 1.*'yes'"),
        ("p.csv", "query,document,label\nq,,1\n", r"line 2: expected texts as query and document"),
        ("p.csv", "a,b,c\nq,d,1\n", r"line 2: expected texts .* there are \['a', 'b', 'c'\]"),
        ("p.csv", "query,document,label\n", r"is empty: expected rows of query, document"),
        ("p.csv", "", r"is empty"),
        ("p.jsonl", '{"query": "q"}\n', r"line 1: expected texts"),
        ("p.txt", "q", r"must be a folder, or a file that ends in"),
        ("p.csv.bak", "query,document,label\nq,d,1\n", "a file that ends in"),
        ("p.csv", "label,query,document\n1,q,one, two\n", r"line 2: 4 cells under 3 names"),
        ("p.csv", "query,document,label\nq,d\n", r"line 2: 2 cells under 3 names"),
        ("p.csv", "query;document;label\nq;d;1\n", r"line 1: expected the names of columns"),
        ("p.csv", "query,text,Query,label\nq,d,r,1\n", r"the columns \['query'\] come twice"),
        ("p.tsv", 'query\tdocument\tlabel\nq\t"a" b\t1\n', r"line 2: .* double quotes"),
        ("p.jsonl", '{"query": "q", "text": "d", "label": 1%s}\n' % ("0" * 400), "must be 0 or 1"),
    ],
)  # fmt: skip
def test_malformed_pairs_are_errors_with_file_line_and_fix(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load_dataset(tmp_path / name)


def test_a_place_that_is_not_there_is_no_name_of_a_hub(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no data set at .*: no folder, no file, and no name of a hub"
    ):
        load_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize("layout", ["beir", "mteb"])
def test_a_data_set_of_a_hub(monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    asked = []

    def load(place: str, config: str | None = None) -> Any:
        asked.append((place, config))
        rows: Any = {
            "corpus": {"corpus": CORPUS},
            ("queries" if layout == "beir" else "query"): {"queries": QUERIES},
        }.get(config or "")
        if rows is None and (place, config) == (
            ("BeIR/x-qrels", None) if layout == "beir" else ("BeIR/x", "default")
        ):
            rows = {"test": [{"query-id": "1", "corpus-id": "a", "score": 1}]}
        if rows is None:
            raise ValueError("no such config")
        return rows

    module = ModuleType("datasets")
    module.__spec__ = sys.modules["json"].__spec__
    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    made = load_dataset("BeIR/x")
    assert isinstance(made, Dataset)
    assert made.qrels == {"1": {"a": 1}}
    assert len(made.records) == 3
    with pytest.raises(InputError, match=r"was not loaded from a hub: .*no such config"):
        load_dataset("BeIR/y")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
@pytest.mark.parametrize("encoding", ["gb18030", "utf-16"])
def test_a_file_in_another_encoding_is_an_error_with_its_line(
    tmp_path: Path, name: str, encoding: str
) -> None:
    path = beir(tmp_path, "1\ta\t1\n") / name
    text = path.read_text("utf-8") + "汉字\n"
    path.write_bytes(text.encode(encoding))
    foreign = (i for i, line in enumerate(text.splitlines(), 1) if not line.isascii())
    line = 1 if encoding == "utf-16" else next(foreign)
    with pytest.raises(InputError, match=rf"{path.name}, line {line} is not UTF-8.*save"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda data: b"not" + data])
def test_a_damaged_compressed_file_is_an_error_that_names_it(tmp_path: Path, damage: Any) -> None:
    plain = beir(tmp_path, "1\ta\t1\n") / "corpus.jsonl"
    (tmp_path / "corpus.jsonl.gz").write_bytes(damage(gzip.compress(plain.read_bytes())))
    plain.unlink()
    with pytest.raises(
        InputError, match=r"corpus.jsonl.gz: the compressed file is damaged after [02] lines"
    ):
        load_dataset(tmp_path)


def test_labels_as_table_programs_write_them_and_names_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "P.CSV").write_text("Query,Document,Label\nq,d,True\n\nq,e,FALSE\n")
    made = load_dataset(tmp_path / "P.CSV")
    assert isinstance(made, LabelledPairs)
    assert made.labels == [1, 0]


@pytest.mark.parametrize("source", ["my-data", "", "C:\\data\\x", "a/b/c", None, 7])
def test_what_is_no_name_of_a_hub_is_never_asked_for(
    monkeypatch: pytest.MonkeyPatch, source: Any
) -> None:
    monkeypatch.setattr("bge_m3_integrations.evaluation.datasets._hub", None)
    with pytest.raises(InputError, match=r"no data set at|a dataset is a folder, a file"):
        load_dataset(source)


def test_a_path_under_a_folder_that_is_there_is_no_name_of_a_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"no data set at data/cranfeld: no folder"):
        load_dataset("data/cranfeld")


ONE = {"q": {"a": 1}}


@pytest.mark.parametrize(
    ("queries", "qrels", "records", "message"),
    [
        ({"q": "x"}, {"q": ["a"]}, (), r"of query 'q' must be whole numbers by document id"),
        ({"q": "x"}, {"q": {"a": "1"}}, (), r"of query 'q' must be whole numbers"),
        ({"q": "x"}, {"q": {"a": float("nan")}}, (), r"of query 'q' must be whole numbers"),
        ({"1": "x"}, {1: {"a": 1}}, (), r"queries that it does not hold: 1; .* whose ids are '1'"),
        (["x"], ONE, (), r"queries must be a dict of texts by id"),
        ({"q": None}, ONE, (), r"text of query 'q' must not be empty, and is None"),
        ({"q": " "}, ONE, (), r"text of query 'q' must not be empty"),
        ({"q": "x"}, ONE, ["text"], r"records must be a list of Record"),
        ({"q": "x"}, ONE, iter([Record("a", "x")]), r"records must be a list of Record"),
        ({"q": "x"}, ONE, [Record("b", "x")], r"documents that the collection lacks: 'a'"),
    ],
)  # fmt: skip
def test_a_dataset_refuses_what_a_notebook_may_put_in(
    queries: Any, qrels: Any, records: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Dataset("d", queries, qrels, records)


@pytest.mark.parametrize("labels", [[0, 2], ["0", "1"], [float("nan"), 1], [1, -1]])
def test_labels_that_are_not_0_or_1_are_refused(labels: Any) -> None:
    with pytest.raises(InputError, match=r"label [01] of p must be 0 or 1, not"):
        LabelledPairs("p", [("a", "b")] * 2, labels)
