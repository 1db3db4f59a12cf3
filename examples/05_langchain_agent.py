"""An agent that searches the handbook by itself: LangChain's create_agent with a retriever tool.

Runs offline with a fake chat model that calls the tool once and cites what it read. For a real one,
install a model provider and set CHAT_MODEL, for instance CHAT_MODEL=ollama:llama3.2. Beside the
extra `langchain` it needs: pip install langchain
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool

from bge_m3_integrations import BGEM3
from bge_m3_integrations.demo import checkpoint_path, load_corpus
from bge_m3_integrations.langchain import BGEM3Retriever, retriever_tool, to_document

QUESTION = "Why filter before the search and not after it?"


class FakeChatModel(GenericFakeChatModel):
    """Says what it was given to say, also where tools are bound."""

    def bind_tools(self, tools: Sequence[BaseTool], **kwargs: Any) -> BaseChatModel:
        """Itself: it needs no tools to know when to call one."""
        return self


def chat_model(question: str) -> BaseChatModel:
    """The model that CHAT_MODEL names, or one that calls the tool and then ends."""
    if name := os.environ.get("CHAT_MODEL"):
        from langchain.chat_models import init_chat_model

        return init_chat_model(name)
    call = {"name": "handbook", "args": {"query": question}, "id": "1", "type": "tool_call"}
    answers = [AIMessage("", tool_calls=[call]), AIMessage("(a fake model: set CHAT_MODEL)")]
    return FakeChatModel(messages=iter(answers))


def main() -> None:
    """Let the agent answer the question of the command line."""
    question = " ".join(sys.argv[1:]) or QUESTION
    engine = BGEM3(os.environ.get("BGE_M3_MODEL") or checkpoint_path())
    documents = [to_document(record) for record in load_corpus()]
    retriever = BGEM3Retriever.from_documents(documents, engine, k=3)
    tool = retriever_tool(retriever, "handbook", "Search the handbook on retrieval.")
    agent = create_agent(chat_model(question), [tool])

    answer = agent.invoke({"messages": [{"role": "user", "content": question}]})
    for message in answer["messages"]:
        if isinstance(message, ToolMessage):  # its content is for the model, its artifact for us
            print("The tool found:", ", ".join(document.id for document in message.artifact))
    print("Answer:", answer["messages"][-1].content)


if __name__ == "__main__":
    main()
