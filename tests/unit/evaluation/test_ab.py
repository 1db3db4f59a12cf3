"""A/B tests: who gets which arm, what is logged, and what the log says."""

from __future__ import annotations

import json
import multiprocessing
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bge_m3_integrations import BGEM3, Hit, HybridIndex, InputError, Record, StoreError, Weights
from bge_m3_integrations.evaluation import ABTest, ab_report, assign
from bge_m3_integrations.evaluation.ab import EventLog, team_draft
from bge_m3_integrations.testing import FakeEncoder

ARMS = {"now": "default", "new": (1, 0, 1)}
HALVES = {"a": 1.0, "b": 1.0}
GOLDEN = "bbbabbbababb"


@pytest.fixture
def index() -> HybridIndex:
    made = HybridIndex(BGEM3(FakeEncoder()))
    made.add([{"id": f"d{i}", "text": f"text {i} of {i % 5}"} for i in range(40)])
    return made


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line]


def hits(*ids: str) -> list[Hit]:
    return [Hit(Record(i, "text"), 1.0, "weighted_sum", {}, 1.0, Weights()) for i in ids]


def test_a_key_has_one_arm_in_every_version_and_process() -> None:
    """Golden: a later version that deals otherwise would move users in running experiments."""
    found = [assign(f"user {i}", HALVES, experiment="weights") for i in range(12)]
    assert "".join(found) == GOLDEN
    program = (
        "from bge_m3_integrations.evaluation import assign; print(''.join(assign(f'user {i}', "
        "{'b': 1.0, 'a': 1.0}, experiment='weights') for i in range(12)))"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == GOLDEN


@pytest.mark.parametrize("shares", [{"a": 1, "b": 1}, {"a": 1, "b": 3}, {"a": 5, "b": 2, "c": 3}])
def test_keys_are_dealt_by_the_shares(shares: dict[str, float]) -> None:
    from scipy.stats import chisquare

    counts = Counter(assign(str(i), shares, experiment="e") for i in range(20_000))
    whole = sum(shares.values())
    wanted = [20_000 * share / whole for share in shares.values()]
    assert chisquare([counts[arm] for arm in shares], wanted).pvalue > 0.001


def test_another_experiment_deals_the_keys_anew() -> None:
    pairs = Counter(
        (assign(str(i), HALVES, experiment="one"), assign(str(i), HALVES, experiment="two"))
        for i in range(4000)
    )
    assert min(pairs.values()) > 900


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_text_is_a_key(key: str, experiment: str) -> None:
    assert assign(key, HALVES, experiment=experiment) in HALVES


@pytest.mark.parametrize("shares", [{}, {"a": 0, "b": 1}, {"a": -1}, {"a": float("nan")}])
def test_shares_are_numbers_above_0(shares: Any) -> None:
    with pytest.raises(InputError, match="share"):
        assign("key", shares, experiment="e")


@pytest.mark.parametrize("key", ["", None, 7])
def test_a_key_is_a_text(key: Any) -> None:
    with pytest.raises(InputError, match="key must be a string"):
        assign(key, HALVES, experiment="e")


def test_an_arm_is_searched_by_its_weights(index: HybridIndex, tmp_path: Path) -> None:
    test = ABTest(index, ARMS, log=tmp_path / "log.jsonl", name="w")
    seen = set()
    for i in range(20):
        answer = test.search("text 3", key=str(i), limit=5)
        assert answer.arm == test.arm_of(str(i))
        weights = {"now": Weights(), "new": Weights(1, 0, 1)}[str(answer.arm)]
        assert answer.hits[0].weights == weights
        assert len(answer.hits) == 5
        seen.add(answer.arm)
    assert seen == {"now", "new"}


async def test_asynchronous_searches_are_logged_too(index: HybridIndex, tmp_path: Path) -> None:
    for design in ("split", "interleave"):
        test = ABTest(index, ARMS, log=tmp_path / f"{design}.jsonl", name="w", design=design)
        answer = await test.asearch("text 3", key="me")
        [_, search] = events(tmp_path / f"{design}.jsonl")
        assert search["search"] == answer.id
        assert search["ids"] == [hit.id for hit in answer.hits]


def test_the_log_holds_no_text_unless_it_is_asked_to(index: HybridIndex, tmp_path: Path) -> None:
    secret, user = "text of my secret", "someone@example.org"
    test = ABTest(index, ARMS, log=tmp_path / "log.jsonl", name="w")
    answer = test.search(secret, key=user)
    test.feedback(answer.id, answer.hits[0].id)
    written = (tmp_path / "log.jsonl").read_text()
    assert "secret" not in written
    assert user not in written
    assert "text 3 of" not in written
    about, search, feedback = events(tmp_path / "log.jsonl")
    assert about["arms"]["new"] == {"dense": 1.0, "sparse": 0.0, "colbert": 1.0}
    assert search["components"][0].keys() == answer.hits[0].components.keys()
    assert feedback["clicked"] == [answer.hits[0].id]
    open_log = ABTest(index, ARMS, log=tmp_path / "open.jsonl", name="w", texts=True)
    open_log.search(secret, key=user)
    assert events(tmp_path / "open.jsonl")[1]["query"] == secret
    assert user not in (tmp_path / "open.jsonl").read_text()


def test_nobody_else_may_read_the_log(index: HybridIndex, tmp_path: Path) -> None:
    ABTest(index, ARMS, log=tmp_path / "log.jsonl", name="w")
    assert (tmp_path / "log.jsonl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arms": {"a": "default"}}, "arms must map two or more"),
        ({"arms": ["default", "keyword"]}, "arms must map"),
        ({"arms": {"a": "default", "b": None}}, "has no weights"),
        ({"arms": {"a": "default", "": "keyword"}}, "an arm must be"),
        ({"arms": {"a": "default", "b": (0, 0, 0)}}, "positive"),
        ({"design": "both"}, "design must be"),
        (
            {"design": "interleave", "arms": {"a": "default", "b": "keyword", "c": "training"}},
            "two",
        ),
        ({"design": "interleave", "shares": {"now": 1, "new": 1}}, "leave out shares"),
        ({"shares": {"now": 1}}, "shares are for"),
        ({"name": ""}, "name must be"),
        ({"index": None}, "needs a HybridIndex"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    index: HybridIndex, tmp_path: Path, options: Any, said: str
) -> None:
    given = {"index": index, "arms": ARMS, "log": tmp_path / "log.jsonl", "name": "w", **options}
    with pytest.raises(InputError, match=said):
        ABTest(**given)
    assert not (tmp_path / "log.jsonl").exists()


