"""A bounded file of values by key, safe across threads and processes: SQLite in one folder.

Why SQLite: it is in the standard library, its log survives a killed process, and two processes may
write. Readers never wait for a writer. There is one connection per call that runs at a time, taken
from a pool: one for all would make hits wait while another thread waits to write, and one per
thread would stay open after its thread.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bge_m3_integrations._internal.forks import between_forks, follows
from bge_m3_integrations.engine.cache_sql import (
    Key,
    NoRoomError,
    damaged,
    evict,
    note_use,
    opened,
    remove,
    sum_of,
    totals,
    transaction,
)
from bge_m3_integrations.errors import StoreError

FILE_NAME = "embeddings.sqlite3"
_OVERHEAD = 128
"""Bytes that count for each value beside its own: its key and its places in the file's indexes."""
_FRESH_SHARE = 16
"""A value is moved to the front once a sixteenth of the bound was written since its last use, so
most reads write nothing, and without any writes none does."""
_KEYS_AT_ONCE = 1000

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_FULL = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE")
"""Names of errors of a full disk: the last is that of a reader, who needs 32 KiB of his own."""
_INHERITED: list[deque[sqlite3.Connection]] = []
"""Connections from before a fork: even closing them in the child could disturb the parent's."""


@dataclass(frozen=True, slots=True)
class Item:
    """One value to keep.

    Attributes:
        key: A digest, or a byte store's own key.
        part: What of the key it is, such as a mode.
        value: Anything.
    """

    key: Key
    part: str
    value: bytes

    @property
    def size(self) -> int:
        """Bytes that it counts against the bound."""
        return len(self.value) + _OVERHEAD


