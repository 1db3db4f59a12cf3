from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from benchmarks._results import Measured, Run
from benchmarks.chart import svg

IMAGES = Path(__file__).parents[3] / "docs" / "images"


def runs_of(text: str) -> list[Run]:
    return [Run.of(raw) for raw in json.loads(text)["runs"]]


def test_the_picture_in_the_readme_is_drawn_from_the_results_beside_it() -> None:
    runs = runs_of((IMAGES / "speed.json").read_text(encoding="utf-8"))
    assert svg(runs) == (IMAGES / "speed.svg").read_text(encoding="utf-8")


def test_every_bar_has_its_number_and_its_ratio() -> None:
    runs = [
        Run(peer, 0, "ok", measured=(_measured("mixed", speed), _measured("query", 1 / speed)))
        for peer, speed in (("flag-b12", 100.0), ("ours-fp32", 600.0))
    ]
    picture = svg(runs)
    shown = [
        "".join(e.itertext()) for e in ElementTree.fromstring(picture).iter() if "text" in e.tag
    ]
    assert "600 6.0×" in shown
    assert "2 6.0×" in shown
    assert "100" in shown


def _measured(workload: str, value: float) -> Measured:
    single = workload == "query"
    return Measured(workload, 0 if single else 1, (value if single else 1 / value,), single, 0.0)
