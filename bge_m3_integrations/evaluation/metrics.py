"""The metrics by their names, as ir-measures has them."""

from __future__ import annotations

import re
from typing import Any

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations.errors import InputError

_METRICS = {
    "ndcg": "nDCG",
    "recall": "R",
    "mrr": "RR",
    "map": "AP",
    "hit": "Success",
    "precision": "P",
}
_DEPTH = re.compile(r"[1-9][0-9]{0,5}")


def measure_of(metric: str) -> Any:
    """The measure of ir-measures.

    Args:
        metric: A name, with @ and a depth: "ndcg@10".

    Returns:
        The measure.

    Raises:
        InputError: There is none of this name, or the depth is missing or out of range.
    """
    name, _, depth = str(metric).strip().lower().partition("@")
    measure_name = _METRICS.get(name)
    if measure_name is None or (depth and not _DEPTH.fullmatch(depth)):
        raise InputError(
            f"unknown metric {metric!r}; there are {sorted(_METRICS)}, each with @ and a depth, "
            'such as "ndcg@10"'
        )
    measure = getattr(require("ir_measures", extra="eval"), measure_name)
    if not depth and name in ("recall", "hit", "precision"):
        raise InputError(f"{metric!r} needs a depth, such as {metric}@10")
    return measure @ int(depth) if depth else measure


def metric_depth(metric: str) -> int:
    """The number of documents that a metric looks at; 0 for none that is named."""
    depth = str(metric).partition("@")[2].strip()
    return int(depth) if _DEPTH.fullmatch(depth) else 0
