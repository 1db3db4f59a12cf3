"""Checksums of a shard's files and its number of records, compared before it is loaded again.

The engine passes over some missing or damaged files, and gives fewer or older records. So two
files lie in a shard beside the engine's own: `sums.json`, written after a flush, and `since.json`,
which says how far the files may have moved on since. A killed process is no damage: nothing is
compared that cannot be known after one.

| since the sums | may differ |
|---|---|
| `clean`: nothing | nothing |
| `loading`: the engine loads the shard | three kinds of file that it tidies |
| `written`: records came or went | files of a write; the rest is brought to disk by a flush |
| `changing`: a flush, a graph, an index | everything but the number of records |
"""

from __future__ import annotations

import json
import os
import secrets
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.discovery import is_systems
from bge_m3_integrations.stores.edge.folder.files import (
    blocks_of,
    bytes_on_disk,
    read_file,
    replace_file,
)
from bge_m3_integrations.stores.edge.folder.manifest import NAME, guard_of

SUMS = "sums.json"
SINCE = "since.json"
_MOST = 64 << 20
"""Bytes of a file up to which it is summed. Of those that change with every write, only at rest."""
_NOTE_BYTES = 512
_TOPS = ("edge_config.json", "segments", "wal")
_TIDIED = ("tracker_journal.dat", "edge_config.json", "mutable_id_tracker.versions")
_WRITTEN = ("bitmask.dat", "gaps.dat", "page_", "chunk_", "wal/")
"""Beginnings of names of files that change before a flush."""

State: TypeAlias = Literal["clean", "loading", "written", "changing"]
Entry: TypeAlias = tuple[int, int | None]
"""Length of a file, and its checksum if it was taken."""


@dataclass(frozen=True, slots=True)
class _Note:
    """Changes since the sums: `since.json`.

    Attributes:
        sums: The id of the sums.
        state: See the module.
        least: Records that there are at least, after a power cut too.
        now: Records that there are at least where the system has run since.
        boot: The run of the system that `now` is about.
    """

    sums: str
    state: State = "clean"
    least: int = 0
    now: int = 0
    boot: str = ""


@dataclass(frozen=True, slots=True)
class _Sums:
    """The content of `sums.json`.

    Attributes:
        id: Tells these sums from others.
        records: Number of records.
        at: Time of writing.
        manifests: The possible guards of the manifest, see `guard_of`.
        files: Every file of the engine's.
    """

    id: str
    records: int
    at: str
    manifests: tuple[int, ...] = ()
    files: Mapping[str, Entry] = field(default_factory=dict)


class Checksums:
    """The checksums of a shard's files, and how far the files may have moved on since."""

    def __init__(self, shard: Path) -> None:
        self._shard = shard
        self._load()

    def _load(self) -> None:
        self._held: _Sums | Any = _read(self._shard / SUMS)  # or None
        self._note = _Note("")
        if self._held is not None:
            self._note = _note(self._shard / SINCE, self._held)
        self._at_rest = False

    @property
    def state(self) -> State:
        """The state of the files since the sums."""
        return self._note.state

    def check(self) -> None:
        """Raise `StoreError` where a file is not as its sum says, as far as the state allows."""
        if self._held is None:
            return
        manifests, guard = self._held.manifests, guard_of(self._shard.parent)
        if manifests and guard is not None and guard not in manifests:
            raise self._damaged(self._shard.parent / NAME, "says something else than when it was")
        if self.state == "changing":
            return
        found = dict(_files(self._shard))
        for name, (size, total) in self._held.files.items():
            self._compare(name, size, total, found)
        extra = [name for name in found if name not in self._held.files]
        if extra and self.state == "clean":
            raise self._damaged(self._shard / extra[0], "was not there when the index was")

    def _compare(
        self, name: str, size: int, total: int | None, found: Mapping[str, os.DirEntry[str]]
    ) -> None:
        if self._may_differ(name):
            return
        if name not in found:
            raise self._damaged(self._shard / name, "is missing; it was there when the index was")
        if found[name].stat().st_size != size:
            now = found[name].stat().st_size
            what = f"is damaged: {now} bytes long, in place of {size} when it was"
            raise self._damaged(self._shard / name, what)
        if total is not None and sum_of(found[name]) != total:
            raise self._damaged(self._shard / name, "is damaged: other bytes than when it was")

    def _may_differ(self, name: str) -> bool:
        if self.state == "clean":
            return False
        if name.endswith(_TIDIED):
            return True
        return self.state == "written" and _is_written(name)

    def check_records(self, count: int) -> None:
        """Raise `StoreError` where the engine has found fewer records than there were."""
        if self._held is None:
            return
        least = self._note.least
        if self._note.boot and self._note.boot == _boot():
            least = max(least, self._note.now)
        exactly = self.state in {"clean", "loading"}
        if count < least or (exactly and count != self._held.records):
            raise StoreError(
                f"the index in {self._shard.parent} holds {count} records, but there were "
                f"{max(least, self._held.records)}: some of {self._shard} was lost or damaged, its "
                f"log {self._shard / 'wal'} or what the log was to complete; {self._remedy()}"
            )

    def note(self, state: State) -> None:
        """Write down how far the files may move on from now, before they do."""
        if state != self._note.state:
            self._write_note(replace(self._note, state=state), durable=True)
            self._at_rest = False

    def deleting(self, count: int) -> None:
        """Write down that there will be fewer records."""
        note = self._note
        least, now = max(0, note.least - count), max(0, note.now - count)
        self._write_note(replace(note, least=least, now=now), durable=True)

    def wrote(self, count: int) -> None:
        """Write down how many records there are, for as long as the system runs."""
        self._write_note(replace(self._note, now=count, boot=_boot()), durable=False)

    def write(self, records: int, *, at_rest: bool = False, unwritten: bool = False) -> None:
        """Take the sums of all files; nothing of them is on its way to the disk.

        Args:
            records: How many there are.
            at_rest: Whether files that change with every write are summed too.
            unwritten: Whether none of those has changed since the sums before.
        """
        if self.state == "clean" and self._held is not None and (self._at_rest or not at_rest):
            return
        kept = self._held is not None and (unwritten or self.state == "clean")
        old = self._held.files if self._held is not None and kept else {}
        files = {
            name: _entry(file, old.get(name), at_rest or not _is_written(name))
            for name, file in _files(self._shard)
        }
        guard, at = guard_of(self._shard.parent), time.strftime("%Y-%m-%d %H:%M:%S")
        manifests = () if guard is None else (guard,)
        self._put(_Sums(secrets.token_hex(8), records, at, manifests, files), at_rest=at_rest)

    def expect(self, guard: int) -> None:
        """Let the manifest be one of this guard soon; see `guard_of`."""
        if self._held is not None:
            self._put_same(replace(self._held, manifests=(*self._held.manifests, guard)))

    def _put(self, made: _Sums, *, at_rest: bool) -> None:
        note = _Note(made.id, "clean", made.records, made.records, _boot())
        try:
            self._put_same(made)
            self._write_note(note, durable=True)
            self._at_rest = at_rest
        except BaseException as error:  # what lies there counts: a signal comes at any moment
            with suppress(StoreError):
                self._load()
            if not isinstance(error, StoreError):  # a full disk: then there is less to compare
                raise

    def _put_same(self, sums: _Sums) -> None:
        body = {kept.name: getattr(sums, kept.name) for kept in fields(sums)}
        replace_file(self._shard / SUMS, json.dumps({**body, "sum": _digest(body)}, indent=1))
        self._held = sums

    def _write_note(self, note: _Note, *, durable: bool) -> None:
        """Write in place: a file of one sector is the old or the new one, and takes no room."""
        if self._held is None:
            return
        text = json.dumps(asdict(note)).encode().ljust(_NOTE_BYTES - 1) + b"\n"
        path = self._shard / SINCE
        try:
            with path.open("r+b" if path.exists() else "xb", buffering=0) as file:
                file.write(text)
                if durable:
                    os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written: {error}; the index is as before"
            ) from error
        self._note = note

    def _damaged(self, file: Path, what: str) -> StoreError:
        return StoreError(f"{file} {what} written at {self._held.at}; {self._remedy()}")

    def _remedy(self) -> str:
        return (
            f"{self._held.records} records were there then, and a backup brings back those of its "
            f"own time; nothing was changed. To open what is left, or where a version of "
            f"bge-m3-integrations without checksums has written there, delete {self._shard / SUMS}"
        )


