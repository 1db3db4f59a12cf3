"""LlamaIndex's BGEM3Index: its own code, over FlagEmbedding's own scoring functions.

Only the encoder is taken out: what its `encode` returns is the corpus's vectors, in the form and
type that FlagEmbedding gives on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks._search.corpus import Block
from benchmarks._search.subjects.base import Kind, Peer, Setup, Tokens
from benchmarks._search.tasks import LIMIT, WEIGHTS


class _Model:
    """Stands for `BGEM3FlagModel`."""

    def __init__(self, setup: Setup) -> None:
        from FlagEmbedding import BGEM3FlagModel as Real

        self.queries = setup.queries
        self.vectors, self.ends = setup.corpus.query_tokens(setup.queries)
        self.documents: dict[str, Any] = {}
        # its own functions, which use nothing of the model
        self.compute_lexical_matching_score = partial(Real.compute_lexical_matching_score, None)
        self.colbert_score = partial(Real.colbert_score, None)

    def encode(self, texts: str | list[str], **_: Any) -> dict[str, Any]:
        """All documents, or the query with this number."""
        if not isinstance(texts, str):
            return self.documents
        i = int(texts)
        return {
            "dense_vecs": self.queries.dense[i],
            "lexical_weights": _as_flag(self.queries.lexical.as_dict(i)),
            "colbert_vecs": self.vectors[self.ends[i] : self.ends[i + 1]],
        }


def _as_flag(weights: dict[int, float]) -> dict[str, np.float32]:
    return {str(token): np.float32(weight) for token, weight in weights.items()}


class _Index(Peer):
    tasks = frozenset({"hybrid+colbert"})

    def __init__(self, setup: Setup) -> None:
        self.model = _Model(setup)
        self.nodes: list[Any] = []
        self.parts: list[tuple[Block, np.ndarray, np.ndarray]] = []
        self.index: Any = None

    def add(self, block: Block, texts: Sequence[str], tokens: Tokens | None) -> None:
        """Collect: it takes all documents at once."""
        from llama_index.core.schema import TextNode

        if tokens is None:
            raise ValueError("BGEM3Index scores token vectors: run with --colbert")
        self.parts.append((block, *tokens))
        self.nodes += [
            TextNode(text=text, id_=key, metadata=block.metadata(i))
            for i, (key, text) in enumerate(zip(block.ids, texts, strict=True))
        ]

    def flush(self) -> None:
        """Build the index."""
        import FlagEmbedding
        from llama_index.indices.managed.bge_m3 import BGEM3Index

        self.model.documents = {
            "dense_vecs": np.concatenate([block.dense for block, _, _ in self.parts]),
            "lexical_weights": [
                _as_flag(block.lexical.as_dict(i))
                for block, _, _ in self.parts
                for i in range(len(block))
            ],
            "colbert_vecs": [
                row for _, vectors, ends in self.parts for row in np.split(vectors, ends[1:-1])
            ],
        }
        real = FlagEmbedding.BGEM3FlagModel
        FlagEmbedding.BGEM3FlagModel = lambda *_, **__: self.model
        try:
            weights = list(WEIGHTS.values())
            self.index = BGEM3Index(nodes=self.nodes, weights_for_different_modes=weights)
        finally:
            FlagEmbedding.BGEM3FlagModel = real

    def search(self, task: str, query: int) -> list[str]:
        found = self.index.query(str(query), top_k=LIMIT)
        return [row.node.node_id for row in found]


BGEM3INDEX = Kind(
    "bgem3index-llamaindex",
    modules=("llama_index.indices.managed.bge_m3", "FlagEmbedding"),
    distributions=("llama-index-indices-managed-bge-m3", "llama-index-core", "FlagEmbedding"),
    open=_Index,
    most=10_000,
    note="scores every document by all three modes, with no candidates; encoding taken out",
    needs_colbert=True,
)
