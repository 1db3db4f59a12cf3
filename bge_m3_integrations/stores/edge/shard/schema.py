"""The shape of a shard, in the engine's terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Layout:
    """The contents of a shard.

    Attributes:
        dim: Width of dense vectors; None without the mode.
        sparse: Whether it holds lexical weights.
        colbert_dim: Width of token vectors; None without the mode.
        colbert: How token vectors are kept, one of `COLBERT_TYPES`.
    """

    dim: int | None
    sparse: bool
    colbert_dim: int | None
    colbert: str

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> Layout:
        """Return the layout of an index's shard."""
        colbert = manifest.colbert or "turbo8"
        return cls(manifest.dim, "sparse" in manifest.kept, manifest.colbert_dim, colbert)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token vector, about; 1 where none is kept."""
        return 1 if self.colbert_dim is None else self.colbert_dim * _BYTES[self.colbert]

    def config(self, *, vacuum: bool = False) -> engine.EdgeConfig:
        """Return the engine's configuration; `vacuum` as in `Shard`."""
        vectors = {}
        if self.dim is not None:
            vectors["dense"] = engine.EdgeVectorParams(size=self.dim, distance=engine.Distance.Dot)
        if self.colbert_dim is not None:
            vectors["colbert"] = engine.EdgeVectorParams(
                size=self.colbert_dim,
                distance=engine.Distance.Dot,
                datatype=COLBERT_TYPES[self.colbert],
                multivector_config=engine.MultiVectorConfig(engine.MultiVectorComparator.MaxSim),
                # opened without reading them all first: see prefetch.py
                memory=engine.Memory.Cold,
                # token vectors score given points only: no graph
                hnsw_config=engine.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=10),
            )
        return engine.EdgeConfig(
            vectors=vectors,
            sparse_vectors={"sparse": engine.EdgeSparseVectorParams()} if self.sparse else {},
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
