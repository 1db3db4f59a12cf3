"""Write what the engine filters by anew, after the filter fields of an index changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bge_m3_integrations.stores.edge.folder.disk_space import check_room
from bge_m3_integrations.stores.edge.points import numbers_of, payload_of, record_of, text_bytes
from bge_m3_integrations.stores.edge.shard.shard import Shard

_KEPT = ["tokens", "truncated"]
_RECORDS_IN_LOG = 50_000
"""Records whose payloads the engine's log holds before they are flushed."""


def refile(shard: Shard, fields: frozenset[str] | None, tell: Callable[[str], None]) -> None:
    """Replace the payload of every record; text, metadata and vectors stay.

    Args:
        shard: Nobody else writes to it.
        fields: The metadata paths that its payloads are to be found by; None is all.
        tell: Is told what happens.

    Raises:
        StoreError: The disk has no room; what was replaced is as good as what was not.
    """
    total, done, in_log = shard.count(None), 0, 0
    for page in shard.pages(None, ["name", "body", *_KEPT]):
        tell(f"refiling {done:,} of {total:,} records")
        new = {point: _refiled(held, fields) for point, held in page}
        check_room(shard.path, text_bytes(list(new.values())), "new filter fields")
        numbers = set().union(*map(numbers_of, new.values()))
        shard.index_numbers(numbers, named=fields is not None)
        for point, payload in new.items():
            shard.overwrite_payload(point, payload)
        done, in_log = done + len(page), in_log + len(page)
        if in_log >= _RECORDS_IN_LOG:
            shard.flush()
            in_log = 0
    shard.flush()


def _refiled(held: Mapping[str, Any], fields: frozenset[str] | None) -> dict[str, Any]:
    return {**payload_of(record_of(held), fields), **{name: held[name] for name in _KEPT}}
