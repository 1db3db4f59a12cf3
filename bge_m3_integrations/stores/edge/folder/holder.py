"""Who has a folder, for those who are refused: `holder.json`, beside the lock."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bge_m3_integrations.stores.edge.folder.manifest import read_file

NAME = "holder.json"


def write_holder(folder: Path, *, caller: int | None) -> None:
    """Write down that this process has a folder.

    Args:
        folder: An index's.
        caller: The process that this one works for, if it does.

    Raises:
        OSError: It cannot be written.
    """
    mine = {"pid": os.getpid(), "host": socket.gethostname(), "for": caller}
    _write(folder, {**mine, "since": time.strftime("%Y-%m-%d %H:%M:%S")})


def note_opens(folder: Path, count: int) -> None:
    """Write down how often this process has an index open.

    Args:
        folder: The index's.
        count: How many opens are not closed.
    """
    held = read_holder(folder)
    if os.getpid() in {held.get("pid"), held.get("for")}:
        with suppress(OSError):  # it is a help, no more
            _write(folder, {**held, "opens": count})


def read_holder(folder: Path) -> dict[str, Any]:
    """What the holder of a folder says of itself; nothing where it says nothing sound."""
    try:
        held = json.loads(read_file(folder / NAME))
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}


def described_holder(folder: Path) -> str:
    """The holder in words."""
    held = read_holder(folder)
    try:
        place = f"on {held['host']} since {held['since']}"
        caller = f" for process {held['for']}" if held.get("for") else ""
        opens = held.get("opens", 1)
        unclosed = f", where {opens} opens of it are not closed" if opens > 1 else ""
    except (KeyError, TypeError):
        return "another process, which may only read it"
    return f"process {held.get('pid')}{caller} {place}{unclosed}"


def is_held_for(folder: Path, pid: int) -> bool:
    """Whether a folder that is in use is so by a process, or by one that works for it.

    Args:
        folder: A folder that somebody holds.
        pid: The process, of this machine.

    Returns:
        What its holder has written down.
    """
    held = read_holder(folder)
    return held.get("host") == socket.gethostname() and pid in (held.get("pid"), held.get("for"))


def is_orphan(folder: Path) -> bool:
    """Whether a process of this machine holds the folder for one that is gone."""
    held = read_holder(folder)
    caller = held.get("for")
    if not isinstance(caller, int) or held.get("host") != socket.gethostname():
        return False
    if os.name == "nt":  # where signal 0 is no question but Ctrl-C
        return False
    try:
        os.kill(caller, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # somebody else's
        return False
    return False


def _write(folder: Path, held: Mapping[str, Any]) -> None:
    """Replace the file as a whole: others read it at any moment."""
    new = folder / f"{NAME}.{threading.get_ident()}.new"
    new.write_text(json.dumps(held), encoding="utf-8")
    new.replace(folder / NAME)
