from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks import holds
from benchmarks._search.corpus import Corpus
from benchmarks.holds import Row, Ticker
from bge_m3_integrations.stores.edge import EdgeStore


def test_a_pause_of_the_lock_s_holder_is_seen() -> None:
    def spin() -> None:
        sorted(range(2_000_000), key=None)  # one call into C: nobody else runs meanwhile

    hold, took = Ticker().longest(spin)
    assert took > 0
    assert hold > took / 2


def test_a_call_that_waits_holds_nothing() -> None:
    ticker = Ticker()
    least = min(ticker.longest(lambda: time.sleep(0.2))[0] for _ in range(5))
    assert least < 100


def test_cells_are_least_median_greatest_and_the_call_s_own_time() -> None:
    row = Row("add", (3.0, 1.0, 2.0), (30.0, 10.0, 20.0))
    assert row.cells() == ["add", "3", "1.0", "2.0", "3.0", "20.0"]


def test_every_search_and_write_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "_ADDED", {"3 of 5": [5] * 3, "1 of 9": [9]})
    out = tmp_path / "out.json"
    given = ["--documents", "70", "--repeats", "2", "--dim", "8", "--json", str(out)]
    holds.main(["--folder", str(tmp_path / "work"), *given])
    held = json.loads(out.read_text(encoding="utf-8"))
    named = [row["work"] for row in held["rows"]]
    assert len(named) == len(set(named)) == 2 * 12
    assert sum(name.startswith("isolated: ") for name in named) == 12
    assert all(len(row["holds"]) == len(row["took"]) == 2 for row in held["rows"])
    assert "load" in held["machine"]
    assert "least hold ms" in capsys.readouterr().out
    assert list((tmp_path / "work").iterdir()) == []


def test_an_index_that_is_there_is_only_searched(tmp_path: Path) -> None:
    folder = holds.fill(tmp_path / "index", Corpus(70, dim=8))
    out = tmp_path / "out.json"
    given = ["--documents", "70", "--repeats", "1", "--dim", "8", "--json", str(out)]
    holds.main(["--index", str(folder), "--folder", str(tmp_path), *given])
    named = [row["work"] for row in json.loads(out.read_text(encoding="utf-8"))["rows"]]
    assert len(named) == 2 * 10
    store = EdgeStore.open(folder)
    assert store.count() == 70
    store.close()
