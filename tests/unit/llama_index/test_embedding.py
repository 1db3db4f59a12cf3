"""BGEM3Embedding in LlamaIndex's own indexes and pipelines."""

from __future__ import annotations

import asyncio
import json
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.callbacks import (
    CallbackManager,
    CBEventType,
    EventPayload,
    LlamaDebugHandler,
)
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.schema import MetadataMode, TextNode

from bge_m3_integrations import BGEM3, InputError, TruncationWarning
from bge_m3_integrations.llama_index import (
    BGEM3Embedding,
    BGEM3Reranker,
    BGEM3SparseEmbedding,
)
from bge_m3_integrations.testing import FakeEncoder

ADAPTERS = [BGEM3Embedding, BGEM3SparseEmbedding, BGEM3Reranker]
OPTIONS: dict[str, Any] = {
    "model_name": "some/other",
    "max_length": 128,
    "dtype": "float32",
    "pooling": "mean",
    "query_instruction": "q: ",
    "document_instruction": "d: ",
    "revision": "abc",
    "trust_remote_code": True,
    "device": "cpu",
    "clean": True,
}


def test_vectors_are_the_engines_as_python_floats(engine: BGEM3) -> None:
    embedding = BGEM3Embedding(engine=engine)
    expected = engine.encode_documents(["some text"], modes={"dense"}).dense
    assert expected is not None
    vector = embedding.get_text_embedding("some text")
    assert vector == expected[0].tolist()
    assert {type(number) for number in vector} == {float}


def test_a_query_is_encoded_as_a_query() -> None:
    encoder = FakeEncoder(query_instruction="find")
    embedding = BGEM3Embedding(engine=BGEM3(encoder))
    assert embedding.get_query_embedding("cat") != embedding.get_text_embedding("cat")
    assert [call.kind for call in encoder.calls] == ["query", "document"]


def test_no_texts_give_no_vectors(engine: BGEM3) -> None:
    assert BGEM3Embedding(engine=engine).get_text_embedding_batch([]) == []


async def test_eight_texts_are_one_call_also_when_awaited(
    encoder: FakeEncoder, engine: BGEM3
) -> None:
    texts = [f"text {i}" for i in range(8)]
    embedding = BGEM3Embedding(engine=engine)
    awaited = await embedding.aget_text_embedding_batch(texts)
    assert [len(call.texts) for call in encoder.calls] == [8]
    assert awaited == embedding.get_text_embedding_batch(texts)
    assert len(encoder.calls) == 2


async def test_a_query_and_a_text_leave_the_event_loop_free(gated: Any) -> None:
    embedding = BGEM3Embedding(engine=BGEM3(gated))
    tasks = [
        asyncio.create_task(embedding.aget_query_embedding("q")),
        asyncio.create_task(embedding.aget_text_embedding("t")),
        asyncio.create_task(embedding.aget_text_embedding_batch(["a", "b"])),
    ]
    await asyncio.sleep(0)
    gated.gate.set()
    await asyncio.gather(*tasks)
    assert set(gated.opened) == {True}  # texts that wait together may be one call


async def test_two_hundred_awaited_texts_cost_one_forward_each(
    encoder: FakeEncoder, engine: BGEM3
) -> None:
    texts = [f"text number {i}" for i in range(200)]
    embedding = BGEM3Embedding(engine=engine)
    awaited = await embedding.aget_text_embedding_batch(texts)
    assert encoder.forwards == dict.fromkeys(texts, 1)
    assert awaited == embedding.get_text_embedding_batch(texts)


async def test_events_frame_awaited_queries_and_texts_too(
    engine: BGEM3, event_names: list[str]
) -> None:
    embedding = BGEM3Embedding(engine=engine)
    await embedding.aget_query_embedding("q")
    await embedding.aget_text_embedding_batch(["a", "b"])
    assert event_names == ["EmbeddingStartEvent", "EmbeddingEndEvent"] * 2


async def test_callbacks_see_chunks_and_vectors_of_every_call(engine: BGEM3) -> None:
    seen = LlamaDebugHandler(print_trace_on_end=False)
    embedding = BGEM3Embedding(engine=engine, callback_manager=CallbackManager([seen]))
    vectors = [embedding.get_query_embedding("q")]
    vectors += embedding.get_text_embedding_batch(["a", "b"])
    vectors += [await embedding.aget_query_embedding("q")]
    vectors += await embedding.aget_text_embedding_batch(["a", "b"])
    ends = [pair[1].payload or {} for pair in seen.get_event_pairs(CBEventType.EMBEDDING)]
    chunks = [end[EventPayload.CHUNKS] for end in ends]
    assert sorted(chunks, key=len) == [["q"], ["q"], ["a", "b"], ["a", "b"]]
    shown = [vector for end in ends for vector in end[EventPayload.EMBEDDINGS]]
    assert sorted(shown) == sorted(vectors)


def test_events_frame_queries_and_texts(engine: BGEM3, event_names: list[str]) -> None:
    embedding = BGEM3Embedding(engine=engine)
    embedding.get_query_embedding("q")
    embedding.get_text_embedding_batch(["a", "b"])
    assert event_names == ["EmbeddingStartEvent", "EmbeddingEndEvent"] * 2


def test_the_payload_of_events_names_device_and_limit() -> None:
    payload = BGEM3Embedding(device="cpu", max_length=64).to_payload()
    assert payload["device"] == "cpu"
    assert payload["max_length"] == 64
    assert payload["model_name"] == "BAAI/bge-m3"


