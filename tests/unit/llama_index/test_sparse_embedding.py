"""BGEM3SparseEmbedding: lexical weights through LlamaIndex's own methods."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.instrumentation.events.embedding import SparseEmbeddingEndEvent

from bge_m3_integrations import BGEM3, InputError, Weights
from bge_m3_integrations.llama_index import BGEM3Embedding, BGEM3SparseEmbedding
from bge_m3_integrations.testing import FakeEncoder


def weights(engine: BGEM3, text: str) -> dict[int, float]:
    sparse = engine.encode_documents([text], modes={"sparse"}).sparse
    assert sparse is not None
    return sparse.as_dict(0)


def test_weights_are_the_engines_with_python_keys_and_values(engine: BGEM3) -> None:
    row = BGEM3SparseEmbedding(engine=engine).get_text_embedding("some text")
    assert row == weights(engine, "some text")
    assert {type(token) for token in row} == {int}
    assert {type(weight) for weight in row.values()} == {float}


def test_a_query_is_encoded_as_a_query() -> None:
    encoder = FakeEncoder(query_instruction="find")
    sparse = BGEM3SparseEmbedding(engine=BGEM3(encoder))
    assert sparse.get_query_embedding("cat").keys() > sparse.get_text_embedding("cat").keys()
    assert [call.kind for call in encoder.calls] == ["query", "document"]


def test_similarity_is_the_lexical_score_and_no_cosine(engine: BGEM3) -> None:
    sparse = BGEM3SparseEmbedding(engine=engine)
    query, document = "the cat the mat", "the cat sat on the mat"
    score = engine.score([query], [document], weights=Weights.only("sparse")).sparse[0, 0]
    left, right = sparse.get_query_embedding(query), sparse.get_text_embedding(document)
    assert sparse.similarity(left, right) == pytest.approx(float(score), abs=1e-6)
    assert sparse.similarity(right, left) == sparse.similarity(left, right)
    assert sparse.similarity({1: 2.0}, {1: 3.0, 2: 5.0}) == 6.0
    assert sparse.similarity({}, {1: 3.0}) == 0.0


def test_no_texts_give_no_weights_and_an_empty_text_gives_an_empty_row(engine: BGEM3) -> None:
    sparse = BGEM3SparseEmbedding(engine=engine)
    assert sparse.get_text_embedding_batch([]) == []
    assert sparse.get_text_embedding_batch(["", "x"])[0] == {}
    assert sparse.get_query_embedding("") == {}


async def test_texts_are_one_call_per_batch_also_when_awaited(
    encoder: FakeEncoder, engine: BGEM3
) -> None:
    texts = [f"text {i}" for i in range(8)]
    sparse = BGEM3SparseEmbedding(engine=engine)
    awaited = await sparse.aget_text_embedding_batch(texts)
    assert [len(call.texts) for call in encoder.calls] == [8]
    assert awaited == sparse.get_text_embedding_batch(texts)
    assert awaited == [await sparse.aget_text_embedding(text) for text in texts]


async def test_queries_and_texts_leave_the_event_loop_free(gated: Any) -> None:
    sparse = BGEM3SparseEmbedding(engine=BGEM3(gated))
    tasks = [
        asyncio.create_task(sparse.aget_query_embedding("q")),
        asyncio.create_task(sparse.aget_text_embedding("t")),
        asyncio.create_task(sparse.aget_text_embedding_batch(["a", "b"])),
    ]
    await asyncio.sleep(0)
    gated.gate.set()
    await asyncio.gather(*tasks)
    assert set(gated.opened) == {True}


def test_dense_and_sparse_over_one_engine_cost_one_forward_per_text(
    encoder: FakeEncoder, engine: BGEM3
) -> None:
    dense, sparse = BGEM3Embedding(engine=engine), BGEM3SparseEmbedding(engine=engine)
    dense.get_text_embedding_batch(["a", "b"])
    sparse.get_text_embedding_batch(["a", "b"])
    sparse.get_query_embedding("q")
    dense.get_query_embedding("q")
    assert encoder.forwards == {"a": 1, "b": 1, "q": 1}
    assert {call.modes for call in encoder.calls} == {frozenset({"dense", "sparse"})}


async def test_two_hundred_awaited_texts_cost_one_forward_each(
    encoder: FakeEncoder, engine: BGEM3
) -> None:
    texts = [f"text number {i}" for i in range(200)]
    sparse = BGEM3SparseEmbedding(engine=engine)
    awaited = await sparse.aget_text_embedding_batch(texts)
    assert encoder.forwards == dict.fromkeys(texts, 1)
    assert awaited == sparse.get_text_embedding_batch(texts)


async def test_events_frame_queries_and_texts(engine: BGEM3, event_names: list[str]) -> None:
    sparse = BGEM3SparseEmbedding(engine=engine)
    sparse.get_query_embedding("q")
    sparse.get_text_embedding_batch(["a", "b"])
    await sparse.aget_query_embedding("q")
    await sparse.aget_text_embedding_batch(["a", "b"])
    assert event_names == ["SparseEmbeddingStartEvent", SparseEmbeddingEndEvent.class_name()] * 4


def test_the_payload_of_events_names_device_and_limit() -> None:
    payload = BGEM3SparseEmbedding(device="cpu", max_length=64).to_payload()
    assert payload["class_name"] == "BGEM3SparseEmbedding"
    assert (payload["device"], payload["max_length"]) == ("cpu", 64)


@pytest.mark.parametrize("view", ["sparse_doc_fn", "sparse_query_fn"])
def test_views_give_ids_and_weights_of_each_text(engine: BGEM3, view: str) -> None:
    function = getattr(BGEM3SparseEmbedding(engine=engine), view)
    indices, values = function(["the cat", ""])
    assert [dict(zip(*row, strict=True)) for row in zip(indices, values, strict=True)] == [
        weights(engine, "the cat"),
        {},
    ]
    assert function([]) == ([], [])


def test_a_view_encodes_its_texts_in_one_call(encoder: FakeEncoder, engine: BGEM3) -> None:
    sparse = BGEM3SparseEmbedding(engine=engine)
    sparse.sparse_doc_fn(["a", "b", "c"])
    sparse.sparse_query_fn(["a", "b"])
    assert [(call.kind, len(call.texts)) for call in encoder.calls] == [
        ("document", 3),
        ("query", 2),
    ]


def test_options_that_contradict_or_do_not_exist_are_refused(engine: BGEM3) -> None:
    with pytest.raises(InputError, match=r"max_length=7 contradicts .* 512"):
        BGEM3SparseEmbedding(engine=engine, max_length=7)
    with pytest.raises(ValueError, match="devise"):
        BGEM3SparseEmbedding(devise="cpu")


def test_making_one_loads_nothing() -> None:
    sparse = BGEM3SparseEmbedding(model_name="no/such-model", offline=True)
    assert sparse.to_dict()["model_name"] == "no/such-model"
    assert sparse.engine._encoder is None
