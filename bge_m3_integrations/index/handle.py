"""An index as something held: its store, opened when it is needed, its upkeep and its end."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from bge_m3_integrations._internal.keywords import public_class
from bge_m3_integrations.core.calibration import Calibration
from bge_m3_integrations.core.display import called
from bge_m3_integrations.core.embeddings import (
    Mode,
    Modes,
    as_modes,
    ordered_modes,
)
from bge_m3_integrations.core.learned import LearnedWeights
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.index.calibrated import CalibrationFile, check_own, index_key
from bge_m3_integrations.index.learning.file import LearnedFile
from bge_m3_integrations.index.opening import (
    NotBegun,
    check_own_model,
)
from bge_m3_integrations.index.reencode import Reencoder
from bge_m3_integrations.index.search import Searcher
from bge_m3_integrations.stores.base import OffersBackup
from bge_m3_integrations.stores.display import documents_in, modes_name, place_of
from bge_m3_integrations.stores.memory.store import MemoryStore

if TYPE_CHECKING:
    from bge_m3_integrations.stores.base import Store
    from bge_m3_integrations.stores.edge import EdgeStore, ProcessStore

_LOG = logging.getLogger(__name__)
_CLOSED = "this index is closed; make or open another one"


@public_class
class IndexHandle:
    """An engine and a store: what they are, what keeps them in order, and how they end.

    Args:
        engine: Encodes queries and documents.
        store: Keeps them; None is a new `MemoryStore`. The index closes it.
        modes: The modes to encode documents by; None takes all that engine and store share.
        pooling: How many token vectors of a document are merged into one that is kept; 1 keeps
            all.
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
        self._unclosed: weakref.finalize[..., IndexHandle] | None = None
        reencoder = Reencoder(engine) if reencode else None
        kept = MemoryStore(modes=modes) if store is None else store
        self._held = Searcher(kept, reencoder, check_int("pooling", pooling))
        self._calibration: Calibration | None = None
        self._calibration_file: CalibrationFile | None = None
        self._beginning = threading.Lock()
        self._learned: LearnedWeights | None = None
        self._learned_file: LearnedFile | None = None
        self._in_use: LearnedWeights | None = None
        self._outgrown: LearnedWeights | None = None
        self._unproved = False

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

    @property
    def calibration(self) -> Calibration | None:
        """The calibration that reads the scores of this index's searches; None where there is none.

        Hits of a search by its weights and its fusion carry `percentile` and, if it was made with
        judgements, `probability`; `score_threshold` may be a `Percentile` or a `Probability`. It is
        kept in the folder of the index, where searches of all its handles see a change at once; of
        an index in memory, with this object. `evaluation.calibrate` makes it, None removes it.

        Raises:
            InputError: It was measured on another model, other storage of token vectors or another
                query instruction; both sides are named.
            StoreError: The index is read only, or its folder cannot be written to.
        """
        _ = self._searcher.store.capabilities  # a closed index is an error, a new folder is opened
        file = self._calibration_file
        return self._calibration if file is None else file.now()

    @calibration.setter
    def calibration(self, value: Calibration | None) -> None:
        searcher = self._searcher
        key = partial(index_key, self._engine, searcher.store, searcher.colbert_kind)
        check_own(value, key, searcher.store)
        if self._calibration_file is None:
            self._calibration = value
        else:
            self._calibration_file.replace(value)

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
            progress: Called with each step's name.
        """
        with _logged("optimize", self._store):
            self._store.optimize(isolated=isolated, progress=progress)

    def compact(self, *, progress: Callable[[str], None] | None = None) -> None:
        """Free the disk space of deleted and replaced records.

        It happens on a copy, in a process of its own: searches go on, writes are refused.

        Args:
            progress: Called with each step's name.

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
            progress: Called with each step's name.

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

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a handle on one collection: frameworks copy the objects that hold it

    def __reduce__(self) -> tuple[Any, ...]:
        raise InputError(
            "a HybridIndex cannot be pickled: one process at a time holds an index; open its "
            "folder in the other process: HybridIndex.open(path, engine)"
        )

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
        """The index to search; of a folder without one, the index to come."""
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
        """The index to search, once the folder holds one; begun here where that is asked for."""
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
        self._calibration_file = CalibrationFile(
            store.path, partial(index_key, self._engine, store, self._held.colbert_kind)
        )
        self._learned_file = LearnedFile(store.path)
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


@contextmanager
def _logged(work: str, store: object) -> Iterator[None]:
    """Log that long work on a store is done, and what it took."""
    begun = time.monotonic()
    yield
    place = store.path if isinstance(store, OffersBackup) else type(store).__name__
    _LOG.info("%s of %s is done: %.1f seconds", work, place, time.monotonic() - begun)


class _Closed:
    """The store of a closed index: every use is refused."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __getattr__(self, name: str) -> Any:
        raise StoreError(_CLOSED)


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
