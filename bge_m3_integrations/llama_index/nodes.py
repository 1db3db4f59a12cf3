"""LlamaIndex nodes to records and back; nothing given is changed or shared."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Collection, Sequence
from typing import Any

from llama_index.core.schema import (
    BaseNode,
    Document,
    MetadataMode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.storage.docstore.utils import doc_to_json, json_to_doc

from bge_m3_integrations._internal.keywords import public_function
from bge_m3_integrations.core.filters import And, Compare, Filter, Ids, Or
from bge_m3_integrations.core.metadata import brief, deep_copy, plain
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.core.validation import as_list
from bge_m3_integrations.errors import InputError

SCORES_KEY = "bge_m3_scores"
"""Where the scores stand in a node's metadata, as in the LangChain adapter."""
PAYLOAD_KEY = "llama_index"
"""Where the node's own JSON stands in a record's payload."""
REF_DOC_KEY = "llama_index_ref_doc_id"
"""Where a node's source document stands in a record's metadata, which is what filters see.

Nodes never show it; documents of other adapters do, as LlamaIndex's own stores show `ref_doc_id`.
An index opened with `filter_fields` finds documents fast only with this key among them.
"""


def checked_nodes(nodes: Any) -> list[BaseNode]:
    """The nodes, read once; `InputError` where these are not several, or one is no node."""
    if isinstance(nodes, BaseNode):  # which can be gone through as well: by its fields
        raise InputError("nodes must be a list of nodes, not one node; write [node]")
    held = as_list(nodes, "nodes", of="nodes")
    if wrong := [node for node in held if not isinstance(node, BaseNode)]:
        raise InputError(f"a node is needed, not {brief(wrong[0])}; write TextNode(text=...)")
    return held


@public_function
def node_to_record(node: BaseNode) -> Record:
    """Make a record that holds all of a node except its embedding.

    Args:
        node: The text with the metadata that its EMBED mode shows is what gets encoded.

    Returns:
        A record of the same id.

    Raises:
        InputError: The node holds something that JSON cannot, or its metadata has `REF_DOC_KEY`.
    """
    metadata = plain(node.metadata, f"node {node.node_id!r}: metadata")  # before it is copied
    return Record(
        node.node_id,
        embedded_text(node),
        metadata=_metadata_of(node, metadata),
        content=node.get_content(metadata_mode=MetadataMode.NONE),
        payload={PAYLOAD_KEY: _json_of(node)},
    )


@public_function
def record_to_node(record: Record) -> BaseNode:
    """Make the node of a record, or a text node for another adapter's record.

    The text node's metadata is kept out of its EMBED text, so that the text that a reranker
    encodes is the text that was indexed.

    Args:
        record: A record of any adapter.

    Returns:
        A new node.
    """
    data = (record.payload or {}).get(PAYLOAD_KEY)
    if data is not None:
        return json_to_doc(copy.deepcopy(data))
    metadata = copy.deepcopy(dict(record.metadata))
    source = metadata.pop(REF_DOC_KEY, None)
    return TextNode(
        id_=record.id,
        text=record.display_text,
        metadata=metadata,
        excluded_embed_metadata_keys=list(metadata),
        relationships=_from_source(source) if isinstance(source, str) else {},
    )


def of_documents(ref_doc_ids: Collection[str]) -> Filter:
    """A filter: the records of these source documents; a node without one is its own document."""
    alone = And([Ids(ref_doc_ids), Compare(REF_DOC_KEY, "$exists", False)])
    return Or([Compare(REF_DOC_KEY, "$in", list(ref_doc_ids)), alone])


def fresh(node: BaseNode) -> BaseNode:
    """A node that its receiver may change; what an index node leads to is shared."""
    return node.model_copy(
        update={
            "metadata": deep_copy(node.metadata, f"node {node.node_id!r}: metadata"),
            "relationships": dict(node.relationships),
            "excluded_embed_metadata_keys": list(node.excluded_embed_metadata_keys),
            "excluded_llm_metadata_keys": list(node.excluded_llm_metadata_keys),
        }
    )


def with_score_metadata(node: BaseNode, key: str, value: object) -> BaseNode:
    """A copy of a node with a score in its metadata, which neither a model nor an LLM reads."""
    copied = fresh(node)
    copied.metadata[key] = value
    for excluded in (copied.excluded_embed_metadata_keys, copied.excluded_llm_metadata_keys):
        if key not in excluded:
            excluded.append(key)
    return copied


def embedded_text(node: BaseNode) -> str:
    """Get the text of a node that LlamaIndex embeds."""
    return node.get_content(metadata_mode=MetadataMode.EMBED)


def copied(documents: Sequence[Document]) -> list[Document]:
    """Documents for transformations, some of which write into what they are given."""
    return [document.model_copy(deep=True) for document in documents]


def with_text(nodes: Sequence[BaseNode]) -> list[BaseNode]:
    """The nodes that there is something to encode of."""
    kept = [node for node in nodes if embedded_text(node)]
    if empty := len(nodes) - len(kept):
        warnings.warn(f"{empty} of {len(nodes)} nodes have no text and are left out", stacklevel=4)
    return kept


def _metadata_of(node: BaseNode, held: dict[str, object]) -> dict[str, object]:
    metadata = copy.deepcopy(held)
    source = node.ref_doc_id
    if metadata.get(REF_DOC_KEY, source) != source:
        raise InputError(
            f"node {node.node_id!r} has {metadata[REF_DOC_KEY]!r} under {REF_DOC_KEY!r} in its "
            f"metadata, where its source document {source!r} is kept; rename that key"
        )
    return metadata if source is None else {**metadata, REF_DOC_KEY: source}


def _from_source(ref_doc_id: str) -> dict[NodeRelationship, RelatedNodeInfo]:
    return {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=ref_doc_id)}


def _json_of(node: BaseNode) -> dict[str, object]:
    try:
        data = doc_to_json(node)
        # the engine's own vectors are in the store; a foreign dense vector has no meaning there
        data["__data__"] = {**data["__data__"], "embedding": None}
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"node {node.node_id!r} cannot be kept as JSON: {error}") from error
    kept: dict[str, object] = json.loads(json.dumps(plain(data, f"node {node.node_id!r}")))
    return kept
