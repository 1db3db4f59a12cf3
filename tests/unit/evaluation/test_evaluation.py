"""Evaluation of an index and of pairs: the same numbers as searches have, from one encoding."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bge_m3_integrations import BGEM3, HybridIndex, InputError, ScaledSum, WeightProfile, Weights
from bge_m3_integrations.cli.main import app
from bge_m3_integrations.core.fusion import Candidates
from bge_m3_integrations.core.scores import Components
from bge_m3_integrations.demo import checkpoint_path, load_corpus, load_questions
from bge_m3_integrations.evaluation import (
    CandidateScores,
    Dataset,
    Evaluation,
    LabelledPairs,
    PairEvaluation,
    Run,
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
    assert text.count('class="bar') == 2 * len(made.runs)  # for wide screens and for narrow ones
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


def test_a_function_of_the_query_looks_up_what_the_others_do(index: HybridIndex) -> None:
    def router(query: str) -> tuple[float, float, float]:
        return (1, 1, 1) if len(query) % 2 else (0, 1, 0)

    weights: dict[str, Any] = {"router": router, "fixed": (1, 1, 1)}
    for options in ({"candidates": {"dense": 5}}, {"exact": True}):
        found = evaluate(index, dataset(), weights=weights, metrics=["ndcg@10"], **options)
        assert isinstance(found, Evaluation)
        for query, text in found.queries.items():
            rule = "fixed" if len(text) % 2 else "sparse"
            assert found["router"].rankings[query] == found[rule].rankings[query]
        assert list(found["router"].rankings) == found.scores.queries


def test_learned_weights_are_measured_as_they_search(engine: BGEM3) -> None:
    with HybridIndex(engine) as index:
        index.add(RECORDS)
        profile = index.learn_weights(documents=45, progress=False)
        found = evaluate(index, dataset(10), weights=["learned"], metrics=["ndcg@10"])
        assert isinstance(found, Evaluation)
        for query, text in found.queries.items():
            hits = index.search(text, weights=profile, limit=100)
            assert found["learned"].rankings[query] == [hit.id for hit in hits]
            assert found["learned"].scores[query] == pytest.approx([hit.score for hit in hits])
        few = evaluate(index, dataset(10), weights=["learned"], candidates={"dense": 12})
        assert isinstance(few, Evaluation)
        assert {len(ranked) for ranked in few["learned"].rankings.values()} == {12}


def test_a_deep_metric_has_runs_as_deep(index: HybridIndex) -> None:
    found = evaluate(index, dataset(3), metrics=["recall@1000"])
    assert isinstance(found, Evaluation)
    assert found["dense"].measure("recall@1000").mean == 1.0
    assert {len(ranked) for ranked in found["dense"].rankings.values()} == {len(RECORDS)}
    for depth in (0, -1, "x", None):
        with pytest.raises(InputError, match="depth must be a whole number of at least 1"):
            evaluate(index, dataset(3), depth=depth)  # type: ignore[arg-type]


def test_a_name_stands_for_one_weighting(index: HybridIndex) -> None:
    wrong: list[Any] = [
        {"default": (0, 0, 1)},
        {"dense": (0, 1, 0)},
        [lambda query: (1, 0, 0), lambda query: (0, 1, 0)],
    ]
    for weights in wrong:
        with pytest.raises(InputError, match=r"two weightings have the name '(default|dense|<lam)"):
            evaluate(index, dataset(3), weights=weights)
    one: list[Any] = [(1, 2, 1), Weights(1, 2, 1), {"dense": 1, "sparse": 2, "colbert": 1}]
    for weights in one:
        found = evaluate(index, dataset(3), weights=weights, metrics=["ndcg@10"])
        assert isinstance(found, Evaluation)
        assert found.runs[-1].name == "1/2/1"
    found = evaluate(index, dataset(3), weights=["keyword", "keyword"], metrics=["ndcg@10"])
    assert isinstance(found, Evaluation)
    assert [run.name for run in found.runs].count("keyword") == 1


def test_files_of_runs_have_names_that_every_system_takes(made: Evaluation, tmp_path: Path) -> None:
    names = ["a/b", "a b", "../../evil", "x" * 300, 'con:|?*"', "权重", "..."]
    runs = [replace(made.runs[0], name=name) for name in names]
    paths = replace(made, runs=runs).save_runs(tmp_path / "runs")
    assert len({path.name.lower() for path in paths}) == len(names)
    assert all(path.parent == tmp_path / "runs" and path.is_file() for path in paths)
    assert [path.name for path in paths[:3]] == ["a-b.trec", "a-b-2.trec", "evil.trec"]


def test_a_report_shows_the_start_of_long_queries_in_their_own_direction(
    made: Evaluation, tmp_path: Path
) -> None:
    long = replace(made, queries=dict.fromkeys(made.queries, "ما " * 5_000))
    long.save_report(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8")
    assert text.count('<summary><span dir="auto">ما ما') >= 1
    assert len(text) < 100_000


def test_a_name_is_cut_by_its_width_in_the_picture(made: Evaluation, tmp_path: Path) -> None:
    runs = [replace(made.runs[0], name=name) for name in ("权" * 40, "x" * 100)]
    replace(made, runs=runs).save_report(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8")
    for name in ("权" * 12, "x" * 24, "权" * 22, "x" * 44):  # of wide and narrow screens
        assert f">{name}…</text>" in text


def test_one_judged_query_has_all_outputs(engine: BGEM3, tmp_path: Path) -> None:
    found = evaluate(engine, dataset(1), progress=False)
    assert isinstance(found, Evaluation)
    found.save_report(tmp_path / "new" / "r.html")
    assert found.to_dict()["comparison"]["p_value"] == 1.0
    text = (tmp_path / "new" / "r.html").read_text("utf-8")
    assert "(1 query, p = 1.000)" in text
    none = replace(
        found, metrics=["precision@1"], runs=[Run(n, {}, {}, found.scores.qrels) for n in "ab"]
    )
    none.save_report(tmp_path / "none.html")
    text = (tmp_path / "none.html").read_text("utf-8")
    assert "e-1" not in text  # an axis of billionths
    assert "Queries that" not in text


def test_a_run_of_another_tool_joins_the_report(made: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "theirs.trec").write_text("0 Q0 en/pooling 1 1.0 theirs\n")
    theirs = Run.load(tmp_path / "theirs.trec", made.scores.qrels)
    replace(made, runs=[made["default"], theirs]).save_report(tmp_path / "r.html")
    assert "nothing found" in (tmp_path / "r.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("target", "data", "message"),
    [
        ("folder", None, r"takes a HybridIndex or a BGEM3, not str"),
        ("folder", LabelledPairs("p", [("a", "b")] * 2, [0, 1]), r"takes a HybridIndex or a BGEM3"),
        (BGEM3(FakeEncoder()), {"q": "x"}, r"a dataset is a Dataset, LabelledPairs, .*not dict"),
    ],
)
def test_other_targets_and_datasets_are_errors(target: Any, data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(target, data or dataset(3))


@pytest.mark.parametrize(
    "weightings",
    [np.ones((6, 2)), [1, 1, 1], [[np.nan, 1, 1]], [[-1, 0, 0]], [[1, 1, 1], [0, 0, 0]]],
)
def test_weightings_that_are_none_are_refused(made: Evaluation, weightings: Any) -> None:
    with pytest.raises(InputError, match=r"shape \(w, 3\)|weighting [01] is .*not negative"):
        made.scores.measure(weightings)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_ties_and_lexical_zeros_rank_alike_one_by_one_and_all_at_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = rng.random((4, 3)).astype(np.float32)
    kinds[:, 1] *= rng.random(4) < 0.5
    table = kinds[rng.integers(0, 4, 60)]
    ids = sorted(map(str, range(60)))
    qrels = {"q": {ids[i]: int(rng.integers(0, 3)) for i in rng.integers(0, 60, 9)} | {ids[0]: 1}}
    held = Candidates(ids, Components(*table.T), 1.7)
    scores = CandidateScores("s", ["q"], [held], qrels, {"q": "text"})
    weightings = [*rng.dirichlet([1, 1, 1], 3), (1, 0, 0), (0, 1, 0), (0, 0.5, 0.5)]
    for scaled in (False, True):
        found = scores.measure(np.array(weightings), scaled=scaled)[:, 0]
        for value, weights in zip(found, weightings, strict=True):
            run = scores.run("r", Weights(*map(float, weights)), ScaledSum() if scaled else None)
            assert value == pytest.approx(run.values("ndcg@10")["q"], abs=1e-9)


def test_evaluations_in_threads_while_documents_come_and_go(engine: BGEM3) -> None:
    data = dataset(8)
    judged = {document for grades in data.qrels.values() for document in grades}
    others = [record for record in RECORDS if record.id not in judged]
    with HybridIndex(engine) as index, ThreadPoolExecutor(3) as pool:
        index.add(RECORDS)
        found = [pool.submit(evaluate, index, data, metrics=["ndcg@10"]) for _ in range(3)]
        while not all(future.done() for future in found):
            index.delete(ids=[record.id for record in others])
            index.add(others)
        for future in found:
            made = future.result()
            assert isinstance(made, Evaluation)
            assert made["default"].measure("ndcg@10").mean > 0.5
            for run in made.runs:
                assert all(np.isfinite(list(s)).all() for s in run.scores.values())


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


@pytest.mark.parametrize("wrong", [["nope"], ["learned"], [(0, 0, 0)], {"dense": (0, 1, 0)}])
def test_weights_are_checked_before_a_corpus_is_encoded(wrong: Any) -> None:
    encoder = FakeEncoder()
    with pytest.raises(InputError, match=r"unknown weights|has none|positive|two weightings"):
        evaluate(BGEM3(encoder), dataset(3), weights=wrong)
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
    (tmp_path / "p.csv").write_text("query,document,label\nq,d,1\nq,e,0\n")
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "p.csv"), "--report", "r.html"])
    assert result.exit_code == 2
    assert "labelled pairs are measured by AUC" in result.output
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "nowhere")])
    assert result.exit_code == 1
    assert "no data set at" in result.output
    assert "Traceback" not in result.output