class CacheFile:
    """Values by key and part, the least recently used first out.

    Args:
        folder: Made when it is first used.
        max_bytes: Most bytes of values.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.path: Path = folder / FILE_NAME
        self._max_bytes = max_bytes
        self._idle: deque[sqlite3.Connection] = deque()
        self._pid = os.getpid()
        follows(self)

    def forking(self) -> None:
        """Close idle connections: SQLite remembers locks that a forked child does not have."""
        self.close()

    def forked(self) -> None:
        """See `Forks`."""

    @property
    def held(self) -> int:
        """Bytes of values now, with an allowance for each."""
        with self._connected() as db:
            return totals(db)[0]

    def read(
        self,
        keys: Sequence[Key],
        parts: Sequence[str],
        *,
        spoilt: Callable[[int], object] = lambda _: None,
    ) -> list[dict[str, bytes]]:
        """Look keys up in one transaction.

        Args:
            keys: Any number.
            parts: The parts that are wanted of each.
            spoilt: Called with the number of values whose checksum is wrong, where there are any.

        Returns:
            For each key the values of the wanted parts that are there and sound.
        """
        query = (
            "SELECT part, used, value, sum FROM entries JOIN bodies USING (id) "
            f"LEFT JOIN sums USING (id) WHERE key = ? AND part IN ({', '.join('?' * len(parts))})"
        )
        found: list[dict[str, bytes]] = []
        worn, bad = [], 0
        with self._connected() as db:
            with transaction(db, "DEFERRED"):
                oldest_fresh = totals(db)[1] - self._max_bytes // _FRESH_SHARE
                for key in keys:
                    rows = db.execute(query, (key, *parts)).fetchall()
                    sound = [row for row in rows if _is_sound(key, *row)]
                    bad += len(rows) - len(sound)
                    found.append({part: value for part, _, value, _ in sound})
                    worn += [(key, part) for part, used, _, _ in sound if used < oldest_fresh]
            if worn:
                note_use(db, worn)
        if bad:
            spoilt(bad)
        return found

    def write(self, items: Iterable[Item]) -> None:
        """Keep values in one transaction, in place of those of the same key and part.

        Of more than fits, the last ones are kept; a value larger than the bound never is.
        """
        fitting = self._fitting(list(items))
        if not fitting:
            return
        with self._connected() as db, transaction(db, "IMMEDIATE"):
            held, written = totals(db)
            held -= remove(db, [(item.key, item.part) for item in fitting])
            held -= evict(db, held + sum(item.size for item in fitting) - self._max_bytes)
            for item in fitting:
                held, written = held + item.size, written + item.size
                body = db.execute("INSERT INTO bodies (value) VALUES (?)", (item.value,)).lastrowid
                row = (item.key, item.part, written, item.size, body)
                db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", row)
                total = sum_of(item.key, item.part, item.value)
                db.execute("INSERT OR REPLACE INTO sums VALUES (?, ?)", (body, total))
            db.execute("UPDATE totals SET held = ?, written = ?", (held, written))

    def remove(self, keys: Sequence[Key], part: str) -> None:
        """Forget one part of keys; those that are not there are passed over."""
        with self._connected() as db, transaction(db, "IMMEDIATE"):
            freed = remove(db, [(key, part) for key in keys])
            db.execute("UPDATE totals SET held = held - ?", (freed,))

    def text_keys(self, part: str, *, prefix: str = "") -> Iterator[str]:
        """The text keys that begin with a prefix, in order; no lock is held between two of them."""
        # blobs sort behind all texts; a key is never before its own prefix
        query = (
            "SELECT key FROM entries WHERE key {} ? AND key < x'' AND part = ? ORDER BY key LIMIT ?"
        )
        last, relation = prefix, ">="
        while True:
            with self._connected() as db:
                rows = db.execute(query.format(relation), (last, part, _KEYS_AT_ONCE)).fetchall()
            for (key,) in rows:
                if not isinstance(key, str):
                    raise damaged(self.path, f"the key {key!r}")
                if not key.startswith(prefix):
                    return
                yield key
            if len(rows) < _KEYS_AT_ONCE:
                return
            last, relation = rows[-1][0], ">"

    def close(self) -> None:
        """Close the connections of this process; the next call opens new ones."""
        while self._own_process() and self._idle:
            self._idle.pop().close()

    def _fitting(self, items: list[Item]) -> list[Item]:
        """The last value of each key and part, and of those the last that fit together."""
        kept, room = [], self._max_bytes
        for item in reversed({(item.key, item.part): item for item in items}.values()):
            if item.size > self._max_bytes:
                continue
            if item.size > room:
                break
            kept.append(item)
            room -= item.size
        return kept[::-1]

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with between_forks, self._errors_told():
            db = self._take()
            try:
                yield db
            except BaseException:
                db.close()  # whatever it was in the middle of is rolled back
                raise
            self._idle.append(db)

    def _take(self) -> sqlite3.Connection:
        self._own_process()
        try:
            return self._idle.pop()
        except IndexError:
            return opened(self.path)

    def _own_process(self) -> bool:
        """Leave the connections of the process that this one was forked from alone."""
        if self._pid != os.getpid():
            _INHERITED.append(self._idle)
            self._idle, self._pid = deque(), os.getpid()
        return True

    @contextmanager
    def _errors_told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "decode" in str(error):  # text that is none
                raise damaged(self.path, str(error)) from error
            full = getattr(error, "sqlite_errorname", None) in _FULL
            raise (NoRoomError if full else StoreError)(
                f"the cache {self.path} cannot be used: {error}; give its folder free space and "
                "the right to write, or another folder"
            ) from error
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGE:
                raise
            raise damaged(self.path, str(error)) from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise (NoRoomError if full else StoreError)(
                f"the cache folder {self.path.parent} cannot be made: {error}; give another one"
            ) from error


def _is_sound(key: Key, part: object, used: object, value: object, wanted: object) -> bool:
    """Return whether a row is as it was written; SQLite gives any type for a damaged one."""
    if not (isinstance(part, str) and isinstance(used, int) and isinstance(value, bytes)):
        return False
    return sum_of(key, part, value) == wanted