def test_a_search_takes_no_weights_and_feedback_ids(index: HybridIndex, tmp_path: Path) -> None:
    test = ABTest(index, ARMS, log=tmp_path / "log.jsonl", name="w")
    with pytest.raises(InputError, match="leave out weights"):
        test.search("text", key="k", weights="keyword")
    with pytest.raises(InputError, match="an id"):
        test.feedback("", ["d1"])
    with pytest.raises(InputError, match="an id"):
        test.feedback("x", [1])  # type: ignore[list-item]
    assert len(events(tmp_path / "log.jsonl")) == 1


def test_a_log_that_cannot_be_written_is_an_error(index: HybridIndex, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        ABTest(index, ARMS, log=tmp_path / "no folder" / "log.jsonl", name="w")
    with pytest.raises(StoreError, match="cannot be written"):
        ABTest(index, ARMS, log=tmp_path, name="w")


def test_both_rankings_take_part_by_turns() -> None:
    mixed, teams = team_draft(
        {"a": hits("1", "2", "3"), "b": hits("3", "1", "4")}, limit=4, coin="x"
    )
    assert sorted(hit.id for hit in mixed) == ["1", "2", "3", "4"]
    assert Counter(teams) == {"a": 2, "b": 2}
    assert (mixed[0].id, teams[0]) in {("1", "a"), ("3", "b")}


@given(
    st.lists(st.sampled_from("abcdefgh"), unique=True),
    st.lists(st.sampled_from("abcdefgh"), unique=True),
    st.text(),
    st.integers(1, 9),
)
def test_a_draft_is_fair_and_loses_nothing(
    one: list[str], two: list[str], coin: str, limit: int
) -> None:
    rankings = {"a": hits(*one), "b": hits(*two)}
    mixed, teams = team_draft(rankings, limit=limit, coin=coin)
    ids = [hit.id for hit in mixed]
    assert len(ids) == len(set(ids)) == len(teams) == min(limit, len({*one, *two}))
    assert (mixed, teams) == team_draft(rankings, limit=limit, coin=coin)
    if one == two:
        assert ids == one[:limit]  # equal rankings stay as they are
    if set(one) == set(two):
        rounds = range(2, len(teams) + 1, 2)
        assert all(teams[:end].count("a") == teams[:end].count("b") for end in rounds)


def test_the_coin_falls_both_ways() -> None:
    first = Counter(
        team_draft({"a": hits("1"), "b": hits("2")}, limit=2, coin=str(i))[1][0] for i in range(400)
    )
    assert min(first["a"], first["b"]) > 150


def write_many(path: Path, writer: int) -> None:
    log = EventLog(path)
    for i in range(200):
        log.append({"writer": writer, "n": i, "text": "x" * (i * 7)})


def test_lines_of_threads_and_processes_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    context = multiprocessing.get_context("spawn")
    workers: list[Any] = [
        *(threading.Thread(target=write_many, args=(path, i)) for i in range(4)),
        *(context.Process(target=write_many, args=(path, i)) for i in range(4, 7)),
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = Counter(event["writer"] for event in events(path))
    assert found == dict.fromkeys(range(7), 200)


def test_a_line_after_a_torn_one_is_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"whole": 1}\n{"torn": ')
    EventLog(path).append({"next": 2})
    assert path.read_text().splitlines() == ['{"whole": 1}', '{"torn": ', '{"next": 2}']


class Users:
    """Users who click the document that they want, where it is shown high enough."""

    def __init__(self, log: Path, *, design: str = "split", better: float = 0.5) -> None:
        self.log, self.design, self.better = log, design, better
        self.chance = random.Random(0)

    def run(self, keys: int, searches: int = 2, *, arms: Any = None) -> None:
        held = arms or {"now": "default", "new": "keyword"}
        about = {"design": self.design, "arms": held, "shares": dict.fromkeys(held, 1.0)}
        log = EventLog(self.log)
        log.append({"event": "experiment", "experiment": "w", **about})
        for key in range(keys):
            for n in range(searches):
                self.search(log, str(key), f"{key}-{n}")

    def search(self, log: EventLog, key: str, name: str) -> None:
        arm = assign(key, {"now": 1, "new": 1}, experiment="w")
        shown = {
            "event": "search",
            "experiment": "w",
            "search": name,
            "unit": key,
            "ids": ["x", "y"],
        }
        if self.design == "interleave":
            picked = self.chance.choice([["now", "new"], ["new", "now"]])
            log.append({**shown, "arm": None, "teams": picked})
            wanted = "new" if self.chance.random() < self.better else "now"
            clicked = ["x", "y"][picked.index(wanted)]
        else:
            log.append({**shown, "arm": arm})
            clicked = "x" if arm == "new" and self.chance.random() < self.better else "y"
        log.append({"event": "feedback", "experiment": "w", "search": name, "clicked": [clicked]})


def test_a_better_arm_is_said_to_be_better_with_its_interval(tmp_path: Path) -> None:
    Users(tmp_path / "log.jsonl", better=0.6).run(200)
    report = ab_report(tmp_path / "log.jsonl")
    [one] = report.comparisons
    assert one.interval is not None
    assert 0 < one.interval[0] < one.difference < one.interval[1]
    assert one.difference == pytest.approx(report.means["new"] - report.means["now"])
    assert report.means["now"] == 0.5
    assert one.sentence.startswith("'new' is better than 'now' by 0.")
    assert sum(report.searches.values()) == 400
    assert sum(report.units.values()) == 200
    assert str(report) == one.sentence
    json.dumps(report.to_dict(), allow_nan=False)


def test_equal_arms_are_within_chance(tmp_path: Path) -> None:
    Users(tmp_path / "split.jsonl", better=0.0).run(100)
    [one] = ab_report(tmp_path / "split.jsonl").comparisons
    assert (one.difference, one.interval) == (0, (0, 0))
    assert "within chance" in one.sentence
    Users(tmp_path / "mixed.jsonl", design="interleave", better=0.5).run(100)
    [one] = ab_report(tmp_path / "mixed.jsonl").comparisons
    assert "within chance" in one.sentence


def test_interleaving_counts_the_searches_won(tmp_path: Path) -> None:
    Users(tmp_path / "log.jsonl", design="interleave", better=0.8).run(100)
    report = ab_report(tmp_path / "log.jsonl")
    [one] = report.comparisons
    assert one.difference == pytest.approx(0.6, abs=0.15)
    assert "'new' is better than 'now'" in one.sentence
    assert (report.design, report.searches) == ("interleave", {"": 200})


def test_the_interval_covers_the_truth_nineteen_times_of_twenty(tmp_path: Path) -> None:
    """100 experiments of 60 keys, whose searches are alike within a key."""
    inside = 0
    for n in range(100):
        users = Users(tmp_path / f"{n}.jsonl", design="interleave", better=0.6)
        users.chance = random.Random(n)
        users.run(60, searches=1)
        low, high = ab_report(tmp_path / f"{n}.jsonl").comparisons[0].interval or (1, -1)
        inside += low <= 0.2 <= high
    assert 88 <= inside <= 100


def test_searches_of_one_key_are_not_independent(tmp_path: Path) -> None:
    """Ten times as many searches of the same keys, all alike, say nothing more."""
    few, many = tmp_path / "few.jsonl", tmp_path / "many.jsonl"
    for path, repeat in ((few, 1), (many, 10)):
        log = EventLog(path)
        about = {"design": "split", "arms": {"a": 1, "b": 2}, "shares": {"a": 1, "b": 1}}
        log.append({"event": "experiment", "experiment": "w", **about})
        for key in range(40):
            for n in range(repeat):
                name = f"{key}-{n}"
                shown = {"search": name, "unit": str(key), "arm": "ab"[key % 2], "ids": ["x", "y"]}
                log.append({"event": "search", "experiment": "w", **shown})
                clicked = ["x", "y"][key // 2 % 2]
                log.append(
                    {"event": "feedback", "experiment": "w", "search": name, "clicked": [clicked]}
                )
    assert ab_report(few).comparisons[0].interval == ab_report(many).comparisons[0].interval


def test_too_few_keys_are_too_early(tmp_path: Path) -> None:
    Users(tmp_path / "log.jsonl").run(10)
    [one] = ab_report(tmp_path / "log.jsonl").comparisons
    assert one.interval is None
    assert "Too early to tell" in one.sentence
    assert ab_report(tmp_path / "log.jsonl").to_dict()["comparisons"][0]["difference"] is None


def test_a_real_test_is_reported(index: HybridIndex, tmp_path: Path) -> None:
    for design in ("split", "interleave"):
        log = tmp_path / f"{design}.jsonl"
        test = ABTest(index, ARMS, log=log, name="w", design=design)
        for i in range(60):
            answer = test.search(f"text {i % 40}", key=str(i))
            test.feedback(answer.id, [answer.hits[i % 3].id, "not shown"])
        assert "keys" in str(ab_report(log))


def test_shares_that_do_not_hold_are_told(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log.jsonl")
    about = {"design": "split", "arms": {"a": 1, "b": 2}, "shares": {"a": 1.0, "b": 1.0}}
    log.append({"event": "experiment", "experiment": "w", **about})
    for key in range(300):
        shown = {"search": str(key), "unit": str(key), "arm": "a" if key % 3 else "b", "ids": ["x"]}
        log.append({"event": "search", "experiment": "w", **shown})
    assert "Do not trust the difference" in ab_report(tmp_path / "log.jsonl").notes[0]


def test_torn_lines_and_unknown_answers_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    Users(path).run(40)
    EventLog(path).append(
        {"event": "feedback", "experiment": "w", "search": "gone", "clicked": ["x"]}
    )
    with path.open("a") as file:
        file.write('{"event": "sea')
    notes = ab_report(path).notes
    assert notes == [
        "1 lines were torn and are passed over.",
        "1 clicked answers are not in the log.",
    ]


def test_parts_of_a_log_are_one(tmp_path: Path) -> None:
    Users(tmp_path / "log.jsonl").run(60)
    lines = (tmp_path / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "1").write_text("".join(lines[:100]))
    (tmp_path / "2").write_text("".join(lines[100:]))
    whole = ab_report(tmp_path / "log.jsonl")
    assert ab_report([tmp_path / "1", tmp_path / "2"]).to_dict() == whole.to_dict()


def test_arms_that_changed_under_one_name_are_an_error_with_the_line(tmp_path: Path) -> None:
    Users(tmp_path / "log.jsonl").run(1, 1)
    Users(tmp_path / "log.jsonl").run(1, 1, arms={"now": "default", "new": "training"})
    with pytest.raises(InputError, match=r"log\.jsonl:4: the experiment 'w' has arms"):
        ab_report(tmp_path / "log.jsonl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no experiment"),
        ("[]\n", r"log\.jsonl:1 is no event"),
        ('{"event": "search"}\n', r"log\.jsonl:1 is no event"),
        ('{"event": "search", "experiment": "w"}\n', r"log\.jsonl:1 is no event"),
        ('{"event": "pause", "experiment": "w"}\n', r"log\.jsonl:1 is no event"),
        ("\x00\x00\n", "has no experiment"),
    ],
)
def test_a_file_that_is_no_log_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(InputError, match=said):
        ab_report(tmp_path / "log.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        ab_report(tmp_path / "none.jsonl")


def test_one_of_several_experiments_is_named(index: HybridIndex, tmp_path: Path) -> None:
    for name in ("one", "two"):
        ABTest(index, ARMS, log=tmp_path / "log.jsonl", name=name)
    with pytest.raises(InputError, match=r"several experiments.*experiment=\.\.\."):
        ab_report(tmp_path / "log.jsonl")
    assert ab_report(tmp_path / "log.jsonl", experiment="two").experiment == "two"
    with pytest.raises(InputError, match="no experiment 'three'"):
        ab_report(tmp_path / "log.jsonl", experiment="three")


def test_weights_of_numpy_can_be_logged(index: HybridIndex, tmp_path: Path) -> None:
    arms = {"a": np.array([0.5, 0.25, 0.25], np.float32), "b": lambda query: "keyword"}
    ABTest(index, arms, log=tmp_path / "log.jsonl", name="w")  # type: ignore[arg-type]
    assert events(tmp_path / "log.jsonl")[0]["arms"]["a"]["dense"] == 0.5
