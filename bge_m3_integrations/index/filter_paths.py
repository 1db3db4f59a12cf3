"""Metadata paths: which there are, and a warning for a filter on one that no record has."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable
from typing import Final

from bge_m3_integrations._internal.warn import warn_user
from bge_m3_integrations.core.filter_comparison import every_path
from bge_m3_integrations.core.filters import And, Compare, Filter, Not, Or
from bge_m3_integrations.core.metadata import brief
from bge_m3_integrations.errors import FilterWarning
from bge_m3_integrations.stores.base import Store

_SAMPLED: Final = 1000
"""Records whose paths are known: read once for each path that no record has."""
_SHOWN: Final = 10
"""Most paths of a message."""


class UnknownPaths:
    """Warns once for each path that a filter names and no record has. Thread-safe.

    It costs nothing unless a filter finds nothing; then a count for each path that was not looked
    at before.
    """

    def __init__(self) -> None:
        self._looked_at: set[str] = set()
        self._lock = threading.Lock()

    def look(
        self, where: Filter, store: Store, runnable: Callable[[Filter], Filter | None]
    ) -> None:
        """Warn of paths that no record has, for a filter under which nothing was found.

        Args:
            where: The filter.
            store: What was searched.
            runnable: A filter in a form that the store runs.
        """
        with self._lock:
            new = sorted(asked_paths(where) - self._looked_at)
        if not new or not store.count():
            return
        unknown = [
            path for path in new if not store.count(runnable(Compare(path, "$exists", True)))
        ]
        if unknown and store.count(runnable(where)):
            unknown, new = [], sorted(set(new) - set(unknown))  # only words found nothing under it
        with self._lock:
            unknown = [path for path in unknown if path not in self._looked_at]
            self._looked_at.update(new)
        if unknown:
            known = sampled_paths(store)
            for path in unknown:
                warn_user(_message(path, known), FilterWarning)


def asked_paths(where: Filter) -> set[str]:
    """The paths that a filter asks about, but for those that it allows to be missing.

    Args:
        where: A filter.

    Returns:
        Paths; what a function looks at is not known.
    """
    asked: set[str] = set()
    optional: set[str] = set()
    waiting = [where]
    while waiting:
        match waiting.pop():
            case And(parts) | Or(parts):
                waiting += parts
            case Not(Compare(path, "$exists", True)) | Compare(path, "$exists", False):
                optional.add(path)
            case Not(part):
                waiting.append(part)
            case Compare(path, _, _):
                asked.add(path)
    return asked - optional


def sampled_paths(store: Store) -> set[str]:
    """The paths that records of a store have, from all over it.

    Args:
        store: Any.

    Returns:
        All paths of up to 1,000 records.
    """
    ids = list(store.ids())
    step = max(1, len(ids) // _SAMPLED)
    records = store.get(ids[::step][:_SAMPLED])
    return {path for r in records if r is not None for path in every_path(r.metadata)} - {""}


def _message(path: str, known: set[str]) -> str:
    near = _nearest(path, known)
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    elif known:
        more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        hint = f"there are {sorted(known)[:_SHOWN]}{more}"
    else:
        hint = "no record has metadata"
    return f"the filter matches nothing, and no record has the metadata key {brief(path)}: {hint}"


def _nearest(path: str, known: set[str]) -> list[str]:
    """The likeliest paths, best first: alike as a whole, or in their last part."""
    lower = {one.lower(): one for one in sorted(known)}
    alike = difflib.get_close_matches(path.lower(), lower, n=3, cutoff=0.6)
    last = _last(path)
    inner = [one for one in lower if _last(one) == last]
    return list(dict.fromkeys(lower[one] for one in [*alike, *inner]))[:3]


def _last(path: str) -> str:
    return path.lower().rpartition(".")[2]
