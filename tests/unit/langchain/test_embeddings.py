from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.storage import InMemoryByteStore
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from bge_m3_integrations import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.langchain import (
    BGEM3Embeddings,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3VectorStore,
)
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.gated import GatedEncoder

TEXTS = ["red fox", "lazy dog", "a fox\nand a dog"]


def fake() -> tuple[FakeEncoder, BGEM3Embeddings]:
    encoder = FakeEncoder()
    return encoder, BGEM3Embeddings(engine=BGEM3(encoder))


def test_vectors_are_the_engines_dense_vectors_as_json_floats() -> None:
    _, embeddings = fake()
    expected = BGEM3(FakeEncoder()).encode_documents(TEXTS).dense
    vectors = embeddings.embed_documents(TEXTS)
    assert expected is not None
    assert np.array_equal(np.array(vectors, np.float32), expected)
    assert json.loads(json.dumps(vectors)) == vectors


def test_a_list_is_one_call_for_dense_alone_and_texts_stay_as_they_are() -> None:
    encoder, embeddings = fake()
    embeddings.embed_documents(TEXTS)
    assert [(call.texts, call.modes) for call in encoder.calls] == [(tuple(TEXTS), {"dense"})]


async def test_an_async_list_is_one_call_too() -> None:
    encoder, embeddings = fake()
    vectors = await embeddings.aembed_documents(TEXTS)
    assert [call.texts for call in encoder.calls] == [tuple(TEXTS)]
    assert vectors == embeddings.embed_documents(TEXTS)
    assert await embeddings.aembed_query("fox") == embeddings.embed_query("fox")


async def test_the_event_loop_runs_on_while_texts_are_encoded() -> None:
    encoder = GatedEncoder()
    embeddings = BGEM3Embeddings(engine=BGEM3(encoder))
    assert await encoder.runs_beside_the_loop(embeddings.aembed_documents(TEXTS))


async def test_many_async_queries_at_once_need_few_encoder_calls_and_no_thread_each() -> None:
    encoder = GatedEncoder()
    embeddings = BGEM3Embeddings(engine=BGEM3(encoder))
    queries = [f"question {i}" for i in range(200)]
    before = threading.active_count()
    work = asyncio.gather(*(embeddings.aembed_query(query) for query in queries))
    while not encoder.entered.is_set():
        await asyncio.sleep(0.001)
    assert threading.active_count() - before <= 2
    encoder.gate.set()
    vectors = await work
    assert vectors == embeddings.embed_documents(queries)
    assert len([call for call in encoder.calls if call.kind == "query"]) <= 4
    assert sum(len(call.texts) for call in encoder.calls if call.kind == "query") == 200


async def test_no_texts_give_no_vectors_and_load_nothing() -> None:
    embeddings = BGEM3Embeddings(model="no/such-model")
    assert embeddings.embed_documents([]) == await embeddings.aembed_documents([]) == []


def test_queries_and_documents_are_told_apart() -> None:
    embeddings = BGEM3Embeddings(engine=BGEM3(FakeEncoder(query_instruction="find this:")))
    assert embeddings.embed_query("fox") != embeddings.embed_documents(["fox"])[0]


def test_an_engine_together_with_model_options_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match=r"\['device', 'model_name'\] came with it"):
        BGEM3Embeddings(engine=BGEM3(FakeEncoder()), model="a", device="cpu")


@pytest.mark.parametrize("unknown", [{"modle": "a"}, {"show_progress": True}])
def test_an_unknown_keyword_is_refused(unknown: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="unknown keyword"):
        BGEM3Embeddings(**unknown)


def test_a_field_cannot_be_changed_behind_the_model() -> None:
    embeddings = BGEM3Embeddings(model="a")
    with pytest.raises(ValidationError, match="frozen"):
        embeddings.model_name = "b"


def test_the_model_goes_by_both_names_and_the_engine_stays_out_of_dumps() -> None:
    assert BGEM3Embeddings(model="a").model_name == BGEM3Embeddings(model_name="a").model_name
    _, embeddings = fake()
    assert "engine" not in embeddings.model_dump()


def test_every_model_option_reaches_the_model(xlm_roberta: Path) -> None:
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32", "offline": True}
    plain = BGEM3Embeddings(model=xlm_roberta, **options)
    framed = BGEM3Embeddings(
        model=xlm_roberta, query_instruction="find", document_instruction="text", **options
    )
    text = "hello world"
    engine = BGEM3(xlm_roberta, **options)
    assert framed.embed_query(text) == plain.embed_query(f"find{text}")
    assert framed.embed_documents([text]) == plain.embed_documents([f"text{text}"])
    assert engine.fingerprint == BGEM3(xlm_roberta).fingerprint


