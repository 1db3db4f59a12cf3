"""An index that is only read: its folder stays as it is, and others may read it too.

The engine opens most of its files for writing, and makes new ones, whatever is asked of it. So it
gets a folder of its own among the temporary files, with copies of the files that it opens for
writing and links to the rest. Dense vectors before `optimize` and token vectors, by far the
largest, are among the former. The engine passes over symbolic links to them, so they are hard links
where temporary files are on the same disk and this process may write to them, though it never does;
else copies.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.checksums import SINCE, SUMS, Checksums
from bge_m3_integrations.stores.edge.folder.disk_space import check_room
from bge_m3_integrations.stores.edge.folder.files import bytes_on_disk, copy_file, reason_of
from bge_m3_integrations.stores.edge.folder.folder import Folder
from bge_m3_integrations.stores.edge.folder.locks import HOLDER, claim
from bge_m3_integrations.stores.edge.folder.manifest import Manifest
from bge_m3_integrations.stores.edge.folder.path_identity import FolderIdentity

_LINKED = 1 << 20
"""Bytes from which a file is worth a link."""
_READ = ("matrix.dat", "inverted_index.dat", "*.bin")
"""Files that the engine opens for reading alone."""
_VECTORS = "chunk_*.mmap"
"""Files that it opens for writing, and only writes to when records come."""
_LOG = "wal"
_FIX = (
    "free some space, or name another place in the environment variable TMPDIR, on the disk of the "
    "index if you can: then the largest files are linked"
)
Way = Literal["folder", "copy", "symbolic", "hard"]


def read_only_error(path: Path) -> StoreError:
    """Describe that nothing is written to an index that is only read."""
    return StoreError(
        f"the index in {path} was opened with read_only=True and cannot be changed; open it "
        "without, in one process, to write to it"
    )


class ReadFolder(Folder):
    """A folder with an index that processes read, and nobody writes to, until `release`.

    It raises `StoreError` where a process holds it for writing.
    """

    read_only = True

    def __init__(self, path: Path) -> None:
        self.path, self._pid = path, os.getpid()
        self.rewriting = threading.RLock()
        try:
            self._claims = (claim(path, shared=True),)
            if (path / "lock").exists():  # for where no folders are locked
                self._claims += (claim(path / "lock", shared=True),)
        except BlockingIOError as error:
            self._unclaim()
            raise self._in_use() from error
        self._identity = FolderIdentity(path)
        self._made: list[weakref.finalize[..., object]] = []

    def check_writable(self) -> None:
        """Raise `StoreError`: nothing is written here."""
        raise read_only_error(self.path)

    def release(self) -> None:
        """Let others write to the folder, and delete the files made for the engine."""
        self._unclaim()
        self._identity.close()
        for made in self._made:
            made()

    def shard(self, manifest: Manifest) -> Path:
        """Make the folder in which the engine finds a shard; `release` deletes it."""
        source = self.path / manifest.shard
        place = Path(tempfile.gettempdir())
        closed = not (self.path / HOLDER).exists() and Checksums(source).state == "clean"
        parts = list(_parts(source, closed=closed, disk=place.stat().st_dev))
        needed = sum(size for _, way, size in parts if way == "copy")
        check_room(
            place, needed, f"opening {self.path} with read_only=True copies files, which", then=_FIX
        )
        made = Path(tempfile.mkdtemp(prefix="bge-m3-reading-", dir=place))
        self._made.append(weakref.finalize(self, _delete, made, os.getpid()))
        try:
            for name, way, _ in parts:
                _place(source / name, made / manifest.shard / name, way)
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be opened with read_only=True: {reason_of(error)}; the "
                "environment variable TMPDIR says where temporary files are made"
            ) from error
        return made / manifest.shard


def _hard_linked(here: Path, there: Path) -> bool:
    try:
        there.hardlink_to(here)
    except OSError:  # one disk, mounted twice
        check_room(there.parent, here.stat().st_size, f"a copy of {here}", then=_FIX)
        return False
    return True


def _parts(shard: Path, *, closed: bool, disk: int) -> Iterator[tuple[Path, Way, int]]:
    """All of a shard by name, and its bytes on the disk; folders before what is in them.

    A closed shard has all of its log in its files. Otherwise the engine takes up again writes that
    are only in the log, which may change any file that is not copied.
    """
    for parent, folders, files in os.walk(shard):
        here = Path(parent)
        yield here.relative_to(shard), "folder", 0
        if here == shard and closed and _LOG in folders:
            folders.remove(_LOG)
        for name in set(files) - {SUMS, SINCE}:
            state = (here / name).stat()
            size = bytes_on_disk(state)
            way: Way = "copy"
            if size >= _LINKED and os.name != "nt":  # where few users may make links
                way = _way(here / name, closed=closed, same=state.st_dev == disk)
            yield (here / name).relative_to(shard), way, size


def _place(here: Path, there: Path, way: Way) -> None:
    """Link or copy a file or a folder from one shard into another."""
    match way:
        case "folder":
            there.mkdir(parents=True)
        case "symbolic":
            there.symlink_to(here)
        case "hard" if _hard_linked(here, there):
            pass
        case _:
            copy_file(str(here), str(there))
            there.chmod(0o600)


def _way(file: Path, *, closed: bool, same: bool) -> Way:
    """The way to hand the engine a large file; `same`: the temporary files are on its disk."""
    if any(fnmatch(file.name, pattern) for pattern in _READ):
        return "symbolic"
    written = not closed or not fnmatch(file.name, _VECTORS)
    return "copy" if written or not same or not os.access(file, os.W_OK) else "hard"


def _delete(made: Path, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(made, ignore_errors=True)
