from __future__ import annotations

from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import ToolCall, ToolMessage

from bge_m3_integrations.langchain.tool import NOTHING, cited, retriever_tool
from tests.unit.langchain.animals import made

CALL = ToolCall(name="handbook", args={"query": "honey"}, id="1", type="tool_call")


async def test_a_model_reads_ids_and_texts_and_the_documents_are_the_artifact() -> None:
    _, retriever = made(k=2)
    tool = retriever_tool(retriever, "handbook", "Search the handbook.")
    expected = retriever.invoke("honey")
    for message in (tool.invoke(CALL), await tool.ainvoke(CALL)):
        assert isinstance(message, ToolMessage)
        assert message.artifact == expected
        assert message.content == "\n\n".join(map(cited, expected))
        assert message.content.startswith("[bee]\na bee makes honey\n\n[")


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (Document(id="a", page_content="x", metadata={"source": "s.md"}), "[a] (s.md)\nx"),
        (Document(id="a", page_content="x"), "[a]\nx"),
        (Document(page_content="x", metadata={"source": "s.md"}), "(s.md)\nx"),
        (Document(page_content="x"), "x"),
    ],
)
def test_what_is_known_of_a_document_stands_before_its_text(document: Document, text: str) -> None:
    assert cited(document) == text


def test_how_documents_are_shown_can_be_chosen() -> None:
    _, retriever = made(k=1)
    tool = retriever_tool(retriever, "h", "Search.", show=lambda document: f"<{document.id}>")
    assert tool.invoke({"query": "honey"}) == "<bee>"


def test_a_model_is_told_that_nothing_was_found() -> None:
    _, retriever = made(filter={"year": 1900})
    message = retriever_tool(retriever, "handbook", "Search.").invoke(CALL)
    assert (message.content, message.artifact) == (NOTHING, [])


async def test_its_search_is_traced_beneath_the_tool() -> None:
    class Handler(BaseCallbackHandler):
        def __init__(self) -> None:
            self.tools: list[object] = []
            self.above: list[object] = []

        def on_tool_start(self, *args: Any, run_id: object, **kwargs: Any) -> None:
            self.tools.append(run_id)

        def on_retriever_start(self, *args: Any, parent_run_id: object, **kwargs: Any) -> None:
            self.above.append(parent_run_id)

    _, retriever = made()
    tool, handler = retriever_tool(retriever, "handbook", "Search."), Handler()
    tool.invoke({"query": "honey"}, {"callbacks": [handler]})
    await tool.ainvoke({"query": "honey"}, {"callbacks": [handler]})
    assert len(handler.tools) == 2
    assert handler.above == handler.tools


def test_the_tool_tells_its_name_its_purpose_and_its_one_argument() -> None:
    _, retriever = made()
    tool = retriever_tool(retriever, "handbook", "Search the handbook.")
    assert (tool.name, tool.description, list(tool.args)) == (
        "handbook",
        "Search the handbook.",
        ["query"],
    )
