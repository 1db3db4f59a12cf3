"""A checked search and its ranking: pure functions between the index and the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.calibration import Calibration
from bge_m3_integrations.core.embeddings import Mode, Modes, ordered_modes
from bge_m3_integrations.core.filters import Filter, FilterLike, as_filter
from bge_m3_integrations.core.fusion import Candidates, Fusion, WeightedSum
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.core.thresholds import Threshold, as_threshold
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.core.weighting import WeightProfile, WeightsLike
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.calibrated import fitting

USUAL_CANDIDATES: Mapping[Mode, int] = {"dense": 100, "sparse": 100}
COLBERT_CANDIDATES: Mapping[Mode, int] = {"colbert": 100}
"""For an index that keeps neither dense nor sparse."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A finished step of a search, for traces.

    Attributes:
        name: "encode", "find", "score" or "rank", in this order.
        seconds: How long it took.
        counts: What it was about, such as {"candidates": 130}, over all queries of the call.
    """

    name: str
    seconds: float
    counts: Mapping[str, int]


class SearchOptions(TypedDict, total=False):
    """The options that every search takes; `HybridIndex.search` explains them."""

    limit: int
    weights: WeightsLike | None
    candidates: Mapping[Mode, int] | None
    fusion: Fusion | None
    where: FilterLike | None
    score_threshold: Threshold | None
    exact: bool
    observe: Callable[[Stage], None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """A search whose options fit the index.

    Attributes:
        limit: Most hits.
        weights: What is scored, and how it counts.
        candidates: How many each mode looks up; None scores every matching document.
        fusion: How scores become one ranking value.
        where: Which documents may be found.
        score_threshold: The least ranking value, probability or percentile of a hit.
        observe: Is told of each finished step.
        weighting: The name of the weights' profile; None for numbers.
        calibration: Reads the ranking values; None where none fits the search.
    """

    limit: int
    weights: Weights
    candidates: Mapping[Mode, int] | None
    fusion: Fusion
    where: Filter | None
    score_threshold: Threshold | None
    observe: Callable[[Stage], None] | None = None
    weighting: str | None = None
    calibration: Calibration | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, int]]:
        """A step of the search: counts that are put into the dict go to `observe` at its end."""
        counts: dict[str, int] = {}
        start = time.perf_counter()
        yield counts
        if self.observe is not None:
            self.observe(Stage(name, time.perf_counter() - start, counts))

    @property
    def modes(self) -> frozenset[Mode]:
        """The modes that the queries must be encoded by."""
        return self.weights.modes | frozenset(self.candidates or ())

    @property
    def lexical(self) -> bool:
        """Whether lexical scores alone rank what was looked up: 0 is then no hit."""
        return self.candidates is not None and self.weights.modes == {"sparse"}


@dataclass(frozen=True, slots=True)
class Scored:
    """A ranked document before its record is fetched.

    Attributes:
        id: The record's id.
        score: The ranking value.
        hybrid: The raw weighted mean of the components.
        components: The score of each weighted mode.
        lexical: The lexical value of learned weights; None otherwise.
        probability: See `Hit.probability`.
        percentile: See `Hit.percentile`.
    """

    id: str
    score: float
    hybrid: float
    components: Mapping[Mode, float]
    lexical: float | None = None
    probability: float | None = None
    percentile: float | None = None


def search_request(
    options: SearchOptions,
    profile: WeightProfile,
    *,
    modes: Modes,
    findable: Modes,
    calibration: Calibration | None = None,
) -> SearchRequest:
    """Check the options of a search and put the defaults in.

    Args:
        options: As the user gave them.
        profile: The profile that their weights stand for.
        modes: The modes that the index keeps.
        findable: Those of them that its store can look up by.
        calibration: The index's.

    Returns:
        The request.

    Raises:
        InputError: A mode that the index lacks, a number out of range, or a threshold that needs a
            calibration which the index lacks.
        FilterError: The filter is malformed.
    """
    limit, observe = options.get("limit", 10), options.get("observe")
    candidates, exact = options.get("candidates"), options.get("exact", False)
    threshold = options.get("score_threshold")
    if threshold is not None:
        threshold = as_threshold(threshold)
    if exact and candidates is not None:
        raise InputError(f"exact search has no candidates, but was given {candidates!r}")
    if observe is not None and not callable(observe):
        raise InputError(f"observe must be a function of a step, not {observe!r}")
    limit = check_int("limit", limit)
    weights, fusion = _checked(profile.weights, modes), _fusion(options.get("fusion"), profile)
    if calibration is not None or threshold is not None:
        calibration = fitting(calibration, weights, fusion, threshold)
    return SearchRequest(
        limit=limit,
        weights=weights,
        candidates=None if exact else _candidates(candidates, limit, findable),
        fusion=fusion,
        where=as_filter(options.get("where")),
        score_threshold=threshold,
        observe=observe,
        weighting=profile.name,
        calibration=calibration,
    )


def _fusion(fusion: Fusion | None, profile: WeightProfile) -> Fusion:
    if fusion is None:
        return profile.fusion or WeightedSum()
    if isinstance(fusion, type) or not isinstance(fusion, Fusion):
        raise InputError(
            "fusion must have name, rank_values and max_score, as those of "
            f"bge_m3_integrations.core.fusion; not {fusion!r}"
        )
    if profile.fusion is not None and profile.fusion != fusion:
        raise InputError(
            f"the weight profile {profile.name!r} is for {profile.fusion}, and fusion={fusion} was "
            "given; leave out fusion, or give the profile's weights alone"
        )
    return fusion


def ranking(candidates: Candidates, request: SearchRequest) -> list[Scored]:
    """Rank the candidates of one query.

    Args:
        candidates: Scored in every weighted mode.
        request: The search.

    Returns:
        At most `request.limit` documents, best first, ties by ascending id; none that is gone, and
        none that shares no token with the query where `request.lexical`.
    """
    ids, parts = candidates.ids, candidates.components
    gone = np.any([np.isnan(scores) for _, scores in parts.items()], axis=0)
    if request.lexical and parts.sparse is not None:
        gone |= parts.sparse <= 0
    alive = np.flatnonzero(~gone)
    held, left = [ids[i] for i in alive.tolist()], parts.take(alive)
    lexical = None if candidates.lexical is None else candidates.lexical[alive]
    rest = Candidates(held, left, candidates.query_sparse_sum, lexical)
    scores = np.asarray(rest.values(request.fusion, request.weights), np.float64)
    values, threshold = scores.tolist(), request.score_threshold
    if request.calibration is None:
        readings = None
        passed = scores >= (threshold if isinstance(threshold, float) else -np.inf)
    else:
        readings = request.calibration.read(scores)
        passed = readings.passed(scores, threshold)
    kept = [(-values[i], held[i], i) for i in np.flatnonzero(passed).tolist()]
    kept.sort()
    rows = [i for _, _, i in kept[: request.limit]]
    best = left.take(rows)
    hybrid, modes = scoring.hybrid(best, request.weights).hybrid.tolist(), ordered_modes(best.modes)
    table = np.stack([array for _, array in best.items()], axis=1).tolist()
    return [
        Scored(
            held[i],
            values[i],
            mean,
            dict(zip(modes, parts_of, strict=True)),
            None if lexical is None else float(lexical[i]),
            *(() if readings is None else readings.of(i)),
        )
        for i, mean, parts_of in zip(rows, hybrid, table, strict=True)
    ]


def _checked(chosen: Weights, modes: Modes) -> Weights:
    if missing := chosen.modes - set(modes):
        raise InputError(
            f"{chosen} count {ordered_modes(missing)}, which this index lacks: "
            f"it keeps {ordered_modes(modes)}; give the others weight 0"
        )
    return chosen


def _candidates(
    candidates: Mapping[Mode, int] | None, limit: int, findable: Modes
) -> Mapping[Mode, int]:
    """The candidates of each mode, at least `limit`, in the order of the modes."""
    if candidates is None:
        usual = {mode: n for mode, n in USUAL_CANDIDATES.items() if mode in findable}
        candidates = usual or COLBERT_CANDIDATES
    if (
        not isinstance(candidates, Mapping)
        or not set(candidates)
        or set(candidates) - set(findable)
    ):
        raise InputError(
            f"candidates {candidates!r} must be a mapping that names one or more of "
            f"{ordered_modes(findable)}, which this index can look up"
        )
    counts = {mode: check_int(f"candidates[{mode!r}]", candidates[mode]) for mode in candidates}
    return {mode: max(counts[mode], limit) for mode in ordered_modes(counts)}
