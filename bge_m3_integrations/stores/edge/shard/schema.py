"""The shape of a shard, in the engine's terms."""

from __future__ import annotations

from collections.abc import Mapping

import qdrant_edge as engine

from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode
from bge_m3_integrations.stores.edge.folder.manifest import Manifest

COLBERT_TYPES: Mapping[str, engine.VectorStorageDatatype] = {
    "float32": engine.VectorStorageDatatype.Float32,
    "float16": engine.VectorStorageDatatype.Float16,
    "turbo8": engine.VectorStorageDatatype.Turbo8,
}
_BYTES = {"float32": 4, "float16": 2, "turbo8": 1}
"""Bytes of a number of `COLBERT_TYPES`."""
_INDEXED_FROM_KIB = 10_000
"""Size of a segment's vectors from which `optimize` builds a graph."""


def token_bytes(manifest: Manifest) -> int:
    """Bytes of one token vector, about; 1 where none is kept."""
    width = manifest.colbert_dim
    return 1 if width is None else width * _BYTES[manifest.colbert or "turbo8"]


def engine_config(manifest: Manifest, *, vacuum: bool = False) -> engine.EdgeConfig:
    """Return the engine's configuration of an index's shard; `vacuum` as in `Shard`."""
    vectors = {}
    if manifest.dim is not None:
        vectors["dense"] = engine.EdgeVectorParams(size=manifest.dim, distance=engine.Distance.Dot)
    if manifest.colbert_dim is not None:
        vectors["colbert"] = engine.EdgeVectorParams(
            size=manifest.colbert_dim,
            distance=engine.Distance.Dot,
            datatype=COLBERT_TYPES[manifest.colbert or "turbo8"],
            multivector_config=engine.MultiVectorConfig(engine.MultiVectorComparator.MaxSim),
            # opened without reading them all first: see prefetch.py
            memory=engine.Memory.Cold,
            # token vectors score given points only: no graph
            hnsw_config=engine.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=10),
        )
    sparse = {"sparse": engine.EdgeSparseVectorParams()} if "sparse" in manifest.kept else {}
    return engine.EdgeConfig(
        vectors=vectors,
        sparse_vectors=sparse,
        # the engine's own defaults are named, since it remembers the last ones
        optimizers=engine.EdgeOptimizersConfig(
            deleted_threshold=1e-6 if vacuum else 0.2,
            vacuum_min_vector_number=1 if vacuum else 1000,
            indexing_threshold=_INDEXED_FROM_KIB,
        ),
    )


def engine_query(queries: EmbeddingBatch, mode: Mode) -> engine.Query | None:
    """A dense or a sparse query in the engine's form; None for one without lexical weights."""
    if mode == "dense":
        return engine.Query.Nearest(queries.dense[0].tolist(), using=mode)
    ids, weights = queries.sparse.row(0)
    if not len(ids):
        return None
    return engine.Query.Nearest(engine.SparseVector(ids.tolist(), weights.tolist()), using=mode)
