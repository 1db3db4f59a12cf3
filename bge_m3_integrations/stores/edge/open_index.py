"""An open index: its folder and its shard of now, and who may use them when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.disk_space import DiskBudget, check_flush
from bge_m3_integrations.stores.edge.folder.folder import Folder
from bge_m3_integrations.stores.edge.folder.manifest import Manifest
from bge_m3_integrations.stores.edge.folder.open_handles import close_handles
from bge_m3_integrations.stores.edge.ids import IdIndex
from bge_m3_integrations.stores.edge.optimize import optimized_copy, switched
from bge_m3_integrations.stores.edge.selection import FilterResolver
from bge_m3_integrations.stores.edge.shard.checked import CheckedShard

_LOG_BYTES = 512 << 20
"""Bytes written before they are flushed unasked: the engine's log keeps them until then, token
vectors in float32."""


class OpenIndex:
    """The state of an open index, whose folder is held, and its locks.

    `opens` is as long as the index was opened more often than closed.
    """

    def __init__(
        self, folder: Folder, manifest: Manifest, shard: CheckedShard, opens: list[None]
    ) -> None:
        self.folder, self.manifest, self.shard = folder, manifest, shard
        self.ids = IdIndex()
        self.filters = FilterResolver(manifest.fields, self.ids)
        self.budget = DiskBudget(folder.path)
        self._opens, self._in_log = opens, 0
        self._writing = threading.RLock()
        self._replacing = threading.Lock()  # is taken before `_writing`, where both are
        self._frozen = False
        self._changer: int | None = None
        self._replacer: int | None = None

    @contextmanager
    def reading(self) -> Iterator[CheckedShard]:
        """The shard of now, kept open to the end of the block even if another takes its place."""
        self.check_same()
        with ExitStack() as stack:
            while True:
                shard = self.shard
                try:
                    stack.enter_context(shard.in_use())
                    break
                except StoreError:
                    if shard is self.shard:
                        raise
            yield shard

    @contextmanager
    def changing(self) -> Iterator[CheckedShard]:
        """One write at a time, and none while the shard is being replaced.

        Who has `_writing` has the shard of now to the end of the block: others take its place, and
        `_frozen` is set, under that lock alone.
        """
        self.folder.check_own()  # in a forked child nobody would give the lock back
        self.folder.check_writable()
        with self._writing, self.reading() as shard:
            self._check_changeable()
            self._changer = threading.get_ident()
            try:
                yield shard
            except BaseException:
                self.ids.invalidate()
                raise
            finally:
                self._changer = None

    def check_same(self) -> None:
        """Raise `StoreError` where a fork came by the index, or others changed its folder."""
        self.folder.check_own()
        if change := self.folder.change():
            times = f" {len(self._opens)} times" if len(self._opens) > 1 else ""
            raise StoreError(
                f"the index in {self.folder.path} was deleted, moved, restored or recreated while "
                f"it was open here: {change}. Nothing was read or written, because this process "
                f"knows only the old index. Close it{times}, as often as it was opened, and open "
                "it again"
            )

    def written(self, size: int, shard: CheckedShard) -> None:
        """Count the bytes of a write that is in the engine's log."""
        self._in_log += size
        if self._in_log > _LOG_BYTES:
            self.flush(shard)

    def flush(self, shard: CheckedShard) -> None:
        """Bring the engine's log to disk; for whoever writes."""
        check_flush(self.folder.path, self._in_log)
        shard.flush()
        self._in_log = 0

    def flush_unfrozen(self) -> None:
        """Bring everything to disk, unless it is being copied: then all of it was flushed before.

        The engine must not write while its files are copied.
        """
        self.folder.check_own()
        with self._writing, self.reading() as shard:
            if not self._frozen:
                self.flush(shard)

    def filter_by(self, manifest: Manifest, shard: CheckedShard) -> None:
        """Write a manifest of other filter fields, and filter by them from then on."""
        filters = FilterResolver(manifest.fields, self.ids)
        with self.folder.rewriting:
            self.check_same()
            shard.expect(manifest)
            written = False
            try:
                self.folder.write(manifest)
                written = True
            except BaseException:  # of a signal too, which may come once it is written
                written = self.folder.holds(manifest)
                raise
            finally:
                if written:
                    self.manifest, self.filters = manifest, filters

    def replace(self, tell: Callable[[str], None], *, vacuum: bool) -> None:
        """Put an optimized copy in the shard's place; after a `StoreError` the index is as before.

        It is being replaced already, the disk has no room, or the process failed.
        """
        self.folder.check_own()
        self.folder.check_writable()
        if not self._replacing.acquire(blocking=False):
            raise self._busy()
        try:  # nobody closes it meanwhile
            with self.changing() as old:
                self.flush(old)
                self._frozen = True
            try:
                self._replacer = threading.get_ident()
                made = optimized_copy(self.folder, self.manifest, tell, vacuum=vacuum)
                with self._writing, self.folder.rewriting:
                    self.check_same()
                    self.shard, self.manifest = switched(self.folder, made, self.manifest)
            finally:
                self._frozen = False
            old.close()
            self.folder.tidy(self.manifest)
            tell("done")
        finally:
            self._replacer = None
            self._replacing.release()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """A block in which nobody writes to it or replaces its shard.

        Raises:
            StoreError: The engine would find no room to flush, which would kill the process;
                nothing is lost, and the index stays open.
        """
        with self._replacing, self._writing:
            try:
                # who uses it is waited for here, where a signal that ends the wait closes nothing
                self.shard.outlast_users()
                if self._in_log and not self.folder.change():
                    check_flush(self.folder.path, self._in_log)
            except BaseException as error:
                self._opens.append(None)
                if isinstance(error, StoreError):
                    self.shard.keep()
                raise
            yield

    def close(self) -> None:
        """Give back the shard and the folder.

        Nothing is written to a folder that others changed meanwhile, nor to a full disk: all
        acknowledged writes are in the engine's log.
        """
        try:
            if self.folder.read_only or (self.folder.change() is None and self._has_room()):
                self.shard.close()
            else:
                self.shard.abandon(self.folder.log_lock())
        finally:
            self.folder.release()

    def leave(self) -> None:
        """In a forked child, leave it to the parent, with the lock that the engine has."""
        close_handles(self.folder.log_lock())

    def check_not_within(self) -> None:
        """Raise `StoreError` where the `progress` of a change would wait for that change."""
        if threading.get_ident() in {self._changer, self._replacer}:
            raise self._within()

    def _check_changeable(self) -> None:
        if self._frozen:
            raise self._busy()
        if self._changer is not None:  # whoever sees it has the lock, so it is this thread
            raise self._within()

    def _has_room(self) -> bool:
        try:
            check_flush(self.folder.path, self._in_log)
        except StoreError:
            return not self._in_log
        return True

    def _busy(self) -> StoreError:
        return StoreError(
            f"the index in {self.folder.path} is being optimized and cannot be written to until "
            "that is done; try again then"
        )

    def _within(self) -> StoreError:
        return StoreError(
            f"the index in {self.folder.path} is being changed by this thread, which called this "
            "from its progress function; wait until that call has returned"
        )
