"""Keywords of a call and fields of an adapter, as options of a search of the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self, cast

import numpy as np

from bge_m3_integrations._internal.keywords import refuse
from bge_m3_integrations.core.embeddings import (
    MODES,
    EmbeddingBatch,
    Mode,
    Modes,
    as_modes,
    ordered_modes,
)
from bge_m3_integrations.core.fusion import FUSIONS, Fusion
from bge_m3_integrations.core.scores import PRESETS, Weights
from bge_m3_integrations.core.validation import check_fraction, check_int
from bge_m3_integrations.core.weighting import WeightProfile, WeightsLike, as_weights
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.request import USUAL_CANDIDATES, SearchOptions
from bge_m3_integrations.langchain.documents import document_filter
from bge_m3_integrations.langchain.keywords import (
    AnySearch,
    CallOptions,
    RankingOptions,
    SearchKeywords,
    VectorKeywords,
)

_LOOKED_UP: Final = 100


@dataclass(frozen=True, slots=True)
class MmrParams:
    """The numbers of a search by maximal marginal relevance; `lambda_mult` is relevance's share."""

    k: int
    fetch_k: int
    lambda_mult: float

    @classmethod
    def checked(cls, k: int, fetch_k: int, lambda_mult: float) -> Self:
        """Check a caller's numbers; `InputError` for one out of range."""
        most = check_int("k", k)
        return cls(
            most,
            max(most, check_int("fetch_k", fetch_k)),
            check_fraction("lambda_mult", lambda_mult),
        )


def ranking_options(given: RankingOptions) -> SearchOptions:
    """The checked weights, candidates and fusion among a caller's keywords, without any None."""
    own = {
        "weights": as_weights(given.get("weights")),
        "candidates": checked_candidates(given.get("candidates")),
        "fusion": checked_fusion(given.get("fusion")),
    }
    return cast(SearchOptions, {name: value for name, value in own.items() if value is not None})


def search_options(given: SearchKeywords, k: int, ranking: SearchOptions) -> SearchOptions:
    """The options of a search by a call's keywords, where it names none by the store's ranking."""
    refuse_unknown(given, SearchKeywords)
    return {
        **ranking,
        **ranking_options(given),
        "limit": check_int("k", k),
        "where": document_filter(given.get("filter")),
        "score_threshold": given.get("score_threshold"),
    }


def mode_options(given: AnySearch, mode: Mode, index: HybridIndex) -> SearchOptions:
    """The options of a search by one mode alone: it looks up, and its score is the ranking value.

    The keywords may have `k` among them, but no weights.
    """
    if given.get("weights") is not None:
        raise InputError(
            f"a search by {mode} alone takes no weights, not {given['weights']!r}; "
            'search_type="hybrid" does'
        )
    # token vectors that are not kept score what the other modes find
    found = {mode: _LOOKED_UP} if mode in index.store.capabilities.find else None
    keywords = given.copy()
    k = keywords.pop("k", 4)
    return search_options(keywords, k, {"weights": Weights.only(mode), "candidates": found})


def vector_options(given: VectorKeywords, k: int) -> SearchOptions:
    """The options of a search by a dense vector."""
    refuse_unknown(given, VectorKeywords)
    dense: SearchOptions = {
        "weights": Weights.only("dense"),
        "candidates": {"dense": _LOOKED_UP},
    }
    return search_options(cast(SearchKeywords, given), k, dense)


def refuse_unknown(given: Mapping[str, Any], options: type[Any]) -> None:
    """Raise `KeywordError` for keywords that a typed dict lacks, with the names that were meant."""
    known = options.__annotations__
    if unknown := sorted(given.keys() - known.keys()):
        refuse(unknown, dict.fromkeys(["k", *known]))


def vector_batch(vector: Sequence[float]) -> EmbeddingBatch:
    """A dense vector, `(dim,)`, as a query of norm 1; `InputError` where it has no direction."""
    try:
        row = np.asarray(vector, np.float64)  # squares of large float32 would overflow
    except (TypeError, ValueError):
        row = np.zeros(0)
    norm = float(np.linalg.norm(row)) if row.ndim == 1 else 0.0
    if not 0 < norm < np.inf:
        raise InputError("the embedding must be a list of finite numbers that are not all 0")
    none = np.zeros(1, np.int64)
    return EmbeddingBatch(np.asarray(row / norm, np.float32)[np.newaxis], None, None, none, none)


