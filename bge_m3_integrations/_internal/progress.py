"""The one meaning of `progress=`: a bar where somebody watches long work, or what callers say."""

from __future__ import annotations

import builtins
import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, TypeAlias

from bge_m3_integrations._internal.passes import PassCount
from bge_m3_integrations.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress

Report: TypeAlias = Callable[[int, int | None], None]
"""Takes the number done so far and the total, None where that is not known."""

ProgressLike: TypeAlias = bool | Report | None
"""What callers give: None for a bar where somebody watches, True for one in any case, False for
nothing, or a function of their own."""

PATIENCE = 2.0
"""Seconds of work before a bar appears that nobody asked for."""
_REFRESH = 0.2
_TASK: Any = 0
"""A bar of rich's has tasks, and ours one of them."""
_BUSY: ContextVar[bool] = ContextVar("bge_m3_progress", default=False)


@contextmanager
def reporter(
    progress: ProgressLike, *, label: str, total: int | None = None, transient: bool = False
) -> Iterator[Report]:
    """Where work reports to while it runs; work inside it shows no bar that nobody asked for.

    Args:
        progress: None shows a bar in a terminal and in a notebook, once the work has taken two
            seconds and is not done; never where stderr is piped, or on another thread than the
            main one. True shows a bar in any case, False reports nowhere, a function is called.
        label: The bar's text.
        total: How much there is to do, where that is known before the first step.
        transient: Remove a bar that nobody asked for when the work is done.

    Yields:
        What to call after each step.

    Raises:
        InputError: `progress` is something else.
    """
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise InputError(
            f"progress must be None, True, False or a function of (done, total), not {progress!r}"
        )
    auto = progress is None and _is_watched()
    token = _BUSY.set(True)
    try:
        if progress is True or auto:
            patience = PATIENCE if auto else 0.0
            bar = _Bar(label, total, patience=patience, transient=transient and auto)
            with closing(bar), PassCount(bar.passed):
                yield bar
        else:
            yield progress if callable(progress) else _nowhere
    finally:
        _BUSY.reset(token)


def encoding(progress: ProgressLike, texts: int) -> AbstractContextManager[None]:
    """Show how many of a call's texts have been through the model; see `reporter`.

    Args:
        progress: As for `reporter`.
        texts: How many there are.

    Returns:
        A context for the call.
    """
    if progress is False or (progress is None and not _is_watched()):
        return nullcontext()
    return _encoding(progress, texts)


@contextmanager
def _encoding(progress: ProgressLike, texts: int) -> Iterator[None]:
    with reporter(progress, label="encoding", total=texts, transient=True) as report:
        if callable(progress):
            with PassCount(lambda done: report(min(done, texts), texts)):
                yield
        else:  # a bar is told of passes itself
            yield
        report(texts, texts)  # equal texts, and those that were known, went through no pass


def _nowhere(done: int, total: int | None) -> None:
    """Report nothing."""


def in_notebook() -> bool:
    """Whether this is Jupyter, or another program that shows what IPython displays."""
    ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    running = getattr(builtins, "get_ipython", ipython)  # where a kernel puts it
    shell = None if running is None else running()
    kernels = ("ZMQInteractiveShell", "google.colab", "databricks")
    name = f"{type(shell).__module__}.{type(shell).__name__}"
    return shell is not None and any(kernel in name for kernel in kernels)


def _is_watched() -> bool:
    """Whether a bar that nobody asked for would be seen, and be the only one."""
    if _BUSY.get() or threading.current_thread() is not threading.main_thread():
        return False  # another thread is a server's: many at once
    try:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        return terminal or ("IPython" in sys.modules and in_notebook())
    except ValueError:  # it was closed
        return False


class _Bar:
    """A bar with count and average rate, which appears when the work is seen to be long."""

    def __init__(self, label: str, total: int | None, *, patience: float, transient: bool) -> None:
        self._show = partial(_Line if in_notebook() else _terminal, label, transient)
        self._done, self._more, self._passed, self._total = 0, 0, 0, total
        self._begun, self._patience = time.monotonic(), patience
        self._display: Progress | _Line | None = None if patience else self._show()
        self._lock = threading.Lock()

    def __call__(self, done: int, total: int | None) -> None:
        """See `Report`."""
        with self._lock:
            self._done, self._more, self._total = done, 0, total
            self._update()

    def passed(self, texts: int) -> None:
        """Show that so many texts have gone through the model."""
        with self._lock:
            self._passed, self._more = texts, self._more + texts - self._passed
            self._update()

    def close(self) -> None:
        """Show the end, or nothing any more."""
        if self._display is not None:
            self._display.stop()

    def _update(self) -> None:
        done, total = self._done + self._more, self._total
        done = done if total is None else min(done, total)
        elapsed = time.monotonic() - self._begun
        if self._display is None and elapsed >= self._patience and done != total:
            self._display = self._show()
        if self._display is not None:
            rate = f"{done / elapsed:,.1f}/s" if elapsed else ""
            self._display.update(_TASK, completed=done, total=total, rate=rate)


def _terminal(label: str, transient: bool) -> Progress:
    """A bar on stderr; it moves to and fro while the total is not known."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        console=Console(stderr=True),
        redirect_stdout=False,  # rich would send it to stderr
        transient=transient,
    )
    bar.add_task(label, total=None, rate="")
    bar.start()
    return bar


class _Line:
    """One line under a notebook's cell, by what IPython brings along: rich asks for ipywidgets."""

    def __init__(self, label: str, transient: bool) -> None:
        # by name: only a notebook has it
        display = importlib.import_module("IPython.display").display
        total: int | None = None
        self._label, self._done, self._total, self._rate = label, 0, total, ""
        self._handle: Any = display(self, display_id=True)
        self._updated = time.monotonic()

    def update(self, task: int, *, completed: int, total: int | None, rate: str) -> None:
        self._done, self._total, self._rate = completed, total, rate
        now = time.monotonic()
        if now - self._updated >= _REFRESH:
            self._updated = now
            self._handle.update(self)

    def stop(self) -> None:
        self._handle.update(self)

    def __repr__(self) -> str:
        total = "?" if self._total is None else f"{self._total:,}"
        return f"{self._label} {self._done:,}/{total} {self._rate}".rstrip()

    def _repr_html_(self) -> str:
        known = "" if self._total is None else f' value="{self._done}" max="{max(1, self._total)}"'
        return f"<div><progress{known}></progress> {escape(repr(self))}</div>"
