"""Click logs as judged queries."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from bge_m3_integrations.core.records import text_hash
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.evaluation.datasets import Dataset, first_of, table_rows

_QUERY: Final = ("query", "query_text", "q")
_DOCUMENT: Final = ("document_id", "document", "doc_id", "id", "docid")
_CLICKS: Final = ("clicks", "clicked", "click", "label")


def load_clicks(path: str | Path, *, least: int = 1) -> Dataset:
    """Load a click log: what was shown for a query, and what was clicked.

    A clicked document counts as relevant. Nobody clicks on what was not shown, and what stood at
    the top is clicked more: weights tuned on clicks cannot find what the search never showed.

    Args:
        path: A .csv, .tsv or .jsonl file with a query's text, a document's id, and how often it
            was clicked (1 or 0 for one showing; rows of the same pair are added up).
        least: Clicks from which a document counts as relevant.

    Returns:
        A dataset without documents, for an index that holds them.

    Raises:
        InputError: A row is malformed; the message has file, line and fix.
    """
    place, least = Path(path).expanduser(), check_int("least", least)
    if not place.is_file():
        raise InputError(f"there is no click log at {place}")
    clicks: dict[str, dict[str, float]] = {}
    source: dict[tuple[str, str], str] = {}
    queries: dict[str, str] = {}
    for number, row in table_rows(place):
        where = f"{place}, line {number}"
        query, document, count = (first_of(row, names) for names in (_QUERY, _DOCUMENT, _CLICKS))
        times = _times(count)
        if (
            not isinstance(query, str)
            or not query.strip()
            or not isinstance(document, str | int)
            or document == ""
            or times is None
        ):
            raise InputError(
                f"{where}: expected a query under one of {list(_QUERY)}, a document id under one "
                f"of {list(_DOCUMENT)} and a number of clicks under one of {list(_CLICKS)}; "
                f"there are {dict(list(row.items())[:4])}"
            )
        key = text_hash(query.strip())[:16]
        queries[key] = query.strip()
        held = clicks.setdefault(key, {})
        held[str(document)] = held.get(str(document), 0.0) + times
        source.setdefault((key, str(document)), where)
    qrels = {
        query: {document: int(times >= least) for document, times in held.items()}
        for query, held in clicks.items()
    }
    return Dataset(place.name, queries, qrels, (), source)


def _times(count: Any) -> float | None:
    """A number of clicks, or yes and no as table programs write them; None for anything else."""
    try:
        times = float({"true": 1, "false": 0}.get(str(count).strip().lower(), count))
    except (TypeError, ValueError, OverflowError):
        return None
    return times if 0 <= times < math.inf else None
