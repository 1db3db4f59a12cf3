"""The source document that records remember, for refreshing documents.

Records are on disk as soon as they are added, and LlamaIndex's document hashes only at `persist`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from llama_index.core.schema import BaseNode

from bge_m3_integrations.core.records import Record
from bge_m3_integrations.llama_index.nodes import REF_DOC_KEY

ORIGIN_KEY = "llama_index_document"
"""Where an origin stands in a record's payload."""
NO_HASH = ""
"""No document has it: one that is noted with it is taken for changed, and replaced."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A document, as the record of each node that was made of it remembers it.

    Attributes:
        hash: LlamaIndex's, of the document before any transformation.
        nodes: How many nodes were made of it: fewer records are what is left of an insertion that
            was cut off.
    """

    hash: str
    nodes: int


Held = Mapping[str, Counter[Origin | None]]
"""How many records of each document remember which origin; None is an added or edited node's."""


def remembering(record: Record, origin: Origin | None) -> Record:
    """The record with an origin in its payload; None leaves it as it is."""
    if origin is None:
        return record
    return replace(record, payload={**(record.payload or {}), ORIGIN_KEY: asdict(origin)})


def origins_of(hashes: Mapping[str, str], nodes: Sequence[BaseNode]) -> dict[str, Origin]:
    """The origins of all nodes of some documents, whose hashes are given, by document id.

    A document that no node names as its source has none.
    """
    ids: defaultdict[str, set[str]] = defaultdict(set)
    for node in nodes:
        ids[document_id(node)].add(node.node_id)
    return {key: Origin(hashes[key], len(ids[key])) for key in ids if key in hashes}


def document_id(node: BaseNode) -> str:
    """The id of a node's document; a node without a source is its own."""
    return node.ref_doc_id or node.node_id


def held_of(records: Iterable[Record]) -> Held:
    """Count all records of some documents; a document without records is not there."""
    held: defaultdict[str, Counter[Origin | None]] = defaultdict(Counter)
    for record in records:
        data = (record.payload or {}).get(ORIGIN_KEY)
        source = str(record.metadata.get(REF_DOC_KEY, record.id))
        held[source][None if data is None else Origin(**data)] += 1
    return held


def hash_held(records: Counter[Origin | None], noted: str | None) -> str:
    """The hash of the one document that records hold, which at least one record is of.

    It is `NO_HASH` where records of the document are missing or of several insertions. Where none
    remembers an origin, what the document store has noted holds.
    """
    origins = [origin for origin in records if origin is not None]
    if not origins:
        return noted or NO_HASH
    whole = len(origins) == 1 and records[origins[0]] <= origins[0].nodes <= records.total()
    return origins[0].hash if whole else NO_HASH
