from __future__ import annotations

import argparse
from pathlib import Path

import pytest

pytest.importorskip("sentencepiece")
train = pytest.importorskip("scripts.train_demo.train")


def test_the_rate_rises_stays_and_falls() -> None:
    rises = [train.pace(step, 0.01) for step in range(200)]
    assert rises[0] == pytest.approx(1 / 150)
    assert rises[150:] == [1.0] * 50
    assert train.pace(500, train.FALL) == 1.0
    assert train.pace(500, 0.8) == pytest.approx(0.5)
    assert train.pace(500, 1.0) == 0.02


@pytest.mark.parametrize(
    ("done", "written", "steps"),
    [
        (0.5, None, 1000),
        (0.5, "2000", 2000),
        (0.5, "900", 900),
        (0.7, "2000", 1000),  # the rate falls already
        (0.5, "800", 1000),  # it would have fallen already
    ],
)
def test_the_plan_changes_only_before_the_rate_falls(
    done: float, written: str | None, steps: int, tmp_path: Path
) -> None:
    if written:
        (tmp_path / "steps").write_text(written, encoding="utf-8")
    args = argparse.Namespace(cache=tmp_path, steps=1000)
    assert train._planned(args, done) == steps
