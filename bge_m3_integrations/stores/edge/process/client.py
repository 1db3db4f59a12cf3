"""ProcessStore: an index in a folder, searched in a process of its own.

The engine holds Python's lock while it is called. In another process it is another lock:
this one only packs calls and unpacks answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bge_m3_integrations.core.display import called
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode, Modes, as_modes, ordered_modes
from bge_m3_integrations.core.filters import PREDICATE, Filter
from bge_m3_integrations.core.records import Candidate, Record
from bge_m3_integrations.core.scores import Components
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.base import Capabilities, Page
from bge_m3_integrations.stores.display import parts_of
from bge_m3_integrations.stores.edge.folder.config import FolderConfig
from bge_m3_integrations.stores.edge.folder.discovery import as_folder
from bge_m3_integrations.stores.edge.folder.manifest import Manifest
from bge_m3_integrations.stores.edge.folder.open_handles import OpenHandles, SharedHandle
from bge_m3_integrations.stores.edge.folder.read_only import read_only_error
from bge_m3_integrations.stores.edge.folder.reservation import give_up
from bge_m3_integrations.stores.edge.points import checked
from bge_m3_integrations.stores.edge.process.index_process import IndexProcess
from bge_m3_integrations.stores.edge.process.wire import Call
from bge_m3_integrations.stores.validation import as_fields, id_list

_OPENED: OpenHandles[ProcessStore, IndexProcess] = OpenHandles()


class ProcessStore(SharedHandle):
    """An `EdgeStore` that another process holds.

    Methods, numbers and errors are the same, but a filter that holds a Python function is a
    `FilterError`. The process starts with the first `open` and ends with the last `close`, or with
    this process, however that ends. Should it be killed itself, calls raise `StoreError` until the
    index is opened again; no write that returned is lost.

    Made by `open`.
    """

    def __init__(
        self, path: Path, process: IndexProcess, manifest: Manifest, *, read_only: bool
    ) -> None:
        super().__init__(path, read_only=read_only)
        self._process, self._manifest = process, manifest

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: FolderConfig | None = None,
        *,
        create: bool = True,
        read_only: bool = False,
    ) -> ProcessStore:
        """Open a folder's index, or begin one; see `EdgeStore.open`.

        It also raises `StoreError` where the process cannot be started.
        """
        place = as_folder(path)
        asked = Call("open", (config, create, read_only))
        with _OPENED.turn(place):
            store = _OPENED.at(place)
            if store is not None and store._process.alive:
                store._process.ask(asked)
            else:
                give_up(place)
                process = IndexProcess(place)
                try:
                    manifest, _ = process.ask(asked)
                except BaseException:
                    process.close()
                    raise
                store = cls(place, process, manifest, read_only=read_only)
                _OPENED.put(place, store, process)
            store._use()
            return store

    @staticmethod
    def is_open(path: str | Path) -> bool:
        """Whether this process has the folder's index open in a process of its own."""
        place = as_folder(path)
        with _OPENED.turn(place):
            return _OPENED.at(place) is not None

    @property
    def manifest(self) -> Manifest:
        """The folder's manifest; the last known one, once closed."""
        with suppress(StoreError):
            self._manifest = self._ask("manifest")
        return self._manifest

    @property
    def capabilities(self) -> Capabilities:
        """Everything but Python functions, in the modes it keeps.

        For a function, the index first reads the records into this process.
        """
        held = self._manifest.capabilities
        return replace(held, operators=held.operators - {PREDICATE})

    def check_records(self, records: Sequence[Record]) -> None:
        """See `EdgeStore.check_records`."""
        if self.read_only:
            raise read_only_error(self.path)
        for record in records:
            checked(record)

    def upsert(self, records: Sequence[Record], embeddings: EmbeddingBatch) -> None:
        """See `EdgeStore.upsert`."""
        self._ask("upsert", _copies(records), embeddings)

    def rewrite(self, records: Sequence[Record]) -> None:
        """See `EdgeStore.rewrite`."""
        self._ask("rewrite", _copies(records))

    def text_hashes(self, ids: Sequence[str]) -> list[str | None]:
        """See `Store.text_hashes`."""
        return self._items("text_hashes", id_list(ids))

    def delete(self, *, ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """See `Store.delete`."""
        return int(self._ask("delete", ids=None if ids is None else id_list(ids), where=where))

    def get(self, ids: Sequence[str]) -> list[Record | None]:
        """See `Store.get`."""
        return self._items("get", id_list(ids))

    def scroll(
        self, where: Filter | None = None, *, after: str | None = None, limit: int = 1000
    ) -> Page:
        """See `Store.scroll`."""
        page: Page
        page, records = self._process.ask(
            Call("scroll", (where,), {"after": after, "limit": limit})
        )
        return replace(page, records=records)

    def ids(self, where: Filter | None = None) -> Iterator[str]:
        """See `Store.ids`; of the moment of the call."""
        return iter(self._items("ids", where))

    def find(
        self, queries: EmbeddingBatch, mode: Mode, *, limit: int, where: Filter | None = None
    ) -> list[list[Candidate]]:
        """See `EdgeStore.find`."""
        return self._items("find", queries, mode, limit=limit, where=where)

    def score(
        self, queries: EmbeddingBatch, ids: Sequence[Sequence[str]], modes: Modes
    ) -> list[Components]:
        """See `EdgeStore.score`."""
        return self._items("score", queries, [id_list(row) for row in ids], _listed(modes))

    def vectors(self, ids: Sequence[str], modes: Modes) -> EmbeddingBatch:
        """See `EdgeStore.vectors`."""
        found: EmbeddingBatch = self._ask("vectors", id_list(ids), _listed(modes))
        return found

    def count(self, where: Filter | None = None) -> int:
        """See `Store.count`."""
        return int(self._ask("count", where))

    def __repr__(self) -> str:
        return called(self, lambda: parts_of(self))  # no number: only the other process knows it

    def flush(self) -> None:
        """See `Store.flush`: what was written survives a power cut."""
        self._ask("flush")

    def optimize(
        self, *, isolated: bool = False, progress: Callable[[str], None] | None = None
    ) -> None:
        """See `EdgeStore.optimize`; if not `isolated`, only calls of this index wait for it."""
        self._change("optimize", progress, isolated=isolated)

    def compact(self, *, progress: Callable[[str], None] | None = None) -> None:
        """See `EdgeStore.compact`."""
        self._change("compact", progress)

    def set_filter_fields(
        self, fields: Sequence[str] | None, *, progress: Callable[[str], None] | None = None
    ) -> None:
        """See `EdgeStore.set_filter_fields`."""
        self._change("set_filter_fields", progress, fields=as_fields(fields))

    def backup(self, path: str | Path) -> None:
        """See `EdgeStore.backup`."""
        self._ask("backup", as_folder(path))

    def close(self) -> None:
        """See `Store.close`: the last of its users' handles closes it, and ends the process."""
        if self._inherited:
            return
        with _OPENED.turn(self.path):
            self.forget()
            if not self._opens:
                _OPENED.close(self.path, self._process)

    def _change(self, name: str, progress: Callable[[str], None] | None, **options: Any) -> None:
        self._process.ask(Call(name, options=options, told=True), progress)

    def _ask(self, name: str, *arguments: Any, **options: Any) -> Any:
        return self._process.ask(Call(name, arguments, options))[0]

    def _items(self, name: str, *arguments: Any, **options: Any) -> list[Any]:
        return self._process.ask(Call(name, arguments, options))[1]


def _copies(records: Sequence[Record]) -> list[Record]:
    """Records checked again, and of no subclass, which the other process may not know."""
    return [Record(r.id, r.text, r.metadata, r.content, r.payload) for r in records]


def _listed(modes: Modes) -> list[Mode]:
    return ordered_modes(as_modes(modes))
