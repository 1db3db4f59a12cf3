"""EdgeStore: an index in a folder, searched inside this process by the Qdrant Edge engine."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bge_m3_integrations.core.display import called
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode, Modes, as_modes, ordered_modes
from bge_m3_integrations.core.filters import Filter
from bge_m3_integrations.core.records import Candidate, Record
from bge_m3_integrations.core.scores import Components
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.stores.base import Capabilities, Page
from bge_m3_integrations.stores.display import parts_of
from bge_m3_integrations.stores.edge import writes
from bge_m3_integrations.stores.edge.folder.config import FolderConfig
from bge_m3_integrations.stores.edge.folder.discovery import as_folder, reading
from bge_m3_integrations.stores.edge.folder.disk_space import check_room
from bge_m3_integrations.stores.edge.folder.files import size_on_disk
from bge_m3_integrations.stores.edge.folder.folder import Folder
from bge_m3_integrations.stores.edge.folder.manifest import Manifest
from bge_m3_integrations.stores.edge.folder.open_handles import OpenHandles, SharedHandle
from bge_m3_integrations.stores.edge.lifecycle import back_up, open_folder, read_folder
from bge_m3_integrations.stores.edge.open_index import OpenIndex
from bge_m3_integrations.stores.edge.points import checked, embeddings_of, point_id, record_of
from bge_m3_integrations.stores.edge.search import components, find
from bge_m3_integrations.stores.edge.shard.checked import CheckedShard
from bge_m3_integrations.stores.validation import (
    as_fields,
    check_after,
    check_holds,
    checked_queries,
    id_list,
)

_OPENED: OpenHandles[EdgeStore, OpenIndex] = OpenHandles()
_READ: OpenHandles[EdgeStore, OpenIndex] = OpenHandles()
"""Those that are only read."""


class EdgeStore(SharedHandle):
    """Keeps records and all three representations in a folder, through crashes.

    A write survives a killed process once it returns, and a power cut after the next `flush`.
    Thread-safe; one process at a time holds a folder, and a forked child can use none of its
    parent's. Searches are exact, except dense ones over
    more than 50,000 matching documents after `optimize`.

    Made by `open`.
    """

    def __init__(self, folder: Folder, manifest: Manifest, shard: CheckedShard) -> None:
        super().__init__(folder.path, read_only=folder.read_only)
        self._index = OpenIndex(folder, manifest, shard, self._opens)
        self._handles = _READ if folder.read_only else _OPENED

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: FolderConfig | None = None,
        *,
        create: bool = True,
        read_only: bool = False,
    ) -> EdgeStore:
        """Open a folder's index, or begin one; a second `open` in this process shares the first.

        Args:
            path: The folder. It is made if it does not exist.
            config: The config the index must have, or begins with.
            create: Begin an index where there is none.
            read_only: Change nothing in the folder, which several processes may then have open.

        Returns:
            The store; `close` it as often as it was opened.

        Raises:
            StoreError: Another process holds it, it is no index of ours, or none at all and
                `create` is False, it contradicts what is asked for, or it cannot be written.
            InputError: A new index lacks a width.
        """
        place, config = as_folder(path), config or FolderConfig()
        handles = _READ if read_only else _OPENED
        with handles.turn(place), reading(place):
            if (store := handles.at(place)) is None:
                if read_only:
                    store = cls(*read_folder(place, config))
                else:
                    store = cls(*open_folder(place, config, create=create))
                handles.put(place, store, store._index)
            else:
                store._index.check_same()
                config.check(store.manifest, place)
            store._use()
            return store

    @staticmethod
    def is_open(path: str | Path) -> bool:
        """Whether this process has the folder's index open."""
        place = as_folder(path)
        for handles in (_OPENED, _READ):
            with handles.turn(place):
                if handles.at(place) is not None:
                    return True
        return False

    @property
    def _shard(self) -> CheckedShard:
        return self._index.shard

    @property
    def manifest(self) -> Manifest:
        """The folder's manifest."""
        return self._index.manifest

    @property
    def capabilities(self) -> Capabilities:
        """Everything, in the modes it keeps."""
        return self._index.manifest.capabilities

    def check_records(self, records: Sequence[Record]) -> None:
        """Refuse records that JSON would change, before their texts are encoded; see `upsert`."""
        self._index.folder.check_writable()
        for record in records:
            checked(record)

    def upsert(self, records: Sequence[Record], embeddings: EmbeddingBatch) -> None:
        """See `Store.upsert`; nothing is written unless all of the batch is sound.

        A killed process may leave some records of the batch written, each of them whole.

        Args:
            records: Records of distinct ids, of JSON values.
            embeddings: One row per record, in the modes and widths that the store keeps.

        Raises:
            InputError: The batch contradicts itself, holds numbers that are not finite, or values
                that JSON would change.
            StoreError: The batch has other modes or widths; the disk has no room; the store is
                closed or being optimized.
        """
        writes.upsert(self._index, records, embeddings)

    def rewrite(self, records: Sequence[Record]) -> None:
        """See `Store.rewrite`; a value that JSON would change is an `InputError`."""
        writes.rewrite(self._index, records)

    def text_hashes(self, ids: Sequence[str]) -> list[str | None]:
        """The `Record.text_hash` of each id's record; None for an unknown id."""
        points = [point_id(record_id) for record_id in id_list(ids)]
        with self._index.reading() as shard:
            held = shard.payloads(points, ["hash"])
        return [held[point]["hash"] if point in held else None for point in points]

    def delete(self, *, ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """See `Store.delete`."""
        return writes.delete(self._index, ids, where)

    def get(self, ids: Sequence[str]) -> list[Record | None]:
        """See `Store.get`."""
        points = [point_id(record_id) for record_id in id_list(ids)]
        with self._index.reading() as shard:
            held = shard.payloads(points, ["name", "body"])
        found = {point: record_of(payload) for point, payload in held.items()}
        return [found.get(point) for point in points]

    def scroll(
        self, where: Filter | None = None, *, after: str | None = None, limit: int = 1000
    ) -> Page:
        """See `Store.scroll`."""
        check_int("limit", limit)
        check_after(after)
        with self._index.reading() as shard:
            ids = self._index.filters.ids(where, shard)
        start = 0 if after is None else bisect_right(ids, after)
        page = ids[start : start + limit]
        records = [record for record in self.get(page) if record is not None]
        return Page(records, page[-1] if start + limit < len(ids) else None)

    def ids(self, where: Filter | None = None) -> Iterator[str]:
        """See `Store.ids`; of the moment of the call."""
        with self._index.reading() as shard:
            return iter(self._index.filters.ids(where, shard))

    def find(
        self, queries: EmbeddingBatch, mode: Mode, *, limit: int, where: Filter | None = None
    ) -> list[list[Candidate]]:
        """See `Store.find`.

        By token vectors every matching document is scored: minutes, where there are many.
        """
        check_int("limit", limit)
        with self._index.reading() as shard:
            checked = self._checked(queries, [mode])
            each = [checked.take([i]) for i in range(len(checked))]
            filters = self._index.filters
            return [
                find(query, mode, limit=limit, where=where, filters=filters, shard=shard)
                for query in each
            ]

    def score(
        self, queries: EmbeddingBatch, ids: Sequence[Sequence[str]], modes: Modes
    ) -> list[Components]:
        """See `Store.score`; token vectors are scored in the engine, as they are kept."""
        if len(ids) != len(queries):
            raise InputError(f"{len(ids)} lists of ids for {len(queries)} queries")
        with self._index.reading() as shard:
            queries = self._checked(queries, modes)
            return [
                components(queries.take([i]), id_list(wanted), shard)
                for i, wanted in enumerate(ids)
            ]

    def vectors(self, ids: Sequence[str], modes: Modes) -> EmbeddingBatch:
        """See `Store.vectors`; token vectors as they are kept."""
        check_holds(as_modes(modes), self.manifest.kept)
        ids = id_list(ids)
        points = [point_id(record_id) for record_id in ids]
        with self._index.reading() as shard:
            held = shard.with_vectors(list(dict.fromkeys(points)), ordered_modes(modes))
        if unknown := [i for i, point in zip(ids, points, strict=True) if point not in held]:
            raise StoreError(f"no vectors for unknown ids {unknown[:5]}; ask get() which are there")
        return embeddings_of([held[point] for point in points], modes, self.manifest.widths)

    def count(self, where: Filter | None = None) -> int:
        """See `Store.count`."""
        with self._index.reading() as shard:
            return self._index.filters.count(where, shard)

    def count_now(self) -> int | None:
        """See `stores.display.CountsNow`."""
        return None if self._inherited else self._shard.count_now()

    def __repr__(self) -> str:
        return called(self, lambda: parts_of(self, closed=self._shard.closed))

    def flush(self) -> None:
        """See `Store.flush`: what was written survives a power cut."""
        self._index.flush_unfrozen()

    def optimize(
        self, *, isolated: bool = False, progress: Callable[[str], None] | None = None
    ) -> None:
        """See `Store.optimize`: builds graphs and gives the room of deleted records back.

        The engine holds Python's lock meanwhile, 3.4 minutes for 100,000 documents and 7.3 with
        their token vectors, on two cores: every other thread stands still, unless it happens
        `isolated`.

        Args:
            isolated: In a process of its own, on a copy that takes this one's place. Searches go
                on, writes are refused until it is done.
            progress: Called with each step's name.

        Raises:
            StoreError: The disk has no room, or the process failed; the index is as before.
        """
        tell = progress or _ignore
        if isolated:
            self._index.replace(tell, vacuum=False)
            return
        with self._index.changing() as shard:
            check_room(self.path, size_on_disk(self.path), "optimizing")
            tell("building")
            shard.optimize()
            shard.flush()
        tell("done")

    def compact(self, *, progress: Callable[[str], None] | None = None) -> None:
        """Give back the room of everything that was deleted or replaced, as `optimize` does apart.

        Args:
            progress: Called with each step's name.

        Raises:
            StoreError: The disk has no room for a copy, or the process failed; the index is as
                before.
        """
        self._index.replace(progress or _ignore, vacuum=True)

    def set_filter_fields(
        self, fields: Sequence[str] | None, *, progress: Callable[[str], None] | None = None
    ) -> None:
        """Change which metadata paths filters are fast on; a new one is written to every record.

        Searches go on, and are right throughout; writes wait. A killed process leaves an index of
        the old fields or of the new ones. What was written of paths that are no longer named stays
        until their records are replaced.

        Args:
            fields: Metadata paths; None is all.
            progress: Called with each step's name.

        Raises:
            InputError: These are no paths.
            StoreError: The disk has no room.
        """
        writes.set_filter_fields(self._index, as_fields(fields), progress or _ignore)

    def backup(self, path: str | Path) -> None:
        """Copy the index as it is now; searches go on meanwhile, writes wait.

        Args:
            path: A folder that does not exist yet, or is empty. It can be opened as an index.

        Raises:
            StoreError: The folder holds something, or the disk has no room.
        """
        target = as_folder(path)
        if self.read_only:
            with self._index.reading():
                back_up(self._index.folder, self._index.manifest, target)
            return
        with self._index.changing() as shard:
            self._index.flush(shard)
            shard.seal()
            back_up(self._index.folder, self._index.manifest, target)

    def close(self) -> None:
        """See `Store.close`: the last of its users' handles closes it.

        In a forked child it does nothing: all that there is to close is the parent's.

        Raises:
            StoreError: It is called by the `progress` of a change that it would have to wait for;
                or the disk is full, then nothing is lost, and the index stays open.
        """
        if self._inherited:
            return
        self._index.check_not_within()
        with self._handles.turn(self.path):
            self.forget()
            if not self._opens and self._handles.at(self.path) is self:
                with self._index.closing():
                    self._handles.close(self.path, self._index)

    def _checked(self, queries: EmbeddingBatch, modes: Modes) -> EmbeddingBatch:
        manifest = self._index.manifest
        return checked_queries(queries, modes, manifest.kept, manifest.widths)


def _ignore(_: str) -> None:
    """Tell nobody."""
