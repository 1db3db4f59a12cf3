"""Tests for LlamaIndex components; LlamaIndex itself has no such suite.

Subclass a class as `Test...`, write its `make`, and run pytest. Each test is synchronous and needs
no plugin.
"""

# ruff: noqa: D102 (a test says in its name what it claims)

from __future__ import annotations

import asyncio
import pickle
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseComponent, MetadataMode, NodeWithScore, TextNode
from llama_index.core.tools import RetrieverTool

from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.testing.fake import FakeEncoder
from bge_m3_integrations.testing.llama_index_tools import (
    GatedEncoder,
    collected_events,
    descendants,
    leaves_the_loop_free,
    refusal,
)

QUERY = "cat on the mat"
TEXTS = {
    "cat": "the cat sat on the mat",
    "dog": "the dog barks at the cat",
    "bird": "a bird sings in the tree",
    "fish": "the fish swims in the lake",
}


def make_nodes() -> list[TextNode]:
    """Four new nodes, whose metadata is part of the text that is embedded."""
    return [
        TextNode(id_=name, text=text, metadata={"name": name, "parts": {"legs": 4}})
        for name, text in TEXTS.items()
    ]


class ComponentConformance:
    """Tests for every serializable component.

    Attributes:
        base: The LlamaIndex class that it must be.
    """

    base: type = BaseComponent

    def make(self, engine: BGEM3) -> Any:
        """The component over an engine, with its usual options; a subclass writes it."""
        raise NotImplementedError(f"{type(self).__name__} needs make()")

    def named(self) -> Any:
        """The component over a model's name, with unusual options; a subclass writes it."""
        raise NotImplementedError(f"{type(self).__name__} needs named()")

    def test_it_has_its_llama_index_base(self) -> None:
        ancestors = type(self.make(BGEM3(FakeEncoder()))).__mro__
        assert self.base.__name__ in [ancestor.__name__ for ancestor in ancestors]

    def test_its_class_name_is_nobody_elses(self) -> None:
        cls = type(self.named())
        others = [other for other in descendants(self.base) if not issubclass(other, cls)]
        assert cls.class_name() not in [other.class_name() for other in others]

    def test_it_comes_back_from_its_dict_and_its_json(self) -> None:
        component = self.named()
        cls = type(component)
        assert cls.from_dict(component.to_dict()).to_dict() == component.to_dict()
        assert cls.from_json(component.to_json()).to_dict() == component.to_dict()

    def test_it_comes_back_from_its_pickle(self) -> None:
        component = self.named()
        assert pickle.loads(pickle.dumps(component)).to_dict() == component.to_dict()


class _TextsConformance(ComponentConformance):
    """Tests for dense and sparse embeddings alike."""

    def test_awaiting_gives_the_same(self) -> None:
        embedding, texts = self.make(BGEM3(FakeEncoder())), list(TEXTS.values())
        expected = [embedding.get_text_embedding(text) for text in texts]
        assert embedding.get_text_embedding_batch(texts) == expected
        assert asyncio.run(embedding.aget_text_embedding_batch(texts)) == expected
        query = asyncio.run(embedding.aget_query_embedding(QUERY))
        assert query == embedding.get_query_embedding(QUERY)

    def test_awaiting_leaves_the_event_loop_free(self) -> None:
        encoder = GatedEncoder()
        embedding, texts = self.make(BGEM3(encoder)), list(TEXTS.values())
        assert leaves_the_loop_free(encoder, lambda: embedding.aget_text_embedding("one"))
        assert leaves_the_loop_free(encoder, lambda: embedding.aget_query_embedding("two"))
        assert leaves_the_loop_free(encoder, lambda: embedding.aget_text_embedding_batch(texts))

    def test_awaiting_encodes_a_batch_at_once(self) -> None:
        encoder = FakeEncoder()
        asyncio.run(self.make(BGEM3(encoder)).aget_text_embedding_batch(list(TEXTS.values())))
        assert [len(call.texts) for call in encoder.calls] == [len(TEXTS)]


