"""What a search must find: brute force in float32 over the whole collection, block by block.

The best N by each mode, their union, exact scores, combined: so a store is held to the candidates
that it should have had, and not to an approximation of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks._search.corpus import BLOCK, FIELDS, Block, Corpus, number_of
from benchmarks._search.lexical import VOCABULARY, Lexical
from benchmarks._search.tasks import LIMIT, WEIGHTS, Task

TOLERANCE = 1e-5
"""A document this close to the tenth best is as good as it: float32 sums in another order."""


@dataclass(frozen=True, slots=True, eq=False)
class Top:
    """The best documents of every query by one mode, best first, with both scores of each.

    Places that are left over have the number -1.
    """

    numbers: np.ndarray
    dense: np.ndarray
    sparse: np.ndarray


@dataclass(frozen=True, slots=True)
class Expected:
    """What a query should find: `needed` documents, all of them among `numbers`."""

    numbers: frozenset[int]
    needed: int


def lexical_scores(queries: Lexical, documents: Lexical) -> np.ndarray:
    """Sums over shared tokens of the products of weights, `(queries, documents) float32`."""
    asked, columns = np.unique(queries.token_ids, return_inverse=True)
    count = len(queries.indptr) - 1
    table = np.zeros((len(asked) + 1, count), np.float32)
    owners = np.repeat(np.arange(count), np.diff(queries.indptr))
    table[columns + 1, owners] = queries.weights
    slots = np.zeros(VOCABULARY, np.int64)
    slots[asked] = np.arange(1, len(asked) + 1)
    found = slots[documents.token_ids]
    shared = np.flatnonzero(found)
    owners = np.repeat(np.arange(len(documents.indptr) - 1), np.diff(documents.indptr))[shared]
    scores = np.zeros((len(documents.indptr) - 1, count), np.float32)
    if len(shared):
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        products = table[found[shared]] * documents.weights[shared, None]
        scores[owners[starts]] = np.add.reduceat(products, starts, axis=0)
    return scores.T


def tops(
    blocks: Iterable[Block], queries: Block, *, fields: Sequence[str | None], most: int
) -> dict[tuple[str | None, str], Top]:
    """The best by dense and by sparse scores, for each filter; in one pass.

    Args:
        blocks: All documents.
        queries: The queries; a filter asks for the value of the query's own document.
        fields: Which filters; None is no filter.
        most: Documents per query and mode.

    Returns:
        One `Top` for each field and mode.
    """
    keys = [(field, mode) for field in fields for mode in ("dense", "sparse")]
    held = {key: _no_top(len(queries)) for key in keys}
    for block in blocks:
        dense = queries.dense @ block.dense.T
        sparse = lexical_scores(queries.lexical, block.lexical)
        for key in keys:
            keep = _passing(key[0], queries, block)
            if key[1] == "sparse":
                keep = keep & (sparse > 0)
            numbers = np.where(keep, np.arange(block.start, block.start + len(block)), -1)
            held[key] = _merged(held[key], Top(numbers, dense, sparse), key[1], most)
    return held


def expected(
    task: Task, corpus: Corpus, queries: Block, held: dict[tuple[str | None, str], Top]
) -> list[Expected]:
    """What each query should find in a task.

    Args:
        task: The search.
        corpus: Where token vectors come from.
        queries: The queries.
        held: What `tops` found, with at least as many candidates as the task has.

    Returns:
        One per query.
    """
    if not task.lookups:
        return [Expected(frozenset(), 0)] * len(queries)
    pools = [
        _pool([held[task.field, mode] for mode in task.lookups], i, task.candidates)
        for i in range(len(queries))
    ]
    total = sum(WEIGHTS[mode] for mode in task.modes)
    values = [sum(WEIGHTS[m] * pool[m] for m in task.lookups) / np.float32(total) for pool in pools]
    if "colbert" in task.modes:
        late = maxsims(corpus, queries, [pool["numbers"] for pool in pools])
        share = np.float32(WEIGHTS["colbert"] / total)
        values = [value + share * score for value, score in zip(values, late, strict=True)]
    return [_best(pool["numbers"], value) for pool, value in zip(pools, values, strict=True)]


def maxsims(corpus: Corpus, queries: Block, numbers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """ColBERT scores of given documents of each query; each document's vectors are made once."""
    vectors, ends = corpus.query_tokens(queries)
    scores = [np.zeros(len(row), np.float32) for row in numbers]
    wanted = np.concatenate(numbers)
    owners = np.repeat(np.arange(len(numbers)), [len(row) for row in numbers])
    places = np.concatenate([np.arange(len(row)) for row in numbers])
    for number in np.unique(wanted // BLOCK).tolist():
        block = corpus.block(number)
        for document in np.unique(wanted[wanted // BLOCK == number]).tolist():
            row = document - block.start
            tokens, _ = corpus.tokens(block.part(row, row + 1))
            for at in np.flatnonzero(wanted == document).tolist():
                query = vectors[ends[owners[at]] : ends[owners[at] + 1]]
                scores[owners[at]][places[at]] = (query @ tokens.T).max(axis=1).mean()
    return scores


def recall(found: Sequence[Sequence[str]], wanted: Sequence[Expected]) -> float:
    """The mean share of what should be found among the first `LIMIT` found; NaN of no queries."""
    shares = [
        min(len({number_of(i) for i in ids[:LIMIT]} & one.numbers), one.needed) / one.needed
        for ids, one in zip(found, wanted, strict=False)
        if one.needed
    ]
    return float(np.mean(shares)) if shares else float("nan")


def _passing(field: str | None, queries: Block, block: Block) -> np.ndarray:
    """`(queries, documents) bool`."""
    if field is None:
        return np.ones((len(queries), len(block)), bool)
    column = list(FIELDS).index(field)
    return queries.fields[:, column, None] == block.fields[None, :, column]


def _no_top(count: int) -> Top:
    none = np.zeros((count, 0), np.float32)
    return Top(np.zeros((count, 0), np.int64), none, none)


def _merged(so_far: Top, new: Top, mode: str, most: int) -> Top:
    """The best of both by one mode."""
    numbers, dense, sparse = (
        np.concatenate([getattr(so_far, name), getattr(new, name)], axis=1)
        for name in ("numbers", "dense", "sparse")
    )
    keys = np.where(numbers < 0, np.inf, -(dense if mode == "dense" else sparse))
    picked = np.argsort(keys, axis=1, kind="stable")[:, :most]
    return Top(*(np.take_along_axis(held, picked, axis=1) for held in (numbers, dense, sparse)))


def _pool(tops_of_modes: Sequence[Top], query: int, most: int) -> dict[str, np.ndarray]:
    """The union of a query's candidates, with their scores."""
    numbers = np.concatenate([top.numbers[query, :most] for top in tops_of_modes])
    dense = np.concatenate([top.dense[query, :most] for top in tops_of_modes])
    sparse = np.concatenate([top.sparse[query, :most] for top in tops_of_modes])
    unique, places = np.unique(numbers, return_index=True)
    places = places[unique >= 0]
    return {"numbers": numbers[places], "dense": dense[places], "sparse": sparse[places]}


def _best(numbers: np.ndarray, values: np.ndarray) -> Expected:
    needed = min(LIMIT, len(numbers))
    if not needed:
        return Expected(frozenset(), 0)
    least = np.sort(values)[-needed] - TOLERANCE
    return Expected(frozenset(numbers[values >= least].tolist()), needed)
