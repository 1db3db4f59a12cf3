from __future__ import annotations

from pathlib import Path

import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings

from bge_m3_integrations import BGEM3
from bge_m3_integrations.engine.cache import EmbeddingCache
from bge_m3_integrations.engine.cached_encoder import CachedEncoder
from bge_m3_integrations.langchain import BGEM3ByteStore, BGEM3Embeddings
from bge_m3_integrations.testing import FakeEncoder

TEXTS = ["red fox", "lazy dog", "a fox\nand a dog"]


def backed(cache: Path | EmbeddingCache, fake: FakeEncoder) -> CacheBackedEmbeddings:
    embeddings = BGEM3Embeddings(engine=BGEM3(fake))
    return CacheBackedEmbeddings.from_bytes_store(
        embeddings,
        BGEM3ByteStore(cache),
        namespace=embeddings.fingerprint,
        key_encoder="sha256",
    )


def test_a_second_run_of_the_same_documents_costs_no_forward(tmp_path: Path) -> None:
    first = backed(tmp_path, FakeEncoder()).embed_documents(TEXTS)
    fake = FakeEncoder()
    assert backed(tmp_path, fake).embed_documents(TEXTS) == first
    assert not fake.forwards
    assert first == BGEM3Embeddings(engine=BGEM3(FakeEncoder())).embed_documents(TEXTS)


async def test_an_async_run_finds_what_a_sync_run_kept(tmp_path: Path) -> None:
    first = backed(tmp_path, FakeEncoder()).embed_documents(TEXTS)
    fake = FakeEncoder()
    assert await backed(tmp_path, fake).aembed_documents(TEXTS) == first
    assert not fake.forwards


def test_another_model_finds_nothing_in_its_namespace(tmp_path: Path) -> None:
    backed(tmp_path, FakeEncoder()).embed_documents(TEXTS)
    fake = FakeEncoder(dim=8)
    assert len(backed(tmp_path, fake).embed_documents(TEXTS)[0]) == 8
    assert len(fake.forwards) == len(TEXTS)


def test_a_store_and_an_engine_share_one_file_and_its_bound(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, max_bytes=8000)
    store = BGEM3ByteStore(cache)
    store.mset([("key", b"x" * 1000)])
    encoder = CachedEncoder(FakeEncoder(), cache)
    encoder.encode(["a"], kind="document", modes=["dense"])
    assert [*store.yield_keys()] == ["key"]
    for i in range(100):
        encoder.encode([f"text {i}"], kind="document", modes=["dense"])
    assert store.mget(["key"]) == [None]
    assert cache.held <= 8000


@pytest.mark.parametrize("prefix", [None, "", "a"])
def test_keys_of_embeddings_are_not_the_stores(tmp_path: Path, prefix: str | None) -> None:
    store = BGEM3ByteStore(tmp_path)
    CachedEncoder(FakeEncoder(), store.cache).encode(["a"], kind="query", modes=["dense"])
    store.mset([("a b", b"1"), ("a\0c", b"2")])
    assert set(store.yield_keys(prefix=prefix)) == {"a b", "a\0c"}
