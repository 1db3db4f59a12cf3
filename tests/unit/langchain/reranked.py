"""Documents to be reranked, and a handler that notes the runs."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document

from bge_m3_integrations import BGEM3
from bge_m3_integrations.langchain import BGEM3Reranker
from bge_m3_integrations.testing import FakeEncoder

TEXTS = ["a bee makes honey", "the red fox runs", "the lazy dog sleeps", "the fox and the dog"]
DOCUMENTS = [
    Document(id=str(i), page_content=text, metadata={"tags": ["x"]}) for i, text in enumerate(TEXTS)
]
QUERY = "where is the red fox"
QUESTION = {"query": QUERY, "documents": DOCUMENTS}


class Runs(BaseCallbackHandler):
    """Notes which chains ran, and beneath what."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.above: list[object] = []
        self.ended: list[object] = []
        self.retrievers: list[object] = []

    def on_chain_start(self, *args: Any, name: str, parent_run_id: object, **kwargs: Any) -> None:
        self.names.append(name)
        self.above.append(parent_run_id)

    def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        self.ended.append(outputs)

    def on_chain_error(self, error: BaseException, **kwargs: Any) -> None:
        self.ended.append(type(error))

    def on_retriever_start(self, *args: Any, run_id: object, **kwargs: Any) -> None:
        self.retrievers.append(run_id)


def made(**options: Any) -> tuple[FakeEncoder, BGEM3Reranker]:
    encoder = FakeEncoder()
    return encoder, BGEM3Reranker(engine=BGEM3(encoder), **options)
