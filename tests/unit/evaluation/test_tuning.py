"""Tuning: weights from judgements, an honest verdict, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bge_m3_integrations import BGEM3, HybridIndex, InputError, Record, Weights, read_profiles
from bge_m3_integrations.cli.main import app
from bge_m3_integrations.demo import checkpoint_path, load_corpus, load_questions
from bge_m3_integrations.evaluation import Dataset, LabelledPairs, load_clicks, tune, tune_pairs
from bge_m3_integrations.testing import FakeEncoder

RECORDS = load_corpus()


def demo(count: int = 94) -> Dataset:
    questions = load_questions()[:count]
    return Dataset(
        "demo",
        {question.id: question.text for question in questions},
        {question.id: dict(question.relevant) for question in questions},
    )


@pytest.fixture(scope="module")
def index() -> Iterator[HybridIndex]:
    with HybridIndex(BGEM3(checkpoint_path(), device="cpu", dtype="float32")) as made:
        made.add(RECORDS, progress=False)
        yield made


def test_noise_is_called_noise_and_the_default_is_kept(index: HybridIndex) -> None:
    found = tune(index, demo(), prior=False)
    assert not found.worth_it
    assert str(found).splitlines()[-1].startswith("  Keep the default: on queries that were not")
    assert len(found.folds) == 5
    assert found.against_default.queries == 94
    assert found.against_learned is None
    assert sum(found.weights.of(mode) for mode in ("dense", "sparse", "colbert")) == (
        pytest.approx(1)
    )


def test_a_mode_that_alone_is_right_is_found_and_is_worth_it() -> None:
    """Documents share words with wrong queries; only the dense vector of a name is right."""
    with HybridIndex(BGEM3(FakeEncoder())) as index:
        names = [f"name{i}" for i in range(60)]
        index.add([Record(f"right{i}", name) for i, name in enumerate(names)])
        index.add(
            [
                Record(f"wrong{i}", f"{name} {name}x tell me all about")
                for i, name in enumerate(names)
            ]
        )
        data = Dataset(
            "d",
            {str(i): f"tell me all about {name}" for i, name in enumerate(names)},
            {str(i): {f"right{i}": 1} for i in range(60)},
        )
        found = tune(index, data, metric="mrr@10", exact=True)
        assert found.against_default.difference.mean >= 0
        again = tune(index, data, metric="mrr@10", exact=True)
        assert again.weights == found.weights


def test_a_query_is_measured_by_weights_that_were_chosen_without_it(index: HybridIndex) -> None:
    """With random judgements no weights help; held-out values must not show a gain."""
    rng = np.random.default_rng(0)
    ids = [record.id for record in RECORDS]
    queries = {q.id: q.text for q in load_questions()}
    gains = []
    for _ in range(4):
        qrels = {q: {ids[i]: 1 for i in rng.choice(len(ids), 3, replace=False)} for q in queries}
        found = tune(index, Dataset("random", queries, qrels), prior=False)
        gains.append(found.against_default.difference.mean)
        assert not found.worth_it
    assert float(np.mean(gains)) < 0.01


def test_learned_weights_are_the_prior_and_are_kept_where_the_gain_is_chance(
    index: HybridIndex, tmp_path: Path
) -> None:
    learned = index.learn_weights(progress=False)
    try:
        found = tune(index, demo(12))
        assert found.against_learned is not None
        assert found.fusion is not None
        assert found.fusion.name == "learned_sum"
        distance = max(
            abs(found.weights.of(mode) - learned.weights.of(mode))
            for mode in ("dense", "sparse", "colbert")
        )
        alone = tune(index, demo(12), prior=False)
        assert distance < 0.25
        assert alone.fusion is None or alone.fusion.name == "scaled_sum"
        found.save(tmp_path / "p.toml", "mine")
        hits = index.search("half precision", weights=f"{tmp_path / 'p.toml'}:mine")
        same = index.search("half precision", weights=found.profile("mine"))
        assert [(h.id, h.score) for h in hits] == [(h.id, h.score) for h in same]
        assert hits[0].lexical is not None
        assert "12 judged queries" in (
            read_profiles(tmp_path / "p.toml")["mine"].measured_on.evidence or ""
        )
    finally:
        index._learned = None


def test_a_report_and_a_dict(index: HybridIndex, tmp_path: Path) -> None:
    found = tune(index, demo(20), metric="recall@5")
    found.save_report(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "<script" not in text
    assert text.count('class="dot"') == 231
    assert json.loads(json.dumps(found.to_dict()))["metric"] == "recall@5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "map@10"}, r"tuned by \['ndcg@k', 'recall@k', 'mrr@k', 'hit@k'\], not 'map"),
        ({"metric": "ndcg"}, "not 'ndcg'"),
        ({"dataset": demo(9)}, "at least 10 judged queries, and demo has 9"),
        ({"dataset": Dataset("d", {"1": "x"}, {"1": {"nowhere": 1}})}, "at least 10"),
    ],
)
def test_what_cannot_be_tuned_on_is_refused(
    index: HybridIndex, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tune(index, **{"dataset": demo(10), **change})


def test_one_mode_and_a_prior_of_another_index_are_refused(index: HybridIndex) -> None:
    with HybridIndex(BGEM3(FakeEncoder()), modes=["dense"]) as one:
        one.add(RECORDS[:5])
        with pytest.raises(InputError, match=r"no weights to tune: this index keeps \['dense'\]"):
            tune(one, demo(10))
    with HybridIndex(BGEM3(FakeEncoder())) as other:
        other.add(RECORDS)
        learned = other.learn_weights()
    with pytest.raises(InputError, match="'learned' was measured on the model"):
        tune(index, demo(10), prior=learned)


def pairs(count: int = 30) -> LabelledPairs:
    questions = load_questions()[:count]
    texts = {record.id: record.text for record in RECORDS}
    answers = [texts[max(q.relevant, key=q.relevant.__getitem__)] for q in questions]
    right = [(q.text, a) for q, a in zip(questions, answers, strict=True)]
    wrong = [(q.text, a) for q, a in zip(questions, answers[5:] + answers[:5], strict=True)]
    return LabelledPairs("pairs", right + wrong, [1] * count + [0] * count)


def test_labelled_pairs_are_tuned_by_their_auc(index: HybridIndex) -> None:
    found = tune_pairs(index, pairs())
    assert found.against_default.metric == "AUC"
    assert found.against_default.mean_b > 0.9
    assert all(found.weights.of(mode) >= 0 for mode in ("dense", "sparse", "colbert"))
    assert "pairs" in str(found)
    assert found.profile("p").weights == found.weights
    json.dumps(found.to_dict())
    assert tune_pairs(index.engine, pairs()).weights == found.weights
    with pytest.raises(InputError, match="at least 10 pairs of each label; pairs has 9 of label 1"):
        tune_pairs(index, pairs(9))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.csv", "query,document_id,clicks\ncats,a,2\ncats,b,0\ncats,b,1\ndogs,b,0\n"),
        ("c.tsv", "query\tdoc_id\tclicked\ncats\ta\t2\ncats\tb\t1\ndogs\tb\t0\n"),
        (
            "c.jsonl",
            '{"q": "cats", "id": "a", "click": 2}\n{"q": "cats", "id": "b", "click": true}\n'
            '{"q": "dogs", "id": "b", "click": false}\n',
        ),
        (
            "d.csv",
            "query,document_id,clicked\ncats,a,True\n cats ,a,TRUE\ncats,b,true\ndogs,b,False\n",
        ),
    ],
)
def test_a_click_log_is_a_dataset(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    data = load_clicks(tmp_path / name)
    by_text = {data.queries[query]: dict(grades) for query, grades in data.qrels.items()}
    assert by_text == {"cats": {"a": 1, "b": 1}, "dogs": {"b": 0}}
    assert len(data.judged) == 1
    two = load_clicks(tmp_path / name, least=2)
    assert two.qrels[two.judged[0]] == {"a": 1, "b": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "query,document_id,clicks\ncats,a,many\n",
            r"c.csv, line 2: expected a query",
        ),
        ("query,document_id,clicks\n,a,1\n", r"line 2: expected"),
        ("query,document_id,clicks\ncats,,1\n", r"line 2: expected"),
        ("query,document_id,clicks\ncats,a,-1\n", r"line 2: expected"),
        ("query,document_id,clicks\ncats,a,nan\n", r"line 2: expected"),
        ("query,document_id,clicks\ncats,a,inf\n", r"line 2: expected"),
        ("query,document_id,clicks\ncats,a, b,1\n", r"line 2: 4 cells under 3 names"),
        ("query,document_id,clicks\ncats,a,0\n", r"no query with a relevant document"),
        ("", r"has no queries"),
    ],
)
def test_a_malformed_click_log_is_an_error_with_file_line_and_fix(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        load_clicks(tmp_path / "c.csv")


def test_a_click_log_in_json_and_the_least_number_are_checked(tmp_path: Path) -> None:
    for row in ('"id": [5], "clicks": 1', '"id": 5, "clicks": 1' + "0" * 400):
        (tmp_path / "c.jsonl").write_text(f'{{"q": "cats", {row}}}\n')
        with pytest.raises(InputError, match=r"line 1: expected a query"):
            load_clicks(tmp_path / "c.jsonl")
    (tmp_path / "c.jsonl").write_text('{"q": "cats", "id": 5, "clicks": 1}\n')
    with pytest.raises(InputError, match="least must be a whole number of at least 1"):
        load_clicks(tmp_path / "c.jsonl", least=0)


def test_the_command_tunes_and_writes_a_profile(tmp_path: Path) -> None:
    log = tmp_path / "clicks.csv"
    rows = [
        f'"{question.text}",{document},1'
        for question in load_questions()[:15]
        for document in question.relevant
    ]
    log.write_text("query,document_id,clicks\n" + "\n".join(rows), "utf-8")
    with HybridIndex.open(tmp_path / "i", BGEM3(checkpoint_path())) as index:
        index.add(RECORDS)
    profiles = tmp_path / "profiles.toml"
    options = ["--clicks", "--index", str(tmp_path / "i"), "--save", f"{profiles}:mine"]
    options += ["--report", str(tmp_path / "r.html")]
    result = CliRunner().invoke(app, ["tune", str(log), *options])
    assert result.exit_code == 0, result.output
    assert "tuned" in result.stdout
    assert isinstance(read_profiles(profiles)["mine"].weights, Weights)
    assert (tmp_path / "r.html").exists()
    result = CliRunner().invoke(app, ["tune", str(log), "--clicks", "--save", "nowhere"])
    assert result.exit_code == 2
