"""HybridIndex: an engine and a store as one searchable collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Self, Unpack

from bge_m3_integrations.checks import check_text, chunks, whole
from bge_m3_integrations.engine import BGEM3
from bge_m3_integrations.errors import EncodingError, InputError
from bge_m3_integrations.filters import And, Filter, FilterLike, Ids, as_filter, matches, operators
from bge_m3_integrations.fusion import Fusion
from bge_m3_integrations.plan import Plan, Scored, SearchOptions, make_plan, ranking
from bge_m3_integrations.stores.memory import MemoryStore
from bge_m3_integrations.types import (
    EmbeddingBatch,
    Hit,
    Mode,
    Modes,
    Record,
    WeightsLike,
    as_modes,
    ordered_modes,
)

if TYPE_CHECKING:
    from bge_m3_integrations.stores.base import Page, Store


class HybridIndex:
    """Documents that are found by dense, sparse and ColBERT scores, weighed into one ranking.

    Args:
        engine: Encodes queries and documents.
        store: Keeps them; None is a new `MemoryStore`. The index closes it.
        modes: The modes to encode documents by; None takes all that engine and store share.
    """

    def __init__(
        self, engine: BGEM3, store: Store | None = None, *, modes: Modes | None = None
    ) -> None:
        if not isinstance(engine, BGEM3):
            raise InputError(
                f"engine must be a BGEM3, not {type(engine).__name__}; write BGEM3(...), or take "
                "the .engine of an adapter"
            )
        self._engine = engine
        self._store = MemoryStore(modes=modes) if store is None else store
        self._wanted = None if modes is None else as_modes(modes)

    @property
    def engine(self) -> BGEM3:
        """What encodes; it may be shared with other indexes."""
        return self._engine

    @property
    def store(self) -> Store:
        """What keeps the documents."""
        return self._store

    @property
    def modes(self) -> frozenset[Mode]:
        """The modes that documents are encoded by; the first look may read the model's files.

        Raises:
            InputError: The engine or the store lacks a mode.
        """
        return _shared_modes(self._engine.modes, self._store.capabilities.score, self._wanted)

    def add(
        self,
        records: Iterable[Record],
        *,
        batch_size: int = 256,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[str]:
        """Encode records and keep them; a known id is replaced.

        Args:
            records: Records of distinct ids; read to the end before anything is encoded.
            batch_size: Most records encoded and written at a time; long texts make batches
                smaller. If one batch fails, those before it are kept.
            progress: Called with the number done and the total after each batch.

        Returns:
            The ids, in order.

        Raises:
            InputError: An id comes twice, or something is no record.
            EncodingError: The model gives a record no finite numbers; the message has its id.
        """
        taken = _distinct(records, surrogates=bool(self._engine.options["clean"]))
        batch_size = whole("batch_size", batch_size)
        modes = self.modes
        for piece in chunks([record.text for record in taken], most=batch_size):
            batch = taken[piece]
            self._store.upsert(batch, self._encoded(batch, modes))
            if progress is not None:
                progress(piece.stop, len(taken))
        return [record.id for record in taken]

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
    ) -> list[Hit]:
        """The best documents for one query.

        Args:
            query: The query's text.
            limit: Most hits. There are fewer only where fewer documents match, or pass the
                threshold.
            weights: How much each mode counts; a mode of weight 0 is not scored. None is the
                default preset without the modes that the index lacks.
            candidates: How many documents each mode looks up, at least `limit`; everything found
                is scored by every weighted mode. None is 100 dense and 100 sparse, or 100
                colbert where the index has neither.
            fusion: How scores become one ranking value; None is `WeightedSum()`.
            where: Which documents may be found: a dict, a function over metadata, or a filter.
            score_threshold: Hits with a lower ranking value are left out.
            exact: Score every matching document instead of candidates.

        Returns:
            Hits, best first, ties by ascending id.

        Raises:
            InputError: A mode that the index lacks, or a number out of range.
            FilterError: The filter is malformed.
        """
        return self.search_batch(
            [query],
            limit=limit,
            weights=weights,
            candidates=candidates,
            fusion=fusion,
            where=where,
            score_threshold=score_threshold,
            exact=exact,
        )[0]

    def search_batch(
        self, queries: Sequence[str], **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """The best documents for each query; all queries are encoded together.

        Args:
            queries: The queries' texts.
            **options: Those of `search`.

        Returns:
            One list of hits per query, in order.

        Raises:
            InputError: As `search` does; also for one string in place of a list.
        """
        if isinstance(queries, str):
            raise InputError(f"queries must be a list of strings, not {queries!r}; see search()")
        plan = self._plan(**options)
        if not queries:
            return []
        embeddings = self._engine.encode_queries(list(queries), modes=plan.modes)
        return self._run(embeddings, plan)

    def search_embedded(
        self, embeddings: EmbeddingBatch, **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """The best documents for queries that are encoded already; nothing is encoded here.

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
        return self._run(embeddings, plan) if len(embeddings) else []

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
        return self._store.delete(ids=ids, where=self._runnable(as_filter(where)))

    def get(self, ids: Sequence[str]) -> list[Record | None]:
        """The records of the ids, in order; None for an unknown id."""
        return self._store.get(ids)

    def count(self, where: FilterLike | None = None) -> int:
        """How many documents match."""
        return self._store.count(self._runnable(as_filter(where)))

    def scroll(
        self, where: FilterLike | None = None, *, after: str | None = None, limit: int = 1000
    ) -> Page:
        """Matching records in ascending order of id, from behind `after`."""
        return self._store.scroll(self._runnable(as_filter(where)), after=after, limit=limit)

    def flush(self) -> None:
        """Make everything written so far durable, where the store is."""
        self._store.flush()

    def optimize(self) -> None:
        """Build what makes searches fast; never needed for right results."""
        self._store.optimize()

    def close(self) -> None:
        """Close the store; the engine stays usable."""
        self._store.close()

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a handle on one collection: frameworks copy the objects that hold it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _encoded(self, records: Sequence[Record], modes: Modes) -> EmbeddingBatch:
        try:
            return self._engine.encode_documents([r.text for r in records], modes=modes)
        except EncodingError as error:
            name = f"record {records[error.position].id!r}"
            raise EncodingError(error.reason, error.position, name) from error

    def _plan(self, **options: Unpack[SearchOptions]) -> Plan:
        if unknown := options.keys() - SearchOptions.__annotations__.keys():
            raise TypeError(f"unknown search options {sorted(unknown)}")
        findable = self.modes & self._store.capabilities.find
        return make_plan(options, modes=self.modes, findable=findable)

    def _run(self, embeddings: EmbeddingBatch, plan: Plan) -> list[list[Hit]]:
        embeddings = embeddings.only(plan.modes)
        where = self._runnable(plan.where)
        ids = self._pool(embeddings, plan, where)
        scores = self._store.score(embeddings, ids, plan.weights.modes)
        ranked = [
            ranking(held, parts, plan, _sparse_mass(embeddings, i))
            for i, (held, parts) in enumerate(zip(ids, scores, strict=True))
        ]
        return self._hits(ranked, plan)

    def _pool(
        self, embeddings: EmbeddingBatch, plan: Plan, where: Filter | None
    ) -> list[list[str]]:
        """The ids to score for each query."""
        if plan.candidates is None:
            return [list(self._store.ids(where))] * len(embeddings)
        pools: list[dict[str, None]] = [{} for _ in range(len(embeddings))]
        for mode, count in plan.candidates.items():
            found = self._store.find(embeddings, mode, limit=count, where=where)
            for pool, candidates in zip(pools, found, strict=True):
                pool.update(dict.fromkeys(candidate.id for candidate in candidates))
        if any(len(pool) < plan.limit for pool in pools):
            self._fill(pools, plan.limit, where)
        return [list(pool) for pool in pools]

    def _fill(self, pools: Sequence[dict[str, None]], limit: int, where: Filter | None) -> None:
        """Bring short pools up to the limit: no shared token is a low score, not a missing hit."""
        # of the first `limit` matching ids, at least as many are new as the pool lacks
        spare = list(islice(self._store.ids(where), limit))
        for pool in pools:
            fresh = (record_id for record_id in spare if record_id not in pool)
            pool.update(dict.fromkeys(list(islice(fresh, max(0, limit - len(pool))))))

    def _hits(self, ranked: Sequence[Sequence[Scored]], plan: Plan) -> list[list[Hit]]:
        """Fetch all records in one go; what was deleted meanwhile is left out."""
        ids = list(dict.fromkeys(scored.id for row in ranked for scored in row))
        records = dict(zip(ids, self._store.get(ids), strict=True))
        return [
            [
                Hit(
                    record,
                    scored.score,
                    plan.fusion.name,
                    scored.components,
                    scored.hybrid,
                    plan.weights,
                )
                for scored in row
                if (record := records[scored.id]) is not None
            ]
            for row in ranked
        ]

    def _runnable(self, where: Filter | None) -> Filter | None:
        """The filter, or the ids that pass it where the store cannot run it itself."""
        if where is None or operators(where) <= self._store.capabilities.operators:
            return where
        passed = (
            record.id
            for record in self._matching(self._part_that_runs(where))
            if matches(where, record.metadata, record_id=record.id)
        )
        return Ids(frozenset(passed))

    def _part_that_runs(self, where: Filter) -> Filter | None:
        """A weaker filter that the store can run: fewer records to look at."""
        if not isinstance(where, And) or "$and" not in self._store.capabilities.operators:
            return None
        known = self._store.capabilities.operators
        return And([part for part in where.parts if operators(part) <= known])

    def _matching(self, where: Filter | None) -> Iterable[Record]:
        page = self._store.scroll(where)
        yield from page.records
        while page.after is not None:
            page = self._store.scroll(where, after=page.after)
            yield from page.records


def _shared_modes(
    engine: frozenset[Mode], store: frozenset[Mode], wanted: Modes | None
) -> frozenset[Mode]:
    shared = engine & store
    chosen = shared if wanted is None else as_modes(wanted)
    if not chosen or not chosen <= shared:
        raise InputError(
            f"an index by {ordered_modes(chosen)} is not possible: the engine has "
            f"{ordered_modes(engine)}, the store {ordered_modes(store)}"
        )
    return chosen


def _distinct(records: Iterable[Record], *, surrogates: bool) -> list[Record]:
    taken = list(records)
    seen: set[str] = set()
    for i, record in enumerate(taken):
        if not isinstance(record, Record):
            raise InputError(f"record {i} is a {type(record).__name__}, not a Record")
        if record.id in seen:
            raise InputError(f"id {record.id!r} comes twice in one add; keep one record of it")
        check_text(record.text, name=f"the text of record {record.id!r}", surrogates=surrogates)
        seen.add(record.id)
    return taken


def _sparse_mass(embeddings: EmbeddingBatch, i: int) -> float:
    """The sum of one query's lexical weights; 0 where they are not asked for."""
    return 0.0 if embeddings.sparse is None else float(embeddings.sparse.row(i)[1].sum())
