"""HybridIndex: an engine and a store as one searchable collection."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

import numpy as np

from bge_m3_integrations._internal.keywords import NoMore, checks_itself, public_class, refuse
from bge_m3_integrations._internal.progress import ProgressLike, reporter
from bge_m3_integrations._internal.warn import in_thread
from bge_m3_integrations.core.display import called
from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    FloatArray,
    Mode,
    Modes,
    as_modes,
    ordered_modes,
)
from bge_m3_integrations.core.filters import FilterLike, as_filter
from bge_m3_integrations.core.fusion import Fusion
from bge_m3_integrations.core.mmr import mmr
from bge_m3_integrations.core.records import Hit, Hits, Record
from bge_m3_integrations.core.scores import Ranked, WeightsLike
from bge_m3_integrations.core.validation import listed, whole
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.engine.truncation import Cuts
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.index.ingest import Check, Ingested, Writer
from bge_m3_integrations.index.opening import (
    IndexConfig,
    NotBegun,
    check_own_model,
    copy_to_folder,
    open_folder,
)
from bge_m3_integrations.index.plan import Plan, SearchOptions, Stage, make_plan
from bge_m3_integrations.index.record_inputs import RecordLike
from bge_m3_integrations.index.reencode import Reencoder
from bge_m3_integrations.index.rerank import RerankDocument, ranked_batch
from bge_m3_integrations.index.search import Searcher
from bge_m3_integrations.stores.base import OffersBackup
from bge_m3_integrations.stores.display import documents_in, modes_name, place_of
from bge_m3_integrations.stores.memory.store import MemoryStore

if TYPE_CHECKING:
    from bge_m3_integrations.stores.base import Page, Store
    from bge_m3_integrations.stores.edge import EdgeStore, ProcessStore


@public_class
class HybridIndex:
    """A collection of documents, searched by dense, sparse and ColBERT scores together.

    Args:
        engine: Encodes queries and documents.
        store: Keeps them; None is a new `MemoryStore`. The index closes it.
        modes: The modes to encode documents by; None takes all that engine and store share.
        pooling: How many token vectors of a document are merged into one that is kept; 1 keeps
            all. `pooled` explains it, `docs/storage.md` what it costs.
        reencode: Keep no token vectors: candidates are encoded again to score them by ColBERT.
    """

    def __init__(
        self,
        engine: BGEM3,
        store: Store | None = None,
        *,
        modes: Modes | None = None,
        pooling: int = 1,
        reencode: bool = False,
    ) -> None:
        if not isinstance(engine, BGEM3):
            raise InputError(
                f"engine must be a BGEM3, not {type(engine).__name__}; write BGEM3(...), or take "
                "the .engine of an adapter"
            )
        self._engine = engine
        self._wanted = None if modes is None else as_modes(modes)
        self._unclosed: weakref.finalize[..., HybridIndex] | None = None
        reencoder = Reencoder(engine) if reencode else None
        kept = MemoryStore(modes=modes) if store is None else store
        self._held = Searcher(kept, reencoder, whole("pooling", pooling))
        self._beginning = threading.Lock()
        self._unproved = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        engine: BGEM3 | None = None,
        *,
        modes: Modes | None = None,
        colbert: str | None = None,
        pooling: int | None = None,
        filter_fields: Sequence[str] | None = None,
        allow_dtype_mismatch: bool = False,
        isolated: bool = False,
        create: bool | None = None,
        read_only: bool = False,
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
            modes: What a new index keeps; None is all that the engine has.
            colbert: How token vectors are kept: "turbo8" (1 byte per number; the default where
                they are at least 1,024 wide, as BGE-M3's), "float16" (the default of narrower
                ones), "float32", or "reencode" (not at all).
            pooling: How many token vectors of a document are merged into one; default 1.
            filter_fields: Metadata paths that filters are to be fast on; None is all.
            allow_dtype_mismatch: Let an int8 engine search an index made in float, or the reverse.
            isolated: Search in a process of its own, which starts and ends with the index: no
                thread of this process waits for the engine, which holds Python's lock while it
                searches. For servers and large indexes; it costs memory and some time, see
                `docs/index.md`.
            create: What happens where there is no index. None begins one with the first `add` or
                `ingest`, and until then there is no folder and every search is an error; without
                an engine it is an error at once. True begins an empty index now, which searches
                find nothing in. False is an error at once.
            read_only: Change nothing in the folder, which may lie on a read-only disk, and which
                several processes may then have open; writes are errors. `docs/index.md` says what
                it copies.

        Returns:
            The index; `close` it, or use it as a context manager.

        Raises:
            StoreError: There is no index and none may begin, another process holds the folder, or
                it was made by another model or in another way than is asked for; both sides are
                named.
            InputError: The engine lacks a mode, or an index is to begin without an engine.
        """
        choices = IndexConfig(
            modes=modes,
            colbert=colbert,
            pooling=pooling,
            filter_fields=filter_fields,
            allow_dtype_mismatch=allow_dtype_mismatch,
            isolated=isolated,
            create=create,
            read_only=read_only,
        )
        its_own = engine is None
        engine, store = open_folder(path, engine, choices)
        index = cls(engine, modes=modes)
        if isinstance(store, NotBegun):
            again = Reencoder(engine) if colbert == "reencode" else None
            index._held = Searcher(cast("Store", store), again, pooling or 1)
        else:
            index._use(store)
            index._unproved = its_own
        return index

    @property
    def engine(self) -> BGEM3:
        """The engine that encodes; other indexes may share it."""
        return self._engine

    @property
    def store(self) -> Store:
        """The store that keeps the documents."""
        return self._known.store

    @property
    def path(self) -> Path | None:
        """The folder of the index; None in memory, or once it is closed."""
        store = self._known.store
        if isinstance(store, _Closed):
            return None
        # in this order: the second looks at properties, which would read the model's files
        return store.path if isinstance(store, NotBegun | OffersBackup) else None

    @property
    def modes(self) -> frozenset[Mode]:
        """The modes that documents are encoded by; the first look may read the model's files.

        Raises:
            InputError: The engine or the store lacks a mode.
        """
        held = self._known
        scored = held.store.capabilities.score
        if held.reencoder is not None:
            scored |= {"colbert"}
        if self._wanted is None:
            return _shared_modes(self._engine.default_modes, scored, None)
        self._engine.check_heads(self._wanted)
        return _shared_modes(self._engine.modes, scored, self._wanted)

    @property
    def pooling(self) -> int:
        """The number of a document's token vectors that share one stored vector."""
        return self._known.pooling

    @property
    def reencodes(self) -> bool:
        """Whether candidates are encoded again, since no token vectors are kept."""
        return self._known.reencoder is not None

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
            return writer.add(records, batch_size=batch_size, tell=tell)

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
            return writer.ingest(records, batch_size=batch_size, tell=tell)

    @checks_itself
    def search(
        self,
        query: str,
        *,
        limit: int = 10,
        weights: WeightsLike | None = None,
        candidates: Mapping[Mode, int] | None = None,
        fusion: Fusion | None = None,
        where: FilterLike | None = None,
        score_threshold: float | None = None,
        exact: bool = False,
        observe: Callable[[Stage], None] | None = None,
        **unknown: Unpack[NoMore],
    ) -> list[Hit]:
        """Search the best documents for one query.

        Args:
            query: The query's text.
            limit: Most hits. There are fewer where fewer documents match, pass the threshold, or
                are looked up: a lexical lookup finds only documents that share a token with the
                query, and by lexical scores alone no other is a hit.
            weights: How much each mode counts; a mode of weight 0 is not scored. None is the
                default preset without the modes that the index lacks.
            candidates: How many documents each mode looks up, at least `limit`; everything found
                is scored by every weighted mode. None is 100 dense and 100 sparse, or 100
                colbert where the index has neither.
            fusion: How scores become one ranking value; None is `WeightedSum()`.
            where: Which documents may be found: a dict, a function over metadata, or a filter.
            score_threshold: Hits with a lower ranking value are left out.
            exact: Score every matching document instead of candidates, also those that share no
                token with the query.
            observe: Is told of each finished step of the search.
            **unknown: None: a keyword that comes here is an error, which names the right one.

        Returns:
            Hits, best first, ties by ascending id.

        Raises:
            InputError: A mode that the index lacks, or a number out of range.
            FilterError: The filter is malformed.
        """
        if unknown:
            refuse(unknown, self.search)
        return self.search_batch(
            [query],
            limit=limit,
            weights=weights,
            candidates=candidates,
            fusion=fusion,
            where=where,
            score_threshold=score_threshold,
            exact=exact,
            observe=observe,
        )[0]

    @checks_itself
    async def asearch(self, query: str, **options: Unpack[SearchOptions]) -> list[Hit]:
        """See `search`; the event loop is free meanwhile, and no thread waits for the encoder."""
        return (await self.asearch_batch([query], **options))[0]

    @checks_itself
    def search_batch(
        self, queries: Sequence[str], **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """Search the best documents for each query; all queries are encoded together.

        Args:
            queries: The queries' texts.
            **options: Those of `search`.

        Returns:
            One list of hits per query, in order.

        Raises:
            InputError: As `search` does; also for one string in place of a list.
        """
        queries = _listed(queries)
        plan = self._plan(**options)
        if not queries:
            return []
        with Cuts({"query": queries}):
            with plan.step("encode") as counts:
                embeddings = self._engine.encode_queries(queries, modes=plan.modes)
                counts["queries"] = len(queries)
            return self._searcher.run(embeddings, plan)

    @checks_itself
    async def asearch_batch(
        self, queries: Sequence[str], **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """See `search_batch` and `asearch`."""
        queries = _listed(queries)
        plan = await in_thread(self._plan, **options)  # may read the model's files
        if not queries:
            return []
        with Cuts({"query": queries}):
            with plan.step("encode") as counts:
                embeddings = await self._engine.aencode_queries(queries, modes=plan.modes)
                counts["queries"] = len(queries)
            return await in_thread(self._searcher.run, embeddings, plan)

    @checks_itself
    def search_embedded(
        self, embeddings: EmbeddingBatch, **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """Search with queries that are encoded already; nothing is encoded here.

        Args:
            embeddings: Queries encoded by the index's engine, in every mode that the search
                looks up or scores by.
            **options: Those of `search`.

        Returns:
            One list of hits per query, in order.

        Raises:
            InputError: As `search` does; also for a mode that the embeddings lack.
        """
        plan = self._plan(**options)
        return self._searcher.run(embeddings, plan) if len(embeddings) else []

    def search_diverse(
        self,
        query: str,
        *,
        fetch: int = 50,
        relevance_share: float = 0.5,
        **options: Unpack[SearchOptions],
    ) -> list[Hit]:
        """Search relevant documents that differ from each other: maximal marginal relevance.

        Args:
            query: The query's text.
            fetch: How many of the best hits to choose from.
            relevance_share: 1 ranks by relevance alone, 0 by unlikeness alone; see
                `diversity.mmr`.
            **options: Those of `search`.

        Returns:
            Hits in the order of choice; their scores are those of `search`.

        Raises:
            InputError: As `search` does; also where the index keeps no dense vectors.
        """
        limit = whole("limit", options.get("limit", 10))
        options["limit"] = max(limit, whole("fetch", fetch))
        hits = self.search(query, **options)
        return self.diversify(hits, limit=limit, relevance_share=relevance_share)

    def diversify(
        self, hits: Sequence[Hit], *, limit: int, relevance_share: float = 0.5
    ) -> list[Hit]:
        """Choose among hits of this index by maximal marginal relevance; see `search_diverse`.

        Args:
            hits: Of one search.
            limit: Most hits chosen.
            relevance_share: 1 ranks by `Hit.relevance` alone, 0 by unlikeness alone.

        Returns:
            Hits in the order of choice.

        Raises:
            InputError: The index keeps no dense vectors, or a number is out of range.
        """
        if "dense" not in self._store.capabilities.vectors:
            raise InputError("diversity compares dense vectors, which this index lacks")
        hits, vectors = self._with_vectors(hits)
        relevance = np.array([hit.relevance for hit in hits], np.float32)
        chosen = mmr(relevance, vectors, limit=limit, relevance_share=relevance_share)
        return Hits(hits[i] for i in chosen)

    def _with_vectors(self, hits: Sequence[Hit]) -> tuple[Sequence[Hit], FloatArray]:
        """The hits and their dense vectors; what was deleted meanwhile is left out."""
        try:
            vectors = self._store.vectors([hit.id for hit in hits], ["dense"]).dense
        except StoreError:
            held = self._store.text_hashes([hit.id for hit in hits])
            hits = [hit for hit, text in zip(hits, held, strict=True) if text is not None]
            vectors = self._store.vectors([hit.id for hit in hits], ["dense"]).dense
        assert vectors is not None  # they were asked for
        return hits, vectors

    def rerank(
        self,
        query: str,
        documents: Sequence[str | RerankDocument],
        *,
        limit: int | None = None,
        weights: WeightsLike | None = None,
    ) -> list[Ranked]:
        """Order any documents by their hybrid score, with their stored numbers if there are any.

        A document whose id is in the index with the very same text costs no forward pass: its
        stored numbers are used, in the precision of their kind. All others are encoded, also
        those of an id whose text was edited.

        Args:
            query: One text.
            documents: Texts, or texts with the ids that they may have in the index.
            limit: Most results; None is all.
            weights: How much each mode counts; None is the default preset, restricted to the
                model's modes. A mode that the index lacks has every document encoded.

        Returns:
            Best first, ties by position.

        Raises:
            InputError: Something is no text, or a number is out of range.
        """
        if not isinstance(query, str):
            raise InputError(f"query must be str, not {type(query).__name__}")
        return self.rerank_batch([query], [documents], limit=limit, weights=weights)[0]

    def rerank_batch(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str | RerankDocument]],
        *,
        limit: int | None = None,
        weights: WeightsLike | None = None,
    ) -> list[list[Ranked]]:
        """Order each query's own documents; queries and documents are each encoded together.

        Args:
            queries: `q` texts.
            documents: `q` lists; see `rerank`.
            limit: See `rerank`.
            weights: See `rerank`.

        Returns:
            One ranking per query, in order.

        Raises:
            InputError: As `rerank` does; also where there are more or fewer lists than queries.
        """
        queries = _listed(queries)
        self._prove()
        chosen = self._engine.weights(weights)
        searcher = self._searcher if chosen.modes <= self.modes else None
        return ranked_batch(self._engine, searcher, queries, documents, chosen, limit=limit)

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
        deleted = self._store.delete(ids=ids, where=self._searcher.runnable(chosen))
        if not deleted:
            self._searcher.nothing_under(chosen)
        return deleted

    def get(self, ids: Sequence[str]) -> list[Record | None]:
        """Get the records of the ids, in order; None for an unknown id."""
        return self._store.get(ids)

    def count(self, where: FilterLike | None = None) -> int:
        """Count the documents that match."""
        chosen = as_filter(where)
        counted = self._store.count(self._searcher.runnable(chosen))
        if not counted:
            self._searcher.nothing_under(chosen)
        return counted

    def scroll(
        self, where: FilterLike | None = None, *, after: str | None = None, limit: int = 1000
    ) -> Page:
        """List matching records in ascending order of id, starting after `after`."""
        chosen = as_filter(where)
        page = self._store.scroll(self._searcher.runnable(chosen), after=after, limit=limit)
        if not page.records and after is None:
            self._searcher.nothing_under(chosen)
        return page

    def flush(self) -> None:
        """Make everything written so far durable, where the store is."""
        self._store.flush()

    def optimize(
        self, *, isolated: bool = False, progress: Callable[[str], None] | None = None
    ) -> None:
        """Build a graph for fast searches; results are right without it, and it is never automatic.

        Args:
            isolated: In a process of its own, where the store can: the index stays searchable, and
                refuses writes until it is done. Otherwise this process stands still: 3.4
                minutes for 100,000 documents, 7.3 with their token vectors, on two cores.
            progress: Called with what happens now.
        """
        with _logged("optimize", self._store):
            self._store.optimize(isolated=isolated, progress=progress)

    def compact(self, *, progress: Callable[[str], None] | None = None) -> None:
        """Free the disk space of deleted and replaced records.

        It happens on a copy, in a process of its own: searches go on, writes are refused.

        Args:
            progress: Called with what happens now.

        Raises:
            StoreError: The disk has no room for a copy; the index is as before.
        """
        store = self._durable("compact")
        with _logged("compact", store):
            store.compact(progress=progress)

    def set_filter_fields(
        self, fields: Sequence[str] | None, *, progress: Callable[[str], None] | None = None
    ) -> None:
        """Change the metadata paths that filters are fast on: `filter_fields` of `open`.

        For a new path, what filters look at is written anew for every record; nothing is encoded.
        Searches go on and are right throughout, writes wait. Where a graph was built, `compact`
        makes it anew, with the new fields.

        Args:
            fields: Metadata paths; None is all.
            progress: Called with what happens now.

        Raises:
            InputError: These are no paths.
            StoreError: The disk has no room, or the index is in memory, where filters need none.
        """
        store = self._durable("set_filter_fields")
        with _logged("set_filter_fields", store):
            store.set_filter_fields(fields, progress=progress)

    def backup(self, path: str | Path) -> None:
        """Copy the index as it is now; searches go on meanwhile, writes wait.

        Args:
            path: A folder that does not exist yet, or is empty; it can be opened as an index.

        Raises:
            StoreError: The folder holds something, the disk has no room, or the index is in
                memory.
        """
        self._durable("backup").backup(path)

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
        copy_to_folder(self, path, colbert=colbert)

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

    def close(self) -> None:
        """Close the store; the engine stays usable. Closing twice is fine.

        Others that opened the same folder in this process keep it open.
        """
        with self._beginning:
            held = self._held
            if not isinstance(held.store, _Closed):
                store = held.store
                place = store.place if isinstance(store, NotBegun) else place_of(store)
                store.close()
                if self._unclosed is not None:
                    self._unclosed.detach()
                self._held = replace(held, store=cast("Store", _Closed(place)))

    def __copy__(self) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise InputError(
            "a HybridIndex cannot be pickled: one process at a time holds an index; open its "
            "folder in the other process: HybridIndex.open(path, engine)"
        )

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a handle on one collection: frameworks copy the objects that hold it

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # `index or None` must not take an empty index for none

    def __repr__(self) -> str:
        return called(self, self._parts)

    def _parts(self) -> Iterator[str]:
        held = self._held  # as it is: a `repr` opens nothing
        store = held.store
        if isinstance(store, _Closed | NotBegun):
            yield from (store.place, "closed" if isinstance(store, _Closed) else "not begun")
            return
        yield place_of(store)
        yield from documents_in(store)
        scored = self._wanted or store.capabilities.score
        yield modes_name(scored | ({"colbert"} if held.reencoder is not None else set()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def _known(self) -> Searcher:
        """What is searched; of a folder without an index, what will be."""
        return self._opened(begin=False)

    @property
    def _searcher(self) -> Searcher:
        held = self._opened(begin=False)
        if isinstance(held.store, NotBegun):
            raise held.store.error()
        return held

    @property
    def _store(self) -> Store:
        return self._searcher.store

    def _opened(self, *, begin: bool) -> Searcher:
        """What is searched, once the folder holds an index; one begins where that is asked for."""
        if isinstance(self._held.store, NotBegun):
            with self._beginning:
                waiting = self._held.store
                if isinstance(waiting, NotBegun) and (store := waiting.opened(begin=begin)):
                    self._use(store)
        return self._held

    def _use(self, store: EdgeStore | ProcessStore) -> None:
        held = store.manifest
        again = "colbert" in set(held.modes) - held.kept
        self._wanted = frozenset(held.modes)
        self._held = Searcher(store, Reencoder(self._engine) if again else None, held.pooling)
        if _LOG.isEnabledFor(logging.INFO):  # to count asks the store
            _LOG.info("opened the index in %s: %d documents", store.path, store.count())
        self._unclosed = weakref.finalize(self, store.forget)
        self._unclosed.atexit = False

    def _durable(self, what: str) -> OffersBackup:
        if isinstance(self._store, _Closed):
            raise StoreError(_CLOSED)
        if not isinstance(self._store, OffersBackup):
            raise StoreError(
                f"{what} needs an index in a folder, from HybridIndex.open(path); this one is over "
                f"a {type(self._store).__name__}"
            )
        return self._store

    def _prove(self) -> None:
        """Before the first text is encoded by the model that the index names: is it still that?"""
        store = self._held.store
        if self._unproved and not isinstance(store, _Closed):
            check_own_model(self._engine, cast("EdgeStore | ProcessStore", store))
            self._unproved = False

    @property
    def _writer(self) -> Writer:
        self._prove()
        modes = self.modes - ({"colbert"} if self._searcher.reencoder is not None else set())
        return Writer(self._engine, self._store, modes, self._searcher.pooling)

    def _plan(self, **options: Unpack[SearchOptions]) -> Plan:
        if unknown := options.keys() - SearchOptions.__annotations__.keys():
            refuse(sorted(unknown), SearchOptions.__annotations__)
        findable = self._searcher.store.capabilities.find & self.modes  # no model is read in vain
        self._prove()
        return make_plan(options, modes=self.modes, findable=findable)


_LOG = logging.getLogger(__name__)
_CLOSED = "this index is closed; make or open another one"


@contextmanager
def _logged(work: str, store: object) -> Iterator[None]:
    """Log that long work on a store is done, and what it took."""
    begun = time.monotonic()
    yield
    place = store.path if isinstance(store, OffersBackup) else type(store).__name__
    _LOG.info("%s of %s is done: %.1f seconds", work, place, time.monotonic() - begun)


class _Closed:
    """What a closed index has in place of its store."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __getattr__(self, name: str) -> Any:
        raise StoreError(_CLOSED)


def _listed(queries: Sequence[str]) -> list[str]:
    if isinstance(queries, str):
        raise InputError(f"queries must be a list of strings, not {queries!r}; see search()")
    return listed(queries, "queries")


def _shared_modes(
    engine: frozenset[Mode], store: frozenset[Mode], wanted: Modes | None
) -> frozenset[Mode]:
    shared = engine & store
    chosen = shared if wanted is None else as_modes(wanted)
    if not chosen or not chosen <= shared:
        raise InputError(
            f"an index with {ordered_modes(chosen)} is not possible: the engine has "
            f"{ordered_modes(engine)}, the store {ordered_modes(store)}"
        )
    return chosen
