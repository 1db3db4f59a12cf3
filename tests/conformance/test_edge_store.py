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


class TestProcessStore(EdgeConformance):
    """One process for all tests: each begins with an empty store, and starts another if need be."""

    kind = ProcessStore

    @pytest.fixture(scope="class")
    def held(
        self, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[list[EdgeStore | ProcessStore]]:
        held = [self.open(tmp_path_factory.mktemp("process") / "index")]
        yield held
        held[0].close()

    @pytest.fixture
    def store(self, held: list[EdgeStore | ProcessStore]) -> EdgeStore | ProcessStore:
        path = held[0].path
        if not ProcessStore.is_open(path):  # the test before this one closed it
            held[0] = self.open(path)
        held[0].delete(ids=list(held[0].ids()))
        return held[0]