def test_the_length_limit_is_honoured_with_a_warning(xlm_roberta: Path) -> None:
    embeddings = BGEM3Embeddings(model=xlm_roberta, device="cpu", max_length=4)
    with pytest.warns(UserWarning, match="longer than 4 tokens"):
        embeddings.embed_query("one two three four five six seven")


def test_a_byte_cache_saves_the_second_forward() -> None:
    encoder, embeddings = fake()
    cached = CacheBackedEmbeddings.from_bytes_store(
        embeddings, InMemoryByteStore(), namespace="fake", key_encoder="sha256"
    )
    first, second = cached.embed_documents(TEXTS), cached.embed_documents(TEXTS)
    assert first == second == embeddings.embed_documents(TEXTS)
    assert encoder.forwards["red fox"] == 2  # one for the cache, one for the line above


def test_any_vector_store_can_use_them() -> None:
    _, embeddings = fake()
    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    assert [d.page_content for d in store.similarity_search("lazy dog", k=1)] == ["lazy dog"]


def test_the_fields_describe_the_engine_that_runs() -> None:
    embeddings = BGEM3Embeddings(engine=BGEM3("some/model", max_length=77, dtype="float32"))
    assert (embeddings.model_name, embeddings.max_length, embeddings.dtype) == (
        "some/model",
        77,
        "float32",
    )


def test_two_models_in_one_cache_keep_apart_by_fingerprint() -> None:
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_core.stores import InMemoryByteStore

    store = InMemoryByteStore()
    for dim in (8, 16):
        inner = BGEM3Embeddings(engine=BGEM3(FakeEncoder(dim=dim)))
        cached = CacheBackedEmbeddings.from_bytes_store(
            inner, store, namespace=inner.fingerprint, key_encoder="sha256"
        )
        assert len(cached.embed_documents(["same text"])[0]) == dim


def test_a_copy_with_an_update_runs_with_the_update() -> None:
    embeddings = BGEM3Embeddings(model="some/model", max_length=64)
    other = embeddings.model_copy(update={"max_length": 128})
    assert other.engine.options["max_length"] == 128
    assert embeddings.engine.options["max_length"] == 64
    assert copy.deepcopy(embeddings).engine.options["max_length"] == 64
    assert pickle.loads(pickle.dumps(embeddings)).model_dump() == embeddings.model_dump()


def test_an_iterator_of_texts_is_embedded() -> None:
    embeddings = BGEM3Embeddings(engine=BGEM3(FakeEncoder()))
    assert len(embeddings.embed_documents(iter(["a", "b"]))) == 2  # type: ignore[arg-type]
    with pytest.raises(InputError, match="list of strings"):
        embeddings.embed_documents("one text")  # type: ignore[arg-type]


def test_an_unpickled_pair_shares_forwards_again(xlm_roberta: Path) -> None:
    from bge_m3_integrations.langchain.qdrant import BGEM3QdrantSparse

    dense = BGEM3Embeddings(model=str(xlm_roberta), device="cpu", dtype="float32")
    pair = (dense, BGEM3QdrantSparse(dense.engine))
    dense, sparse = pickle.loads(pickle.dumps(pair))
    dense.embed_documents(["tea"])
    sparse.embed_documents(["tea"])
    assert dense.engine.stats.forwards == 1


def test_embeddings_stand_for_their_engine_wherever_one_is_taken() -> None:
    embeddings = BGEM3Embeddings(engine=BGEM3(FakeEncoder()))
    texts = ["tea is a leaf", "coffee is a bean"]
    retriever = BGEM3Retriever.from_texts(texts, embeddings)
    reranker = BGEM3Reranker(engine=embeddings)
    assert retriever.index.engine is reranker.engine is embeddings.engine
    with pytest.raises(InputError, match="gives dense vectors alone"):
        BGEM3Retriever.from_texts(texts, DeterministicFakeEmbedding(size=4))  # type: ignore[arg-type]
    with pytest.raises(
        ValidationError, match="engine must be a BGEM3, or an index or adapter over one, not str"
    ):
        BGEM3Reranker(engine="BAAI/bge-m3")


def test_the_engine_of_a_model_of_its_own_is_made_once_and_loads_nothing() -> None:
    embeddings = BGEM3Embeddings(model="some/model", max_length=64)
    assert embeddings.engine is embeddings.engine
    assert embeddings.engine.name == "some/model"
    assert BGEM3VectorStore(embeddings).engine is embeddings.engine
