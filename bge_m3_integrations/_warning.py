"""Warnings that point to the user's own line, through whatever libraries it led here."""

from __future__ import annotations

import sys
import sysconfig
import warnings
from types import FrameType

_PACKAGE = __name__.partition(".")[0]
_FRAMEWORKS = ("langchain", "llama_index", "pydantic", "tenacity", "tqdm", "anyio")
_PATHS = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's own program that led here, if it is on this thread's stack.

    Args:
        message: What is told.
        category: As which it can be filtered.
    """
    frame = _users_frame(sys._getframe(1))
    namespace = frame.f_globals
    warnings.warn_explicit(
        message,
        category,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=namespace.get("__name__", "<unknown>"),
        registry=namespace.setdefault("__warningregistry__", {}),
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
