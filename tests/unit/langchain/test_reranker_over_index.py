from __future__ import annotations

from pathlib import Path

import pytest
from langchain_core.documents import Document
from pydantic import ValidationError

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.langchain import BGEM3Reranker, BGEM3Retriever, to_record
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.reranked import DOCUMENTS, QUERY, QUESTION, TEXTS


def kept() -> tuple[FakeEncoder, HybridIndex]:
    """An index of the documents, and its encoder with nothing counted."""
    encoder = FakeEncoder()
    index = HybridIndex(BGEM3(encoder))
    index.add(map(to_record, DOCUMENTS))
    encoder.calls.clear()
    encoder.forwards.clear()
    return encoder, index


def scores(documents: list[Document]) -> list[tuple[str | None, float]]:
    return [(d.id, d.metadata["relevance_score"]) for d in documents]


def plainly(documents: list[Document]) -> list[tuple[str | None, float]]:
    reranker = BGEM3Reranker(engine=BGEM3(FakeEncoder()), top_n=None)
    return scores(reranker.compress_documents(documents, QUERY))


async def test_documents_of_the_index_cost_the_forward_of_the_query_alone() -> None:
    encoder, index = kept()
    reranker = BGEM3Reranker(index=index, top_n=None)
    found = reranker.compress_documents(DOCUMENTS, QUERY)
    assert dict(encoder.forwards) == {QUERY: 1}
    expected = plainly(DOCUMENTS)
    assert [i for i, _ in scores(found)] == [i for i, _ in expected]
    assert [s for _, s in scores(found)] == pytest.approx([s for _, s in expected])
    assert await reranker.ainvoke(QUESTION) == found


def test_an_edited_text_under_a_known_id_is_encoded() -> None:
    encoder, index = kept()
    edited = [Document(id="0", page_content="where the red fox is"), *DOCUMENTS[1:]]
    found = BGEM3Reranker(index=index, top_n=None).compress_documents(edited, QUERY)
    assert dict(encoder.forwards) == {QUERY: 1, "where the red fox is": 1}
    assert scores(found) == [(i, pytest.approx(s)) for i, s in plainly(edited)]


def test_foreign_ids_no_ids_and_repetitions_stand_in_one_ranking_with_kept_documents() -> None:
    encoder, index = kept()
    mixed = [
        DOCUMENTS[0],
        Document(id="elsewhere", page_content="a fox elsewhere"),
        Document(page_content="no id at all"),
        DOCUMENTS[1],
        Document(id="1 again", page_content=TEXTS[1]),
        DOCUMENTS[1],
        Document(page_content="no id at all"),
    ]
    found = BGEM3Reranker(index=index, top_n=None).compress_documents(mixed, QUERY)
    assert dict(encoder.forwards) == dict.fromkeys(
        [QUERY, "a fox elsewhere", "no id at all", TEXTS[1]], 1
    )
    assert scores(found) == [(i, pytest.approx(s)) for i, s in plainly(mixed)]
    assert len(found) == len(mixed)


def test_a_batch_over_the_index_encodes_its_queries_in_one_call() -> None:
    encoder, index = kept()
    other = {"query": "honey", "documents": DOCUMENTS[:2]}
    BGEM3Reranker(index=index).batch([QUESTION, other])
    assert [call.texts for call in encoder.calls] == [(QUERY, "honey")]


def test_texts_alone_are_encoded_also_over_an_index() -> None:
    encoder, index = kept()
    assert BGEM3Reranker(index=index).rerank(TEXTS, QUERY)[0]["index"] == 1
    assert dict(encoder.forwards) == dict.fromkeys([QUERY, *TEXTS], 1)


def test_behind_a_retriever_of_the_index_a_question_is_one_forward(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    with HybridIndex.open(tmp_path / "index", BGEM3(encoder)) as index:
        index.add(map(to_record, DOCUMENTS))
        encoder.forwards.clear()
        retriever, reranker = BGEM3Retriever(index=index), BGEM3Reranker(index=index)
        found = reranker.compress_documents(retriever.invoke(QUERY), QUERY)
        assert dict(encoder.forwards) == {QUERY: 1}
        assert found[0].id == "1"


def test_the_engine_is_the_indexs() -> None:
    _, index = kept()
    assert BGEM3Reranker(index=index).engine is index.engine
    assert BGEM3Reranker(index=index, engine=index.engine).index is index


def test_an_engine_beside_the_index_of_another_is_refused_by_both_names() -> None:
    index = HybridIndex(BGEM3("one/model", offline=True))
    with pytest.raises(ValidationError, match=r"engine is other/model.*its own, one/model"):
        BGEM3Reranker(index=index, engine=BGEM3("other/model", offline=True))
