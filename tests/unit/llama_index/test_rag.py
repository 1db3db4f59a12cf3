"""Question answering with retriever, reranker and a mock LLM over one engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from llama_index.core import VectorStoreIndex
from llama_index.core.base.response.schema import Response
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, TextNode

from bge_m3_integrations import BGEM3
from bge_m3_integrations.llama_index import BGEM3Embedding, BGEM3Reranker, BGEM3Retriever
from bge_m3_integrations.testing import FakeEncoder

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "02_llama_index_rag.py"


def answering(nodes: list[TextNode], engine: BGEM3) -> RetrieverQueryEngine:
    reranker = BGEM3Reranker(engine=engine, top_n=2)
    retriever = BGEM3Retriever.from_nodes(nodes, engine, similarity_top_k=4)
    return RetrieverQueryEngine.from_args(retriever, llm=MockLLM(), node_postprocessors=[reranker])


def embedded(nodes: list[TextNode]) -> set[str]:
    return {node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes}


def test_each_question_and_each_node_costs_one_forward(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode]
) -> None:
    query_engine = answering(nodes, engine)
    questions = {"where is the cat?", "what sings?"}
    for question in questions:
        answer = query_engine.query(question)
        assert isinstance(answer, Response)
        assert answer.source_nodes[0].node.node_id in {"cat", "bird"}
        assert len(answer.source_nodes) == 2
    assert encoder.forwards == dict.fromkeys(questions | embedded(nodes), 1)


async def test_awaited_questions_cost_one_forward_each_too(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode]
) -> None:
    answer = await answering(nodes, engine).aquery("where is the cat?")
    assert isinstance(answer, Response)
    assert answer.source_nodes[0].node.node_id == "cat"
    assert encoder.forwards == dict.fromkeys({"where is the cat?"} | embedded(nodes), 1)


def test_a_lone_retriever_costs_no_second_forward_when_a_reranker_joins_later(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode]
) -> None:
    retriever = BGEM3Retriever.from_nodes(nodes, engine, similarity_top_k=4)
    reranker = BGEM3Reranker(engine=engine)
    reranker.postprocess_nodes(retriever.retrieve("first question"), query_str="first question")
    assert encoder.forwards["first question"] == 1


def test_a_dense_index_reranked_over_one_engine_costs_one_forward_per_query(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode]
) -> None:
    embedding = BGEM3Embedding(engine=engine)
    reranker = BGEM3Reranker(engine=engine)
    index = VectorStoreIndex(nodes, embed_model=embedding)
    query_engine = RetrieverQueryEngine.from_args(
        index.as_retriever(similarity_top_k=4), llm=MockLLM(), node_postprocessors=[reranker]
    )
    indexing = [call.modes for call in encoder.calls]
    query_engine.query("what swims?")
    assert encoder.forwards["what swims?"] == 1
    assert set().union(*indexing) == {"dense"}  # a reranker makes no index compute token vectors


def test_all_stages_fire_their_events_in_order(
    engine: BGEM3, nodes: list[TextNode], event_names: list[str]
) -> None:
    answering(nodes, engine).query("where is the cat?")
    stages = [name for name in event_names if name.startswith(("Retrieval", "ReRank"))]
    assert stages == [
        "RetrievalStartEvent",
        "RetrievalEndEvent",
        "ReRankStartEvent",
        "ReRankEndEvent",
    ]


def test_the_example_answers_offline() -> None:
    offline = {"HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "", "BGE_M3_EXAMPLE_LLM": ""}
    done = subprocess.run(
        [sys.executable, EXAMPLE],
        env={**os.environ, **offline, "PYTHONPATH": str(EXAMPLE.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Sources:" in done.stdout
