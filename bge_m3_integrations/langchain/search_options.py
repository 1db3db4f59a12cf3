"""Keywords of a call and fields of an adapter, as options of a search of the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self

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
class RankingDefaults:
    """A store's ranking where a call says nothing; see `HybridIndex.search`.

    Attributes:
        weights: How much each mode counts.
        candidates: How many documents each mode looks up.
        fusion: How scores become one ranking value.
    """

    weights: WeightsLike | None = None
    candidates: Mapping[Mode, int] | None = None
    fusion: Fusion | None = None

    @classmethod
    def from_options(cls, given: RankingOptions) -> Self:
        """Check the weights, candidates and fusion that a store's constructor was given."""
        return cls(
            as_weights(given.get("weights")),
            checked_candidates(given.get("candidates")),
            checked_fusion(given.get("fusion")),
        )


@dataclass(frozen=True, slots=True)
class MmrParams:
    """Parameters of a search by maximal marginal relevance.

    Attributes:
        k: Most documents chosen.
        fetch_k: How many of the best to choose from.
        lambda_mult: How much relevance counts, from 0 to 1.
    """

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


def search_options(given: SearchKeywords, k: int, ranking: RankingDefaults) -> SearchOptions:
    """The options of a search by the store's weights, or the call's.

    Args:
        given: The keywords of the call; None stands for the store's own.
        k: Most documents.
        ranking: The store's.

    Returns:
        Options for the index.

    Raises:
        InputError: An unknown keyword or fusion, or a number out of range.
        FilterError: A malformed filter.
    """
    refuse_unknown(given, SearchKeywords)
    own = RankingDefaults.from_options(given)
    return SearchOptions(
        limit=check_int("k", k),
        where=document_filter(given.get("filter")),
        weights=ranking.weights if own.weights is None else own.weights,
        candidates=ranking.candidates if own.candidates is None else own.candidates,
        fusion=ranking.fusion if own.fusion is None else own.fusion,
        score_threshold=given.get("score_threshold"),
    )


def mode_options(given: AnySearch, mode: Mode, index: HybridIndex) -> SearchOptions:
    """The options of a search by one mode alone: it looks up, and its score is the ranking value.

    Args:
        given: The keywords of the call, `k` among them.
        mode: The mode.
        index: The index.

    Returns:
        Options for the index.

    Raises:
        InputError: An unknown keyword, or weights.
        FilterError: A malformed filter.
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
    return search_options(keywords, k, RankingDefaults(Weights.only(mode), found))


def vector_options(given: VectorKeywords, k: int) -> SearchOptions:
    """The options of a search by a dense vector.

    Args:
        given: The keywords of the call.
        k: Most documents.

    Returns:
        Options for the index.

    Raises:
        InputError: An unknown keyword.
        FilterError: A malformed filter.
    """
    refuse_unknown(given, VectorKeywords)
    dense = RankingDefaults(Weights.only("dense"), {"dense": _LOOKED_UP})
    keywords = SearchKeywords(
        filter=given.get("filter"), score_threshold=given.get("score_threshold")
    )
    return search_options(keywords, k, dense)


def refuse_unknown(given: Mapping[str, Any], options: type[Any]) -> None:
    """Raise `KeywordError` for a keyword that a typed dict lacks; it names the one that was meant.

    Args:
        given: The keywords of a call.
        options: `SearchKeywords` or another one of `keywords`.

    Raises:
        KeywordError: There is an unknown one.
    """
    known = options.__annotations__
    if unknown := sorted(given.keys() - known.keys()):
        refuse(unknown, dict.fromkeys(["k", *known]))


def vector_batch(vector: Sequence[float]) -> EmbeddingBatch:
    """A dense vector as a query; brought to norm 1, as the documents' are.

    Args:
        vector: `(dim,)` numbers.

    Returns:
        A batch of one.

    Raises:
        InputError: It is zero, not finite, or no vector.
    """
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
    """The options of a search.

    Args:
        usual: The retriever's own.
        call: The options of one call; None leaves the retriever's own.

    Returns:
        New options.

    Raises:
        KeywordError: The call has an unknown option.
        InputError: A number is out of range, or its weights and modes contradict each other or are
            malformed.
        FilterError: Its filter is malformed.
    """
    if unknown := call.keys() - CallOptions.__annotations__.keys():
        refuse(sorted(unknown), list(CallOptions.__annotations__))
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
        options["weights"] = weights_among(modes, weights, as_weights(usual.get("weights")))
        options["candidates"] = candidates_among(modes, usual.get("candidates"))
    return options


def weights_among(
    modes: Modes | Mode, weights: WeightsLike | None, usual: WeightsLike | None
) -> Weights:
    """The weights of a call that names its modes.

    Args:
        modes: The only modes that count.
        weights: The weights of the same call.
        usual: Those of the retriever, taken where the call has none.

    Returns:
        Weights of these modes alone.

    Raises:
        InputError: The call's weights count another mode, no mode is left, or what is left of a
            profile or a function is not known.
    """
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

    Args:
        modes: The only modes that count.
        usual: The retriever's lookups; None is the index's own.

    Returns:
        The lookups; token vectors alone rank what the usual lookups find.
    """
    wanted = as_modes(modes)
    counts = USUAL_CANDIDATES if usual is None else usual
    return {mode: n for mode, n in counts.items() if mode in wanted} or usual


def checked_candidates(value: Any) -> Mapping[Mode, int] | None:
    """Check the number of documents that each mode looks up; return a mapping of its own.

    Args:
        value: A mapping of modes to numbers, or None.

    Returns:
        A copy, or None for None; whether an index can look up by these modes is its own to say.

    Raises:
        InputError: It is no mapping of modes to whole numbers.
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
    """Read a fusion in any of its forms.

    Args:
        value: A fusion; the name of one of this package's; a mapping of "name" and its
            parameters, such as `{"name": "reciprocal_rank", "k": 10}`; or None.

    Returns:
        The fusion, or None for None.

    Raises:
        InputError: An unknown name or parameter, or no fusion.
    """
    if value is None or isinstance(value, str | Mapping):
        return (
            None if value is None else _named({"name": value} if isinstance(value, str) else value)
        )
    if not isinstance(value, Fusion):
        raise InputError(
            f"fusion must be one of {list(FUSIONS)}, or have name, rank_values and max_score; not "
            f"{value!r}"
        )
    return value


def _named(form: Mapping[str, Any]) -> Fusion:
    name = str(form.get("name"))
    if name not in FUSIONS:
        raise InputError(f"unknown fusion {name!r}; there are {list(FUSIONS)}")
    kind = FUSIONS[name]
    known = {field.name for field in fields(kind)}
    if unknown := set(form) - known:
        raise InputError(f"{name} has no {sorted(unknown)}; it has {sorted(known - {'name'})}")
    return kind(**form)
