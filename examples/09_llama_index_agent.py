"""An agent that searches the handbook by itself: LlamaIndex's FunctionAgent and RetrieverTool.

Runs offline on the demo checkpoint and a mock LLM, which calls the tool once. For a real one, set
BGE_M3_EXAMPLE_LLM to the name of an OpenAI model, OPENAI_API_KEY to a key, and install
llama-index-llms-openai. BGE_M3_PATH names another checkpoint.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Sequence
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import LLM, ChatMessage, MessageRole
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.tools import RetrieverTool

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.demo import checkpoint_path, load_corpus
from bge_m3_integrations.llama_index import BGEM3Reranker, BGEM3Retriever

QUESTION = "Why filter before the search and not after it?"


def mock_reply(messages: Sequence[ChatMessage], **options: Any) -> ChatMessage:
    """A call of the tool with the user's question, or, once the tool has answered, the end."""
    if messages[-1].role == MessageRole.TOOL:
        return ChatMessage("(a mock LLM: set BGE_M3_EXAMPLE_LLM)", role=MessageRole.ASSISTANT)
    call = ToolCallBlock(
        tool_call_id="1", tool_name="handbook", tool_kwargs={"input": messages[-1].content}
    )
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=[call])


def choose_llm() -> LLM:
    """The LLM that the environment names, or the mock."""
    name = os.environ.get("BGE_M3_EXAMPLE_LLM")
    if not name:
        return MockFunctionCallingLLM(response_generator=mock_reply)
    from llama_index.llms.openai import OpenAI

    return OpenAI(model=name)


def handbook_tool(engine: BGEM3) -> RetrieverTool:
    """A tool that finds ten pages and gives the best three, for one forward pass a question."""
    index = HybridIndex(engine)
    index.add(load_corpus())
    return RetrieverTool.from_defaults(
        BGEM3Retriever(index, similarity_top_k=10, weights=(2, 1, 0)),
        node_postprocessors=[BGEM3Reranker(index=index, top_n=3)],
        name="handbook",
        description="Searches the handbook on retrieval.",
    )


async def ask(question: str, tool: RetrieverTool, engine: BGEM3) -> None:
    """Let the agent answer, and print what its tool found."""
    agent = FunctionAgent(tools=[tool], llm=choose_llm())
    before = engine.stats.forwards

    run = agent.run(question)
    async for event in run.stream_events():
        if isinstance(event, ToolCallResult):  # its content is for the LLM, its raw output for us
            found = [scored.node.node_id for scored in event.tool_output.raw_output]
            print("The tool found:", ", ".join(found))
    print("Answer:", await run)
    print(f"Forward passes for the question: {engine.stats.forwards - before}")


def main() -> None:
    """Make all that lives as long as the process, then answer as a service does."""
    engine = BGEM3(os.environ.get("BGE_M3_PATH") or checkpoint_path())
    tool = handbook_tool(engine)
    # spares each later garbage collection all that was imported, which would stop the event loop
    gc.collect()
    gc.freeze()
    asyncio.run(ask(" ".join(sys.argv[1:]) or QUESTION, tool, engine))


if __name__ == "__main__":
    main()
