"""Dense vectors that LlamaIndex brings along: compared with the engine's own, never kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from llama_index.core.schema import BaseNode, MetadataMode

from bge_m3_integrations.core.embeddings import EmbeddingBatch, FloatArray
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.llama_index.document_hashes import Origin, document_id, remembering
from bge_m3_integrations.llama_index.nodes import embedded_text, node_to_record

FIX = "embed with BGEM3Embedding(engine=vector_store.engine), which shares the forward pass too"
NODE_FIX = (
    f"{FIX}, or embed node.get_content(metadata_mode=MetadataMode.EMBED), which is the text of a "
    "node that all of LlamaIndex embeds"
)
LEAST_COSINE = 0.99
"""Of one text's vectors by one model: int8 and bfloat16 stay above, another model far below."""


def vector_of(
    given: Sequence[float], *, dim: int, name: str, model: str, zero: str = FIX
) -> FloatArray:
    """A vector that came with a node or a query, `(dim,) float32` of norm 1.

    An `InputError` for another width or no direction calls it by `name`, and the engine's by
    `model`; `zero` is what to do about a vector of zeros.
    """
    vector = np.asarray(given, np.float32)
    if vector.shape != (dim,):
        raise InputError(
            f"{name} has {vector.size} numbers and those of {model} have {dim}: another model, the "
            f"embed_model, made it; {FIX}"
        )
    norm = float(np.linalg.norm(vector))
    if not 0 < norm < np.inf:
        fix = FIX if norm else zero
        raise InputError(f"{name} has the norm {norm}, which gives it no direction; {fix}")
    return vector / np.float32(norm)


def check_agrees(vector: FloatArray, ours: FloatArray, *, name: str, model: str, fix: str) -> None:
    """Refuse a vector whose cosine to the engine's own of that text is below `LEAST_COSINE`."""
    cosine = float(vector @ ours)
    if not cosine >= LEAST_COSINE:
        raise InputError(
            f"{name} has cosine {cosine:.3f} to the one that {model} gives the text: another "
            f"model, the embed_model, made it, or it was made of another text; {fix}"
        )


def add_compared(
    index: HybridIndex, nodes: Sequence[BaseNode], origins: Mapping[str, Origin]
) -> None:
    """Add nodes of distinct ids, whose records remember the origins of their documents.

    Each embedding that a node carries is compared before its batch is written; one of another model
    is an `InputError` with the node's id.
    """
    records = [remembering(node_to_record(n), origins.get(document_id(n))) for n in nodes]
    by_id = {node.node_id: node for node in nodes}
    dim, model = index.engine.encoder.dim, index.engine.name
    compared = nodes if "dense" in index.modes else []
    given = {
        node.node_id: vector_of(node.embedding, dim=dim, name=_named(node.node_id), model=model)
        for node in compared
        if node.embedding is not None
    }

    def check(batch: Sequence[Record], embeddings: EmbeddingBatch) -> None:
        for record, ours in zip(batch, embeddings.dense, strict=True):
            vector = given.get(record.id)
            if vector is None or _of_another_text(vector, ours, by_id[record.id], index.engine):
                continue
            check_agrees(vector, ours, name=_named(record.id), model=model, fix=NODE_FIX)

    index.add(records, check=check if given else None)


def _of_another_text(vector: FloatArray, ours: FloatArray, node: BaseNode, engine: BGEM3) -> bool:
    """Whether the engine's model made a vector of the node with other metadata, or with none.

    LlamaIndex's memory blocks embed the bare text, and users all of it. It costs a forward pass for
    each such text, where the vectors differ.
    """
    if vector @ ours >= LEAST_COSINE:
        return False
    ways = (MetadataMode.NONE, MetadataMode.ALL, MetadataMode.LLM)
    others = dict.fromkeys(node.get_content(metadata_mode=way) for way in ways)
    others.pop(embedded_text(node), None)
    if not others:
        return False
    dense = engine.encode_documents(list(others), modes=["dense"]).dense
    return bool((dense @ vector).max() >= LEAST_COSINE)


def _named(node_id: str) -> str:
    return f"the embedding of node {node_id!r}"
