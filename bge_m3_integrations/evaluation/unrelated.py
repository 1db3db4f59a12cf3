"""Unrelated pairs of an index, without labels: queries made of documents, against other ones."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

import numpy as np

from bge_m3_integrations._internal.progress import Report
from bge_m3_integrations.core.calibration_parts import Unrelated
from bge_m3_integrations.core.filters import Ids
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.core.scripts import script_of
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.learning.questions import units
from bge_m3_integrations.index.request import SearchOptions

LEAST_DOCUMENTS: Final = 40
"""Fewer documents make no pairs to speak of."""
_QUERIES: Final = 1000
"""Most queries. Levels differ between queries more than between documents, so many queries with few
documents each tell more than few queries with many."""
_PAIRS: Final = 20_000
_BLOCK: Final = 20
"""Queries that share their documents, and the fewest documents of a query."""


@dataclass(frozen=True, slots=True)
class _Query:
    """A text that was taken from a document, and that document's id."""

    text: str
    source: str


def unrelated_pairs(
    index: HybridIndex, options: SearchOptions, *, seed: int, tell: Report
) -> Unrelated:
    """Measure the ranking values of unrelated pairs of an index.

    A query is a sentence of a document, one of each in an index of 1,000 documents or more, and
    else several. It is paired with random other documents of its script: those of another would be
    told apart by their letters alone.

    Args:
        index: At least 40 documents of one script.
        options: The weights and the fusion of the searches.
        seed: The same one gives the same pairs.
        tell: Is told of the pairs that are done.

    Returns:
        About 20,000 values; fewer in an index so small that there are no more pairs.

    Raises:
        InputError: There are too few documents, or the fusion's values are not finite or depend on
            the other documents that were found.
    """
    chosen = random.Random(seed)
    groups = _by_script(_sampled(index, chosen), chosen)
    documents = len({query.source for group in groups for query in group})
    if documents < LEAST_DOCUMENTS:
        raise InputError(
            f"{documents} documents with text, in scripts of {_BLOCK} or more; unrelated pairs "
            f"need {LEAST_DOCUMENTS}: add documents first"
        )
    queries = sum(map(len, groups))
    each = max(_BLOCK, -(-_PAIRS // queries))
    values: list[float] = []
    for block, targets in _blocks(groups, each, chosen):
        if not values:
            _check_independent(index, options, block[0].text, targets)
        values += _values(index, options, block, targets)
        tell(len(values), None)
    held = np.array(values)
    if not held.size or not np.isfinite(held).all():
        raise InputError(
            f"of {held.size:,} unrelated pairs {np.isfinite(held).sum():,} have a finite value by "
            f"{options.get('fusion') or options.get('weights')}; calibration needs all of them"
        )
    return Unrelated.from_values(held, queries=queries)


def _sampled(index: HybridIndex, chosen: random.Random) -> list[Record]:
    """At most 1,000 records, by the places of their ids in order."""
    number = index.count()
    places = iter(sorted(chosen.sample(range(number), min(number, _QUERIES))))
    ids, at = index.store.ids(), -1
    picked: list[str] = []
    for place in places:
        picked += islice(ids, place - at - 1, place - at)
        at = place
    chosen.shuffle(picked)
    return [record for record in index.get(picked) if record is not None]


def _by_script(records: Sequence[Record], chosen: random.Random) -> list[list[_Query]]:
    """Queries of each record, those of one script together; small groups are left out."""
    groups: dict[str | None, dict[str, list[_Query]]] = {}
    most = max(1, _QUERIES // max(1, len(records)))
    for record in records:
        if texts := sentences(record.text, most, chosen):
            queries = [_Query(text, record.id) for text in texts]
            groups.setdefault(script_of(record.text), {})[record.id] = queries
    large = [
        held
        for _, held in sorted(groups.items(), key=lambda one: str(one[0]))
        if len(held) >= _BLOCK
    ]
    return [_shuffled(chain.from_iterable(held.values()), chosen) for held in large]


def _shuffled(queries: Iterable[_Query], chosen: random.Random) -> list[_Query]:
    held = list(queries)
    chosen.shuffle(held)
    return held


def _blocks(
    groups: Sequence[Sequence[_Query]], each: int, chosen: random.Random
) -> Iterator[tuple[Sequence[_Query], list[str]]]:
    """Queries with the ids of the documents that each of them is paired with."""
    for group in groups:
        ids = list(dict.fromkeys(query.source for query in group))
        for start in range(0, len(group), _BLOCK):
            yield group[start : start + _BLOCK], chosen.sample(ids, min(len(ids), each))


def _values(
    index: HybridIndex, options: SearchOptions, block: Sequence[_Query], targets: Sequence[str]
) -> list[float]:
    found = index.search_batch(
        [query.text for query in block],
        **_among(options, targets),
    )
    return [
        hit.score
        for query, hits in zip(block, found, strict=True)
        for hit in hits
        if hit.id != query.source
    ]


def _among(options: SearchOptions, targets: Sequence[str]) -> SearchOptions:
    """A search that scores these documents, whatever they share with the query."""
    return options | SearchOptions(where=Ids(targets), exact=True, limit=len(targets))


def _check_independent(
    index: HybridIndex, options: SearchOptions, query: str, targets: Sequence[str]
) -> None:
    """Refuse a fusion whose value of a document depends on the others, as that of ranks does."""
    some = targets[: len(targets) // 2]
    probes = [
        {hit.id: hit.score for hit in index.search(query, **_among(options, ids))}
        for ids in (targets, some)
    ]
    if any(abs(probes[0][i] - probes[1][i]) > 1e-4 * abs(probes[1][i]) + 1e-6 for i in probes[1]):
        fusion = options.get("fusion")
        raise InputError(
            f"the value that {fusion} gives a document depends on the others that were found, so "
            "no level of it means anything; calibrate WeightedSum() or ScaledSum()"
        )


def sentences(text: str, most: int, chosen: random.Random) -> list[str]:
    """Random sentences of a text, as queries.

    Args:
        text: Any.
        most: How many.
        chosen: Draws.

    Returns:
        Distinct ones, of at most about 45 words; none of a text without letters or digits.
    """
    parts = [part for part in units(text) if any(map(str.isalnum, part))]
    held = list(dict.fromkeys(parts))
    return chosen.sample(held, min(most, len(held)))
