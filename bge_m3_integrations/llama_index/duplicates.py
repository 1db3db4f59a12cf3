"""A program that runs again: nodes get new ids each time, so it would keep them twice."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.schema import BaseNode

from bge_m3_integrations._internal.warn import warn_user
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.opening import NotBegun
from bge_m3_integrations.llama_index.nodes import embedded_text

_SAMPLE = 1000
"""Records that are looked at, the first by id: of ids that are random, a random share."""


def warn_of_doubles(index: HybridIndex, nodes: Sequence[BaseNode]) -> None:
    """Warn where half of the nodes or more, of distinct ids, seem to be kept under other ids."""
    if isinstance(index.store, NotBegun) or not nodes:
        return
    held = {record.text: record.id for record in index.scroll(limit=_SAMPLE).records}
    if not held:
        return
    there = [n for n in nodes if held.get(embedded_text(n), n.node_id) != n.node_id]
    share = min(1.0, _SAMPLE / index.count())
    if there and len(there) >= share * len(nodes) / 2:
        warn_user(
            f"the index holds {len(there)} of {len(nodes)} nodes already, under other ids: node "
            f"{there[0].node_id!r} is there as {held[embedded_text(there[0])]!r}. Now they "
            "are stored twice. To search the existing nodes, use from_vector_store. To update "
            "them, give documents their own ids (SimpleDirectoryReader(filename_as_id=True)) and "
            "call refresh_ref_docs of a BGEM3Index",
        )