def forget(shard: Path) -> None:
    """Delete the sums of a copy that is going to be changed."""
    for name in (SUMS, SINCE):
        (shard / name).unlink(missing_ok=True)


def sum_of(file: str | os.DirEntry[str]) -> int:
    """Return the CRC-32 of a file's blocks that hold anything but zeros, and of their places.

    It is the same with holes and without.
    """
    total = 0
    with open(file, "rb", buffering=0) as opened:  # noqa: PTH123 - many small files
        for place, block in blocks_of(opened.fileno(), os.fstat(opened.fileno()).st_size):
            total = zlib.crc32(block, zlib.crc32(place.to_bytes(8, "big"), total))
    return total


def _entry(file: os.DirEntry[str], old: Entry | None, summed: bool) -> Entry:
    status = file.stat()
    if summed and bytes_on_disk(status) <= _MOST:
        return status.st_size, sum_of(file)
    return old if old is not None and old[0] == status.st_size else (status.st_size, None)


def _is_written(name: str) -> bool:
    """Whether writing records changes a file before they are flushed."""
    return name.startswith(_WRITTEN) or name.rpartition("/")[2].startswith(_WRITTEN)


def _files(shard: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The engine's files, by their names below the shard."""
    with os.scandir(shard) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name in _TOPS:
                yield from _below(entry, entry.name)


def _below(entry: os.DirEntry[str], name: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    if not entry.is_dir():
        yield name, entry
        return
    with os.scandir(entry) as entries:
        for inner in sorted(entries, key=lambda inner: inner.name):
            # the engine passes over hidden names too
            if not inner.name.startswith(".") and not is_systems(inner.name):
                yield from _below(inner, f"{name}/{inner.name}")


def _read(path: Path) -> _Sums | None:
    try:
        held = json.loads(read_file(path))
        total = held.pop("sum")
        if total != _digest(held):
            raise ValueError("other bytes than were written")
        files = {name: tuple(entry) for name, entry in held["files"].items()}
        return _Sums(**{**held, "files": files, "manifests": tuple(held["manifests"])})
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{path} is damaged: {error}; it says what the files beside it must be, so they may be "
            "damaged too: restore a backup, or delete it to open the index as it is"
        ) from error


def _note(path: Path, sums: _Sums) -> _Note:
    """Read the changes since these sums; nothing is known where the note was cut."""
    clean = _Note(sums.id, "clean", sums.records, sums.records)
    try:
        note = _Note(**json.loads(read_file(path)))
    except FileNotFoundError:
        return clean
    except (OSError, ValueError, TypeError, RecursionError):
        return replace(clean, state="changing", least=0, now=0)
    return note if note.sums == sums.id else clean


def _digest(body: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def _boot() -> str:
    """Which run of the system this is; empty where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
