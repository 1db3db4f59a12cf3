"""Options of one call of a retriever, which replace its fields."""

from __future__ import annotations

from collections.abc import Mapping

from bge_m3_integrations._internal.keywords import refuse
from bge_m3_integrations.core.embeddings import Mode, Modes, as_modes, ordered_modes
from bge_m3_integrations.core.scores import Weights, WeightsLike
from bge_m3_integrations.core.validation import whole
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.plan import USUAL_CANDIDATES, SearchOptions
from bge_m3_integrations.langchain.documents import document_filter
from bge_m3_integrations.langchain.keywords import CallOptions
from bge_m3_integrations.langchain.options import parsed_weights
from bge_m3_integrations.langchain.together import TOGETHER


def search_options(usual: SearchOptions, call: CallOptions) -> SearchOptions:
    """The options of a search.

    Args:
        usual: The retriever's own.
        call: What one call says; None leaves the retriever's own.

    Returns:
        New options.

    Raises:
        KeywordError: The call has an unknown option.
        InputError: A number is out of range, or its weights and modes contradict each other or are
            malformed.
        FilterError: Its filter is malformed.
    """
    if unknown := call.keys() - CallOptions.__annotations__.keys():
        refuse(sorted(unknown), [n for n in CallOptions.__annotations__ if n != TOGETHER])
    options = usual.copy()
    if (limit := call.get("k")) is not None:
        options["limit"] = whole("k", limit)
    if (where := document_filter(call.get("filter"))) is not None:
        options["where"] = where
    if (threshold := call.get("score_threshold")) is not None:
        options["score_threshold"] = threshold
    if (weights := parsed_weights(call.get("weights"))) is not None:
        options["weights"] = weights
    if (modes := call.get("modes")) is not None:
        options["weights"] = weights_among(modes, weights, parsed_weights(usual.get("weights")))
        options["candidates"] = candidates_among(modes, usual.get("candidates"))
    return options


def weights_among(
    modes: Modes | Mode, weights: WeightsLike | None, usual: Weights | None
) -> Weights:
    """The weights of a call that names its modes.

    Args:
        modes: The only modes that count.
        weights: The weights of the same call.
        usual: Those of the retriever, taken where the call has none.

    Returns:
        Weights of these modes alone.

    Raises:
        InputError: The call's weights count another mode, or no mode is left.
    """
    wanted = as_modes(modes)
    if weights is None:
        return (usual or Weights()).restricted(wanted)
    chosen = Weights.parse(weights)
    if other := chosen.modes - wanted:
        raise InputError(
            f"modes={ordered_modes(wanted)} and weights={chosen} contradict each other: the "
            f"weights count {ordered_modes(other)}; leave one of the two out"
        )
    return chosen


def candidates_among(
    modes: Modes | Mode, usual: Mapping[Mode, int] | None
) -> Mapping[Mode, int] | None:
    """The lookups of a call that names its modes: by these alone, where any of them looks up.

    Args:
        modes: The only modes that count.
        usual: The retriever's lookups; None is the index's own.

    Returns:
        What to look up; token vectors alone rank what the usual lookups find.
    """
    wanted = as_modes(modes)
    counts = USUAL_CANDIDATES if usual is None else usual
    return {mode: n for mode, n in counts.items() if mode in wanted} or usual
