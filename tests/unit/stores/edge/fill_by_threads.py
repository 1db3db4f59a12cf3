"""A process whose threads write at once until the disk is full: prints what was acknowledged.

Then it deletes, fills what is left of the disk with something else, and tries to flush and close.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode, TokenVectors, offsets_of
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig

WIDTH = 256
TOKENS = 1000
RECORDS = 20


def batch_of(seed: int) -> EmbeddingBatch:
    """Token vectors of 20 MB."""
    chance = np.random.default_rng(seed)
    vectors = chance.standard_normal((RECORDS * TOKENS, WIDTH), np.float32)
    counts = np.full(RECORDS, TOKENS, np.int64)
    tokens = TokenVectors(vectors, offsets_of(counts))
    return EmbeddingBatch(vectors[:RECORDS], None, tokens, counts, np.zeros(RECORDS, np.int64))


def told(call: Callable[[], object]) -> str:
    try:
        call()
    except StoreError as error:
        return str(error)
    return "done"


def main(folder: str) -> None:
    modes: list[Mode] = ["dense", "colbert"]
    store = EdgeStore.open(
        folder, FolderConfig(modes=modes, dim=WIDTH, colbert_dim=WIDTH, colbert="float32")
    )
    said: dict[int, str] = {}
    start = threading.Barrier(12)

    def write(thread: int) -> None:
        records = [Record(f"{thread}-{i}", "text", {"n": i}) for i in range(RECORDS)]
        batch = batch_of(thread)
        start.wait()
        said[thread] = told(lambda: store.upsert(records, batch))

    threads = [threading.Thread(target=write, args=[i]) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [i for i in said if said[i] == "done"]
    store.delete(ids=[f"{i}-0" for i in kept])
    with suppress(OSError), (Path(folder).parent / "rest").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    ends = [told(call) for call in (store.flush, store.optimize, store.close)]
    sys.stdout.write(json.dumps({"said": said, "ends": ends}))


if __name__ == "__main__":
    main(sys.argv[1])
