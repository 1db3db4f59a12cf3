"""LangChain's own suites for key-value stores, without one expected failure."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_tests.integration_tests import BaseStoreAsyncTests, BaseStoreSyncTests

from bge_m3_integrations.langchain import BGEM3ByteStore


class TestByteStoreSync(BaseStoreSyncTests[bytes]):
    @pytest.fixture
    def kv_store(self, tmp_path: Path) -> BGEM3ByteStore:
        return BGEM3ByteStore(tmp_path)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"1", b"2", b"3"


class TestByteStoreAsync(BaseStoreAsyncTests[bytes]):
    @pytest.fixture
    async def kv_store(self, tmp_path: Path) -> BGEM3ByteStore:
        return BGEM3ByteStore(tmp_path)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"1", b"2", b"3"
