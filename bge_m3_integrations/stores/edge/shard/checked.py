"""A shard whose files are compared with their checksums when it is loaded: see `checksums`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import qdrant_edge as engine

from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.checksums import Checksums
from bge_m3_integrations.stores.edge.folder.manifest import Manifest
from bge_m3_integrations.stores.edge.shard.shard import Shard


class CheckedShard(Shard):
    """A shard that keeps checksums of its files; whoever writes to it holds the lock of all writes.

    It raises `StoreError` where a file is missing or damaged, or the engine cannot load the shard.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._sums = Checksums(path)
        self._sums.check()
        cut = self._sums.state in {"written", "changing"}
        self._sums.note("changing" if cut else "loading")
        try:
            super().__init__(path, manifest, warm=True)
        except BaseException as error:
            self._cut(error)
            raise
        try:
            found = self.count(None)
            self._sums.check_records(found)
            self._sums.note("changing")
            if cut:
                super().flush()
            else:  # the first flush after loading changes files, though nothing was written
                self._run(lambda held: held.flush())
            self._sums.write(found, unwritten=not cut)
        except BaseException as error:
            self._cut(error)
            super().close()
            raise

    def write(self, points: engine.UpdateOperation) -> None:
        """See `Shard.write`."""
        self._begin()
        super().write(points)
        self._sums.wrote(self.count(None))

    def index_numbers(self, names: Iterable[str], *, named: bool = False) -> None:
        """See `Shard.index_numbers`."""
        fresh = set(names) - self._numbers
        if fresh:
            self._sums.note("changing")
        super().index_numbers(fresh, named=named)

    def overwrite_payload(self, point: UUID, payload: Mapping[str, Any]) -> None:
        """See `Shard.overwrite_payload`."""
        self._begin()
        super().overwrite_payload(point, payload)

    def delete(self, points: Sequence[UUID]) -> None:
        """See `Shard.delete`; the points are known ones."""
        self._begin()
        self._sums.deleting(len(points))
        super().delete(points)

    def flush(self) -> None:
        """See `Shard.flush`."""
        self._open()
        self._bring()

    def seal(self) -> None:
        """Take the sums of large files too, before the shard is copied or closed; it is flushed."""
        self._sums.write(self.count(None), at_rest=True)

    def expect(self, manifest: Manifest) -> None:
        """Let the folder's manifest be this one soon."""
        self._sums.expect(manifest.guard)

    def optimize(self) -> bool:
        """See `Shard.optimize`."""
        self._sums.note("changing")
        return super().optimize()

    def close(self) -> None:
        """See `Shard.close`."""
        try:
            if self._held is not None:
                if self._sums.state != "clean":
                    self._bring()
                self.seal()
        except BaseException as error:
            self._cut(error)
            super().close()
            raise
        super().close()

    def _bring(self) -> None:
        self._sums.note("changing")
        super().flush()
        self._sums.write(self.count(None))

    def _cut(self, error: BaseException) -> None:
        """Have nothing compared after a signal: the engine flushes a closed or freed shard."""
        if not isinstance(error, StoreError):
            with suppress(StoreError):
                self._sums.note("changing")

    def _begin(self) -> None:
        if self._sums.state != "changing":
            self._sums.note("written")
