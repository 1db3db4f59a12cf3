"""Question answering with LangChain: find by three scores, rerank, answer.

Runs offline with the demo checkpoint and a fake chat model. For real answers, install `langchain`
with a model provider and set CHAT_MODEL, for instance CHAT_MODEL=ollama:llama3.2; set BGE_M3_MODEL
to BAAI/bge-m3 for real retrieval.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough

from bge_m3_integrations import BGEM3
from bge_m3_integrations.demo import checkpoint_path, load_corpus
from bge_m3_integrations.langchain import BGEM3Reranker, BGEM3Retriever, to_document

QUESTION = "Why filter before the search and not after it?"
PROMPT = ChatPromptTemplate.from_template(
    "Answer from these notes only.\n\n{context}\n\nQuestion: {query}"
)


def chat_model() -> BaseChatModel:
    """The model that CHAT_MODEL names, or one that always says the same."""
    if name := os.environ.get("CHAT_MODEL"):
        from langchain.chat_models import init_chat_model

        return init_chat_model(name)
    return FakeListChatModel(responses=["(a fake model: set CHAT_MODEL to have an answer)"])


def as_context(documents: Sequence[Document]) -> str:
    """The notes as the chat model reads them."""
    return "\n\n".join(f"[{document.id}] {document.page_content}" for document in documents)


def build(engine: BGEM3) -> Runnable[str, dict[str, object]]:
    """A chain from a question to the answer and its sources; every text is one forward pass."""
    documents = [to_document(record) for record in load_corpus()]
    # before the retriever: so the engine remembers, within its memo, what indexing encodes
    reranker = BGEM3Reranker(engine=engine, top_n=3)
    retriever = BGEM3Retriever.from_documents(documents, engine, k=10)
    answer = (
        RunnablePassthrough.assign(context=lambda found: as_context(found["documents"]))
        | PROMPT
        | chat_model()
        | StrOutputParser()
    )
    return (
        {"query": RunnablePassthrough(), "documents": retriever}
        | RunnablePassthrough.assign(documents=reranker)
        | RunnablePassthrough.assign(answer=answer)
    )


def main() -> None:
    """Answer the question on the command line."""
    question = " ".join(sys.argv[1:]) or QUESTION
    engine = BGEM3(os.environ.get("BGE_M3_MODEL") or checkpoint_path())
    found = build(engine).invoke(question)
    print(f"Question: {question}\nAnswer: {found['answer']}\nSources:")
    for document in found["documents"]:
        print(f"  {document.metadata['relevance_score']:.3f}  {document.id}")
    print(f"Forward passes for the question: {engine.stats.forwards - len(load_corpus())}")


if __name__ == "__main__":
    main()
