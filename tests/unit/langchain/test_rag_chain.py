"""A whole question-answering chain over one engine, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from bge_m3_integrations import BGEM3
from bge_m3_integrations.langchain import BGEM3Reranker, BGEM3Retriever
from bge_m3_integrations.testing import FakeEncoder

TEXTS = ["a bee makes honey", "the red fox runs", "the lazy dog sleeps", "an owl sees at night"]
QUESTIONS = ["what does the bee make", "where is the fox", "when does an owl see"]
ANSWER = "It makes honey."


def joined(documents: Sequence[Document]) -> str:
    return "\n".join(document.page_content for document in documents)


def chain_over(engine: BGEM3, *, seen: list[str] | None = None) -> Runnable[str, str]:
    reranker = BGEM3Reranker(engine=engine, top_n=1)
    retriever = BGEM3Retriever.from_texts(TEXTS, engine, k=3)
    prompt = ChatPromptTemplate.from_template("{context}\n\n{query}")

    def note(value: str) -> str:
        if seen is not None:
            seen.append(value)
        return value

    return (
        {"query": RunnablePassthrough(), "documents": retriever}
        | RunnablePassthrough.assign(context=reranker | joined | RunnableLambda(note))
        | prompt
        | FakeListChatModel(responses=[ANSWER])
        | StrOutputParser()
    )


async def test_all_ways_to_call_the_chain_give_the_answer() -> None:
    chain = chain_over(BGEM3(FakeEncoder()))
    assert chain.invoke(QUESTIONS[0]) == ANSWER
    assert await chain.ainvoke(QUESTIONS[0]) == ANSWER
    assert "".join(chain.stream(QUESTIONS[0])) == ANSWER
    assert "".join([part async for part in chain.astream(QUESTIONS[0])]) == ANSWER
    assert chain.batch(QUESTIONS) == [ANSWER] * 3
    assert await chain.abatch(QUESTIONS) == [ANSWER] * 3


def test_the_best_document_reaches_the_prompt() -> None:
    seen: list[str] = []
    chain_over(BGEM3(FakeEncoder()), seen=seen).invoke(QUESTIONS[0])
    assert seen == ["a bee makes honey"]


def test_every_text_of_the_chain_is_one_forward() -> None:
    encoder = FakeEncoder()
    chain = chain_over(BGEM3(encoder))
    for question in QUESTIONS:
        chain.invoke(question)
    assert dict(encoder.forwards) == dict.fromkeys([*TEXTS, *QUESTIONS], 1)


async def test_every_text_of_a_batch_is_one_forward() -> None:
    for way in ("batch", "abatch"):
        encoder = FakeEncoder()
        chain = chain_over(BGEM3(encoder))
        if way == "batch":
            chain.batch(QUESTIONS)
        else:
            await chain.abatch(QUESTIONS)
        assert dict(encoder.forwards) == dict.fromkeys([*TEXTS, *QUESTIONS], 1)


def test_a_sequence_that_starts_with_the_retriever_encodes_each_query_once() -> None:
    encoder = FakeEncoder()
    retriever = BGEM3Retriever.from_texts(TEXTS, BGEM3(encoder), k=1)
    before = len(encoder.calls)
    assert (retriever | joined).batch(QUESTIONS) == [TEXTS[0], TEXTS[1], TEXTS[3]]
    encoded = [text for call in encoder.calls[before:] for text in call.texts]
    assert sorted(encoded) == sorted(QUESTIONS)


async def test_the_events_of_the_chain_show_retriever_and_reranker() -> None:
    chain = chain_over(BGEM3(FakeEncoder()))
    names = [
        (event["event"], event["name"])
        async for event in chain.astream_events(QUESTIONS[0], version="v2")
    ]
    assert names.count(("on_retriever_start", "BGEM3Retriever")) == 1
    assert names.count(("on_retriever_end", "BGEM3Retriever")) == 1
    assert names.count(("on_chain_end", "BGEM3Reranker")) == 1
