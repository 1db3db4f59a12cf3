"""HybridIndex: an engine and a store as one searchable collection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack, cast

from bge_m3_integrations._internal.keywords import public_class
from bge_m3_integrations._internal.progress import ProgressLike, reporter
from bge_m3_integrations.core.filters import FilterLike, as_filter
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.core.validation import as_path
from bge_m3_integrations.core.weighting import CALIBRATION_FILE
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.engine.truncation import Cuts
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.config import IndexConfig, IndexOptions
from bge_m3_integrations.index.ingest import Check, Ingested, Writer
from bge_m3_integrations.index.learning.file import LearnedFile
from bge_m3_integrations.index.opening import NotBegun, copy_to_folder, open_folder
from bge_m3_integrations.index.record_inputs import RecordLike
from bge_m3_integrations.index.reencode import Reencoder
from bge_m3_integrations.index.search import Searcher

if TYPE_CHECKING:
    from bge_m3_integrations.stores.base import Page, Store
from bge_m3_integrations.index.searching import SearchableIndex


@public_class
class HybridIndex(SearchableIndex):
    """A collection of documents, searched by dense, sparse and ColBERT scores together.

    Args:
        engine: Encodes queries and documents.
        store: Keeps them; None is a new `MemoryStore`. The index closes it.
        modes: The modes to encode documents by; None takes all that engine and store share.
        pooling: How many token vectors of a document are merged into one that is kept; 1 keeps
            all. `pooled` explains it, `docs/storage.md` what it costs.
        reencode: Keep no token vectors: candidates are encoded again to score them by ColBERT.
    """

    @classmethod
    def open(
        cls,
        path: str | Path,
        engine: BGEM3 | None = None,
        **options: Unpack[IndexOptions],
    ) -> Self:
        """Open the index in a folder, or begin one with the first record that is added.

        It survives crashes and is searched inside this process, or in a private subprocess. One
        process at a time holds it, and all opens of one folder in a process share one index.
        The choices of a new index are stored with it. For an existing index they may be left
        out, and must not contradict it.

        Args:
            path: The folder; `~` is the home folder.
            engine: Encodes; None is the model that made the index, which is loaded when the first
                text is encoded. A new index needs one.
            **options: Of these:

                - `modes`: What a new index keeps; None is all that the engine has.
                - `colbert`: How token vectors are kept: "turbo8" (1 byte per number; the default
                  where they are at least 1,024 wide, as BGE-M3's), "float16" (the default of
                  narrower ones), "float32", or "reencode" (not at all).
                - `pooling`: How many token vectors of a document are merged into one; default 1.
                - `filter_fields`: Metadata paths that filters are to be fast on; None is all.
                - `allow_dtype_mismatch`: Let an int8 engine search an index made in float, or the
                  reverse; default False.
                - `isolated`: Search in a process of its own, which starts and ends with the index:
                  no thread of this process waits for the engine, which holds Python's lock while
                  it searches. For servers and large indexes; it costs memory and some time, see
                  `docs/index.md`. Default False.
                - `create`: What happens where there is no index. None, the default, begins one
                  with the first `add` or `ingest`, and until then there is no folder and every
                  search is an error; without an engine it is an error at once. True begins an
                  empty index now, which searches find nothing in. False is an error at once.
                - `read_only`: Change nothing in the folder, which may lie on a read-only disk, and
                  which several processes may then have open; writes are errors. `docs/index.md`
                  says what it copies. Default False.

        Returns:
            The index; `close` it, or use it as a context manager.

        Raises:
            StoreError: There is no index and none may begin, another process holds the folder, or
                it was made by another model or in another way than is asked for; both sides are
                named.
            InputError: The engine lacks a mode, or an index is to begin without an engine.
        """
        config = IndexConfig(**options)
        its_own = engine is None
        engine, store = open_folder(path, engine, config)
        index = cls(engine, modes=config.modes)
        if isinstance(store, NotBegun):
            again = Reencoder(engine) if config.colbert == "reencode" else None
            index._held = Searcher(cast("Store", store), again, config.pooling or 1)
        else:
            index._use(store)
            index._unproved = its_own
        return index

    def add(
        self,
        records: Iterable[RecordLike],
        *,
        batch_size: int = 256,
        progress: ProgressLike = None,
        check: Check | None = None,
    ) -> list[str]:
        """Encode records and keep them; a known id is replaced.

        What was added survives a killed process once this returns, and a power cut too.

        A text, or a dict without an id, gets an id that is made of its content, metadata included.
        So adding it again changes nothing, the same one twice in a call is one record, and the
        same text with other metadata is another record.

        Args:
            records: Records, texts, or dicts such as `{"text": ..., "id": ..., "metadata": {...}}`,
                of distinct ids; read to the end before anything is encoded.
            batch_size: Most records encoded and written at a time; long texts make batches
                smaller. If one batch fails, those before it are kept.
            progress: None shows a bar in a terminal and in a notebook once the work has taken two
                seconds, none where stderr is piped; True shows one in any case, False none. A
                function is called with the number done and the total.
            check: Called with each batch's records and embeddings before they are written; what it
                raises ends the call.

        Returns:
            The id of each, in order.

        Raises:
            InputError: An id comes twice, something is no record, or a dict has an unknown key.
            EncodingError: The model gives a record no finite numbers; the message has its id.
        """
        self._opened(begin=True)
        total = len(records) if isinstance(records, Sequence) else None
        with reporter(progress, label="adding", total=total) as tell, Cuts() as cuts:
            writer = replace(self._writer, check=check, cuts=cuts)
            ids = writer.add(records, batch_size=batch_size, tell=tell)
        self._see_growth()
        return ids

    def ingest(
        self,
        records: Iterable[RecordLike],
        *,
        batch_size: int = 256,
        progress: ProgressLike = None,
    ) -> Ingested:
        """Bring any number of records up to date, without encoding what is kept already.

        A record whose id and text are known keeps its numbers, and is rewritten if anything else
        of it changed. So an ingestion that was cut is completed by running it again. Memory stays
        bounded, whatever the number of records; they are committed every 4,096.

        Args:
            records: See `add`; also from a generator. If an id comes again, the later one holds.
            batch_size: Records looked up, encoded and written at a time.
            progress: See `add`; the total is None where it is not known.

        Returns:
            How many were encoded, rewritten and unchanged.

        Raises:
            InputError: Something is no record, or a text is none.
            EncodingError: The model gives a record no finite numbers; the message has its id.
        """
        self._opened(begin=True)
        total = len(records) if isinstance(records, Sequence) else None
        with reporter(progress, label="ingesting", total=total) as tell, Cuts() as cuts:
            writer = replace(self._writer, cuts=cuts)
            done = writer.ingest(records, batch_size=batch_size, tell=tell)
        self._see_growth()
        return done

    def delete(self, *, ids: Sequence[str] | None = None, where: FilterLike | None = None) -> int:
        """Delete by ids or by filter, exactly one of them.

        Args:
            ids: Which records; unknown ids are passed over.
            where: Which records, by a filter.

        Returns:
            How many were there.

        Raises:
            InputError: Both are given, or none, or the filter is an empty dict: what a form with
                nothing selected gives must not empty an index. `And([])` means all.
        """
        if isinstance(where, Mapping) and not where:
            raise InputError(
                f"delete(where={{}}) would delete all {self.count()} documents; pass "
                "filters.And([]) if that is meant"
            )
        chosen = as_filter(where)
        deleted = self._store.delete(ids=ids, where=self._searcher.resolve_filter(chosen))
        if not deleted:
            self._searcher.nothing_under(chosen)
        return deleted

    def get(self, ids: Sequence[str]) -> list[Record | None]:
        """Get the records of the ids, in order; None for an unknown id."""
        return self._store.get(ids)

    def count(self, where: FilterLike | None = None) -> int:
        """Count the documents that match."""
        chosen = as_filter(where)
        counted = self._store.count(self._searcher.resolve_filter(chosen))
        if not counted:
            self._searcher.nothing_under(chosen)
        return counted

    def scroll(
        self, where: FilterLike | None = None, *, after: str | None = None, limit: int = 1000
    ) -> Page:
        """List matching records in ascending order of id, starting after `after`."""
        chosen = as_filter(where)
        page = self._store.scroll(self._searcher.resolve_filter(chosen), after=after, limit=limit)
        if not page.records and after is None:
            self._searcher.nothing_under(chosen)
        return page

    def copy_to(self, path: str | Path, *, colbert: str = "float32") -> None:
        """Copy the index's numbers into a new folder, from memory too; nothing is encoded.

        The folder is an index once all of it is copied; an error or Ctrl-C leaves it as it was.

        Args:
            path: A folder that does not exist yet, or is empty; open it with `HybridIndex.open`.
            colbert: How the copy keeps token vectors; "float32" keeps their every bit. See `open`.

        Raises:
            StoreError: The folder holds something, the disk has no room, or the store does not
                give back the numbers that it keeps.
        """
        self._prove()
        if self._searcher.reencoder is not None:
            colbert = "reencode"
        learned = self.learned_weights
        copy_to_folder(
            self._store,
            self._engine,
            path,
            modes=self.modes,
            colbert=colbert,
            pooling=self.pooling,
        )
        held = self.calibration
        if held is not None and held.measured.storage == colbert and self.pooling == 1:
            held.save(as_path(path) / CALIBRATION_FILE)
        if learned is not None and learned.measured_on.storage == colbert and self.pooling == 1:
            LearnedFile(as_path(path)).replace(learned)

    @staticmethod
    def restore(backup: str | Path, path: str | Path) -> None:
        """Copy a backup to a folder where it can be used; the backup is not changed.

        Args:
            backup: A folder that `backup` made.
            path: A folder that does not exist yet, or is empty.

        Raises:
            StoreError: The backup is none or in use, the folder holds something, or the disk has
                no room.
        """
        from bge_m3_integrations.stores.edge import restore

        restore(backup, path)

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # `index or None` must not take an empty index for none

    @property
    def _writer(self) -> Writer:
        self._prove()
        modes = self.modes - ({"colbert"} if self._searcher.reencoder is not None else set())
        return Writer(self._engine, self._store, modes, self._searcher.pooling)
