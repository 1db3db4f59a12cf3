from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import (
    CrossEncoderReranker,
    DocumentCompressorPipeline,
)
from langchain_core.cross_encoders import BaseCrossEncoder
from pydantic import ValidationError

from bge_m3_integrations import BGEM3, InputError
from bge_m3_integrations.langchain import BGEM3Embeddings, BGEM3Reranker, BGEM3Retriever
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.gated import GatedEncoder
from tests.unit.langchain.reranked import DOCUMENTS, QUERY, QUESTION, TEXTS, Runs, made


def test_the_order_and_the_scores_are_the_engines() -> None:
    _, reranker = made(top_n=None, weights=(1, 1, 1))
    expected = BGEM3(FakeEncoder()).rerank(QUERY, TEXTS, weights=(1, 1, 1))
    found = reranker.compress_documents(DOCUMENTS, QUERY)
    assert [d.id for d in found] == [str(ranked.index) for ranked in expected]
    scores = [d.metadata["relevance_score"] for d in found]
    assert scores == [ranked.score for ranked in expected]
    assert all(type(score) is float for score in scores)


def test_documents_are_deep_copies_that_keep_their_id() -> None:
    before = deepcopy(DOCUMENTS)
    _, reranker = made(top_n=1)
    best = reranker.compress_documents(DOCUMENTS, QUERY)[0]
    best.metadata["tags"].append("changed")
    assert best.id == "1"
    assert before == DOCUMENTS


def test_the_query_and_each_distinct_document_are_one_forward() -> None:
    encoder, reranker = made()
    reranker.compress_documents([*DOCUMENTS, *DOCUMENTS], QUERY)
    assert dict(encoder.forwards) == dict.fromkeys([QUERY, *TEXTS], 1)


@pytest.mark.parametrize(("options", "count"), [({}, 3), ({"top_n": 1}, 1), ({"top_n": None}, 4)])
def test_top_n_limits_and_none_is_all(options: dict[str, Any], count: int) -> None:
    _, reranker = made(**options)
    assert len(reranker.compress_documents(DOCUMENTS, QUERY)) == count


def test_documents_below_the_threshold_are_left_out() -> None:
    _, every = made(top_n=None)
    scores = [found["relevance_score"] for found in every.rerank(TEXTS, QUERY)]
    _, strict = made(top_n=None, score_threshold=scores[1])
    assert [found["relevance_score"] for found in strict.rerank(TEXTS, QUERY)] == scores[:2]


def test_a_mode_without_weight_is_not_computed() -> None:
    encoder, reranker = made(weights={"dense": 0, "sparse": 1, "colbert": 0})
    reranker.compress_documents(DOCUMENTS, QUERY)
    assert {mode for call in encoder.calls for mode in call.modes} == {"sparse"}


def test_no_documents_give_none_and_encode_nothing() -> None:
    encoder, reranker = made()
    assert reranker.compress_documents([], QUERY) == []
    assert encoder.calls == []


def test_rerank_takes_texts_and_documents_and_gives_positions() -> None:
    _, reranker = made()
    assert reranker.rerank(TEXTS, QUERY) == reranker.rerank(DOCUMENTS, QUERY)
    assert reranker.rerank(TEXTS, QUERY, top_n=1)[0].keys() == {"index", "relevance_score"}
    assert reranker.rerank(TEXTS, QUERY, top_n=1)[0]["index"] == 1


async def test_the_async_twin_gives_the_same() -> None:
    _, reranker = made()
    expected = reranker.compress_documents(DOCUMENTS, QUERY)
    assert await reranker.acompress_documents(DOCUMENTS, QUERY) == expected


@pytest.mark.parametrize("way", ["acompress_documents", "ainvoke", "abatch"])
async def test_the_event_loop_runs_on_while_it_works(way: str) -> None:
    encoder = GatedEncoder()
    reranker = BGEM3Reranker(engine=BGEM3(encoder))
    work = {
        "acompress_documents": lambda: reranker.acompress_documents(DOCUMENTS, QUERY),
        "ainvoke": lambda: reranker.ainvoke(QUESTION),
        "abatch": lambda: reranker.abatch([QUESTION]),
    }[way]()
    assert await encoder.runs_beside_the_loop(work)


