"""Evaluation of an index and of pairs: the same numbers as searches have, from one encoding."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bge_m3_integrations import BGEM3, HybridIndex, InputError, ScaledSum, WeightProfile, Weights
from bge_m3_integrations.cli.main import app
from bge_m3_integrations.demo import checkpoint_path, load_corpus, load_questions
from bge_m3_integrations.evaluation import (
    Dataset,
    Evaluation,
    LabelledPairs,
    PairEvaluation,
    evaluate,
    score_candidates,
)
from bge_m3_integrations.testing import FakeEncoder

RECORDS = load_corpus()


def dataset(count: int = 30) -> Dataset:
    questions = load_questions()[:count]
    return Dataset(
        "demo",
        {str(i): question.text for i, question in enumerate(questions)},
        {str(i): dict(question.relevant) for i, question in enumerate(questions)},
        RECORDS,
    )


@pytest.fixture(scope="module")
def engine() -> BGEM3:
    return BGEM3(checkpoint_path(), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def index(engine: BGEM3) -> Iterator[HybridIndex]:
    with HybridIndex(engine) as made:
        made.add(RECORDS, progress=False)
        yield made


@pytest.fixture(scope="module")
def made(index: HybridIndex) -> Evaluation:
    found = evaluate(
        index,
        dataset(),
        weights={
            "mine": (1, 2, 1),
            "profile": WeightProfile("profile", Weights(1, 1, 0), ScaledSum()),
            "router": lambda query: "keyword",
        },
    )
    assert isinstance(found, Evaluation)
    return found


def test_every_run_ranks_as_a_search_does(index: HybridIndex, made: Evaluation) -> None:
    searches: dict[str, dict[str, Any]] = {
        "dense": {"weights": (1, 0, 0)},
        "sparse": {"weights": (0, 1, 0)},
        "default": {},
        "scaled_sum": {"fusion": ScaledSum()},
        "keyword": {"weights": "keyword"},
        "mine": {"weights": (1, 2, 1)},
        "profile": {"weights": (1, 1, 0), "fusion": ScaledSum()},
        "router": {"weights": "keyword"},
    }
    candidates = {"dense": 100, "sparse": 100}
    texts = [made.queries[query] for query in made.scores.queries]
    for name, options in searches.items():
        found = index.search_batch(texts, limit=10, candidates=candidates, **options)
        for query, hits in zip(made.scores.queries, found, strict=True):
            assert made[name].rankings[query][:10] == [hit.id for hit in hits], (name, query)
            assert made[name].scores[query][:10] == pytest.approx([h.score for h in hits])


def test_many_weightings_at_once_have_the_metric_of_each_run(made: Evaluation) -> None:
    weightings = np.random.default_rng(0).dirichlet([1, 1, 1], 40)
    for scaled in (False, True):
        table = made.scores.measure(weightings, scaled=scaled)
        assert table.shape == (40, 30)
        for row in (0, 17, 39):
            fusion = ScaledSum() if scaled else None
            run = made.scores.run("r", Weights(*weightings[row].tolist()), fusion)
            assert table[row] == pytest.approx(list(run.values("ndcg@10").values()), abs=1e-9)


def test_queries_are_encoded_once_for_all_weightings() -> None:
    encoder = FakeEncoder()
    with HybridIndex(BGEM3(encoder)) as index:
        index.add(RECORDS[:40])
        ids = [record.id for record in RECORDS[:40]]
        data = Dataset("d", {"q": "cats", "r": "dogs"}, {"q": {ids[0]: 1}, "r": {ids[1]: 2}})
        evaluate(index, data, weights=["training", (1, 1, 1)])
        asked = [call for call in encoder.calls if call.kind == "query"]
        assert sum(len(call.texts) for call in asked) == 2


def test_a_table_a_dict_files_and_a_report(made: Evaluation, tmp_path: Path) -> None:
    assert str(made).splitlines()[0].startswith("demo: model checkpoint")
    assert "default" in str(made)
    made.save_json(tmp_path / "e.json")
    held = json.loads((tmp_path / "e.json").read_text())
    assert held["runs"]["default"]["ndcg@10"]["mean"] == made["default"].measure("ndcg@10").mean
    files = made.save_runs(tmp_path / "runs")
    assert {file.name for file in files} >= {"default.trec", "dense.trec", "router.trec"}
    made.save_report(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count('class="bar') == len(made.runs)
    with pytest.raises(InputError, match=r"no run 'denes'; there are \['dense'"):
        made["denes"]


def test_a_report_escapes_what_users_wrote(made: Evaluation, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>&\"'"
    hostile = replace(
        made,
        name=evil,
        queries=dict.fromkeys(made.queries, evil),
        documents=dict.fromkeys([r.id for r in RECORDS], evil),
        about={evil: evil},
    )
    hostile.save_report(tmp_path / "r.html")
    assert "<script" not in (tmp_path / "r.html").read_text("utf-8")


def test_an_engine_indexes_the_documents_itself(engine: BGEM3, made: Evaluation) -> None:
    found = evaluate(engine, dataset(), metrics=["recall@5"], progress=False)
    assert isinstance(found, Evaluation)
    assert found["default"].values("recall@5") == made["default"].values("recall@5")


def test_an_index_that_lacks_a_judged_document_is_an_error(index: HybridIndex) -> None:
    data = Dataset("d", {"1": "cats"}, {"1": {"nowhere": 1}})
    with pytest.raises(InputError, match="'1' judges documents that the collection lacks: 'nowh"):
        score_candidates(index, data)


@pytest.mark.parametrize("wrong", ["ndcg@10", [], ["ndgc@3"]])
def test_metrics_are_checked_before_anything_is_encoded(wrong: Any) -> None:
    encoder = FakeEncoder()
    with pytest.raises(InputError, match=r"metric"):
        evaluate(BGEM3(encoder), dataset(3), metrics=wrong)
    assert not encoder.calls


def test_pairs_have_an_area_under_the_curve_for_each_mode(engine: BGEM3) -> None:
    questions = load_questions()[:20]
    texts = {record.id: record.text for record in RECORDS}
    answers = [texts[max(q.relevant, key=q.relevant.__getitem__)] for q in questions]
    right = [(q.text, answer) for q, answer in zip(questions, answers, strict=True)]
    wrong = [(q.text, answer) for q, answer in zip(questions, answers[7:], strict=False)]
    pairs = LabelledPairs("pairs", right + wrong, [1] * len(right) + [0] * len(wrong))
    found = evaluate(engine, pairs, weights=["keyword"])
    assert isinstance(found, PairEvaluation)
    assert set(found.auc) == {"dense", "sparse", "colbert", "default", "keyword"}
    for one in found.auc.values():
        assert 0 <= one.low <= one.mean <= one.high <= 1
    assert found.auc["default"].mean > 0.9
    assert "AUC" in str(found)
    json.dumps(found.to_dict())


def test_an_index_of_one_mode_has_one_run() -> None:
    with HybridIndex(BGEM3(FakeEncoder()), modes=["dense"]) as index:
        index.add(RECORDS[:10])
        found = evaluate(index, Dataset("d", {"1": "x"}, {"1": {RECORDS[0].id: 1}}))
        assert isinstance(found, Evaluation)
        assert [run.name for run in found.runs] == ["dense"]


def test_the_command_prints_a_table_or_json_and_writes_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "qrels").mkdir(parents=True)
    held = dataset(4)
    rows = [{"_id": record.id, "text": record.text} for record in held.records]
    (data / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"_id": query, "text": text} for query, text in held.queries.items()]
    (data / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    judged = [f"{q}\t{d}\t{g}\n" for q, held_by in held.qrels.items() for d, g in held_by.items()]
    (data / "qrels" / "test.tsv").write_text("".join(judged))
    report = tmp_path / "r.html"
    options = ["--weights", "1,1,0", "--metric", "mrr@10", "--report", str(report)]
    result = CliRunner().invoke(app, ["evaluate", str(data), *options])
    assert result.exit_code == 0, result.output
    assert "mrr@10" in result.stdout
    assert "1,1,0" in result.stdout
    assert report.read_text("utf-8").startswith("<!doctype html>")
    with HybridIndex.open(tmp_path / "index", BGEM3(checkpoint_path())) as index:
        index.add(held.records)
    options = ["--index", str(tmp_path / "index"), "--json", "--runs", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, ["evaluate", str(data), *options])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["about"]["documents"] == str(len(RECORDS))
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "nowhere")])
    assert result.exit_code == 1
    assert "no data set at" in result.output
    assert "Traceback" not in result.output
