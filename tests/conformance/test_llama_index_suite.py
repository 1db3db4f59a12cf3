"""The conformance suite for LlamaIndex finds the mistakes that it is there to find."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryResult

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.llama_index import (
    BGEM3Embedding,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3SparseEmbedding,
    BGEM3VectorStore,
)
from bge_m3_integrations.testing import llama_index as suite
from bge_m3_integrations.testing.llama_index_store import VectorStoreConformance


def failing(tests: object, folder: Path) -> set[str]:
    """The names of the tests of a suite's object that fail."""
    failed = set()
    for name, test in inspect.getmembers(tests, inspect.ismethod):
        if not name.startswith("test_"):
            continue
        place = folder / name
        arguments = [place] if "tmp_path" in inspect.signature(test).parameters else []
        try:
            test(*arguments)
        except Exception:  # whatever a mistake leads to
            failed.add(name)
    return failed


class EmbeddingLeftToTheBaseClass(BGEM3Embedding):
    """Awaits as LlamaIndex does where a class writes no async hooks."""

    _aget_text_embedding = BaseEmbedding._aget_text_embedding
    _aget_text_embeddings = BaseEmbedding._aget_text_embeddings


class EmbeddingOfNumpyFloats(BGEM3Embedding):
    def _get_query_embedding(self, query: str) -> Any:
        return list(self._engine.encode_queries([query], modes={"dense"}).dense[0])


class SparseLeftToTheBaseClass(BGEM3SparseEmbedding):
    similarity = BaseSparseEmbedding.similarity
    _aget_text_embeddings = BaseSparseEmbedding._aget_text_embeddings

    async def _aget_text_embedding(self, text: str) -> dict[int, float]:
        return self._get_text_embedding(text)


class RerankerThatWritesIntoItsInput(BGEM3Reranker):
    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        found = super()._postprocess_nodes(nodes, query_bundle)
        for scored in nodes:
            scored.score = found[0].score
        return found


class RerankerWithoutEvents(BGEM3Reranker):
    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return self._ranked([(query_bundle or QueryBundle(""), nodes)])[0] if nodes else []


class RetrieverThatBlocks(BGEM3Retriever):
    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._retrieve(query_bundle)


class RetrieverThatSharesNodes(BGEM3Retriever):
    held: dict[str, BaseNode] = {}  # noqa: RUF012  # the mistake

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = super()._retrieve(query_bundle)
        for scored in found:
            scored.node = self.held.setdefault(scored.node.node_id, scored.node)
        return found


class StoreThatTakesNoIdsForNone(BGEM3VectorStore):
    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        if query.node_ids == [] or query.doc_ids == []:
            return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
        return super().query(query, **kwargs)


class StoreThatDropsFilters(BGEM3VectorStore):
    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        query.filters = None
        return super().query(query, **kwargs)


class StoreThatDeletesByNodeId(BGEM3VectorStore):
    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        self.index.delete(ids=[ref_doc_id])


class StoreThatBlocks(BGEM3VectorStore):
    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        return self.add(nodes, **kwargs)


class StoreThatEncodesTwice(BGEM3VectorStore):
    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        encoder: Any = self.engine.encoder.encoder
        encoder.encode(
            [node.get_content("embed") for node in nodes], kind="document", modes=["dense"]
        )
        return super().add(nodes, **kwargs)


def over(base: type, make: Callable[[BGEM3], Any]) -> Any:
    """A suite's object; what needs a model's name keeps that of the class."""
    return type("Made", (base,), {"make": lambda _, engine: make(engine)})()


def retrieving(cls: type[BGEM3Retriever]) -> Any:
    def make(_: object, engine: BGEM3, nodes: list[TextNode], similarity_top_k: int) -> Any:
        return cls.from_nodes(nodes, engine, similarity_top_k=similarity_top_k)

    return type("Made", (suite.RetrieverConformance,), {"make": make})()


def storing(cls: type[BGEM3VectorStore]) -> Any:
    def make(_: object, engine: BGEM3, folder: Path) -> Any:
        return cls(HybridIndex(engine))

    def reload(_: object, engine: BGEM3, persist_dir: Path) -> Any:
        return cls.from_persist_dir(persist_dir, engine=engine)

    return type("Made", (VectorStoreConformance,), {"make": make, "reload": reload})()


NAMED = {
    "test_it_comes_back_from_its_dict_and_its_json",
    "test_it_comes_back_from_its_pickle",
    "test_its_class_name_is_nobody_elses",
}
"""They need `named`, which these adapters do not write."""
SLOW = "test_awaiting_leaves_the_event_loop_free"
BATCH = "test_awaiting_encodes_a_batch_at_once"


@pytest.mark.parametrize(
    ("base", "cls", "expected"),
    [
        (suite.EmbeddingConformance, EmbeddingLeftToTheBaseClass, {SLOW, BATCH}),
        (
            suite.EmbeddingConformance,
            EmbeddingOfNumpyFloats,
            {"test_queries_and_texts_have_python_floats"},
        ),
        (
            suite.SparseEmbeddingConformance,
            SparseLeftToTheBaseClass,
            {SLOW, BATCH, "test_similarity_is_the_dot_product"},
        ),
        (
            suite.RerankerConformance,
            RerankerThatWritesIntoItsInput,
            {"test_nothing_that_is_given_is_changed"},
        ),
        (
            suite.RerankerConformance,
            RerankerWithoutEvents,
            {
                "test_events_and_callbacks_frame_the_work",
                "test_no_query_is_an_error_and_no_nodes_are_none",
            },
        ),
    ],
)
def test_a_mistake_of_a_component_is_found(
    base: type, cls: Any, expected: set[str], tmp_path: Path
) -> None:
    more = {"top_n": 2} if issubclass(cls, BGEM3Reranker) else {}
    found = failing(over(base, lambda engine: cls(engine=engine, **more)), tmp_path) - NAMED
    assert found == expected


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (RetrieverThatBlocks, "test_awaiting_gives_the_same_and_leaves_the_event_loop_free"),
        (RetrieverThatSharesNodes, "test_nodes_come_as_they_were_given_and_are_nobody_elses"),
    ],
)
def test_a_mistake_of_a_retriever_is_found(cls: Any, expected: str, tmp_path: Path) -> None:
    assert failing(retrieving(cls), tmp_path) == {expected}


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (StoreThatTakesNoIdsForNone, {"test_ids_restrict_and_empty_ids_do_not"}),
        (
            StoreThatDropsFilters,
            {"test_all_operators_of_filters_hold", "test_conditions_and_nested_filters_hold"},
        ),
        (
            StoreThatDeletesByNodeId,
            {
                "test_delete_takes_all_nodes_of_a_source_document",
                "test_upserts_replace_changed_documents",
                "test_upserts_and_delete_drops_missing_documents",
            },
        ),
        (StoreThatBlocks, {SLOW}),
        (StoreThatEncodesTwice, {"test_each_text_costs_one_forward"}),
    ],
)
def test_a_mistake_of_a_store_is_found(cls: Any, expected: set[str], tmp_path: Path) -> None:
    found = failing(storing(cls), tmp_path)
    assert expected <= found
    assert "test_nodes_come_back_as_they_were_added" not in found
