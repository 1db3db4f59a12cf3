from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough

from bge_m3_integrations import BGEM3, InputError
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Modes
from bge_m3_integrations.langchain import BGEM3Reranker
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.reranked import (
    DOCUMENTS,
    QUERY,
    QUESTION,
    TEXTS,
    Runs,
    made,
)

HONEY = {"query": "honey", "documents": DOCUMENTS[:2]}


async def test_as_a_step_of_a_chain_it_gives_what_the_compressor_gives() -> None:
    _, reranker = made()
    chain = RunnablePassthrough() | reranker | RunnableLambda(len)
    expected = reranker.compress_documents(DOCUMENTS, QUERY)
    assert reranker.invoke(QUESTION) == await reranker.ainvoke(QUESTION) == expected
    assert list(reranker.stream(QUESTION)) == [expected]
    assert chain.invoke(QUESTION) == await chain.ainvoke(QUESTION) == 3


async def test_every_way_to_call_it_is_a_run_of_its_own_name() -> None:
    _, reranker = made(top_n=1)
    handler = Runs()
    config: Any = {"callbacks": [handler]}
    found = reranker.invoke(QUESTION, config)
    await reranker.ainvoke(QUESTION, config)
    reranker.batch([QUESTION, HONEY], config)
    await reranker.abatch([QUESTION, HONEY], config)
    reranker.compress_documents(DOCUMENTS, QUERY, callbacks=[handler])
    await reranker.acompress_documents(DOCUMENTS, QUERY, callbacks=[handler])
    assert handler.names == ["BGEM3Reranker"] * 8
    assert handler.ended[:2] == [found, found]
    events = [event async for event in reranker.astream_events(QUESTION, version="v2")]
    assert (events[0]["event"], events[0]["name"]) == ("on_chain_start", "BGEM3Reranker")
    assert events[-1]["data"]["output"] == found


@pytest.mark.parametrize(
    "wrong",
    [
        "a query",
        {"query": "q"},
        {"question": "q", "documents": []},
        {"query": "q", "documents": ["a text"]},
    ],
)
def test_it_says_what_it_takes(wrong: Any) -> None:
    _, reranker = made()
    with pytest.raises(InputError, match='"documents"'):
        reranker.invoke(wrong)


async def test_an_unknown_option_of_a_call_is_refused() -> None:
    _, reranker = made()
    with pytest.raises(InputError, match="top_k"):
        reranker.invoke(QUESTION, top_k=2)
    with pytest.raises(InputError, match="top_k"):
        await reranker.ainvoke(QUESTION, top_k=2)
    with pytest.raises(InputError, match="top_k"):
        reranker.batch([QUESTION], top_k=2)


async def test_a_batch_encodes_all_queries_together_and_all_documents_together() -> None:
    for way in ("batch", "abatch"):
        encoder, reranker = made()
        questions = [QUESTION, HONEY, {"query": "nothing", "documents": []}]
        batched = reranker.batch(questions) if way == "batch" else await reranker.abatch(questions)
        assert [call.texts for call in encoder.calls] == [(QUERY, "honey"), tuple(TEXTS)]
        assert batched == [reranker.invoke(question) for question in questions]


def test_one_bad_input_of_a_batch_fails_alone_when_asked_so() -> None:
    class Picky(FakeEncoder):
        def encode(
            self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
        ) -> EmbeddingBatch:
            if "poison" in texts:
                raise InputError("a text cannot be encoded")
            return super().encode(texts, kind=kind, modes=modes, max_length=max_length)

    reranker = BGEM3Reranker(engine=BGEM3(Picky()), top_n=1)
    poison = {"query": QUERY, "documents": [Document(page_content="poison")]}
    handler = Runs()
    found = reranker.batch(
        [HONEY, poison, QUESTION], {"callbacks": [handler]}, return_exceptions=True
    )
    assert [found[0][0].id, found[2][0].id] == ["0", "1"]
    assert isinstance(found[1], InputError)
    assert handler.ended == [found[0], InputError, found[2]]
    with pytest.raises(InputError, match="cannot be encoded"):
        reranker.batch([HONEY, poison])


def test_equal_documents_of_a_batch_are_copies_of_their_own() -> None:
    _, reranker = made(top_n=1)
    first, second = reranker.batch([QUESTION, QUESTION])
    first[0].metadata["tags"].append("changed")
    assert second[0].metadata["tags"] == DOCUMENTS[0].metadata["tags"] == ["x"]


def test_configurable_fields_keep_the_engine() -> None:
    _, reranker = made(top_n=1)
    configurable = reranker.configurable_fields(top_n=ConfigurableField(id="n"))
    sizes = [len(configurable.invoke(QUESTION, {"configurable": {"n": n}})) for n in (1, 2, None)]
    assert sizes == [1, 2, len(DOCUMENTS)]
    prepared, _ = configurable.prepare({"configurable": {"n": 2}})  # type: ignore[attr-defined]
    assert prepared.engine is reranker.engine
    assert reranker.with_config(run_name="again").get_name() == "BGEM3Reranker"


async def test_as_a_tool_it_says_what_it_takes() -> None:
    _, reranker = made()
    tool = reranker.as_tool(name="order", description="Orders documents.")
    assert tool.args.keys() == {"query", "documents"}
    given = {"query": QUESTION["query"], "documents": [dict(d) for d in QUESTION["documents"]]}
    assert tool.invoke(given) == await tool.ainvoke(given) == reranker.invoke(QUESTION)
    assert set(reranker.get_input_jsonschema()["required"]) == {"query", "documents"}