def test_a_vector_store_index_finds_the_node_of_the_same_words(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode]
) -> None:
    index = VectorStoreIndex(nodes, embed_model=BGEM3Embedding(engine=engine))
    [best] = index.as_retriever(similarity_top_k=1).retrieve("bird sings tree")
    assert best.node.node_id == "bird"
    assert set(encoder.forwards.values()) == {1}


def test_a_second_pipeline_run_comes_from_the_cache(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode]
) -> None:
    pipeline = IngestionPipeline(transformations=[BGEM3Embedding(engine=engine)])
    first = pipeline.run(nodes=[node.model_copy(deep=True) for node in nodes])
    second = pipeline.run(nodes=[node.model_copy(deep=True) for node in nodes])
    assert len(encoder.calls) == 1
    assert [node.embedding for node in second] == [node.embedding for node in first]
    texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
    assert encoder.forwards == dict.fromkeys(texts, 1)


@pytest.mark.parametrize("changed", [{"dim": 8}, {"max_length": 4}], ids=str)
def test_another_engine_misses_the_pipeline_cache(
    engine: BGEM3, nodes: list[TextNode], changed: dict[str, int]
) -> None:
    pipeline = IngestionPipeline(transformations=[BGEM3Embedding(engine=engine)])
    pipeline.run(nodes=[node.model_copy(deep=True) for node in nodes])
    other = FakeEncoder(**changed)
    again = IngestionPipeline(
        transformations=[BGEM3Embedding(engine=BGEM3(other))], cache=pipeline.cache
    )
    with pytest.warns(TruncationWarning) if "max_length" in changed else nullcontext():
        again.run(nodes=[node.model_copy(deep=True) for node in nodes])
    assert len(other.calls) == 1


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_that_changes_a_vector_changes_the_cache_key(option: str) -> None:
    plain = BGEM3Embedding()
    changed = BGEM3Embedding(**{option: OPTIONS[option]})
    assert get_transformation_hash([], changed) != get_transformation_hash([], plain)


def test_a_given_engine_over_a_name_hashes_like_the_fields_that_make_it() -> None:
    given = BGEM3Embedding(engine=BGEM3("some/model", max_length=99, token="hf_secret"))
    fields = BGEM3Embedding(model_name="some/model", max_length=99)
    assert given.to_dict() == fields.to_dict()
    assert "hf_secret" not in f"{given.to_dict()}{given.to_payload()}{given!r}"


def test_an_option_that_contradicts_the_engine_is_refused(engine: BGEM3) -> None:
    with pytest.raises(InputError, match=r"max_length=7 contradicts .* 512"):
        BGEM3Embedding(engine=engine, max_length=7)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match="devise"):
        BGEM3Embedding(devise="cpu")


def test_an_option_cannot_change_behind_the_engines_back() -> None:
    embedding = BGEM3Embedding()
    with pytest.raises(ValueError, match="frozen"):
        embedding.max_length = 3


def test_making_an_embedding_loads_nothing() -> None:
    embedding = BGEM3Embedding(model_name="no/such-model", offline=True)
    assert embedding.to_dict()["model_name"] == "no/such-model"
    assert embedding.engine._encoder is None


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_engine_on_several_devices_is_described_also_in_json(adapter: Any) -> None:
    devices = ("cuda:0", "cuda:1")
    made = adapter(engine=BGEM3("some/model", device=list(devices)))
    data = json.loads(json.dumps(made.to_dict()))
    assert made.device == devices
    assert adapter.from_dict(data).engine.options == made.engine.options
    assert adapter.from_dict(data, engine=made.engine).engine is made.engine
    assert adapter(device=["cpu"]).device == "cpu"
    with pytest.raises(InputError, match=r"device='cpu' contradicts .*'cuda:0', 'cuda:1'"):
        adapter(engine=made.engine, device="cpu")


def test_a_device_that_is_no_device_is_refused() -> None:
    with pytest.raises(ValueError, match="neither a torch device nor a list"):
        BGEM3Embedding(device=[])


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_pickle_keeps_all_options_of_the_engine_and_loads_nothing(
    adapter: Any, tmp_path: Path
) -> None:
    engine = BGEM3("no/such-model", cache=tmp_path, token_budget=100, memo_bytes=5, token="hf_x")
    pickled = pickle.dumps(adapter(engine=engine))
    back = pickle.loads(pickled)
    assert back.engine.options == engine.options
    assert back.engine._memo_bytes == 5
    assert back.engine._cache.path == tmp_path
    assert back.engine._encoder is None
    assert b"hf_x" not in pickled


def test_adapters_of_one_pickle_share_their_engine_still() -> None:
    engine = BGEM3("some/model")
    made = [adapter(engine=engine) for adapter in ADAPTERS]
    dense, sparse, reranker = pickle.loads(pickle.dumps(made))
    assert dense.engine is sparse.engine is reranker.engine


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_copy_with_an_update_keeps_the_engine_unless_an_option_of_it_changes(
    adapter: Any,
) -> None:
    made = adapter(engine=BGEM3("some/model", token_budget=100))
    field = "top_n" if adapter is BGEM3Reranker else "embed_batch_size"
    copied = made.model_copy(update={field: 64})
    assert getattr(copied, field) == 64
    assert copied.engine is made.engine
    other = made.model_copy(update={"max_length": 64})
    assert other.engine.options["max_length"] == 64
    assert made.engine.options["max_length"] is None
