"""BGEM3Reranker as a node postprocessor."""

from __future__ import annotations

import asyncio
import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from bge_m3_integrations import BGEM3, HybridIndex, InputError, StoreError
from bge_m3_integrations.llama_index import BGEM3Reranker, BGEM3Retriever, node_to_record
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


@pytest.mark.parametrize("top_n", [0, -1])
def test_a_wrong_top_n_is_refused(top_n: object) -> None:
    with pytest.raises(ValueError, match="top_n"):
        BGEM3Reranker(top_n=top_n)


def test_wrong_weights_are_refused_when_the_reranker_is_made() -> None:
    with pytest.raises(ValueError, match="unknown weights 'best'"):
        BGEM3Reranker(weights="best")


def test_no_top_n_returns_all_nodes_and_tells_events_their_number(
    engine: BGEM3, scored: list[NodeWithScore]
) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    reranker = BGEM3Reranker(engine=engine, top_n=None, callback_manager=CallbackManager([debug]))
    assert len(reranker.postprocess_nodes(scored, query_str=QUERY)) == len(scored)
    [[start, _]] = debug.get_event_pairs(CBEventType.RERANKING)
    assert start.payload is not None
    assert start.payload["top_k"] == len(scored)


@pytest.fixture
def index(engine: BGEM3, nodes: list[TextNode]) -> HybridIndex:
    index = HybridIndex(engine)
    index.add(map(node_to_record, nodes))
    return index


def test_over_an_index_only_the_query_is_encoded(
    encoder: FakeEncoder, index: HybridIndex, scored: list[NodeWithScore]
) -> None:
    expected = BGEM3Reranker(engine=index.engine).postprocess_nodes(scored, query_str=QUERY)
    encoder.calls.clear()
    found = BGEM3Reranker(index=index).postprocess_nodes(scored, query_str="the dog")
    assert [call.texts for call in encoder.calls] == [("the dog",)]
    assert len(found) == 3
    again = BGEM3Reranker(index=index).postprocess_nodes(scored, query_str=QUERY)
    assert [n.node.node_id for n in again] == [n.node.node_id for n in expected]
    assert [n.score for n in again] == pytest.approx([n.score for n in expected])


def test_a_retriever_and_a_reranker_over_one_index_cost_the_query_alone(
    encoder: FakeEncoder, index: HybridIndex
) -> None:
    retriever = BGEM3Retriever(index, similarity_top_k=4, include_scores=True)
    reranker = BGEM3Reranker(index=index, keep_retrieval_score=True)
    encoder.calls.clear()
    reranker.postprocess_nodes(retriever.retrieve("who sings?"), query_str="who sings?")
    assert [call.texts for call in encoder.calls] == [("who sings?",)]


def test_a_node_whose_text_was_edited_is_encoded_again(
    encoder: FakeEncoder, index: HybridIndex, scored: list[NodeWithScore]
) -> None:
    edited = TextNode(id_="dog", text="the cat on the mat")
    encoder.calls.clear()
    reranker = BGEM3Reranker(index=index, top_n=None)
    found = reranker.postprocess_nodes(
        [NodeWithScore(node=edited), *scored[:2]], query_str="the mat"
    )
    assert [call.texts for call in encoder.calls] == [("the mat",), ("the cat on the mat",)]
    assert found[0].node == edited


def test_another_engine_than_the_indexs_is_refused_with_both_named(index: HybridIndex) -> None:
    with pytest.raises(InputError, match=r"engine over some/model is not the index's, over Fake"):
        BGEM3Reranker(engine=BGEM3("some/model"), index=index)
    assert BGEM3Reranker(engine=index.engine, index=index).engine is index.engine
    with pytest.raises(InputError, match="HybridIndex, not BGEM3"):
        BGEM3Reranker(index=index.engine)


def test_several_queries_are_encoded_together_and_ranked_as_alone(
    encoder: FakeEncoder, engine: BGEM3, scored: list[NodeWithScore], event_names: list[str]
) -> None:
    reranker = BGEM3Reranker(engine=engine, keep_retrieval_score=True)
    questions = [("the cat", scored), ("the dog", []), ("a bird", scored[:2])]
    found = reranker.rerank_batch(questions)
    assert len(encoder.calls) == 2
    assert encoder.calls[0].texts == ("the cat", "a bird")
    assert sorted(event_names) == ["ReRankEndEvent"] * 2 + ["ReRankStartEvent"] * 2
    assert found == [
        reranker.postprocess_nodes(nodes, query_str=query) for query, nodes in questions
    ]
    assert found[1] == []
    assert reranker.rerank_batch([]) == []


async def test_awaiting_several_queries_leaves_the_event_loop_free(
    gated: Any, scored: list[NodeWithScore]
) -> None:
    reranker = BGEM3Reranker(engine=BGEM3(gated))
    questions = [("the cat", scored), ("a bird", scored[:2])]
    task = asyncio.create_task(reranker.arerank_batch(questions))
    await asyncio.sleep(0)
    gated.gate.set()
    assert await task == reranker.rerank_batch(questions)
    assert all(gated.opened)


def test_an_index_in_a_folder_travels_as_its_path(
    engine: BGEM3, encoder: FakeEncoder, nodes: list[TextNode], tmp_path: Path
) -> None:
    scored = [NodeWithScore(node=node, score=0.5) for node in nodes]
    with HybridIndex.open(tmp_path / "index", engine) as index:
        index.add(map(node_to_record, nodes))
        reranker = BGEM3Reranker(index=index, top_n=None)
        data = reranker.to_dict()
        expected = reranker.postprocess_nodes(scored, query_str=QUERY)
    assert data["index_path"] == str(tmp_path / "index")
    encoder.calls.clear()
    back = BGEM3Reranker.from_dict(data, engine=engine)
    assert back.postprocess_nodes(scored, query_str="another") != []
    assert [call.texts for call in encoder.calls] == [("another",)]
    assert back.postprocess_nodes(scored, query_str=QUERY) == expected
    assert back.index is not None
    back.index.close()


def test_an_index_path_that_is_no_folder_is_an_error_and_begins_no_index(
    engine: BGEM3, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=r"there is no index in .*gone"):
        BGEM3Reranker(engine=engine, index_path=tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_an_index_in_memory_is_left_out_of_the_dict_and_cannot_be_pickled(
    index: HybridIndex,
) -> None:
    reranker = BGEM3Reranker(index=index)
    assert reranker.to_dict()["index_path"] is None
    assert BGEM3Reranker.from_dict(reranker.to_dict(), engine=index.engine).index is None
    with pytest.raises(InputError, match="index in memory cannot be pickled"):
        pickle.dumps(reranker)


def test_a_copy_keeps_the_index(index: HybridIndex) -> None:
    reranker = BGEM3Reranker(index=index, weights="keyword")
    for other in (
        copy.deepcopy(reranker),
        reranker.model_copy(),
        reranker.model_copy(update={"top_n": 1}),
    ):
        assert other.index is index
        assert other.weights == reranker.weights
    assert reranker.model_copy(update={"top_n": 1}).top_n == 1