@pytest.mark.parametrize(
    "wrong",
    [{"top_k": 2}, {"top_n": 0}, {"weights": "no such preset"}, {"engine": "model"}, {"index": 1}],
)
def test_wrong_constructor_keywords_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BGEM3Reranker(**{"engine": BGEM3(FakeEncoder()), **wrong})


def test_without_engine_and_index_it_says_what_to_give() -> None:
    with pytest.raises(InputError, match=r"needs engine=BGEM3\(...\), or index="):
        BGEM3Reranker()


def test_it_is_a_cross_encoder_that_encodes_each_distinct_text_once() -> None:
    encoder, reranker = made(weights=(1, 1, 1))
    pairs = [(query, text) for text in TEXTS for query in (QUERY, "honey")]
    expected = BGEM3(FakeEncoder()).score_pairs(pairs, weights=(1, 1, 1)).hybrid.tolist()
    assert isinstance(reranker, BaseCrossEncoder)
    assert reranker.score(pairs) == pytest.approx(expected)
    assert dict(encoder.forwards) == dict.fromkeys([QUERY, "honey", *TEXTS], 1)
    assert reranker.score([]) == []


async def test_langchains_cross_encoder_reranker_takes_it() -> None:
    encoder, reranker = made(top_n=None)
    step = CrossEncoderReranker(model=reranker, top_n=2)
    expected = [d.id for d in reranker.compress_documents(DOCUMENTS, QUERY)[:2]]
    assert [d.id for d in step.compress_documents(DOCUMENTS, QUERY)] == expected
    assert [d.id for d in await step.acompress_documents(DOCUMENTS, QUERY)] == expected
    assert encoder.forwards[QUERY] == 3


async def test_langchains_compressor_pipeline_takes_it_and_passes_callbacks_on() -> None:
    _, reranker = made(top_n=1)
    pipeline = DocumentCompressorPipeline(transformers=[reranker])
    expected = reranker.compress_documents(DOCUMENTS, QUERY)
    handler = Runs()
    assert pipeline.compress_documents(DOCUMENTS, QUERY, callbacks=[handler]) == expected
    assert await pipeline.acompress_documents(DOCUMENTS, QUERY, callbacks=[handler]) == expected
    assert handler.names == ["BGEM3Reranker", "BGEM3Reranker"]


async def test_langchains_compression_retriever_takes_it() -> None:
    encoder = FakeEncoder()
    engine = BGEM3(encoder)
    reranker = BGEM3Reranker(engine=engine, top_n=2)
    retriever = BGEM3Retriever.from_documents(DOCUMENTS, engine, k=4)
    compression = ContextualCompressionRetriever(base_compressor=reranker, base_retriever=retriever)
    expected = reranker.compress_documents(retriever.invoke(QUERY), QUERY)
    handler = Runs()
    assert compression.invoke(QUERY, {"callbacks": [handler]}) == expected
    assert handler.names == ["BGEM3Reranker"]
    assert handler.above == handler.retrievers[:1]
    assert await compression.ainvoke(QUERY) == expected
    assert len(compression.invoke(QUERY, k=1)) == 1
    assert set(encoder.forwards.values()) == {1}


@pytest.mark.parametrize("weights", [None, (0, 0, 1)])
def test_with_a_dense_retriever_the_first_question_is_one_forward(weights: Any) -> None:
    encoder = FakeEncoder()
    engine = BGEM3(encoder)
    retriever = BGEM3Retriever.from_documents(DOCUMENTS, engine, weights=(1, 0, 0))
    reranker = BGEM3Reranker(engine=engine, weights=weights)
    reranker.compress_documents(retriever.invoke(QUERY), QUERY)
    assert encoder.forwards[QUERY] == 1


def test_after_dense_embeddings_of_one_engine_the_first_question_is_one_forward() -> None:
    encoder = FakeEncoder()
    engine = BGEM3(encoder)
    embeddings, reranker = BGEM3Embeddings(engine=engine), BGEM3Reranker(engine=engine)
    embeddings.embed_query(QUERY)
    reranker.compress_documents(DOCUMENTS, QUERY)
    assert encoder.forwards[QUERY] == 1
