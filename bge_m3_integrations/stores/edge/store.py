"""EdgeStore: an index in a folder, searched inside this process by the Qdrant Edge engine."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from bge_m3_integrations.core.display import called
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode, Modes, as_modes, ordered_modes
from bge_m3_integrations.core.filters import OPERATORS, Filter
from bge_m3_integrations.core.records import Candidate, Record
from bge_m3_integrations.core.scores import Components
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.stores.base import Capabilities, Page
from bge_m3_integrations.stores.display import parts_of
from bge_m3_integrations.stores.edge.folder.discovery import as_folder, reading
from bge_m3_integrations.stores.edge.folder.disk_space import Room, check_flush, check_room
from bge_m3_integrations.stores.edge.folder.folder import Folder, size_on_disk
from bge_m3_integrations.stores.edge.folder.holder import note_opens
from bge_m3_integrations.stores.edge.folder.manifest import EncoderInfo, Manifest, Wanted
from bge_m3_integrations.stores.edge.folder.open_handles import Opened
from bge_m3_integrations.stores.edge.ids import Names
from bge_m3_integrations.stores.edge.lifecycle import (
    back_up,
    open_folder,
    optimised_copy,
    read_folder,
    switched,
)
from bge_m3_integrations.stores.edge.payloads import Filed
from bge_m3_integrations.stores.edge.points import (
    body_of,
    embeddings_of,
    point_id,
    record_of,
    spans_of,
    upsert_of,
)
from bge_m3_integrations.stores.edge.resources import Held
from bge_m3_integrations.stores.edge.rewrite import refile
from bge_m3_integrations.stores.edge.search import Searching, components
from bge_m3_integrations.stores.edge.selection import Choosing
from bge_m3_integrations.stores.edge.shard.checked import WatchedShard as Shard
from bge_m3_integrations.stores.validation import (
    as_fields,
    check_after,
    check_batch,
    check_fits,
    check_holds,
    check_limit,
    check_same_texts,
    checked_queries,
    id_list,
)

_LOG_BYTES = 512 << 20
"""Bytes written before they are flushed unasked: the engine's log keeps them until then, token
vectors in float32."""


_OPENED: Opened[EdgeStore, Held] = Opened(Held.leave)
_READ: Opened[EdgeStore, Held] = Opened(Held.leave)
"""Those that are only read."""


class EdgeStore:
    """Keeps records and all three representations in a folder, through crashes.

    A write survives a killed process once it returns, and a power cut after the next `flush`.
    Thread-safe; one process at a time holds a folder, and a forked child can use none of its
    parent's. Searches are exact, except dense ones over
    more than 50,000 matching documents after `optimize`.

    Made by `open`.
    """

    def __init__(self, folder: Folder, manifest: Manifest, shard: Shard) -> None:
        self._folder, self._manifest = folder, manifest
        self._held = Held(folder, shard)
        self._names = Names()
        self._choosing = Choosing(manifest.fields, self._names)
        self._searching = Searching(self._choosing, self._names)
        self._writing = threading.RLock()
        self._replacing = threading.Lock()  # is taken before `_writing`, where both are
        self._frozen = ""
        self._changer: int | None = None
        self._replacer: int | None = None
        self._room = Room(folder.path)
        self._opens: list[None] = []  # as many as are not closed: changed without a lock
        self._opened = _READ if folder.read_only else _OPENED

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        modes: Modes | None = None,
        dim: int | None = None,
        colbert_dim: int | None = None,
        colbert: str | None = None,
        pooling: int | None = None,
        filter_fields: Sequence[str] | None = None,
        encoder: EncoderInfo | None = None,
        allow_dtype_mismatch: bool = False,
        create: bool = True,
        read_only: bool = False,
    ) -> EdgeStore:
        """Open a folder's index, or begin one; a second `open` in this process shares the first.

        None means "as the index has it", and for a new index the default.

        Args:
            path: The folder. It is made if it does not exist.
            modes: The modes to keep; by default those of which a width is given, and sparse.
            dim: Width of dense vectors; a new index with the mode needs it.
            colbert_dim: Width of token vectors; a new index with the mode needs it.
            colbert: How token vectors are kept: "turbo8" (1 byte per number, error of a score
                about 3e-5 at a width of 1,024, and there the default), "float16" (the default of
                narrower ones), "float32", or "reencode": not at all, what scores must encode
                candidates again.
            pooling: How many token vectors share one that is kept; the caller pools, and this
                store writes it down. Default 1.
            filter_fields: Metadata paths that filters are to be fast on; by default all. Filters
                on other paths work and read every record.
            encoder: What makes the numbers; compared with what made those of an old index.
            allow_dtype_mismatch: Let int8 numbers meet float ones.
            create: Begin an index where there is none.
            read_only: Change nothing in the folder, which several processes may then have open.

        Returns:
            The store; `close` it as often as it was opened.

        Raises:
            StoreError: Another process holds it, it is no index of ours, or none at all and
                `create` is False, it contradicts what is asked for, or it cannot be written.
            InputError: A new index lacks a width.
        """
        fields = as_fields(filter_fields)
        wanted = Wanted(
            modes,
            dim,
            colbert_dim,
            colbert,
            pooling,
            fields,
            encoder,
            allow_dtype_mismatch=allow_dtype_mismatch,
        )
        place = as_folder(path)
        opened = _READ if read_only else _OPENED
        with opened.turn(place), reading(place):
            if (store := opened.at(place)) is None:
                if read_only:
                    store = cls(*read_folder(place, wanted))
                else:
                    store = cls(*open_folder(place, wanted, create=create))
                opened.put(place, store, store._held)
            else:
                store._check_same()
                wanted.check(store.manifest, place)
            store._opens.append(None)
            store._note_opens()
            return store

    @staticmethod
    def is_open(path: str | Path) -> bool:
        """Whether this process has the folder's index open."""
        place = as_folder(path)
        for opened in (_OPENED, _READ):
            with opened.turn(place):
                if opened.at(place) is not None:
                    return True
        return False

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def read_only(self) -> bool:
        """Whether nothing in the folder can be changed by this store."""
        return self._folder.read_only

    @property
    def _shard(self) -> Shard:
        return self._held.shard

    @property
    def manifest(self) -> Manifest:
        """What the folder says of itself."""
        return self._manifest

    @property
    def capabilities(self) -> Capabilities:
        """Everything, in the modes it keeps."""
        return capabilities_of(self._manifest)

    def check_records(self, records: Sequence[Record]) -> None:
        """Refuse records that JSON would change, before their texts are encoded.

        Args:
            records: To be written.

        Raises:
            InputError: See `upsert`.
        """
        self._folder.check_writable()
        for record in records:
            body_of(record)

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
                closed or being optimised.
        """
        self._folder.check_writable()
        check_batch(records, embeddings)
        with self._reading():
            if not records:
                return
        check_fits(embeddings, self._manifest.kept, self._manifest.widths)
        filed = self._filed(records, embeddings)
        ids = [record.id for record in records]
        each = filed.size // len(records)
        rounded = self._manifest.colbert != "float32"
        with self._room.promised(filed.size, f"{len(records)} records") as promise:
            for rows in spans_of(embeddings):
                points = upsert_of(filed.payloads, ids, embeddings, rows, rounded=rounded)
                with self._changing() as shard:
                    if (now := self._filed(records, embeddings, filed)) is not filed:
                        filed = now
                        points = upsert_of(filed.payloads, ids, embeddings, rows, rounded=rounded)
                    promise.take(each * len(ids[rows]))
                    shard.index_numbers(filed.numbers, named=filed.fields is not None)
                    shard.write(points, filed.numbers)
                    self._names.added(ids[rows])
                    self._written(each * len(ids[rows]), shard)

    def rewrite(self, records: Sequence[Record]) -> None:
        """Replace what known records hold beside their text; the numbers stay.

        Args:
            records: Of ids that are here, with the text that is here.

        Raises:
            StoreError: An id is unknown, or its text is another one.
            InputError: A value that JSON would change.
        """
        self._folder.check_writable()
        filed = self._filed(records)
        with self._changing() as shard:
            points = [point_id(record.id) for record in records]
            held = shard.payloads(points, ["hash", "tokens", "truncated"])
            check_same_texts(records, [held.get(p, {}).get("hash") for p in points])
            filed = self._filed(records, None, filed)
            check_room(self.path, filed.size, f"{len(records)} records")
            for point, payload in zip(points, filed.payloads, strict=True):
                shard.overwrite_payload(point, {**held[point], **payload})
            self._names.added(record.id for record in records)
            self._written(filed.size, shard)

    def text_hashes(self, ids: Sequence[str]) -> list[str | None]:
        """The `Record.text_hash` of what is kept under each id; None for an unknown id."""
        points = [point_id(record_id) for record_id in id_list(ids)]
        with self._reading() as shard:
            held = shard.payloads(points, ["hash"])
        return [held[point]["hash"] if point in held else None for point in points]

    def delete(self, *, ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """See `Store.delete`."""
        if (ids is None) == (where is None):
            raise InputError("delete needs ids or where, exactly one of them")
        with self._changing() as shard:
            chosen = id_list(ids) if ids is not None else self._choosing.ids(where, shard)
            known = shard.payloads([point_id(key) for key in set(chosen)], [])
            check_room(self.path, 64 * len(known), f"deleting {len(known)} records")
            shard.delete(list(known))
            self._names.deleted(key for key in chosen if point_id(key) in known)
            self._written(64 * len(known), shard)
        return len(known)

    def get(self, ids: Sequence[str]) -> list[Record | None]:
        """See `Store.get`."""
        points = [point_id(record_id) for record_id in id_list(ids)]
        with self._reading() as shard:
            held = shard.payloads(points, ["name", "body"])
        found = {point: record_of(payload) for point, payload in held.items()}
        return [found.get(point) for point in points]

    def scroll(
        self, where: Filter | None = None, *, after: str | None = None, limit: int = 1000
    ) -> Page:
        """See `Store.scroll`."""
        check_limit(limit)
        check_after(after)
        with self._reading() as shard:
            ids = self._choosing.ids(where, shard)
        start = 0 if after is None else bisect_right(ids, after)
        page = ids[start : start + limit]
        records = [record for record in self.get(page) if record is not None]
        return Page(records, page[-1] if start + limit < len(ids) else None)

    def ids(self, where: Filter | None = None) -> Iterator[str]:
        """See `Store.ids`; of the moment of the call."""
        with self._reading() as shard:
            return iter(self._choosing.ids(where, shard))

    def find(
        self, queries: EmbeddingBatch, mode: Mode, *, limit: int, where: Filter | None = None
    ) -> list[list[Candidate]]:
        """See `Store.find`.

        By token vectors every matching document is scored: minutes, where there are many.
        """
        check_limit(limit)
        with self._reading() as shard:
            checked = self._checked(queries, [mode])
            each = [checked.take([i]) for i in range(len(checked))]
            return [
                self._searching.find(q, mode, limit=limit, where=where, shard=shard) for q in each
            ]

    def score(
        self, queries: EmbeddingBatch, ids: Sequence[Sequence[str]], modes: Modes
    ) -> list[Components]:
        """See `Store.score`; token vectors are scored in the engine, as they are kept."""
        if len(ids) != len(queries):
            raise InputError(f"{len(ids)} lists of ids for {len(queries)} queries")
        with self._reading() as shard:
            queries = self._checked(queries, modes)
            return [
                components(queries.take([i]), id_list(wanted), shard)
                for i, wanted in enumerate(ids)
            ]

    def vectors(self, ids: Sequence[str], modes: Modes) -> EmbeddingBatch:
        """See `Store.vectors`; token vectors as they are kept."""
        check_holds(as_modes(modes), self._manifest.kept)
        ids = id_list(ids)
        points = [point_id(record_id) for record_id in ids]
        with self._reading() as shard:
            held = shard.with_vectors(list(dict.fromkeys(points)), ordered_modes(modes))
        if unknown := [i for i, point in zip(ids, points, strict=True) if point not in held]:
            raise StoreError(f"no vectors for unknown ids {unknown[:5]}; ask get() which are there")
        return embeddings_of([held[point] for point in points], modes, self._manifest.widths)

    def count(self, where: Filter | None = None) -> int:
        """See `Store.count`."""
        with self._reading() as shard:
            return self._choosing.count(where, shard)

    def count_now(self) -> int | None:
        """See `stores.shown.CountsNow`."""
        return None if self._folder.inherited else self._shard.count_now()

    def __repr__(self) -> str:
        return called(self, lambda: parts_of(self, closed=self._shard.closed))

    def flush(self) -> None:
        """See `Store.flush`: what was written survives a power cut."""
        self._folder.check_own()
        # the engine must not write while its files are copied
        with self._writing, self._reading() as shard:
            if not self._frozen:  # else all of it was flushed before
                self._flush(shard)

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
            progress: Called with what happens now.

        Raises:
            StoreError: The disk has no room, or the process failed; the index is as before.
        """
        tell = progress or (lambda _: None)
        if isolated:
            self._replace(tell, vacuum=False)
            return
        with self._changing() as shard:
            check_room(self.path, size_on_disk(self.path), "optimising")
            tell("building")
            shard.optimize()
            shard.flush()
        tell("done")

    def compact(self, *, progress: Callable[[str], None] | None = None) -> None:
        """Give back the room of everything that was deleted or replaced, as `optimize` does apart.

        Args:
            progress: Called with what happens now.

        Raises:
            StoreError: The disk has no room for a copy, or the process failed; the index is as
                before.
        """
        self._replace(progress or (lambda _: None), vacuum=True)

    def set_filter_fields(
        self, fields: Sequence[str] | None, *, progress: Callable[[str], None] | None = None
    ) -> None:
        """Change which metadata paths filters are fast on; a new one is written to every record.

        Searches go on, and are right throughout; writes wait. A killed process leaves an index of
        the old fields or of the new ones. What was written of paths that are no longer named stays
        until their records are replaced.

        Args:
            fields: Metadata paths; None is all.
            progress: Called with what happens now.

        Raises:
            InputError: These are no paths.
            StoreError: The disk has no room.
        """
        named = as_fields(fields)
        tell = progress or (lambda _: None)
        with self._changing() as shard:
            old, manifest = self._manifest.fields, replace(self._manifest, filter_fields=named)
            new = manifest.fields
            if old is not None and (new is None or not new <= old):
                # of both: searches go by the old ones meanwhile
                refile(shard, None if new is None else old | new, tell)
            self._go_by(manifest, shard)
            shard.outlast_users()  # they go by the old fields: no write may come before they end
        tell("done")

    def _go_by(self, manifest: Manifest, shard: Shard) -> None:
        """Write a manifest of other filter fields, and filter by them from then on."""
        choosing = Choosing(manifest.fields, self._names)
        searching = Searching(choosing, self._names)
        with self._folder.rewriting():
            self._check_same()
            shard.expect(manifest)
            written = False
            try:
                self._folder.write(manifest)
                written = True
            except BaseException:  # of a signal too, which may come once it is written
                written = self._folder.holds(manifest)
                raise
            finally:
                if written:
                    self._manifest, self._choosing, self._searching = manifest, choosing, searching

    def backup(self, path: str | Path) -> None:
        """Copy the index as it is now; searches go on meanwhile, writes wait.

        Args:
            path: A folder that does not exist yet, or is empty. It can be opened as an index.

        Raises:
            StoreError: The folder holds something, or the disk has no room.
        """
        target = as_folder(path)
        if self.read_only:
            with self._reading():
                back_up(self._folder, self._manifest, target)
            return
        with self._changing() as shard:
            self._flush(shard)
            shard.seal()
            back_up(self._folder, self._manifest, target)

    def close(self) -> None:
        """See `Store.close`: the last of its users' handles closes it.

        In a forked child it does nothing: all that there is to close is the parent's.

        Raises:
            StoreError: It is called by the `progress` of a change that it would have to wait for;
                or the disk is full, then nothing is lost, and the index stays open.
        """
        if self._folder.inherited:
            return
        if threading.get_ident() in {self._changer, self._replacer}:
            raise self._within()
        with self._opened.turn(self.path):
            self.forget()
            if not self._opens and self._opened.at(self.path) is self:
                with self._replacing, self._writing:
                    self._check_closing()
                    self._opened.close(self.path, self._held)

    def forget(self) -> None:
        """Count an open no more whose user is gone; what nobody has any more is closed.

        It waits for nothing, so it may be called while garbage is collected.
        """
        if self._folder.inherited:
            return
        with suppress(IndexError):
            self._opens.pop()
            if self._opens:
                self._note_opens()

    def _note_opens(self) -> None:
        if not self.read_only:
            note_opens(self.path, len(self._opens))

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a handle on one collection: frameworks copy the objects that hold it

    def _check_closing(self) -> None:
        """Refuse to close where the engine would find no room, which would kill the process.

        Who uses the shard is waited for here, where a signal that ends the wait closes nothing.
        """
        try:
            self._shard.outlast_users()
        except BaseException:
            self._opens.append(None)
            raise
        if not self._held.in_log or self._folder.change():
            return  # nothing will be flushed
        try:
            check_flush(self.path, self._held.in_log)
        except StoreError:
            self._opens.append(None)
            self._shard.keep()
            raise

    def _written(self, size: int, shard: Shard) -> None:
        """Take note of a write that is in the engine's log."""
        self._held.in_log += size
        if self._held.in_log > _LOG_BYTES:
            self._flush(shard)

    def _flush(self, shard: Shard) -> None:
        check_flush(self.path, self._held.in_log)
        shard.flush()
        self._held.in_log = 0

    @contextmanager
    def _changing(self) -> Iterator[Shard]:
        """One write at a time, and none while the shard is being replaced.

        Who has `_writing` has the shard of now to the end of the block: others take its place, and
        `_frozen` is set, under that lock alone.
        """
        self._folder.check_own()  # in a forked child nobody would give the lock back
        self._folder.check_writable()
        with self._writing, self._reading() as shard:
            self._check_writable()
            self._changer = threading.get_ident()
            try:
                yield shard
            except BaseException:
                self._names.unsure()
                raise
            finally:
                self._changer = None

    @contextmanager
    def _reading(self) -> Iterator[Shard]:
        """The shard of now, kept open to the end of the block even if another takes its place."""
        self._check_same()
        with ExitStack() as stack:
            while True:
                shard = self._shard
                try:
                    stack.enter_context(shard.in_use())
                    break
                except StoreError:
                    if shard is self._shard:
                        raise
            yield shard

    def _replace(self, tell: Callable[[str], None], *, vacuum: bool) -> None:
        """Put an optimised copy in the shard's place."""
        self._folder.check_own()
        self._folder.check_writable()
        if not self._replacing.acquire(blocking=False):
            raise self._busy("being optimised")
        try:  # nobody closes it meanwhile
            with self._changing() as old:
                self._flush(old)
                self._frozen = "being optimised"
            try:
                self._replacer = threading.get_ident()
                made = optimised_copy(self._folder, self._manifest, tell, vacuum=vacuum)
                with self._writing, self._folder.rewriting():
                    self._check_same()
                    self._held.shard, self._manifest = switched(self._folder, made, self._manifest)
            finally:
                self._frozen = ""
            old.close()
            self._folder.tidy(self._manifest)
            tell("done")
        finally:
            self._replacer = None
            self._replacing.release()

    def _filed(
        self,
        records: Sequence[Record],
        embeddings: EmbeddingBatch | None = None,
        before: Filed | None = None,
    ) -> Filed:
        """A batch by the filter fields of now, which the disk has room for.

        Filed `before` the write has the lock, it is that one still, unless the fields changed while
        the write waited.
        """
        fields = self._manifest.fields
        if before is not None and before.fields == fields:
            return before
        filed = Filed.of(records, embeddings, fields)
        check_room(self.path, filed.size, f"{len(records)} records")
        return filed

    def _check_writable(self) -> None:
        if self._frozen:
            raise self._busy(self._frozen)
        if self._changer is not None:  # whoever sees it has the lock, so it is this thread
            raise self._within()

    def _check_same(self) -> None:
        """Raise `StoreError` where a fork came by the index, or others changed its folder."""
        self._folder.check_own()
        if change := self._folder.change():
            times = f" {len(self._opens)} times" if len(self._opens) > 1 else ""
            raise StoreError(
                f"the index in {self.path} was deleted, moved, restored or recreated while it was "
                f"open here: {change}. Nothing was read or written, because this process knows "
                f"only the old index. Close it{times}, as often as it was opened, and open it again"
            )

    def _busy(self, what: str) -> StoreError:
        return StoreError(
            f"the index in {self.path} is {what} and cannot be written to until that is done; try "
            "again then"
        )

    def _within(self) -> StoreError:
        return StoreError(
            f"the index in {self.path} is being changed by this thread, which called this from its "
            "progress function; wait until that call has returned"
        )

    def _checked(self, queries: EmbeddingBatch, modes: Modes) -> EmbeddingBatch:
        return checked_queries(queries, modes, self._manifest.kept, self._manifest.widths)


def capabilities_of(manifest: Manifest) -> Capabilities:
    """What a store of such a folder can do."""
    modes = manifest.kept
    kind = manifest.colbert if "colbert" in modes else None
    return Capabilities(modes, modes, modes, OPERATORS, durable=True, colbert_kind=kind)
