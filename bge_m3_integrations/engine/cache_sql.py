"""The schema of a cache's SQLite file, and the statements that change it."""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias

from bge_m3_integrations.errors import StoreError

FORMAT = 1
_PATIENCE_S = 60.0
"""How long a call waits for another process that writes."""
_PAGE_BYTES = 65_536  # token vectors are large: a hit costs an eighth of what 4 KiB pages cost
_LOG_BYTES = 64 * 1024 * 1024
_AT_ONCE = 256
_GREATEST = 1 << 62
"""Above all bytes that a file counts: a sum with it still is an integer of SQLite's."""

# Keys of bytes are digests, keys of text belong to a byte store. The values have a table of their
# own, so that noting a use does not rewrite half a megabyte.
_SCHEMA = f"""
CREATE TABLE bodies (id INTEGER PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE entries (
    key NOT NULL, part TEXT NOT NULL, used INTEGER NOT NULL, size INTEGER NOT NULL,
    id INTEGER NOT NULL, PRIMARY KEY (key, part)
) WITHOUT ROWID;
CREATE INDEX by_use ON entries (used);
CREATE TABLE totals (held INTEGER NOT NULL, written INTEGER NOT NULL);
INSERT INTO totals VALUES (0, 0);
PRAGMA user_version = {FORMAT};
"""
# A table of its own, so that versions without it can still share the file: values that such a
# version wrote have no sum, and are computed again.
_SUMS = "CREATE TABLE sums (id INTEGER PRIMARY KEY, sum INTEGER NOT NULL)"
_SUM_ALL = (
    "INSERT INTO sums SELECT id, row_sum(key, part, value) FROM entries JOIN bodies USING (id)"
)

Key: TypeAlias = bytes | str


class NoRoomError(StoreError):
    """The disk is full: embeddings can be computed, and neither read nor kept."""


def damaged(path: Path, reason: str) -> StoreError:
    """The error for a file that is no sound cache."""
    return StoreError(
        f"the cache file {path} is damaged or no cache of this package ({reason}); delete it and "
        f"the files {path.name}-*: it is only a cache, and will be filled again"
    )


def opened(path: Path) -> sqlite3.Connection:
    """A connection to the file, which is made with its folder if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
    try:
        # deleted values need no zeros over them, and a power cut may cost the last writes
        db.execute("PRAGMA secure_delete = OFF")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        with transaction(db, "DEFERRED"):
            found = _version(db, path)
            summed = _has_sums(db)
        if found == 0:
            _begin_file(db, path)
        elif not summed:
            _add_sums(db)
    except BaseException:
        db.close()
        raise
    return db


def _version(db: sqlite3.Connection, path: Path) -> int:
    """This package's format, or 0 for an empty file; both reads must see one state of the file."""
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found not in (0, FORMAT):
        raise StoreError(
            f"the cache file {path} has format {found}, and this version reads {FORMAT}; delete "
            "it, it is only a cache, or give another folder"
        )
    if found == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise StoreError(
            f"{path} is an SQLite file of something else, not a cache; give another folder"
        )
    return found


def _begin_file(db: sqlite3.Connection, path: Path) -> None:
    db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    _log_ahead(db)
    with transaction(db, "IMMEDIATE"):
        if _version(db, path) == 0:  # no other process was first
            for statement in [*_SCHEMA.split(";"), _SUMS]:
                db.execute(statement)


def _has_sums(db: sqlite3.Connection) -> bool:
    names = "SELECT count(*) FROM sqlite_master WHERE name = 'sums'"
    return bool(db.execute(names).fetchone()[0])


def _add_sums(db: sqlite3.Connection) -> None:
    """Take the values of an older version as they are now: from here on, damage is noticed."""
    db.create_function("row_sum", 3, sum_of, deterministic=True)
    with transaction(db, "IMMEDIATE"):
        if not _has_sums(db):  # no other process was first
            db.execute(_SUMS)
            db.execute(_SUM_ALL)


def sum_of(key: Key, part: str, value: bytes) -> int:
    """A checksum of a value and its place: another key's value is as wrong as a damaged one."""
    place = key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")
    return zlib.crc32(value, zlib.crc32(part.encode(), zlib.crc32(place)))


def _log_ahead(db: sqlite3.Connection) -> None:
    """Switch the new file to write-ahead logging; SQLite does not wait for its lock here."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
            if not busy or time.monotonic() > until:  # a full disk stays full
                raise
            time.sleep(0.01)


@contextmanager
def transaction(db: sqlite3.Connection, kind: str) -> Iterator[None]:
    """All or nothing; after an error the connection is closed, which rolls back."""
    db.execute(f"BEGIN {kind}")
    yield
    db.execute("COMMIT")


def totals(db: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of values now, and bytes ever written: the clock of the last use."""
    with closing(db.execute("SELECT held, written FROM totals")) as rows:
        found = rows.fetchone()
    held, written = _whole(found, 2)
    return held, written


def note_use(db: sqlite3.Connection, worn: Sequence[tuple[Key, str]]) -> None:
    """Move entries to the front of the order of use."""
    try:
        with transaction(db, "IMMEDIATE"):
            now = totals(db)[1]
            rows = [(now, key, part) for key, part in worn]
            db.executemany("UPDATE entries SET used = ? WHERE key = ? AND part = ?", rows)
    except sqlite3.OperationalError:  # full or locked: the values are good, their order a hint
        if db.in_transaction:
            db.execute("ROLLBACK")


def _whole(row: tuple[object, ...] | None, count: int) -> tuple[int, ...]:
    """Check a row of so many counts; anything else is the error of a damaged file."""
    held = row or ()
    counts = tuple(value for value in held if isinstance(value, int) and 0 <= value < _GREATEST)
    if len(counts) != count or len(held) != count:
        raise _corrupt(f"{held} in place of {count} counts")
    return counts


def _corrupt(reason: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(reason)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def remove(db: sqlite3.Connection, places: Iterable[tuple[Key, str]]) -> int:
    """Delete entries that are there; the bytes that it freed."""
    freed = 0
    for place in places:
        for row in db.execute(
            "SELECT size, id FROM entries WHERE key = ? AND part = ?", place
        ).fetchall():
            size, body = _whole(row, 2)
            db.execute("DELETE FROM bodies WHERE id = ?", (body,))
            db.execute("DELETE FROM sums WHERE id = ?", (body,))
            db.execute("DELETE FROM entries WHERE key = ? AND part = ?", place)
            freed += size
    return freed


def evict(db: sqlite3.Connection, excess: int) -> int:
    """Delete the least recently used until so many bytes are free; the bytes that it freed."""
    freed = 0
    while freed < excess:
        oldest = db.execute(
            "SELECT key, part, size FROM entries ORDER BY used LIMIT ?", (_AT_ONCE,)
        ).fetchall()
        if not oldest:
            break
        going = []
        for key, part, size in oldest:
            if freed >= excess:
                break
            going.append((key, part))
            freed += max(1, *_whole((size,), 1))
        remove(db, going)
    return freed
