"""What is kept and asked: Cranfield by a trained checkpoint, drawn words by a full-size one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks._quality.errors import HYBRID
from benchmarks._quality.gate import ndcg
from benchmarks._shape import Shape
from benchmarks._storage.kinds import merged
from benchmarks._workloads import text_of
from bge_m3_integrations import BGEM3
from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import EmbeddingBatch, FloatArray, TokenVectors
from bge_m3_integrations.core.scores import Components
from bge_m3_integrations.encoders.torch.maxsim import maxsim

CANDIDATES = 100
"""By each of dense and sparse, as a search has it by default."""
QUERY_TOKENS, DOCUMENT_TOKENS = 16, 120
_QUERIES, _DOCUMENTS = 20, 100


class Vectors:
    """Queries and documents of one model in one dtype.

    Args:
        queries: Encoded.
        documents: Encoded, unpooled.
    """

    def __init__(self, queries: EmbeddingBatch, documents: EmbeddingBatch) -> None:
        self.queries, self.documents = queries, documents
        self._merged: dict[int, TokenVectors] = {}

    @property
    def tokens(self) -> TokenVectors:
        """The queries' token vectors."""
        return _colbert(self.queries)

    @property
    def count(self) -> int:
        """The documents' token vectors before any pooling: what bytes are divided by."""
        return len(_colbert(self.documents).vectors)

    @cached_property
    def reference(self) -> FloatArray:
        """`(q, n)` scores of the unpooled float32 vectors."""
        return maxsim(self.tokens, _colbert(self.documents))

    def kept(self, factor: int) -> TokenVectors:
        """The documents' token vectors as an index with that pooling keeps them."""
        if factor not in self._merged:
            self._merged[factor] = merged(_colbert(self.documents), factor)
        return self._merged[factor]


class Judged:
    """Vectors with judgements: a ColBERT score becomes nDCG@10 alone and in the hybrid score.

    Args:
        vectors: In all modes.
        queries: Ids of the queries.
        documents: Ids of the documents.
        qrels: Grades by query id and document id.
    """

    def __init__(
        self,
        vectors: Vectors,
        queries: list[str],
        documents: list[str],
        qrels: Mapping[str, Mapping[str, int]],
    ) -> None:
        self.vectors = vectors
        self._names, self._qrels = (queries, documents), qrels
        self._found = scoring.components(vectors.queries, vectors.documents, ["dense", "sparse"])

    @cached_property
    def candidates(self) -> np.ndarray:
        """`(q, n) bool`: the first by dense score, and by lexical score above 0."""
        dense, sparse = self._found.dense, self._found.sparse
        assert dense is not None
        assert sparse is not None
        return _first(dense) | (_first(sparse) & (sparse > 0))

    def quality(self, colbert: FloatArray) -> dict[str, np.ndarray]:
        """nDCG@10 of each judged query: by ColBERT over all documents, hybrid over candidates."""
        parts = Components(self._found.dense, self._found.sparse, colbert)
        hybrid = np.where(self.candidates, scoring.hybrid(parts, HYBRID).hybrid, 0.0)
        both = {"colbert": colbert, "hybrid": hybrid}
        return {name: ndcg(held, *self._names, self._qrels) for name, held in both.items()}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How long a model took over documents.

    Attributes:
        documents: How many.
        tokens: Of them all, special tokens included.
        seconds: Of one call that encoded their token vectors.
    """

    documents: int
    tokens: int
    seconds: float


def judged(engine: BGEM3, folder: Path) -> Judged:
    """Encode Cranfield in all modes."""
    from scripts.evaluate_demo import cranfield

    held = cranfield(folder)
    queries = engine.encode_queries(list(held.queries.values()))
    documents = engine.encode_documents(list(held.docs.values()))
    return Judged(Vectors(queries, documents), list(held.queries), list(held.docs), held.qrels)


def drawn(checkpoint: Path) -> tuple[Vectors, Encoding]:
    """Encode texts of drawn words in bfloat16: documents and queries of one length each.

    Args:
        checkpoint: A random one, as `benchmarks._checkpoint` writes it.

    Returns:
        Token vectors, and what encoding the documents took.
    """
    engine, shape = BGEM3(checkpoint, device="cpu", dtype="bfloat16"), Shape.of(checkpoint)
    lengths = [(QUERY_TOKENS, _QUERIES), (DOCUMENT_TOKENS, _DOCUMENTS)]
    questions, texts = (
        [text_of(tokens + 1, shape=shape, seed=(side, i)) for i in range(count)]  # <s> is no row
        for side, (tokens, count) in enumerate(lengths)
    )
    queries = engine.encode_queries(questions, modes=["colbert"])  # loads the model
    start = time.perf_counter()
    documents = engine.encode_documents(texts, modes=["colbert"])
    seconds = time.perf_counter() - start
    return Vectors(queries, documents), Encoding(len(texts), int(documents.tokens.sum()), seconds)


def _first(scores: FloatArray) -> np.ndarray:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :CANDIDATES]
    found = np.zeros(scores.shape, bool)
    np.put_along_axis(found, order, True, axis=1)
    return found


def _colbert(batch: EmbeddingBatch) -> TokenVectors:
    assert batch.colbert is not None  # every encoding here has it
    return batch.colbert
