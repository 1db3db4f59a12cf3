"""This package."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from benchmarks._peers.base import Encoded, Model, Peer, Setting

if TYPE_CHECKING:
    from bge_m3_integrations import BGEM3
    from bge_m3_integrations.core.embeddings import EmbeddingBatch


@dataclass(frozen=True, slots=True)
class _Ours:
    engine: BGEM3

    def encode(self, texts: list[str], *, query: bool) -> EmbeddingBatch:
        return self.engine.encode_queries(texts) if query else self.engine.encode_documents(texts)

    def read(self, raw: EmbeddingBatch) -> Encoded:
        rows = range(len(raw))
        sparse = [dict(zip(*(a.tolist() for a in raw.sparse.row(i)), strict=True)) for i in rows]
        return Encoded(raw.dense, sparse, [raw.colbert.row(i) for i in rows])


def _load(setting: Setting, *, dtype: str) -> Model:
    from bge_m3_integrations import BGEM3

    engine = BGEM3(setting.checkpoint, device="cpu", dtype=dtype, token_budget=setting.token_budget)
    engine.encode_queries(["babeci"])  # weights load when first used
    return _Ours(engine)


OURS = tuple(
    Peer(
        f"ours-{short}",
        heads=3,
        modules=("torch", "transformers"),
        distributions=("bge-m3-integrations", "torch", "transformers"),
        load=partial(_load, dtype=dtype),
    )
    for short, dtype in (("fp32", "float32"), ("bf16", "bfloat16"), ("int8", "int8"))
)
