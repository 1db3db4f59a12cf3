"""Other Python processes import what this one would, whatever lies in the working directory.

`python -m` and `python -c` put the working directory first on the path. A `secrets.py` there would
take the place of the standard library's, in a process that its user never sees.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path

_PACKAGE = "bge_m3_integrations"
_SAFE = "PYTHONSAFEPATH"
_SPAWNING = threading.Lock()


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package in a process of its own.

    Args:
        module: Its full name.
        *arguments: The program's arguments.

    Returns:
        For `subprocess`, with `environment()`.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """This process' environment, with its path of imports but the working directory."""
    path = [str(Path(entry).absolute()) for entry in sys.path if isinstance(entry, str) and entry]
    if PathFinder.find_spec(_PACKAGE, path) is None:  # found by an import hook, or where we stand
        path.append(str(Path(__file__).parents[2]))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


@contextmanager
def spawning() -> Iterator[None]:
    """In this block, processes that `multiprocessing` spawns look at the working directory last.

    It gives them neither a path nor an environment, so those of this process are changed meanwhile.
    """
    with _SPAWNING:
        before = os.environ.get(_SAFE)
        place = sys.path.index("") if "" in sys.path else None
        os.environ[_SAFE] = "1"
        if place is not None:
            sys.path.append(sys.path.pop(place))
        try:
            yield
        finally:
            if place is not None:
                sys.path.remove("")
                sys.path.insert(place, "")
            if before is None:
                del os.environ[_SAFE]
            else:
                os.environ[_SAFE] = before
