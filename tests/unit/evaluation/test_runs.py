"""Runs: metrics, TREC files, and comparisons in a plain sentence."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bge_m3_integrations import InputError
from bge_m3_integrations.evaluation import Interval, Run, compare
from bge_m3_integrations.evaluation.runs import interval

QRELS = {"1": {"a": 2, "b": 1, "c": 0}, "2": {"a": 1}, "3": {"b": 0}}


def run(rankings: dict[str, list[str]], name: str = "r", qrels: Any = QRELS) -> Run:
    scores = {query: [0.5] * len(held) for query, held in rankings.items()}
    return Run(name, rankings, scores, qrels)


def test_metrics_of_a_run_by_hand() -> None:
    made = run({"1": ["c", "a", "b"], "2": ["b", "c"]})
    ideal = 2 + 1 / math.log2(3)
    assert made.values("ndcg@10") == pytest.approx(
        {"1": (2 / math.log2(3) + 1 / math.log2(4)) / ideal, "2": 0.0}
    )
    assert made.values("mrr@10") == {"1": 0.5, "2": 0.0}
    assert made.values("recall@2") == {"1": 0.5, "2": 0.0}
    assert made.values("hit@3") == {"1": 1.0, "2": 0.0}
    assert made.values("precision@1") == {"1": 0.0, "2": 0.0}
    assert made.values("map")["1"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_equal_scores_keep_our_order_and_a_missing_query_counts_zero() -> None:
    first, second = run({"1": ["a", "c"]}), run({"1": ["c", "a"]})
    assert first.values("mrr@10") == {"1": 1.0, "2": 0.0}
    assert second.values("mrr@10") == {"1": 0.5, "2": 0.0}
    assert first.values("ndcg@10")["1"] > second.values("ndcg@10")["1"]


@pytest.mark.parametrize(
    "metric",
    ["ndgc@10", "ndcg@0", "ndcg@x", "recall", "", "hit@-1", "ndcg@²", "ndcg@9999999", None, 5],
)
def test_an_unknown_metric_is_an_error_that_names_the_known_ones(metric: Any) -> None:
    with pytest.raises(InputError, match=r"unknown metric.*ndcg|needs a depth"):
        run({"1": ["a"]}).values(metric)


def test_a_trec_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = run({"1": ["c", "a"], "2": ["a"]}, "my run")
    made.save(tmp_path / "r.trec")
    text = (tmp_path / "r.trec").read_text()
    assert text == "1 Q0 c 1 2 my-run\n1 Q0 a 2 1 my-run\n2 Q0 a 1 1 my-run\n"
    again = Run.load(tmp_path / "r.trec", QRELS)
    assert again.rankings == made.rankings
    assert again.values("ndcg@10") == made.values("ndcg@10")


def test_what_a_trec_file_cannot_hold_and_lines_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no place for the spaces"):
        run({"1": ["a b"]}).save(tmp_path / "r.trec")
    (tmp_path / "r.trec").write_text("1 Q0 a 1 0.5 x\n1 Q0 a one 0.5 x\n")
    with pytest.raises(InputError, match=r"r.trec, line 2: expected query, Q0"):
        Run.load(tmp_path / "r.trec", QRELS)


def test_a_foreign_run_is_sorted_by_its_scores(tmp_path: Path) -> None:
    (tmp_path / "r.trec").write_text("1 Q0 a 2 0.1 x\n\n1 Q0 b 1 7e-1 x\n")
    assert Run.load(tmp_path / "r.trec", QRELS).rankings == {"1": ["b", "a"]}


def many(shift: float, count: int = 60) -> tuple[Run, Run]:
    """Two runs of which the second is better by about `shift` of recall."""
    rng = np.random.default_rng(3)
    qrels = {str(q): {str(d): 1 for d in range(20)} for q in range(count)}
    first, second = {}, {}
    for query in qrels:
        hits = int(rng.integers(5, 10))
        more = hits + round(shift * 20 * rng.random() * 2)
        first[query] = [str(d) for d in range(hits)]
        second[query] = [str(d) for d in range(more)]
    return run(first, "old", qrels), run(second, "new", qrels)


def test_a_clear_difference_is_said_with_its_interval_and_noise_is_called_chance() -> None:
    old, new = many(0.1)
    better = compare(old, new, metric="recall@20")
    assert better.significant
    assert better.difference.low > 0
    assert str(better).startswith("new is better than old by 0.")
    assert "interval 0." in str(better)
    worse = compare(new, old, metric="recall@20")
    assert str(worse).startswith("new is better than old by 0.")
    assert worse.difference.mean == pytest.approx(-better.difference.mean)
    assert (worse.wins, worse.losses) == (better.losses, better.wins)
    same = compare(old, old)
    assert same.p_value == 1.0
    assert "within chance" in str(same)
    assert same.to_dict()["sentence"] == str(same)


def test_runs_of_other_queries_are_not_compared() -> None:
    other = run({"1": ["a"]}, "other", {"1": {"a": 1}})
    with pytest.raises(InputError, match=r"r was judged on 2 queries and other on 1"):
        compare(run({"1": ["a"]}), other)


def test_a_comparison_is_the_same_for_a_seed() -> None:
    old, new = many(0.02)
    assert compare(old, new, seed=5) == compare(old, new, seed=5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_an_interval_is_finite_and_ordered_for_any_values(values: list[float]) -> None:
    found = interval(values)
    assert isinstance(found, Interval)
    assert math.isfinite(found.low)
    assert found.low <= found.high
    assert min(values) - 1e-9 <= found.low
    assert found.high <= max(values) + 1e-9


def test_a_run_refuses_what_would_only_look_like_a_bad_system(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"r ranks document 'a' twice for query '1'"):
        run({"1": ["b", "a", "a"]})
    with pytest.raises(
        InputError, match=r"none of the judged queries: its first query is 'x'.*'1'"
    ):
        run({"x": ["a"]})
    with pytest.raises(InputError, match=r"r: no query has a relevant document"):
        run({"1": ["a"]}, "r", {"1": {"a": 0}}).measure("ndcg@10")
    assert run({}).measure("ndcg@10").mean == 0.0  # a system that found nothing


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"r.trec is empty"),
        (b"1 Q0 a 1 2 x\n1 Q0 b 2 nan x\n", r"r.trec, line 2: expected query, Q0"),
        (b"1 Q0 a 1 3 x\n\n1 Q0 a 2 1 x\n", r"line 3: document 'a' was there before for query '1'"),
        (b"9 Q0 a 1 3 x\n", r"ranks none of the judged queries"),
        ("1 Q0 a 1 3 x\n".encode("utf-16"), r"r.trec, line 1 is not UTF-8"),
    ],
)
def test_a_malformed_trec_file_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "r.trec").write_bytes(content)
    with pytest.raises(InputError, match=message):
        Run.load(tmp_path / "r.trec", QRELS)


def test_a_run_is_saved_into_a_new_folder_and_a_missing_one_is_named(tmp_path: Path) -> None:
    run({"1": ["a"]}).save(tmp_path / "new" / "r.trec")
    assert Run.load(tmp_path / "new" / "r.trec", QRELS).rankings == {"1": ["a"]}
    with pytest.raises(InputError, match=r"other.trec cannot be read: No such file"):
        Run.load(tmp_path / "other.trec", QRELS)
    with pytest.raises(InputError, match=r"cannot be written: Is a directory"):
        run({"1": ["a"]}).save(tmp_path)


def test_runs_of_two_collections_with_equal_query_ids_are_not_compared() -> None:
    other = run({"1": ["z"]}, "other", {"1": {"z": 1}, "2": {"b": 1}})
    with pytest.raises(InputError, match=r"r and other have different judgements of query '1'"):
        compare(run({"1": ["a"]}), other)
    with pytest.raises(InputError, match=r"compare takes two runs, .*not str and Run"):
        compare("r", other)  # type: ignore[arg-type]


def test_one_query_tells_nothing_and_two_runs_of_one_name_are_told_apart() -> None:
    one = {"1": {"a": 1}}
    found = compare(run({"1": ["b", "a"]}, "default", one), run({"1": ["a"]}, "default", one))
    assert found.p_value == 1.0
    assert not found.significant
    assert "between the first default and the second default may be chance" in str(found)
    old, new = many(0.1)
    found = compare(replace(old, name="default"), replace(new, name="default"), metric="recall@20")
    assert str(found).startswith("the second default is better than the first default by 0.")


def test_many_queries_need_memory_for_few() -> None:
    values = np.random.default_rng(0).random(30_000)
    tracemalloc.start()
    try:
        found = interval(values)
        interval(values[:2_000])
        qrels = {str(i): {"a": 1} for i in range(3_000)}
        wins = {query: ["a"] if i % 3 else [] for i, query in enumerate(qrels)}
        assert compare(run({}, "none", qrels), run(wins, "some", qrels), metric="mrr@1").significant
        assert tracemalloc.get_traced_memory()[1] < 128 << 20
    finally:
        tracemalloc.stop()
    assert found.low < 0.5 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(1 / 12 / 30_000), rel=0.01)


def test_the_interval_of_many_values_joins_that_of_few() -> None:
    values = np.random.default_rng(0).random(2_001) ** 8
    few, many_values = interval(values[:2_000]), interval(values)
    assert few.low == pytest.approx(many_values.low, abs=1e-3)
    assert few.high == pytest.approx(many_values.high, abs=1e-3)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_an_interval_of_no_numbers_is_an_error(values: list[float]) -> None:
    with pytest.raises(InputError, match="an interval needs finite values"):
        interval(values)


def test_a_mean_is_resampled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = run({"1": ["a"]})
    first = made.measure("ndcg@10")
    monkeypatch.setattr("bge_m3_integrations.evaluation.runs.interval", None)
    assert made.measure("ndcg@10") is first
