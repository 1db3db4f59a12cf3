"""A process that writes until the disk is full: prints how many records were kept, and the error.

It is a process of its own because a disk that is full without warning would kill it.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig
from bge_m3_integrations.testing import FakeEncoder

DIM = 1024
WORDS = 500


def main(folder: str) -> None:
    encoder = FakeEncoder(dim=DIM, colbert_dim=DIM, max_length=WORDS)
    batch = encoder.encode(
        [" ".join(f"word{i}" for i in range(WORDS))], kind="document", modes=encoder.modes
    )
    assert batch.colbert is not None
    halves = replace(batch.colbert, vectors=batch.colbert.vectors.astype(np.float16))
    batch = replace(batch, colbert=halves)
    store = EdgeStore.open(folder, FolderConfig(dim=DIM, colbert_dim=DIM, colbert="float32"))
    kept = 0
    try:
        while True:
            store.upsert([Record(f"id-{kept}", "text", {"n": kept})], batch)
            kept += 1
    except StoreError as error:
        sys.stdout.write(f"{kept} {error}\n")
    store.close()


if __name__ == "__main__":
    main(sys.argv[1])
