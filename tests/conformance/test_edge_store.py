from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bge_m3_integrations.stores.base import Store
from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig, ProcessStore
from bge_m3_integrations.testing import StoreConformance


class EdgeConformance(StoreConformance):
    kind: type[EdgeStore] | type[ProcessStore] = EdgeStore
    colbert = "float32"

    def open(self, path: Path) -> EdgeStore | ProcessStore:
        config = FolderConfig(
            modes=["dense", "sparse", "colbert"],
            dim=self.encoder.dim,
            colbert_dim=self.encoder.colbert_dim,
            colbert=self.colbert,
        )
        return self.kind.open(path, config)

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[EdgeStore | ProcessStore]:
        store = self.open(tmp_path / "index")
        yield store
        store.close()

    def reopen(self, store: Store) -> EdgeStore | ProcessStore:
        assert isinstance(store, EdgeStore | ProcessStore)
        store.close()
        return self.kind.open(store.path)


class TestEdgeStore(EdgeConformance):
    pass


class TestEdgeStoreOfFloat16(EdgeConformance):
    atol = 2e-3
    colbert = "float16"


class TestEdgeStoreOfTurbo8(EdgeConformance):
    atol = 5e-3
    colbert = "turbo8"


class TestApartStore(EdgeConformance):
    kind = ProcessStore
