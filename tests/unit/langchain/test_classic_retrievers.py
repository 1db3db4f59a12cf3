"""Retrievers of `langchain_classic` over our store."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.language_models import FakeListLLM
from langchain_core.runnables import RunnableLambda
from langchain_core.structured_query import (
    Comparator,
    Comparison,
    FilterDirective,
    Operation,
    Operator,
    StructuredQuery,
)

from bge_m3_integrations import BGEM3, FilterError, FilterWarning, InputError
from bge_m3_integrations.langchain import BGEM3Reranker, BGEM3Translator, BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from langchain_classic.retrievers import SelfQueryRetriever, TimeWeightedVectorStoreRetriever


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BGEM3VectorStore]:
    path = tmp_path / "index" if request.param == "folder" else None
    with BGEM3VectorStore(BGEM3(FakeEncoder()), path=path) as made:
        yield made


async def test_the_time_weighted_retriever_prefers_what_was_asked_for_of_late(
    store: BGEM3VectorStore,
) -> None:
    retriever = TimeWeightedVectorStoreRetriever(vectorstore=store, decay_rate=0.5, k=1)
    last_week = datetime.now() - timedelta(days=7)
    old = Document(id="old", page_content="the fox", metadata={"last_accessed_at": last_week})
    retriever.add_documents([old, Document(id="new", page_content="a fox")])
    assert [document.id for document in retriever.invoke("the fox")] == ["new"]
    assert [document.id for document in await retriever.ainvoke("the fox")] == ["new"]
    kept = store.get_by_ids(["old"])[0].metadata
    assert kept["last_accessed_at"] == last_week
    assert isinstance(kept["created_at"], datetime)


async def test_the_time_weighted_retriever_takes_the_time_of_its_documents(
    store: BGEM3VectorStore,
) -> None:
    retriever = TimeWeightedVectorStoreRetriever(vectorstore=store, decay_rate=0.5, k=2)
    new_year = datetime(2024, 1, 1)
    retriever.add_documents([Document(id="a", page_content="a fox")], current_time=new_year)
    await retriever.aadd_documents([Document(id="b", page_content="b fox")], current_time=new_year)
    assert {document.id for document in retriever.invoke("fox")} == {"a", "b"}
    assert {d.metadata["created_at"] for d in store.get_by_ids(["a", "b"])} == {new_year}


@pytest.mark.parametrize("wrong", [Document(page_content="a fox"), b"fox", {"a": 1}], ids=str)
def test_one_document_in_place_of_several_is_refused(store: BGEM3VectorStore, wrong: Any) -> None:
    for call in (store.add_documents, BGEM3VectorStore(BGEM3(FakeEncoder())).add_texts):
        with pytest.raises(InputError, match="must be several, not one"):
            call(wrong)


def test_a_document_too_deep_to_be_copied_is_refused_by_the_reranker() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    document = Document(page_content="a fox", metadata={"v": value})
    with pytest.raises(InputError, match="the metadata of a document goes too many levels deep"):
        BGEM3Reranker(engine=BGEM3(FakeEncoder())).compress_documents([document], "fox")


def test_a_mistyped_key_is_told_of_with_the_nearest(store: BGEM3VectorStore) -> None:
    store.add_documents([Document(page_content="a fox", metadata={"lang": "en"})])
    with pytest.warns(FilterWarning, match="'langg': did you mean 'lang'"):
        assert store.similarity_search("fox", filter={"langg": "en"}) == []
    with pytest.warns(FilterWarning, match="'langs': did you mean 'lang'"):
        assert store.as_retriever(search_kwargs={"filter": {"langs": "en"}}).invoke("fox") == []


FILMS = [
    Document(id="a", page_content="a fox", metadata={"year": 1999, "tags": ["x"], "title": "Fox"}),
    Document(id="b", page_content="a fox", metadata={"year": 2010, "day": date(2024, 1, 1)}),
    Document(id="c", page_content="a fox", metadata={"year": 2020, "at": datetime(2024, 5, 1, 12)}),
]
DAY, MOMENT = {"date": "2024-01-01", "type": "date"}, {"datetime": "2024-05-01T12:00:00"}
MOMENT["type"] = "datetime"
year_is = Comparison(Comparator.EQ, "year", 1999)
late = Comparison(Comparator.GTE, "year", 2010)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (None, "abc"),
        (year_is, "a"),
        (late, "bc"),
        (Comparison(Comparator.NE, "year", 1999), "bc"),
        (Comparison(Comparator.GT, "year", 2010), "c"),
        (Comparison(Comparator.LT, "year", 2010), "a"),
        (Comparison(Comparator.LTE, "year", 2010), "ab"),
        (Comparison(Comparator.IN, "year", [1999, 2020]), "ac"),
        (Comparison(Comparator.IN, "year", 1999), "a"),
        (Comparison(Comparator.NIN, "year", [1999, 2020]), "b"),
        (Comparison(Comparator.CONTAIN, "tags", "x"), "a"),
        (Comparison(Comparator.CONTAIN, "title", "Fo"), "a"),
        (Comparison(Comparator.EQ, "day", DAY), "b"),
        (Comparison(Comparator.IN, "day", [DAY]), "b"),
        (Comparison(Comparator.GTE, "at", DAY), "c"),
        (Comparison(Comparator.EQ, "at", MOMENT), "c"),
        (Operation(Operator.AND, [late, Comparison(Comparator.EQ, "day", DAY)]), "b"),
        (Operation(Operator.OR, [year_is, Comparison(Comparator.EQ, "day", DAY)]), "ab"),
        (Operation(Operator.NOT, [late]), "a"),
        (Operation(Operator.NOT, [year_is, Comparison(Comparator.EQ, "day", DAY)]), "c"),
    ],
    ids=range(20),
)
async def test_the_self_query_retriever_filters_by_every_operator(
    store: BGEM3VectorStore, asked: FilterDirective | None, found: str
) -> None:
    store.add_documents(FILMS)
    structured = StructuredQuery(query="fox", filter=asked, limit=3)
    retriever = SelfQueryRetriever(
        query_constructor=RunnableLambda(lambda _: structured),
        vectorstore=store,
        structured_query_translator=BGEM3Translator(),
    )
    assert {document.id for document in retriever.invoke("which fox?")} == set(found)
    assert {document.id for document in await retriever.ainvoke("which fox?")} == set(found)


def test_a_pattern_is_refused_with_what_there_is() -> None:
    asked = Comparison(Comparator.LIKE, "title", "F%")
    with pytest.raises(FilterError, match=r"'title'.*'contain'"):
        BGEM3Translator().visit_structured_query(StructuredQuery(query="fox", filter=asked))


def test_a_model_that_writes_the_query_is_told_of_our_comparators_alone(
    store: BGEM3VectorStore,
) -> None:
    answer = '```json\n{"query": "fox", "filter": "gte(\\"day\\", \\"2024-01-01\\")"}\n```'
    fields: list[Any] = [{"name": "day", "description": "when", "type": "date"}]
    store.add_documents(FILMS)
    retriever = SelfQueryRetriever.from_llm(
        FakeListLLM(responses=[answer]),
        store,
        "films",
        fields,
        structured_query_translator=BGEM3Translator(),
    )
    assert [document.id for document in retriever.invoke("new foxes")] == ["b"]
