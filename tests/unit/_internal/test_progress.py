"""What `progress=` means: nothing, a bar on stderr, the caller's function."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import pytest

from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations._internal import progress as _progress
from bge_m3_integrations._internal.passes import PassCount
from bge_m3_integrations._internal.progress import reporter
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.testing import FakeEncoder
from tests import checkpoints


def test_false_prints_nothing_and_loads_no_rich() -> None:
    program = (
        "import sys\n"
        "from bge_m3_integrations._internal.progress import reporter\n"
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


@pytest.mark.parametrize("wrong", [1, 0, "yes"])
def test_anything_else_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=f"progress must be .* not {wrong!r}"):  # noqa: SIM117
        with reporter(wrong, label="adding"):
            pass


class Terminal(io.StringIO):
    """What somebody watches, in place of stderr within."""

    def isatty(self) -> bool:
        super().isatty()  # an error once it is closed
        return True

    def __enter__(self) -> Self:
        self.before, sys.stderr = sys.stderr, self  # pytest puts its own there for each phase
        return self

    def __exit__(self, *_: object) -> None:
        sys.stderr = self.before


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """One where all work counts as long."""
    monkeypatch.setattr(_progress, "PATIENCE", 1e-9)
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def records(count: int) -> list[Record]:
    return [Record(f"r{i}", f"text {i}") for i in range(count)]


def test_long_work_in_a_terminal_shows_a_bar_unasked(terminal: Terminal) -> None:
    index = HybridIndex(BGEM3(FakeEncoder()))
    with terminal:
        index.add(records(6), batch_size=2)
        index.ingest(iter(records(9)), batch_size=2)
    shown = terminal.getvalue()
    assert "adding" in shown
    assert "6/6" in shown
    assert "ingesting" in shown
    assert "9/?" in shown


def test_no_bar_for_what_takes_no_time(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, "PATIENCE", 60.0)
    with terminal:
        HybridIndex(BGEM3(FakeEncoder())).add(records(6), batch_size=2)
    assert terminal.getvalue() == ""


def test_no_bar_where_stderr_is_piped_closed_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, "PATIENCE", 1e-9)
    closed = Terminal()
    closed.close()
    for stderr in (io.StringIO(), closed, None):
        monkeypatch.setattr(sys, "stderr", stderr)
        HybridIndex(BGEM3(FakeEncoder())).add(records(6), batch_size=2)
        if isinstance(stderr, io.StringIO) and not stderr.closed:
            assert stderr.getvalue() == ""


@pytest.mark.parametrize("progress", [False, lambda done, total: None])
def test_no_bar_and_none_of_the_encoder_where_the_caller_chose(
    terminal: Terminal, tmp_path: Path, progress: Any
) -> None:
    engine = BGEM3(checkpoints.make_xlm_roberta(tmp_path), token_budget=8, device="cpu")
    with terminal:
        HybridIndex(engine).add(records(6), progress=progress)
        engine.encode_documents(["text"] * 6, progress=progress)
    assert terminal.getvalue() == ""


def test_no_bar_in_another_thread_than_the_main_one(terminal: Terminal) -> None:
    index = HybridIndex(BGEM3(FakeEncoder()))
    thread = threading.Thread(target=index.add, args=(records(6),), kwargs={"batch_size": 2})
    with terminal:
        thread.start()
        thread.join()
    assert terminal.getvalue() == ""
    assert len(index) == 6


def test_encoding_shows_its_passes_and_leaves_nothing(terminal: Terminal, tmp_path: Path) -> None:
    engine = BGEM3(checkpoints.make_xlm_roberta(tmp_path), token_budget=8, device="cpu")
    with terminal:
        engine.encode_documents([f"text {i}" for i in range(70)])
    shown = terminal.getvalue()
    assert "encoding" in shown
    assert "/70" in shown
    assert shown.endswith("\x1b[2K")  # the last thing that is done is to clear the line


def test_a_lone_query_never_draws_one(terminal: Terminal, tmp_path: Path) -> None:
    engine = BGEM3(checkpoints.make_xlm_roberta(tmp_path), device="cpu")
    index = HybridIndex(engine)
    index.add(records(3), progress=False)
    with terminal:
        index.search("text")
        engine.encode_queries(["a query"])
        engine.rerank("a query", ["one document"])
    assert terminal.getvalue() == ""


def test_a_batch_shows_how_far_its_passes_are(terminal: Terminal, tmp_path: Path) -> None:
    engine = BGEM3(checkpoints.make_xlm_roberta(tmp_path), token_budget=8, device="cpu")
    bar = _progress._Bar("adding", 8, patience=1e-9, transient=False)
    seen: list[int] = []
    bar._display = SimpleNamespace(update=lambda task, *, completed, **_: seen.append(completed))  # type: ignore[assignment]
    with PassCount(bar.passed):
        engine.encode_documents([f"text {i}" for i in range(4)])
    bar(4, 8)
    assert seen[:-1] == sorted(set(seen[:-1]))
    assert len(seen) > 2
    assert seen[-1] == 4


def test_a_function_is_told_of_each_pass_of_the_encoder(tmp_path: Path) -> None:
    engine = BGEM3(checkpoints.make_xlm_roberta(tmp_path), token_budget=8, device="cpu")
    calls: list[tuple[int, int | None]] = []
    texts = [*(f"text {i}" for i in range(5)), "text 0"]
    engine.encode_documents(texts, progress=lambda done, total: calls.append((done, total)))
    assert len(calls) > 2
    assert calls[-1] == (6, 6)
    assert calls == sorted(calls)


def test_stats_tell_passes_from_forwards_from_texts(tmp_path: Path) -> None:
    folder = checkpoints.make_xlm_roberta(tmp_path)
    engine = BGEM3(folder, device="cpu")
    engine.encode_documents(["one", "two", "three", "one"])
    stats = engine.stats
    assert (stats.texts, stats.forwards, stats.passes) == (4, 3, 1)
    several = BGEM3(folder, device="cpu", token_budget=4)
    several.encode_documents(["one", "two", "three", "one"])
    assert (several.stats.texts, several.stats.forwards) == (4, 3)
    assert several.stats.passes > 1
    fake = BGEM3(FakeEncoder())
    fake.encode_documents(["one", "two"])
    fake.encode_documents([])
    assert fake.stats.passes == 1


class Notebook:
    """In place of IPython: what a kernel would show."""

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def display(self, line: Any, *, display_id: bool) -> Notebook:
        assert display_id
        self.shown.append(line)
        return self

    def update(self, line: Any) -> None:
        self.shown.append(line)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """A kernel without ipywidgets."""
    kernel, ipython, shell = Notebook(), ModuleType("IPython"), type("ZMQInteractiveShell", (), {})
    display = ModuleType("IPython.display")
    display.display = kernel.display  # type: ignore[attr-defined]
    ipython.get_ipython = shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr(_progress, "PATIENCE", 1e-9)
    return kernel


@pytest.mark.parametrize("progress", [None, True])
def test_a_notebook_shows_a_line_without_widgets_and_without_a_warning(
    notebook: Notebook, progress: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HybridIndex(BGEM3(FakeEncoder())).add(records(6), batch_size=2, progress=progress)
    assert repr(notebook.shown[-1]).startswith("adding 6/6 ")
    assert '<progress value="6" max="6"></progress> adding 6/6' in notebook.shown[-1]._repr_html_()
    assert capsys.readouterr() == ("", "")


def test_a_notebooks_label_is_no_markup(notebook: Notebook) -> None:
    with reporter(True, label="<b>adding</b>") as report:
        report(1, None)
    assert notebook.shown[-1]._repr_html_().startswith("<div><progress></progress> &lt;b&gt;")


def test_no_line_where_the_notebooks_work_is_short(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_progress, "PATIENCE", 60.0)
    HybridIndex(BGEM3(FakeEncoder())).add(records(6), batch_size=2)
    assert notebook.shown == []


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no pseudo-terminals")
def test_a_program_in_a_real_terminal() -> None:
    import pty

    ours, theirs = pty.openpty()
    program = (
        "from bge_m3_integrations import BGEM3, HybridIndex\n"
        "from bge_m3_integrations._internal import progress\n"
        "from bge_m3_integrations.testing import FakeEncoder\n"
        "progress.PATIENCE = 1e-9\n"
        "HybridIndex(BGEM3(FakeEncoder())).add(list('abcdef'), batch_size=2)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stderr=theirs, check=True)
    os.close(theirs)
    assert done.returncode == 0
    assert b"6/6" in os.read(ours, 100_000)
    os.close(ours)
