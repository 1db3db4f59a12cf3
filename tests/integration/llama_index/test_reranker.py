"""BGEM3Reranker as a node postprocessor."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from bge_m3_integrations import BGEM3, InputError
from bge_m3_integrations.llama_index import BGEM3Reranker
from bge_m3_integrations.testing import FakeEncoder

QUERY = "cat on the mat"


@pytest.fixture
def scored(nodes: list[TextNode]) -> list[NodeWithScore]:
    return [NodeWithScore(node=node, score=0.5) for node in reversed(nodes)]


def test_nodes_are_ordered_by_the_engines_hybrid_score_of_their_embed_text(
    engine: BGEM3, scored: list[NodeWithScore]
) -> None:
    reranker = BGEM3Reranker(engine=engine, top_n=4, weights=(1, 0.3, 1))
    found = reranker.postprocess_nodes(scored, query_str=QUERY)
    texts = [n.node.get_content(metadata_mode=MetadataMode.EMBED) for n in scored]
    expected = engine.rerank(QUERY, texts, weights="training")
    assert [(n.node, n.score) for n in found] == [(scored[r.index].node, r.score) for r in expected]
    assert found[0].node.node_id == "cat"
    assert {type(n.score) for n in found} == {float}


def test_at_most_top_n_nodes_that_reach_the_threshold_stay(
    engine: BGEM3, scored: list[NodeWithScore]
) -> None:
    everything = BGEM3Reranker(engine=engine, top_n=4).postprocess_nodes(scored, query_str=QUERY)
    assert BGEM3Reranker(engine=engine).postprocess_nodes(scored, query_str=QUERY) == everything[:3]
    least = everything[1].score
    cut = BGEM3Reranker(engine=engine, score_threshold=least)
    assert cut.postprocess_nodes(scored, query_str=QUERY) == everything[:2]


def test_nothing_that_is_given_is_changed(engine: BGEM3, scored: list[NodeWithScore]) -> None:
    before = copy.deepcopy(scored)
    reranker = BGEM3Reranker(engine=engine, keep_retrieval_score=True)
    found = reranker.postprocess_nodes(scored, query_str=QUERY)
    found[0].node.metadata["legs"]["cat"] = 99
    assert scored == before


def test_the_retrieval_score_is_kept_when_asked_for_and_reaches_no_model(
    engine: BGEM3, scored: list[NodeWithScore]
) -> None:
    plain = BGEM3Reranker(engine=engine).postprocess_nodes(scored, query_str=QUERY)
    keeping = BGEM3Reranker(engine=engine, keep_retrieval_score=True)
    kept = keeping.postprocess_nodes(scored, query_str=QUERY)
    assert [n.node.metadata["retrieval_score"] for n in kept] == [0.5] * 3
    assert "retrieval_score" not in plain[0].node.metadata
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert [n.node.get_content(metadata_mode=mode) for n in kept] == [
            n.node.get_content(metadata_mode=mode) for n in plain
        ]


def test_a_missing_query_is_an_error_and_no_nodes_are_none(
    encoder: FakeEncoder, engine: BGEM3, scored: list[NodeWithScore]
) -> None:
    reranker = BGEM3Reranker(engine=engine)
    with pytest.raises(ValueError, match="query_bundle"):
        reranker.postprocess_nodes(scored)
    assert issubclass(InputError, ValueError)
    assert reranker.postprocess_nodes([], query_str=QUERY) == []
    assert encoder.calls == []


def test_the_query_and_each_node_are_encoded_once(
    encoder: FakeEncoder, engine: BGEM3, scored: list[NodeWithScore]
) -> None:
    BGEM3Reranker(engine=engine).postprocess_nodes([*scored, *scored], query_str=QUERY)
    assert len(encoder.calls) == 2
    assert set(encoder.forwards.values()) == {1}


def test_a_mode_without_weight_is_not_computed(
    encoder: FakeEncoder, engine: BGEM3, scored: list[NodeWithScore]
) -> None:
    reranker = BGEM3Reranker(engine=engine, weights=(0, 0, 1))
    reranker.postprocess_nodes(scored, query_str=QUERY)
    assert {call.modes for call in encoder.calls} == {frozenset({"colbert"})}


async def test_awaiting_gives_the_same_and_leaves_the_event_loop_free(
    gated: Any, scored: list[NodeWithScore]
) -> None:
    reranker = BGEM3Reranker(engine=BGEM3(gated))
    task = asyncio.create_task(reranker.apostprocess_nodes(scored, query_str=QUERY))
    await asyncio.sleep(0)
    gated.gate.set()
    assert await task == reranker.postprocess_nodes(scored, query_str=QUERY)
    assert all(gated.opened)


def test_events_and_callbacks_frame_the_work(
    engine: BGEM3, scored: list[NodeWithScore], event_names: list[str]
) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    reranker = BGEM3Reranker(engine=engine, callback_manager=CallbackManager([debug]))
    found = reranker.postprocess_nodes(scored, query_str=QUERY)
    assert event_names == ["ReRankStartEvent", "ReRankEndEvent"]
    [[start, end]] = debug.get_event_pairs(CBEventType.RERANKING)
    assert start.payload is not None
    assert (start.payload["query_str"], start.payload["top_k"]) == (QUERY, 3)
    assert end.payload is not None
    assert end.payload["nodes"] == found


@pytest.mark.parametrize("top_n", [0, -1, None])
def test_a_wrong_top_n_is_refused(top_n: object) -> None:
    with pytest.raises(ValueError, match="top_n"):
        BGEM3Reranker(top_n=top_n)


def test_wrong_weights_are_refused_when_the_reranker_is_made() -> None:
    with pytest.raises(ValueError, match="unknown weights preset 'best'"):
        BGEM3Reranker(weights="best")