class EmbeddingConformance(_TextsConformance):
    """Tests for a dense embedding."""

    base = BaseEmbedding

    def test_queries_and_texts_have_python_floats(self) -> None:
        embedding = self.make(BGEM3(FakeEncoder()))
        batch = embedding.get_text_embedding_batch(list(TEXTS.values()))
        assert [embedding.get_text_embedding(text) for text in TEXTS.values()] == batch
        numbers = [*embedding.get_query_embedding(QUERY), *batch[0]]
        assert {type(number) for number in numbers} == {float}
        assert embedding.get_text_embedding_batch([]) == []

    def test_events_frame_the_work(self) -> None:
        embedding = self.make(BGEM3(FakeEncoder()))
        with collected_events() as names:
            embedding.get_text_embedding_batch(list(TEXTS.values()))
            asyncio.run(embedding.aget_query_embedding(QUERY))
        assert names == ["EmbeddingStartEvent", "EmbeddingEndEvent"] * 2

    def test_a_pipeline_embeds_what_embed_mode_shows(self) -> None:
        encoder = FakeEncoder()
        pipeline = IngestionPipeline(transformations=[self.make(BGEM3(encoder))])
        done = pipeline.run(nodes=make_nodes())
        assert all(node.embedding for node in done)
        assert encoder.forwards == {
            node.get_content(metadata_mode=MetadataMode.EMBED): 1 for node in make_nodes()
        }


class SparseEmbeddingConformance(_TextsConformance):
    """Tests for a sparse embedding."""

    base = BaseSparseEmbedding

    def test_weights_have_python_ints_and_floats(self) -> None:
        embedding = self.make(BGEM3(FakeEncoder()))
        rows = [embedding.get_query_embedding(QUERY), embedding.get_text_embedding(TEXTS["cat"])]
        assert {type(token) for row in rows for token in row} == {int}
        assert {type(weight) for row in rows for weight in row.values()} == {float}

    def test_similarity_is_the_dot_product(self) -> None:
        assert self.make(BGEM3(FakeEncoder())).similarity({1: 2.0, 2: 1.0}, {1: 3.0, 4: 9.0}) == 6.0

    def test_events_frame_the_work(self) -> None:
        with collected_events() as names:
            self.make(BGEM3(FakeEncoder())).get_text_embedding_batch(list(TEXTS.values()))
        assert names == ["SparseEmbeddingStartEvent", "SparseEmbeddingEndEvent"]


class RerankerConformance(ComponentConformance):
    """Tests for a reranker; `make` gives one that returns at most two nodes."""

    base = BaseNodePostprocessor

    def test_the_best_nodes_come_first_with_new_scores(self) -> None:
        found = self.make(BGEM3(FakeEncoder())).postprocess_nodes(_scored(), query_str=QUERY)
        scores = [scored.get_score(raise_error=True) for scored in found]
        assert found[0].node.node_id == "cat"
        assert len(found) == 2
        assert scores == sorted(scores, reverse=True)
        assert {type(score) for score in scores} == {float}

    def test_nothing_that_is_given_is_changed(self) -> None:
        given = _scored()
        found = self.make(BGEM3(FakeEncoder())).postprocess_nodes(given, query_str=QUERY)
        assert given == _scored()
        assert not {id(scored) for scored in found} & {id(scored) for scored in given}

    def test_what_embed_mode_shows_is_encoded_once_and_so_is_the_query(self) -> None:
        encoder = FakeEncoder()
        self.make(BGEM3(encoder)).postprocess_nodes(_scored(), query_str=QUERY)
        texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in make_nodes()]
        assert encoder.forwards == dict.fromkeys([QUERY, *texts], 1)

    def test_no_query_is_an_error_and_no_nodes_are_none(self) -> None:
        reranker = self.make(BGEM3(FakeEncoder()))
        assert reranker.postprocess_nodes([], query_str=QUERY) == []
        assert "query" in refusal(lambda: reranker.postprocess_nodes(_scored()))

    def test_awaiting_gives_the_same_and_leaves_the_event_loop_free(self) -> None:
        encoder = GatedEncoder()
        reranker = self.make(BGEM3(encoder))
        assert leaves_the_loop_free(
            encoder, lambda: reranker.apostprocess_nodes(_scored(), query_str=QUERY)
        )
        found = asyncio.run(reranker.apostprocess_nodes(_scored(), query_str=QUERY))
        assert found == reranker.postprocess_nodes(_scored(), query_str=QUERY)

    def test_events_and_callbacks_frame_the_work(self) -> None:
        reranker = self.make(BGEM3(FakeEncoder()))
        debug = LlamaDebugHandler(print_trace_on_end=False)
        reranker.callback_manager = CallbackManager([debug])
        with collected_events() as names:
            reranker.postprocess_nodes(_scored(), query_str=QUERY)
        assert names == ["ReRankStartEvent", "ReRankEndEvent"]
        assert len(debug.get_event_pairs(CBEventType.RERANKING)) == 1


