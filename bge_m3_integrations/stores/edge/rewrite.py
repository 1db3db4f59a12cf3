"""Filter fields that change: every record is written anew to be found by the new ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from bge_m3_integrations.stores.edge.folder.disk_space import check_room
from bge_m3_integrations.stores.edge.open_index import OpenIndex
from bge_m3_integrations.stores.edge.points import numbers_of, payload_of, record_of, text_bytes
from bge_m3_integrations.stores.edge.shard.checked import CheckedShard

_KEPT = ["tokens", "truncated"]
_RECORDS_IN_LOG = 50_000
"""Records whose payloads the engine's log holds before they are flushed."""


def set_filter_fields(
    index: OpenIndex, fields: tuple[str, ...] | None, tell: Callable[[str], None]
) -> None:
    """Filter by other metadata paths from now on; see `EdgeStore.set_filter_fields`."""
    with index.changing() as shard:
        old, manifest = index.manifest.fields, replace(index.manifest, filter_fields=fields)
        new = manifest.fields
        if old is not None and (new is None or not new <= old):
            # of both: searches go by the old ones meanwhile
            rewrite_payloads(shard, None if new is None else old | new, tell)
        index.filter_by(manifest, shard)
        shard.outlast_users()  # they go by the old fields: no write may come before they end
    tell("done")


def rewrite_payloads(
    shard: CheckedShard, fields: frozenset[str] | None, tell: Callable[[str], None]
) -> None:
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
        tell(f"rewriting {done:,} of {total:,} records")
        new = {point: _rewritten(held, fields) for point, held in page}
        check_room(shard.path, text_bytes(new.values()), "new filter fields")
        numbers = set().union(*map(numbers_of, new.values()))
        shard.index_numbers(numbers, named=fields is not None)
        for point, payload in new.items():
            shard.overwrite_payload(point, payload)
        done, in_log = done + len(page), in_log + len(page)
        if in_log >= _RECORDS_IN_LOG:
            shard.flush()
            in_log = 0
    shard.flush()


def _rewritten(held: Mapping[str, Any], fields: frozenset[str] | None) -> dict[str, Any]:
    return {**payload_of(record_of(held), fields), **{name: held[name] for name in _KEPT}}
