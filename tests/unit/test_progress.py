"""What `progress=` means: nothing, a bar on stderr, the caller's function."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

from bge_m3_integrations._progress import reporter
from bge_m3_integrations.errors import InputError


def test_false_prints_nothing_and_loads_no_rich() -> None:
    program = (
        "import sys\n"
        "from bge_m3_integrations._progress import reporter\n"
        "with reporter(False, label='adding') as report: report(1, 2)\n"
        "assert 'rich' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_function_is_called_as_the_work_reports() -> None:
    calls: list[tuple[int, int | None]] = []
    with reporter(lambda done, total: calls.append((done, total)), label="adding") as report:
        report(3, 10)
        report(7, None)
    assert calls == [(3, 10), (7, None)]


def test_true_shows_label_count_total_and_rate_on_stderr_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with reporter(True, label="adding") as report:
        report(3, 10)
        report(10, 10)
    out, err = capsys.readouterr()
    assert out == ""
    assert "adding" in err
    assert "10/10" in err
    assert "/s" in err


def test_an_unknown_total_shows_the_count(capsys: pytest.CaptureFixture[str]) -> None:
    with reporter(True, label="adding") as report:
        report(1234, None)
    assert "1234/?" in capsys.readouterr().err


def test_a_total_that_becomes_known_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with reporter(True, label="adding") as report:
        report(3, None)
        report(4, 8)
    assert "4/8" in capsys.readouterr().err


def test_a_label_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with reporter(True, label="adding [bold]x[/bold]") as report:
        report(1, 1)
    assert "adding [bold]x[/bold]" in capsys.readouterr().err


def test_what_is_printed_beside_a_live_bar_stays_on_stdout(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    with reporter(True, label="adding") as report:
        report(1, 2)
        print("a result")  # noqa: T201
    out, err = capsys.readouterr()
    assert out == "a result\n"
    assert "\x1b[" in err


@pytest.mark.parametrize("progress", [True, lambda done, total: None])
def test_an_error_of_the_work_comes_through_and_no_thread_stays(progress: Any) -> None:
    before, started = set(threading.enumerate()), set()

    def work() -> None:
        with reporter(progress, label="adding") as report:
            report(1, 2)
            started.update(set(threading.enumerate()) - before)
            raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        work()
    assert len(started) == (progress is True)
    for thread in started:
        thread.join(timeout=10)
        assert not thread.is_alive()


@pytest.mark.parametrize("wrong", [None, 1, 0, "yes"])
def test_anything_else_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=f"progress must be .* not {wrong!r}"):  # noqa: SIM117
        with reporter(wrong, label="adding"):
            pass