class RetrieverConformance:
    """Tests for a retriever."""

    def make(self, engine: BGEM3, nodes: list[TextNode], similarity_top_k: int) -> BaseRetriever:
        """A retriever over nodes; a subclass writes it."""
        raise NotImplementedError(f"{type(self).__name__} needs make()")

    def test_it_has_its_llama_index_base(self) -> None:
        ancestors = type(self._made(FakeEncoder())).__mro__
        assert BaseRetriever.__name__ in [ancestor.__name__ for ancestor in ancestors]

    def test_as_many_nodes_as_asked_for_come_best_first(self) -> None:
        found = self._made(FakeEncoder(), 3).retrieve(QUERY)
        scores = [scored.get_score(raise_error=True) for scored in found]
        assert found[0].node.node_id == "cat"
        assert len({scored.node.node_id for scored in found}) == 3
        assert scores == sorted(scores, reverse=True)
        assert {type(score) for score in scores} == {float}

    def test_fewer_nodes_come_only_where_there_are_no_more(self) -> None:
        assert len(self._made(FakeEncoder(), 99).retrieve("unseen words")) == len(TEXTS)

    def test_nodes_come_as_they_were_given_and_are_nobody_elses(self) -> None:
        retriever = self._made(FakeEncoder(), 4)
        given = {node.node_id: node for node in make_nodes()}
        for scored in retriever.retrieve(QUERY):
            assert scored.node == given[scored.node.node_id]
            scored.node.metadata["parts"]["legs"] = 99
        for scored in retriever.retrieve(QUERY):
            assert scored.node.metadata["parts"] == {"legs": 4}

    def test_awaiting_gives_the_same_and_leaves_the_event_loop_free(self) -> None:
        encoder = GatedEncoder()
        retriever = self._made(encoder)
        assert leaves_the_loop_free(encoder, lambda: retriever.aretrieve("another"))
        assert asyncio.run(retriever.aretrieve(QUERY)) == retriever.retrieve(QUERY)

    def test_a_query_costs_one_forward(self) -> None:
        encoder = FakeEncoder()
        retriever = self._made(encoder)
        encoder.forwards.clear()
        retriever.retrieve("first")
        asyncio.run(retriever.aretrieve("second"))
        assert encoder.forwards == {"first": 1, "second": 1}

    def test_events_frame_the_work(self) -> None:
        retriever = self._made(FakeEncoder())
        with collected_events() as names:
            retriever.retrieve(QUERY)
        assert names == ["RetrievalStartEvent", "RetrievalEndEvent"]

    def test_an_empty_query_is_no_error(self) -> None:
        assert len(self._made(FakeEncoder()).retrieve("")) == 2

    def test_it_becomes_a_tool(self) -> None:
        tool = RetrieverTool.from_defaults(self._made(FakeEncoder(), 1))
        assert TEXTS["bird"] in tool.call("a bird sings").content
        assert TEXTS["bird"] in asyncio.run(tool.acall("a bird sings")).content

    def _made(self, encoder: FakeEncoder, similarity_top_k: int = 2) -> BaseRetriever:
        return self.make(BGEM3(encoder), make_nodes(), similarity_top_k)


def _scored() -> list[NodeWithScore]:
    return [NodeWithScore(node=node, score=0.5) for node in reversed(make_nodes())]
