"""m3serve: an asynchronous engine with a queue that sorts by length."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks._peers.base import Encoded, Model, Peer, Setting

_TIMEOUT = 1800.0


@dataclass(frozen=True, slots=True)
class _M3Serve:
    engine: Any
    loop: asyncio.AbstractEventLoop

    def encode(self, texts: list[str], *, query: bool) -> Any:
        """One request per text, all at once, so that its queue batches them."""

        async def requests() -> list[Any]:
            ask = partial(self.engine.embed, timeout=_TIMEOUT)
            heads = {"return_sparse": True, "return_colbert": True}
            return await asyncio.gather(*(ask([text], **heads) for text in texts))

        return self.loop.run_until_complete(requests())

    def read(self, raw: Any) -> Encoded:
        dense = np.array([result.dense[0] for result in raw], np.float32)
        sparse = [_greatest(r.sparse_indices[0], r.sparse_weights[0]) for r in raw]
        return Encoded(dense, sparse, [np.array(r.colbert_vecs[0], np.float32) for r in raw])


def _greatest(ids: list[int], weights: list[float]) -> dict[int, float]:
    """It leaves repeated tokens and the special ones in; BGE-M3's weight is the greatest."""
    found: dict[int, float] = {}
    for token, weight in zip(ids, weights, strict=True):
        found[token] = max(weight, found.get(token, 0.0))
    return {token: weight for token, weight in found.items() if token > 3}


def _load(setting: Setting, *, batch_size: int) -> Model:
    from m3serve import Engine

    engine = Engine(
        str(setting.checkpoint), device="cpu", use_fp16=False, max_batch_size=batch_size
    )
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.start())
    return _M3Serve(engine, loop)


M3SERVE = tuple(
    Peer(
        f"m3serve-b{batch_size}",
        heads=3,
        modules=("m3serve",),
        distributions=("m3serve", "torch", "transformers"),
        load=partial(_load, batch_size=batch_size),
        secondary=batch_size > 1,
    )
    for batch_size in (1, 8)
)
