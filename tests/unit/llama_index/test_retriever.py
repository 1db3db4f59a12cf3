"""BGEM3Retriever over a HybridIndex."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine, TransformQueryEngine
from llama_index.core.schema import IndexNode, MetadataMode, QueryBundle, TextNode
from llama_index.core.tools import RetrieverTool
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from bge_m3_integrations import (
    BGEM3,
    FilterError,
    HybridIndex,
    InputError,
    ReciprocalRank,
    Record,
)
from bge_m3_integrations.llama_index import (
    BGEM3Embedding,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3VectorStore,
    node_to_record,
)
from bge_m3_integrations.testing import FakeEncoder

QUERY = "cat on the mat"


def test_hits_come_as_nodes_with_the_indexs_scores(engine: BGEM3, nodes: list[TextNode]) -> None:
    retriever = BGEM3Retriever.from_nodes(nodes, engine, similarity_top_k=3)
    found = retriever.retrieve(QUERY)
    expected = retriever.index.search(QUERY, limit=3)
    assert [(n.node.node_id, n.score) for n in found] == [(h.id, h.score) for h in expected]
    assert {type(n.score) for n in found} == {float}
    by_id = {node.node_id: node for node in nodes}
    assert [n.node for n in found] == [by_id[h.id] for h in expected]


async def test_awaiting_gives_the_same_nodes_and_scores(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    retriever = BGEM3Retriever.from_nodes(nodes, engine)
    assert await retriever.aretrieve(QUERY) == retriever.retrieve(QUERY)


async def test_a_search_leaves_the_event_loop_free(gated: Any, nodes: list[TextNode]) -> None:
    gated.gate.set()
    retriever = BGEM3Retriever.from_nodes(nodes, BGEM3(gated))
    gated.gate.clear()
    gated.opened.clear()
    task = asyncio.create_task(retriever.aretrieve(QUERY))
    await asyncio.sleep(0)
    gated.gate.set()
    assert len(await task) == 2
    assert gated.opened == [True]


def test_the_usual_number_of_nodes_is_llama_indexs_two(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    assert len(BGEM3Retriever.from_nodes(nodes, engine).retrieve(QUERY)) == 2


def test_given_nodes_are_not_changed(engine: BGEM3, nodes: list[TextNode]) -> None:
    before = copy.deepcopy(nodes)
    retriever = BGEM3Retriever.from_nodes(nodes, engine, include_scores=True)
    for scored in retriever.retrieve(QUERY):
        scored.node.metadata["legs"]["cat"] = 99
    assert nodes == before
    assert all(n.node.metadata["legs"]["cat"] == 4 for n in retriever.retrieve(QUERY))


def test_scores_are_in_the_metadata_only_when_asked_for(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    plain = BGEM3Retriever.from_nodes(nodes, engine)
    telling = BGEM3Retriever(plain.index, include_scores=True, weights=(1, 1, 0))
    assert set(plain.retrieve(QUERY)[0].node.metadata) == {"name", "legs"}
    [first, _] = telling.retrieve(QUERY)
    scores = first.node.metadata["bge_m3_scores"]
    assert set(scores) == {"score", "fusion", "hybrid", "weighting", "weights", "dense", "sparse"}
    assert scores["hybrid"] == pytest.approx((scores["dense"] + scores["sparse"]) / 2)
    assert first.score == scores["score"]


def test_scores_in_the_metadata_reach_no_model(engine: BGEM3, nodes: list[TextNode]) -> None:
    plain = BGEM3Retriever.from_nodes(nodes, engine)
    telling = BGEM3Retriever(plain.index, include_scores=True)
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        contents = [
            [n.node.get_content(metadata_mode=mode) for n in retriever.retrieve(QUERY)]
            for retriever in (plain, telling)
        ]
        assert contents[0] == contents[1]


def test_all_options_reach_the_search(engine: BGEM3, nodes: list[TextNode]) -> None:
    index = BGEM3Retriever.from_nodes(nodes, engine).index
    options: dict[str, Any] = {
        "weights": "keyword",
        "candidates": {"sparse": 3},
        "fusion": ReciprocalRank(),
        "score_threshold": 0.001,
    }
    found = BGEM3Retriever(
        index, similarity_top_k=3, filters={"name": {"$ne": "fish"}}, **options
    ).retrieve(QUERY)
    expected = index.search(QUERY, limit=3, where={"name": {"$ne": "fish"}}, **options)
    assert [(n.node.node_id, n.score) for n in found] == [(h.id, h.score) for h in expected]
    assert expected


def test_llama_index_filters_restrict_what_is_found(engine: BGEM3, nodes: list[TextNode]) -> None:
    either = MetadataFilters(
        filters=[
            MetadataFilter(key="name", value="bird"),
            MetadataFilter(key="name", value=["FISH"], operator=FilterOperator.IN),
            MetadataFilter(key="name", value="IS", operator=FilterOperator.TEXT_MATCH_INSENSITIVE),
        ],
        condition=FilterCondition.OR,
    )
    nested = MetadataFilters(filters=[either, MetadataFilter(key="legs.cat", value=4)])
    retriever = BGEM3Retriever.from_nodes(nodes, engine, similarity_top_k=10, filters=nested)
    assert {n.node.node_id for n in retriever.retrieve(QUERY)} == {"bird", "fish"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"similarity_top_k": 0}, InputError, "at least 1, not 0"),
        ({"weights": (1, 2)}, InputError, "three numbers"),
        ({"filters": {"a": {"$near": 1}}}, FilterError, "near"),
        ({"top_k": 3}, TypeError, "top_k"),
    ],
)
def test_a_wrong_option_is_refused_when_the_retriever_is_made(
    engine: BGEM3, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        BGEM3Retriever(HybridIndex(engine), **options)


def test_a_record_without_a_payload_comes_as_a_text_node(engine: BGEM3) -> None:
    index = HybridIndex(engine)
    index.add([Record("r", "plain text", {"a": 1})])
    [found] = BGEM3Retriever(index).retrieve("text")
    assert found.node == TextNode(
        id_="r", text="plain text", metadata={"a": 1}, excluded_embed_metadata_keys=["a"]
    )


def test_an_index_node_leads_to_its_object(engine: BGEM3) -> None:
    target = TextNode(id_="target", text="the whole table")
    pointer = IndexNode(id_="pointer", text="a table of cats", index_id="table")
    retriever = BGEM3Retriever.from_nodes([pointer], engine, object_map={"table": target})
    assert [n.node.node_id for n in retriever.retrieve("cats")] == ["target"]


def test_one_custom_embedding_text_is_searched_for_in_place_of_the_query(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode]
) -> None:
    retriever = BGEM3Retriever.from_nodes(nodes, engine, similarity_top_k=1)
    bundle = QueryBundle("what sings?", custom_embedding_strs=["a bird sings"])
    assert [n.node.node_id for n in retriever.retrieve(bundle)] == ["bird"]
    assert encoder.forwards["what sings?"] == 0


def test_several_custom_embedding_texts_are_refused(engine: BGEM3) -> None:
    retriever = BGEM3Retriever(HybridIndex(engine))
    with pytest.raises(InputError, match="2 custom_embedding_strs"):
        retriever.retrieve(QueryBundle("q", custom_embedding_strs=["a", "b"]))


def test_hyde_searches_by_the_text_that_it_makes_and_names_its_option_where_there_are_two(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode]
) -> None:
    retriever = BGEM3Retriever.from_nodes(nodes, engine, similarity_top_k=1)
    answer = PromptTemplate("a bird sings to {context_str}")  # what MockLLM says, word for word
    one = HyDEQueryTransform(MockLLM(), answer, include_original=False)
    query_engine = TransformQueryEngine(
        RetrieverQueryEngine.from_args(retriever, llm=MockLLM()), query_transform=one
    )
    found = query_engine.query("whom?").source_nodes
    assert [n.node.node_id for n in found] == ["bird"]
    assert encoder.forwards["whom?"] == 0
    with pytest.raises(InputError, match=r"HyDEQueryTransform\(include_original=False\)"):
        retriever.retrieve(HyDEQueryTransform(MockLLM(), answer)("whom?"))


def test_an_empty_query_and_an_empty_index_are_no_errors(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    assert BGEM3Retriever(HybridIndex(engine)).retrieve("x") == []
    assert len(BGEM3Retriever.from_nodes(nodes, engine).retrieve("")) == 2


async def test_a_query_of_an_embedding_alone_is_a_dense_search_by_it(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode]
) -> None:
    retriever = BGEM3Retriever.from_nodes(nodes, engine, weights="keyword", filters={"legs.cat": 4})
    vector = BGEM3Embedding(engine=engine).get_query_embedding("a bird sings")
    expected = retriever.index.search("a bird sings", weights=(1, 0, 0), limit=2)
    encoder.calls.clear()
    for query in (QueryBundle("", embedding=vector), QueryBundle("", None, [""], vector)):
        found = retriever.retrieve(query)
        assert [n.node.node_id for n in found] == [hit.id for hit in expected]
        assert [n.score for n in found] == pytest.approx([hit.score for hit in expected])
        assert await retriever.aretrieve(query) == found
    assert encoder.calls == []
    beside = QueryBundle("the dog barks", embedding=vector)
    assert retriever.retrieve(beside) == retriever.retrieve("the dog barks")


async def test_a_batch_may_hold_queries_of_embeddings_alone(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    retriever = BGEM3Retriever.from_nodes(nodes, engine)
    vector = BGEM3Embedding(engine=engine).get_query_embedding("a bird sings")
    queries = [QueryBundle("", embedding=vector), QueryBundle("the cat"), QueryBundle("")]
    expected = [retriever.retrieve(query) for query in queries]
    assert retriever.retrieve_batch(queries) == expected
    assert await retriever.aretrieve_batch(queries) == expected


def test_an_embedding_alone_that_cannot_be_the_engines_is_refused(engine: BGEM3) -> None:
    retriever = BGEM3Retriever(HybridIndex(engine))
    with pytest.raises(InputError, match="query's embedding has 3 numbers"):
        retriever.retrieve(QueryBundle("", embedding=[1.0, 0.0, 0.0]))
    with pytest.raises(InputError, match=r"norm 0\.0.*no default_empty_query_vector"):
        retriever.retrieve(QueryBundle("", embedding=[0.0] * engine.encoder.dim))


def test_documents_are_split_by_the_settings_transformations() -> None:
    engine = BGEM3(FakeEncoder(max_length=2048))
    document = Document(id_="d", text="The cat sat. " * 400, metadata={"lang": "en"})
    before = document.model_copy(deep=True)
    retriever = BGEM3Retriever.from_documents([document], engine)
    assert retriever.index.count() > 1
    assert {n.node.ref_doc_id for n in retriever.retrieve("cat")} == {"d"}
    assert document == before


def test_documents_are_split_by_given_transformations(engine: BGEM3) -> None:
    words = " ".join(f"word{i}" for i in range(200))
    small = SentenceSplitter(chunk_size=50, chunk_overlap=0)
    whole = BGEM3Retriever.from_documents([Document(text=words)], engine, transformations=[])
    parts = BGEM3Retriever.from_documents([Document(text=words)], engine, transformations=[small])
    assert whole.index.count() == 1
    assert parts.index.count() > 3


def test_a_transformation_that_writes_into_its_input_leaves_the_documents_alone(
    engine: BGEM3,
) -> None:
    document = Document(text="a cat")
    writes = BGEM3Embedding(engine=engine)
    BGEM3Retriever.from_documents([document], engine, transformations=[writes])
    assert document.embedding is None


def test_retrieval_events_are_fired(
    engine: BGEM3, nodes: list[TextNode], event_names: list[str]
) -> None:
    BGEM3Retriever.from_nodes(nodes, engine).retrieve(QUERY)
    assert event_names == ["RetrievalStartEvent", "RetrievalEndEvent"]


def test_a_retriever_becomes_a_tool(engine: BGEM3, nodes: list[TextNode]) -> None:
    retriever = BGEM3Retriever.from_nodes(nodes, engine, similarity_top_k=1)
    tool = RetrieverTool.from_defaults(retriever, name="animals", description="About animals.")
    output = tool.call("bird sings")
    assert "a bird sings in the tree" in output.content
    assert tool.metadata.name == "animals"


def test_langchain_and_llama_index_find_the_same_in_one_index(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    from bge_m3_integrations.langchain import BGEM3Retriever as LangChainRetriever

    index = HybridIndex(engine)
    index.add([*map(node_to_record, nodes), Record("plain", "a cat without a framework")])
    ours = BGEM3Retriever(index, similarity_top_k=5, include_scores=True).retrieve(QUERY)
    theirs = LangChainRetriever(index=index, k=5, include_scores=True).invoke(QUERY)
    assert len(ours) == 5
    assert [
        (n.node.node_id, n.node.get_content(), n.node.metadata["bge_m3_scores"]) for n in ours
    ] == [(d.id, d.page_content, d.metadata["bge_m3_scores"]) for d in theirs]


def test_the_number_of_nodes_can_be_set_later(engine: BGEM3, nodes: list[TextNode]) -> None:
    retriever = BGEM3Retriever.from_nodes(nodes, engine, similarity_top_k=1)
    retriever.similarity_top_k = 3
    assert retriever.similarity_top_k == len(retriever.retrieve("cat")) == 3
    with pytest.raises(InputError, match="similarity_top_k"):
        retriever.similarity_top_k = 0


def test_node_ids_and_doc_ids_restrict_what_is_found_and_empty_ones_do_not(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    index = BGEM3Retriever.from_documents(
        [Document(id_=name, text=f"the {name} eats") for name in ("cow", "pig")], engine
    ).index
    index.add(map(node_to_record, nodes))
    for options, expected in (
        ({"node_ids": ["dog", "gone"]}, {"dog"}),
        ({"doc_ids": ["cow"]}, {"the cow eats"}),
        ({"doc_ids": ["bird"]}, {"bird"}),  # a node without a source is its own document
        ({"node_ids": ["dog", "cat"], "filters": {"name": "cat"}}, {"cat"}),
        ({"node_ids": [], "doc_ids": []}, {"cat", "dog", "bird", "fish", "the cow eats"}),
    ):
        found = BGEM3Retriever(index, similarity_top_k=9, **options).retrieve(QUERY)
        names = {
            n.node.node_id if n.node.ref_doc_id is None else n.node.get_content() for n in found
        }
        assert names >= expected
        assert names <= expected | {"the pig eats"}


def test_a_batch_gives_what_each_query_gives_alone_from_one_encoding(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode], event_names: list[str]
) -> None:
    retriever = BGEM3Retriever.from_nodes(nodes, engine)
    encoder.calls.clear()
    queries = ["the cat", QueryBundle("a bird"), "the dog"]
    found = retriever.retrieve_batch(queries)
    assert [call.texts for call in encoder.calls] == [("the cat", "a bird", "the dog")]
    assert event_names == ["RetrievalStartEvent", "RetrievalEndEvent"] * 3
    assert found == [retriever.retrieve(query) for query in queries]
    assert retriever.retrieve_batch([]) == []
    with pytest.raises(InputError, match=r"retrieve\(\)"):
        retriever.retrieve_batch("the cat")


async def test_a_batch_may_be_awaited(engine: BGEM3, nodes: list[TextNode]) -> None:
    retriever = BGEM3Retriever.from_nodes(nodes, engine)
    queries = ["the cat", "a bird"]
    assert await retriever.aretrieve_batch(queries) == retriever.retrieve_batch(queries)


def test_a_batch_follows_index_nodes_into_other_retrievers(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    inner = BGEM3Retriever.from_nodes(nodes, engine, similarity_top_k=1)
    pointer = IndexNode(id_="pointer", text="animals", index_id="animals")
    outer = BGEM3Retriever.from_nodes([pointer], engine, object_map={"animals": inner})
    [[cat], [bird]] = outer.retrieve_batch(["the cat on the mat", "a bird sings"])
    assert (cat.node.node_id, bird.node.node_id) == ("cat", "bird")


async def test_waiting_queries_share_encodings(
    encoder: FakeEncoder, engine: BGEM3, nodes: list[TextNode]
) -> None:
    retriever = BGEM3Retriever.from_nodes(nodes, engine)
    encoder.calls.clear()
    queries = [f"question {i}" for i in range(40)]
    found = await asyncio.gather(*map(retriever.aretrieve, queries))
    assert len(encoder.calls) < len(queries)
    assert encoder.forwards[queries[0]] == 1
    assert found == [retriever.retrieve(query) for query in queries]


def test_a_retriever_over_a_vector_store_takes_its_weights(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    store = BGEM3VectorStore(HybridIndex(engine), weights="keyword", candidates={"sparse": 5})
    store.add(nodes)
    retriever = BGEM3Retriever.from_vector_store(store, similarity_top_k=3)
    hits = store.index.search(QUERY, limit=3, weights="keyword", candidates={"sparse": 5})
    assert [(n.node.node_id, n.score) for n in retriever.retrieve(QUERY)] == [
        (h.id, h.score) for h in hits
    ]
    other = BGEM3Retriever.from_vector_store(store, weights=(1, 0, 0), candidates=None)
    assert other.retrieve(QUERY)[0].score == store.index.search(QUERY, weights=(1, 0, 0))[0].score


async def test_a_retriever_tool_may_be_awaited_and_reranks(
    engine: BGEM3, nodes: list[TextNode]
) -> None:
    retriever = BGEM3Retriever.from_nodes(nodes, engine, similarity_top_k=4)
    reranker = BGEM3Reranker(index=retriever.index, top_n=1)
    tool = RetrieverTool.from_defaults(retriever, node_postprocessors=[reranker])
    output = await tool.acall("a bird sings")
    assert [n.node.node_id for n in output.raw_output] == ["bird"]
    assert tool.call("a bird sings").content == output.content
