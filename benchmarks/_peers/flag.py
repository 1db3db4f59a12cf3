"""FlagEmbedding, in one process: on a CPU it computes in float32 whatever it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks._peers.base import Encoded, Model, Peer, Setting


@dataclass(frozen=True, slots=True)
class _Flag:
    model: Any
    batch_size: int

    def encode(self, texts: list[str], *, query: bool) -> Any:
        return self.model.encode(
            texts,
            batch_size=self.batch_size,
            max_length=8192,
            return_dense=True,
            return_sparse=True,
            return_colbert_vecs=True,
        )

    def read(self, raw: Any) -> Encoded:
        return flag_output(raw)


def flag_output(raw: Any) -> Encoded:
    """FlagEmbedding's dict, which others return too."""
    sparse = [{int(i): float(w) for i, w in row.items()} for row in raw["lexical_weights"]]
    return Encoded(np.asarray(raw["dense_vecs"]), sparse, list(raw["colbert_vecs"]))


def _load(setting: Setting, *, batch_size: int) -> Model:
    from FlagEmbedding import BGEM3FlagModel

    # one device named outright: no pool of processes; fp16 would only round the weights
    model = BGEM3FlagModel(str(setting.checkpoint), use_fp16=False, devices="cpu")
    return _Flag(model, batch_size)


FLAG = tuple(
    Peer(
        f"flag-b{batch_size}",
        heads=3,
        modules=("FlagEmbedding",),
        distributions=("FlagEmbedding", "torch", "transformers"),
        load=partial(_load, batch_size=batch_size),
        secondary=batch_size == 1,
    )
    for batch_size in (12, 1)
)
