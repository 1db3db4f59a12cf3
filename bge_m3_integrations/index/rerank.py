"""Scores of documents that a user holds, by stored numbers where the index keeps that very text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.display import Shown, quoted
from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    FloatArray,
    IntArray,
    Kind,
    Mode,
    Modes,
)
from bge_m3_integrations.core.fusion import Candidates
from bge_m3_integrations.core.learned import LearnedSum
from bge_m3_integrations.core.records import text_hash
from bge_m3_integrations.core.scores import Components, Ranked
from bge_m3_integrations.core.scripts import script_of
from bge_m3_integrations.core.validation import check_text, check_texts, chunks
from bge_m3_integrations.core.weighting import WeightProfile, WeightsLike
from bge_m3_integrations.engine.engine import BGEM3, ranking
from bge_m3_integrations.engine.profiles import by_profile
from bge_m3_integrations.engine.truncation import Cuts
from bge_m3_integrations.errors import EncodingError, InputError
from bge_m3_integrations.index.search import Searcher, query_sparse_sum


@dataclass(frozen=True, slots=True, repr=False)
class RerankDocument(Shown):
    """A document to score.

    Attributes:
        text: The text to score.
        id: Under which an index may keep it; None for a document of elsewhere.
    """

    text: str
    id: str | None = None

    def _parts(self) -> Iterable[str]:
        yield f"text={quoted(self.text)}"
        if self.id is not None:
            yield f"id={quoted(self.id)}"


@dataclass(frozen=True, slots=True)
class _Table:
    """One query's scores, filled in parts; NaN is not known yet."""

    documents: Sequence[RerankDocument]
    scores: dict[Mode, FloatArray]

    @classmethod
    def from_documents(cls, documents: Sequence[RerankDocument], modes: Modes) -> _Table:
        return cls(documents, {m: np.full(len(documents), np.nan, np.float32) for m in modes})

    @property
    def missing(self) -> IntArray:
        return np.flatnonzero(np.any([np.isnan(held) for held in self.scores.values()], axis=0))

    def fill(self, places: Sequence[int] | IntArray, parts: Components) -> None:
        for mode, held in parts.items():
            self.scores[mode][places] = held


def ranked_batch(
    engine: BGEM3,
    queries: Sequence[str],
    documents: Sequence[Sequence[str | RerankDocument]],
    weights: WeightsLike | None,
    *,
    limit: int | None = None,
    searcher: Searcher | None = None,
    kept: Modes = (),
    weighting: Callable[[WeightsLike | None, str | None], WeightProfile] | None = None,
) -> list[list[Ranked]]:
    """Rank each query's own documents; see `HybridIndex.rerank_batch`.

    Args:
        engine: Encodes; queries together, and documents together, each distinct text once, for
            each stretch of 262,144 characters of queries.
        queries: `q` texts.
        documents: `q` lists.
        weights: How much each mode counts, in any form.
        limit: Most results of each ranking; None is all.
        searcher: Over an index; None encodes everything.
        kept: The modes of the index: by others, everything is encoded.
        weighting: Makes a profile of weights and a query; None is the engine's.

    Returns:
        One ranking per query.

    Raises:
        InputError: There are more or fewer lists than queries, or something is no text.
    """
    surrogates = bool(engine.options["clean"])
    rows = [[as_given(one, surrogates=surrogates) for one in row] for row in documents]
    if len(rows) != len(queries):
        raise InputError(f"{len(queries)} queries came with {len(rows)} lists of documents")
    queries = list(queries)
    check_texts(queries, surrogates=surrogates)
    texts: dict[Kind, list[str]] = {"query": queries}
    if len(rows) == 1:
        texts["document"] = [given.text for given in rows[0]]
    with Cuts(texts):
        ranked: dict[int, list[Ranked]] = {}
        for profile, asked in by_profile(queries, weights, weighting or engine.weighting):
            held = searcher if profile.weights.modes <= set(kept) else None
            some, theirs = [queries[i] for i in asked], [rows[i] for i in asked]
            scored = _scored(engine, held, some, theirs, profile)
            for i, candidates in zip(asked, scored, strict=True):
                ranked[i] = ranking(candidates, profile, limit=limit)
    return [ranked[i] for i in range(len(queries))]


def _scored(
    engine: BGEM3,
    searcher: Searcher | None,
    queries: list[str],
    rows: Sequence[Sequence[RerankDocument]],
    profile: WeightProfile,
) -> list[Candidates]:
    """Scores of each query's documents; the ids are those of the documents, or empty."""
    scored: list[Candidates] = []
    learned = profile.fusion if isinstance(profile.fusion, LearnedSum) else None
    for piece in chunks(queries):  # token vectors of one stretch at a time
        try:
            embeddings = engine.encode_queries(queries[piece], modes=profile.weights.modes)
        except EncodingError as error:
            raise EncodingError(error.reason, piece.start + error.position) from error
        some, count = rows[piece], len(embeddings)
        both, twice = embeddings, list(some)
        if learned is not None:  # together, so that each document is encoded once
            both = EmbeddingBatch.concat([embeddings, learned.reweighted(embeddings)])
            twice += some
        parts = scores_of(engine, searcher, both, twice)
        for i, row in enumerate(some):
            lexical = None if learned is None else parts[count + i].sparse
            ids = [given.id or "" for given in row]
            held = Candidates(ids, parts[i], query_sparse_sum(embeddings, i), lexical)
            if lexical is not None and learned is not None and learned.imputation is not None:
                held = _imputed(held, learned, embeddings.take([i]), row)
            scored.append(held)
    return scored


