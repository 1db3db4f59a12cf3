"""A digest is computed once per state of the files, across processes where that pays."""

from __future__ import annotations

from pathlib import Path

import pytest

from bge_m3_integrations.encoders.torch import digests

LARGE = (("model.safetensors", 200 << 20, 17),)
OTHER = (("model.safetensors", 200 << 20, 18),)
SMALL = (("model.safetensors", 1 << 20, 17),)


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "cache" / "digests.json"
    monkeypatch.setattr(digests, "cache_file", lambda: place)
    monkeypatch.setattr(digests, "_HELD", {})
    return place


def next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_HELD", {})


def refuse() -> str:
    raise AssertionError("computed again")


def test_a_digest_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert digests.remembered(LARGE, lambda: "abc") == "abc"
    assert digests.remembered(LARGE, refuse) == "abc"
    next_process(monkeypatch)
    assert digests.remembered(LARGE, refuse) == "abc"


def test_files_of_another_time_are_read_again() -> None:
    digests.remembered(LARGE, lambda: "abc")
    assert digests.remembered(OTHER, lambda: "def") == "def"


def test_small_files_leave_no_trace(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests.remembered(SMALL, lambda: "abc")
    assert not file.exists()
    next_process(monkeypatch)
    assert digests.remembered(SMALL, lambda: "def") == "def"


@pytest.mark.parametrize("content", ["", "[]", "{broken"])
def test_a_damaged_file_costs_time_only(file: Path, content: str) -> None:
    file.parent.mkdir()
    file.write_text(content)
    assert digests.remembered(LARGE, lambda: "abc") == "abc"
    assert "abc" in file.read_text()


def test_a_place_that_cannot_be_written_costs_time_only(file: Path) -> None:
    file.parent.write_text("a file where the folder should be")
    assert digests.remembered(LARGE, lambda: "abc") == "abc"


def test_the_oldest_digests_are_forgotten(file: Path) -> None:
    for i in range(70):
        digests.remembered((("m", 200 << 20, i),), lambda i=i: f"digest {i}")
    held = file.read_text()
    assert "digest 69" in held
    assert '"digest 5"' not in held
