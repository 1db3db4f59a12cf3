"""The program that holds an index for another process, behind `client.ProcessStore`.

It lives as long as the other process keeps its standard input open, and answers calls on any number
of connections, each by a thread of its own.
"""

from __future__ import annotations

import hmac
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from bge_m3_integrations._internal.channel import Failure, receive, send
from bge_m3_integrations.stores.base import Page
from bge_m3_integrations.stores.edge.folder.config import FolderConfig
from bge_m3_integrations.stores.edge.folder.folder import Folder
from bge_m3_integrations.stores.edge.folder.manifest import Manifest
from bge_m3_integrations.stores.edge.process.wire import Call, Done, Part, Told
from bge_m3_integrations.stores.edge.store import EdgeStore

_AT_ONCE = 100
"""Items of one message: unpacking it holds the caller's lock for about a millisecond."""
_WAITING = 64
"""Connections that may wait to be welcomed."""
_PREFIX = "bge-m3-"
_FOLDER_BYTES = 103 - len(f"/{_PREFIX}12345678/socket")
"""Bytes of the folder of temporary files at most: systems allow a socket a name of 103."""
_NOT_FOR_US = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
"""Ctrl-C and service managers reach whole groups of processes; the caller may still need the index
while it ends, and with it this ends."""


class StoreServer:
    """The one store of this process, in a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._store: EdgeStore | None = None

    def open(self, config: FolderConfig | None, create: bool, read_only: bool) -> Manifest:
        """Open the store; later calls compare it with their options."""
        with self._lock:
            store = EdgeStore.open(self._path, config, create=create, read_only=read_only)
            if self._store is None:
                self._store = store
            else:
                store.close()  # that handle; the first one stays
            return store.manifest

    def answer(self, call: Call, tell: Callable[[str], None]) -> Any:
        """Return the answer of a call; raise as the store raises."""
        if call.name == "open":
            return self.open(*call.arguments)
        if call.name == "close":
            return self.close()
        options = {**call.options, "progress": tell} if call.told else call.options
        found = getattr(self._store, call.name)
        return found(*call.arguments, **options) if callable(found) else found

    def close(self) -> None:
        """Close the store, if it is open."""
        with self._lock:
            if self._store is not None:
                self._store.close()


def serve(connection: Connection, server: StoreServer) -> None:
    """Answer one call after the other, until the other end is closed."""

    def tell(text: str) -> None:
        send(connection, Told(text))

    with connection, suppress(EOFError, OSError):  # the caller is gone
        while True:
            for message in _answer(connection, server, tell):
                send(connection, message)


def _answer(
    connection: Connection, server: StoreServer, tell: Callable[[str], None]
) -> Iterator[Part | Done | Failure]:
    """Yield the messages that answer the next call; its error is one of them."""
    try:
        call: Call = receive(connection)
    except (EOFError, OSError):
        raise
    except Exception as error:  # it came whole, but nothing can be made of it here
        yield Failure.from_error(error)
        return
    try:
        value = server.answer(call, tell)
    except Exception as error:
        yield Failure.from_error(error)
        return
    items: Any = iter(())
    if isinstance(value, Page):
        value, items = replace(value, records=[]), iter(value.records)
    elif isinstance(value, list | Iterator):
        items, value = iter(value), None
    while part := list(islice(items, _AT_ONCE)):
        yield Part(part)
    yield Done(value)


def _welcome(listener: Listener, key: bytes, server: StoreServer) -> None:
    while True:
        try:
            connection = listener.accept()
        except OSError:  # too many files, or the listener is closed
            time.sleep(0.1)
            continue
        try:
            threading.Thread(target=_met, args=(connection, key, server), daemon=True).start()
        except RuntimeError:  # too many threads
            connection.close()


def _met(connection: Connection, key: bytes, server: StoreServer) -> None:
    """Serve who knows the key; nothing of anybody else's is unpacked."""
    with suppress(EOFError, OSError):
        if hmac.compare_digest(connection.recv_bytes(len(key)), key):
            serve(connection, server)
    connection.close()


def main(path: str, caller: str) -> None:
    """Hold the index of a folder for a process, for as long as the standard input is open."""
    for name in _NOT_FOR_US:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    key = bytes.fromhex(sys.stdin.readline())
    Folder.caller = int(caller)
    server = StoreServer(Path(path))
    short = len(os.fsencode(tempfile.gettempdir())) <= _FOLDER_BYTES
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, dir=None if short else "/tmp") as place,
        Listener(None if os.name == "nt" else f"{place}/socket", backlog=_WAITING) as listener,
    ):
        sys.stdout.write(f"{json.dumps(listener.address)}\n")
        sys.stdout.flush()
        with suppress(OSError):
            os.dup2(2, 1)  # nobody reads anything else that is printed
        threading.Thread(target=_welcome, args=(listener, key, server), daemon=True).start()
        sys.stdin.read()
        server.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # everything is on disk: who closes the index need not wait for Python's own end