def _imputed(
    held: Candidates, fusion: LearnedSum, query: EmbeddingBatch, row: Sequence[RerankDocument]
) -> Candidates:
    """The candidates with lexical values for documents of another script than the query."""
    if fusion.idf is None or held.lexical is None:
        return held
    own = fusion.idf.script_of(*query.sparse.row(0))
    foreign = [own is not None and script_of(one.text) not in (None, own) for one in row]
    lexical = fusion.imputed(held.lexical, held.components, np.array(foreign, bool))
    return replace(held, lexical=lexical)


def scores_of(
    engine: BGEM3,
    searcher: Searcher | None,
    queries: EmbeddingBatch,
    documents: Sequence[Sequence[RerankDocument]],
) -> list[Components]:
    """Score each query's own documents, in every mode of the queries.

    A document whose id is in the index, with a text of the same hash, is scored by its stored
    numbers; every other one is encoded, each distinct text once.

    Args:
        engine: Encodes.
        searcher: Over the index; None encodes everything.
        queries: `q` queries, encoded by the engine.
        documents: For each query its documents.

    Returns:
        For each query arrays of `(len(documents[i]),)`.

    Raises:
        EncodingError: The model gives a document no finite numbers; the message has its
            beginning.
    """
    tables = [_Table.from_documents(row, queries.modes) for row in documents]
    if searcher is not None:
        _from_index(searcher, queries, tables)
    with Cuts():
        _encoded(engine, queries, tables)
    return [Components(**table.scores) for table in tables]


def _from_index(searcher: Searcher, queries: EmbeddingBatch, tables: Sequence[_Table]) -> None:
    hashes = {given.text: "" for table in tables for given in table.documents if given.id}
    hashes = {text: text_hash(text) for text in hashes}
    ids = list(dict.fromkeys(g.id for table in tables for g in table.documents if g.id))

    def kept() -> list[list[int]]:
        held = dict(zip(ids, searcher.store.text_hashes(ids), strict=True))
        return [
            [i for i, g in enumerate(t.documents) if g.id and held[g.id] == hashes[g.text]]
            for t in tables
        ]

    before = kept()
    if not any(before):
        return
    named = [
        [table.documents[i].id or "" for i in places]
        for table, places in zip(tables, before, strict=True)
    ]
    scores = searcher.scores(queries, named, queries.modes)
    # what was written or deleted meanwhile is encoded: its score may be that of another text
    for table, places, parts, still in zip(tables, before, scores, kept(), strict=True):
        sure = np.isin(places, still)
        table.fill(np.array(places, np.int64)[sure], parts.take(sure))


def _encoded(engine: BGEM3, queries: EmbeddingBatch, tables: Sequence[_Table]) -> None:
    missing = [table.missing for table in tables]
    texts = list(
        dict.fromkeys(
            table.documents[i].text
            for table, places in zip(tables, missing, strict=True)
            for i in places
        )
    )
    number = {text: n for n, text in enumerate(texts)}
    wanted = [
        np.array([number[table.documents[i].text] for i in places], np.int64)
        for table, places in zip(tables, missing, strict=True)
    ]
    for piece in chunks(texts):  # token vectors of one stretch at a time
        batch = _documents(engine, texts, piece, queries.modes)
        for i, (table, places, rows) in enumerate(zip(tables, missing, wanted, strict=True)):
            inside = np.flatnonzero((rows >= piece.start) & (rows < piece.stop))
            if not len(inside):
                continue
            some, back = np.unique(rows[inside] - piece.start, return_inverse=True)
            parts = scoring.components(
                queries.take([i]), batch.take(some), queries.modes, maxsim=engine.maxsim
            )
            table.fill(places[inside], parts.take((0, back)))


def _documents(engine: BGEM3, texts: list[str], piece: slice, modes: Modes) -> EmbeddingBatch:
    try:
        return engine.encode_documents(texts[piece], modes=modes)
    except EncodingError as error:
        name = f"the document that begins {texts[piece][error.position][:60]!r}"
        raise EncodingError(error.reason, error.position, name) from error


def as_given(document: str | RerankDocument, *, surrogates: bool) -> RerankDocument:
    """Check one document that is to be scored.

    Args:
        document: A text, or one with an id.
        surrogates: Whether texts may hold lone surrogates, which cleaning repairs.

    Returns:
        The document.

    Raises:
        InputError: It is neither, or its text cannot be encoded.
    """
    given = document if isinstance(document, RerankDocument) else RerankDocument(document)
    if not isinstance(given.text, str):
        raise InputError(
            f"a document must be a text or a RerankDocument, not {type(document).__name__}"
        )
    check_text(given.text, name="a document to be ranked", surrogates=surrogates)
    return given
