"""A retriever as a tool of an agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.tools.retriever import RetrieverInput

from bge_m3_integrations._internal.keywords import public_function

NOTHING = "No documents found."


def cited(document: Document) -> str:
    """A document as a model reads it: its id and source in front of its text."""
    source = document.metadata.get("source")
    about = [f"[{document.id}]"] if document.id else []
    about += [f"({source})"] if source else []
    return "\n".join([" ".join(about), document.page_content] if about else [document.page_content])


@public_function
def retriever_tool(
    retriever: BaseRetriever,
    name: str,
    description: str,
    *,
    show: Callable[[Document], str] = cited,
) -> BaseTool:
    """Make a search tool for agents; its message has the documents as artifact.

    LangChain's `create_retriever_tool` formats documents by a prompt, which sees their metadata but
    not their id, so a model could not cite what it read.

    Args:
        retriever: Any retriever.
        name: What the model calls the tool; distinct among an agent's tools.
        description: Tells the model when to use it.
        show: A document as the model reads it.

    Returns:
        The tool, of one argument, "query"; sync and async.
    """

    def found(documents: Sequence[Document]) -> tuple[str, list[Document]]:
        return "\n\n".join(map(show, documents)) or NOTHING, list(documents)

    def search(query: str, callbacks: Callbacks = None) -> tuple[str, list[Document]]:
        return found(retriever.invoke(query, {"callbacks": callbacks}))

    async def asearch(query: str, callbacks: Callbacks = None) -> tuple[str, list[Document]]:
        return found(await retriever.ainvoke(query, {"callbacks": callbacks}))

    return StructuredTool(
        name=name,
        description=description,
        func=search,
        coroutine=asearch,
        args_schema=RetrieverInput,
        response_format="content_and_artifact",
    )
