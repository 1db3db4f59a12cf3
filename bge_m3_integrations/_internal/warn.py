"""Warnings that point to the user's own line, through whatever libraries it led here."""

from __future__ import annotations

import asyncio
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_PACKAGE = __name__.partition(".")[0]
_FRAMEWORKS = ("langchain", "llama_index", "pydantic", "tenacity", "tqdm", "anyio")
_PATHS = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


class _Line(NamedTuple):
    """A line that a warning points to, as the `warnings` module knows lines."""

    filename: str
    lineno: int
    module: str
    registry: dict[str | tuple[str, type[Warning], int], int]


_FROM: ContextVar[_Line | None] = ContextVar("bge_m3_from", default=None)
"""The user's line that started the work of a thread or a task."""


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's own program that led here.

    It was on the stack where `from_here` was called, else it is on this thread's.

    Args:
        message: The warning's text.
        category: As which it can be filtered.
    """
    line = _FROM.get() or _line_of(_users_frame(sys._getframe(1)))
    warnings.warn_explicit(
        message, category, line.filename, line.lineno, module=line.module, registry=line.registry
    )


@contextmanager
def from_here() -> Iterator[None]:
    """Have warnings of threads and tasks that are started inside point to this caller's line."""
    token = _FROM.set(_FROM.get() or _line_of(_users_frame(sys._getframe(1))))
    try:
        yield
    finally:
        _FROM.reset(token)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a thread; its warnings point to the user's line that awaits it.

    Args:
        function: It sees the caller's context variables.
        *args: Its arguments.
        **kwargs: Its keywords.

    Returns:
        Its result.

    Raises:
        RuntimeError: The function raised `StopIteration`, which no future can hold: the caller
            would wait forever.
    """

    def call() -> T:
        try:
            return function(*args, **kwargs)
        except StopIteration as error:
            raise RuntimeError(f"{function!r} raised StopIteration") from error

    with from_here():
        return await asyncio.to_thread(call)


def _line_of(frame: FrameType) -> _Line:
    namespace = frame.f_globals
    return _Line(
        frame.f_code.co_filename,
        frame.f_lineno,
        namespace.get("__name__", "<unknown>"),
        namespace.setdefault("__warningregistry__", {}),
    )


def _users_frame(start: FrameType) -> FrameType:
    """The nearest caller that is no library; failing that, the nearest that is not known as one."""
    ours, known = start, None
    frame: FrameType | None = start
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        top = name.partition(".")[0]
        if top == _PACKAGE:
            ours = frame
        elif not _is_library(frame.f_code.co_filename):
            return frame
        elif known is None and not (top in sys.stdlib_module_names or top.startswith(_FRAMEWORKS)):
            known = frame
        frame = frame.f_back
    return known or ours


def _is_library(path: str) -> bool:
    installed = "site-packages" in path or "dist-packages" in path
    return installed or path.startswith(("<frozen", *_PATHS))
