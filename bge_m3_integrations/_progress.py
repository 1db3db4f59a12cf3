"""The one meaning of `progress=`: nothing, a bar on stderr, or the caller's own function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from bge_m3_integrations.errors import InputError

Report: TypeAlias = Callable[[int, int | None], None]
"""Takes the number done so far and the total, None where that is not known."""

ProgressLike: TypeAlias = bool | Report
"""What callers give: False for nothing, True for a bar on stderr, or a function of their own."""


@contextmanager
def reporter(progress: ProgressLike, *, label: str) -> Iterator[Report]:
    """Where work reports to while it runs.

    Args:
        progress: False reports nowhere, True shows a bar on stderr, a function is called.
        label: What the bar says is being done.

    Yields:
        What to call after each step.

    Raises:
        InputError: `progress` is something else.
    """
    if progress is True:
        with _bar(label) as report:
            yield report
    elif progress is False:
        yield _nowhere
    elif callable(progress):
        yield progress
    else:
        raise InputError(
            f"progress must be True, False or a function of (done, total), not {progress!r}"
        )


def _nowhere(done: int, total: int | None) -> None:
    """Report nothing."""


@contextmanager
def _bar(label: str) -> Iterator[Report]:
    """A bar with count and average rate; it moves to and fro while the total is not known."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
    )
    # rich would send to stderr what the program prints to stdout meanwhile
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task(label, total=None, rate="")

        def report(done: int, total: int | None) -> None:
            elapsed = bar.tasks[0].elapsed
            rate = f"{done / elapsed:,.1f}/s" if elapsed else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield report
