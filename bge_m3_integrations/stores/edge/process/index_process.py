"""The caller's side of a process that holds an index: starting it, asking it, noticing its end."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import IO, Any, cast

from bge_m3_integrations._internal.channel import Failure, how_ended, receive
from bge_m3_integrations._internal.subprocesses import command, environment
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.open_handles import check_own
from bge_m3_integrations.stores.edge.process.wire import Call, Done, Part, Told, send

_PROGRAM = "bge_m3_integrations.stores.edge.process.server"
_DYING = 1.0
"""Seconds between a process' last word and its end."""
_GRACE = 60.0
"""Seconds that it may take to bring everything to disk before it is left to itself."""
_WRITES = frozenset({"upsert", "rewrite", "delete", "set_filter_fields"})
"""Calls whose end is waited for even when the caller is interrupted: its next writes come after
them."""


_STARTED: weakref.WeakSet[IndexProcess] = weakref.WeakSet()


def _forked() -> None:
    for process in list(_STARTED):
        process.leave()
    _STARTED.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class IndexProcess:
    """A process that holds the index of a folder; `StoreError` if it cannot be started."""

    def __init__(self, path: Path) -> None:
        self._path, self._pid = path, os.getpid()
        self._state = threading.Condition()
        self._asking: dict[object, int] = {}
        self._ended = False
        self._idle: list[Connection] = []
        self._key = secrets.token_bytes(32)
        try:
            self._child = subprocess.Popen(
                command(_PROGRAM, str(path), str(self._pid)),
                env={**environment(), "TMPDIR": tempfile.gettempdir()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise StoreError(f"no process can be started for {path}: {error}") from error
        _STARTED.add(self)
        self._stop = weakref.finalize(self, _stop, self._child, self._pid)  # also at exit
        try:
            self._address = self._greeted()
        except BaseException:
            self._stop()
            raise

    def ask(
        self, call: Call, progress: Callable[[str], None] | None = None
    ) -> tuple[Any, list[Any]]:
        """Have a call answered: return the answer, and the items of an answer that is a list.

        Several threads may ask at once. `progress` gets texts, where the call has that, and its
        error ends the call. It raises `StoreError` where the process ended, this one is a fork of
        the one that started it, or `close` was called, and whatever the store raises.
        """
        check_own(self._path, self._pid)
        with self._running():
            return self._asked(call, progress)

    def close(self) -> None:
        """Refuse further calls, wait for those that run, then close the store and the process."""
        try:
            with self._state:
                self._ended = True
                self._state.wait_for(self._is_quiet)
            if self.alive:
                self._asked(Call("close"), None)
        except StoreError:
            if self.alive:
                raise  # the store's own; else there is nothing left to close
        finally:
            for connection in self._idle:
                connection.close()
            self._stop()

    def leave(self) -> None:
        """In a forked child: let go of the parent's process, which ends when nobody holds it."""
        for held in (self._child.stdin, *self._idle):
            if held is not None:
                with suppress(OSError):
                    held.close()
        self._idle.clear()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._child.poll() is None

    @contextmanager
    def _running(self) -> Iterator[None]:
        call = object()
        try:
            with self._state:
                if self._ended:
                    raise StoreError(f"the index in {self._path} is closed; open it again")
                self._asking[call] = threading.get_ident()
            yield
        finally:
            with self._state:
                self._asking.pop(call, None)
                self._state.notify_all()

    def _is_quiet(self) -> bool:
        """Whether no other thread's call runs; one's own is under way where `progress` closes."""
        return set(self._asking.values()) <= {threading.get_ident()}

    def _asked(self, call: Call, progress: Callable[[str], None] | None) -> tuple[Any, list[Any]]:
        connection = self._connected()
        raised: BaseException | None = None

        def tell(text: str) -> None:
            nonlocal raised
            try:
                if progress is not None:
                    progress(text)
            except BaseException as error:
                raised = error
                raise

        try:
            send(connection, call)
            answer, items = _answer(connection, tell)
        except BaseException as error:  # in the middle of a conversation
            if call.name in _WRITES:
                _let_end(connection)
            connection.close()
            # an error of `progress` is never that of an ended process
            if error is not raised and self._is_of_the_end(error):
                raise StoreError(self._obituary(error)) from error
            raise
        with self._state:
            self._idle.append(connection)
        if isinstance(answer, Failure):
            raise answer.error
        return answer, items

    def _greeted(self) -> Any:
        stdin, stdout = (cast("IO[str]", pipe) for pipe in (self._child.stdin, self._child.stdout))
        with suppress(OSError, ValueError), stdout:
            stdin.write(self._key.hex() + "\n")
            stdin.flush()
            return json.loads(stdout.readline())
        raise StoreError(self._obituary("it never said where it is"))

    def _connected(self) -> Connection:
        with self._state:
            if self._idle:
                return self._idle.pop()
        try:
            connection = Client(self._address)
            connection.send_bytes(self._key)
        except (EOFError, OSError) as error:
            raise StoreError(self._obituary(error)) from error
        return connection

    def _is_of_the_end(self, error: BaseException) -> bool:
        """Whether it is the connection's error, not that of a signal handler of the caller's."""
        if not isinstance(error, OSError) or isinstance(error, ConnectionError):
            return isinstance(error, EOFError | ConnectionError)
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(_DYING)
        return not self.alive

    def _obituary(self, cause: object) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(_DYING)
        code = self._child.returncode
        how = f"does not answer ({cause!r})" if code is None else how_ended(code)
        return (
            f"the process that held the index in {self._path} (pid {self._child.pid}) {how}; "
            "what was written before is kept: close the index and open it again"
        )


def _let_end(connection: Connection) -> None:
    """Say that no more comes, and wait until a call that came whole is done."""
    # errors: the process is gone; or it is a pipe of Windows, which has no such word
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_WR)
        while end.recv(1 << 16):
            pass


def _answer(connection: Connection, tell: Callable[[str], None]) -> tuple[Any, list[Any]]:
    items: list[Any] = []
    while True:
        match receive(connection):
            case Part(items=more):
                items += more
            case Told(text=text):
                tell(text)
            case Done(value=value):
                return value, items
            case Failure() as failure:
                return failure, items


def _stop(process: subprocess.Popen[str], owner: int) -> None:
    if os.getpid() != owner:  # a fork has the objects, but the process is not its child
        return
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    with suppress(subprocess.TimeoutExpired):  # it goes on alone, and loses nothing
        process.wait(_GRACE)