def call_options(usual: SearchOptions, call: CallOptions) -> SearchOptions:
    """A retriever's usual options of a search with those of one call, where they are not None."""
    refuse_unknown(call, CallOptions)
    options = usual.copy()
    if (limit := call.get("k")) is not None:
        options["limit"] = check_int("k", limit)
    if (where := document_filter(call.get("filter"))) is not None:
        options["where"] = where
    if (threshold := call.get("score_threshold")) is not None:
        options["score_threshold"] = threshold
    if (weights := as_weights(call.get("weights"))) is not None:
        options["weights"] = weights
    if (modes := call.get("modes")) is not None:
        options["weights"] = _weights_among(modes, weights, usual.get("weights"))
        options["candidates"] = candidates_among(modes, usual.get("candidates"))
    return options


def _weights_among(
    modes: Modes | Mode, weights: WeightsLike | None, usual: WeightsLike | None
) -> Weights:
    """The weights of a call that names its modes: its own, or what the usual ones leave these."""
    wanted = as_modes(modes)
    if weights is None:
        return (Weights() if usual is None else _numbers(usual, wanted)).restricted(wanted)
    chosen = _numbers(weights, wanted)
    if other := chosen.modes - wanted:
        raise InputError(
            f"modes={ordered_modes(wanted)} and weights={chosen} contradict each other: the "
            f"weights count {ordered_modes(other)}; leave one of the two out"
        )
    return chosen


def _numbers(weights: WeightsLike, wanted: frozenset[Mode]) -> Weights:
    if isinstance(weights, WeightProfile):
        return weights.weights
    if not callable(weights) and not (isinstance(weights, str) and weights not in PRESETS):
        return Weights.parse(weights)
    if len(wanted) == 1:
        return Weights.only(next(iter(wanted)))
    raise InputError(
        f"modes={ordered_modes(wanted)} leave modes out of weights={weights!r}, whose numbers only "
        "a search knows; give numbers too, or leave out modes"
    )


def candidates_among(
    modes: Modes | Mode, usual: Mapping[Mode, int] | None
) -> Mapping[Mode, int] | None:
    """The lookups of a call that names its modes: by these alone, where any of them looks up.

    Token vectors alone rank what the usual lookups find, of which None are the index's own.
    """
    wanted = as_modes(modes)
    counts = USUAL_CANDIDATES if usual is None else usual
    return {mode: n for mode, n in counts.items() if mode in wanted} or usual


def checked_candidates(value: Any) -> Mapping[Mode, int] | None:
    """Check how many documents each mode looks up, and copy that; None stays None.

    Whether an index can look up by these modes is its own to say.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping) or not value or not set(value) <= set(MODES):
        raise InputError(
            f"candidates must map one or more of {list(MODES)} to numbers, such as "
            f'{{"dense": 100}}, not {value!r}'
        )
    return {mode: check_int(f"candidates[{mode!r}]", number) for mode, number in value.items()}


def checked_fusion(value: Any) -> Fusion | None:
    """Read a fusion, the name of one, or a form such as `{"name": "reciprocal_rank", "k": 10}`."""
    form = {"name": value} if isinstance(value, str) else value
    if isinstance(form, Mapping):
        return _named(form)
    if form is not None and not isinstance(form, Fusion):
        raise InputError(
            f"fusion must be one of {list(FUSIONS)}, or have name, rank_values and max_score; not "
            f"{value!r}"
        )
    return form


def _named(form: Mapping[str, Any]) -> Fusion:
    name = str(form.get("name"))
    if name not in FUSIONS:
        raise InputError(f"unknown fusion {name!r}; there are {list(FUSIONS)}")
    kind = FUSIONS[name]
    known = {field.name for field in fields(kind)}
    if unknown := set(form) - known:
        raise InputError(f"{name} has no {sorted(unknown)}; it has {sorted(known - {'name'})}")
    return kind(**form)
