"""A retriever's options as JSON and back, for LangChain's `dumpd` and `load`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bge_m3_integrations.core.filters import And, Compare, Filter, Not, Or, parse
from bge_m3_integrations.core.fusion import FUSIONS, Fusion
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.core.thresholds import Threshold, threshold_as_json
from bge_m3_integrations.core.weighting import WeightProfile, WeightsLike
from bge_m3_integrations.errors import FilterError
from bge_m3_integrations.langchain.lazy_index import IndexSource


class NotJsonError(Exception):
    """An option that no JSON stands for."""


def as_json(
    source: IndexSource,
    *,
    weights: WeightsLike | None,
    where: Filter | None,
    fusion: Fusion | None,
    threshold: Threshold | None = None,
) -> dict[str, Any]:
    """The fields that need another form, by the names that the constructor knows; None is left out.

    `NotJsonError` for an index in memory or an engine that does what no manifest notes, for a
    filter that holds a function or ids, and for weights or a fusion of a user's own.
    """
    forms = {
        "index": _folder(source),
        "weights": None if weights is None else _weights(weights),
        "filter": None if where is None else filter_as_json(where),
        "fusion": None if fusion is None else _fusion(fusion),
        "score_threshold": threshold_as_json(threshold),
    }
    return {name: form for name, form in forms.items() if form is not None}


def check_json(values: Mapping[str, Any]) -> None:
    """Refuse values that JSON cannot hold, such as an object in a user's own metadata."""
    try:
        json.dumps(values)
    except (TypeError, ValueError) as error:
        raise NotJsonError(str(error)) from error


def filter_as_json(where: Filter) -> dict[str, Any]:
    """The dict form of a filter, as JSON values: `filters.parse` reads an equal filter from it.

    A function, ids, or a key that the dict form reads as an operator is a `NotJsonError`.
    """
    form = _condition(where)
    try:
        same = parse(form) == where
    except FilterError:
        same = False
    if not same:
        raise NotJsonError(f"{where!r} has no dict form")
    return form


def _condition(where: Filter) -> dict[str, Any]:
    match where:
        case Compare(path, op, value):
            return {path: {op: _listed(value)}}
        case And(parts):
            return {"$and": [_condition(part) for part in parts]}
        case Or(parts):
            return {"$or": [_condition(part) for part in parts]}
        case Not(part):
            return {"$not": _condition(part)}
    raise NotJsonError(f"{where!r} has no dict form")


def _listed(value: object) -> object:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _folder(source: IndexSource) -> str:
    if source.serializable_path is None:
        raise NotJsonError("an index that no folder stands for")
    return str(source.serializable_path)


def _weights(weights: WeightsLike) -> str | dict[str, float]:
    if isinstance(weights, str):
        return weights
    if isinstance(weights, WeightProfile) or callable(weights):
        raise NotJsonError(f"weights={weights!r}, which no name or number stands for")
    return asdict(Weights.parse(weights))


def _fusion(fusion: Fusion) -> dict[str, Any]:
    kind = FUSIONS.get(fusion.name)
    if kind is None or type(fusion) is not kind:
        raise NotJsonError(f"{fusion!r} is no fusion of this package")
    return asdict(fusion)
