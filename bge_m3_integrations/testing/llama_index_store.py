"""Tests for a LlamaIndex vector store; see `conformance`."""

# ruff: noqa: D102 (a test says in its name what it claims)

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import (
    BaseNode,
    Document,
    MetadataMode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.llama_index.embedding import BGEM3Embedding
from bge_m3_integrations.testing.fake import FakeEncoder
from bge_m3_integrations.testing.llama_index_tools import (
    GatedEncoder,
    descendants,
    leaves_the_loop_free,
    refusal,
)

QUERY = "cat on the mat"
_HELD: dict[str, tuple[str, str, dict[str, Any]]] = {
    "cat": (
        *("land", "the cat sat on the mat"),
        {"kind": "mammal", "legs": 4, "tags": ["pet", "soft"], "note": "Sits on mats"},
    ),
    "dog": (
        *("land", "the dog barks at the cat"),
        {"kind": "mammal", "legs": 4, "tags": ["pet", "loud"], "note": "barks"},
    ),
    "bird": (
        *("air", "a bird sings in the tree"),
        {"kind": "bird", "legs": 2, "tags": ["loud"], "note": ""},
    ),
    "fish": ("water", "the fish swims in the lake", {"kind": "fish", "legs": 0, "tags": []}),
}
ALL = frozenset(_HELD)
OPERATORS: dict[FilterOperator, tuple[str, Any, set[str]]] = {
    FilterOperator.EQ: ("kind", "mammal", {"cat", "dog"}),
    FilterOperator.NE: ("kind", "mammal", {"bird", "fish"}),
    FilterOperator.GT: ("legs", 2, {"cat", "dog"}),
    FilterOperator.GTE: ("legs", 2, {"cat", "dog", "bird"}),
    FilterOperator.LT: ("legs", 2, {"fish"}),
    FilterOperator.LTE: ("legs", 2, {"bird", "fish"}),
    FilterOperator.IN: ("kind", ["bird", "fish"], {"bird", "fish"}),
    FilterOperator.NIN: ("kind", ["bird"], {"cat", "dog", "fish"}),
    FilterOperator.ANY: ("tags", ["soft", "loud"], {"cat", "dog", "bird"}),
    FilterOperator.ALL: ("tags", ["pet", "loud"], {"dog"}),
    FilterOperator.CONTAINS: ("tags", "pet", {"cat", "dog"}),
    FilterOperator.TEXT_MATCH: ("note", "Sits", {"cat"}),
    FilterOperator.TEXT_MATCH_INSENSITIVE: ("note", "BARKS", {"dog"}),
    FilterOperator.IS_EMPTY: ("note", None, {"bird", "fish"}),
}
"""Of each operator a key, a value and the nodes that pass."""


def make_nodes() -> list[BaseNode]:
    """Four new nodes of three source documents."""
    return [
        TextNode(
            id_=name,
            text=text,
            metadata=dict(metadata),
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=source)},
        )
        for name, (source, text, metadata) in _HELD.items()
    ]


class VectorStoreConformance:
    """Tests for a vector store over the engine; a subclass writes `make` and `reload`."""

    def make(self, engine: BGEM3, folder: Path) -> Any:
        """A new, empty store; it may use the folder, which does not exist."""
        raise NotImplementedError(f"{type(self).__name__} needs make()")

    def reload(self, engine: BGEM3, persist_dir: Path) -> Any:
        """The store that a `StorageContext` persisted to a folder."""
        raise NotImplementedError(f"{type(self).__name__} needs reload()")

    def close(self, store: Any) -> None:
        """Give the store's folder free."""
        store.client.close()

    def test_it_has_its_llama_index_base_and_keeps_texts(self, tmp_path: Path) -> None:
        with self._store(tmp_path) as store:
            names = [ancestor.__name__ for ancestor in type(store).__mro__]
            assert BasePydanticVectorStore.__name__ in names
            assert store.stores_text

    def test_its_class_name_is_nobody_elses(self, tmp_path: Path) -> None:
        with self._store(tmp_path) as store:
            cls, known = type(store), descendants(BasePydanticVectorStore)
            others = [other.class_name() for other in known if not issubclass(other, cls)]
            assert cls.class_name() not in others

    def test_nodes_come_back_as_they_were_added(self, tmp_path: Path) -> None:
        with self._store(tmp_path) as store:
            assert store.add(make_nodes()) == list(_HELD)
            assert store.get_nodes(list(_HELD)) == make_nodes()
            assert [node.node_id for node in store.get_nodes(["fish", "gone"])] == ["fish"]

    def test_a_known_id_is_replaced(self, tmp_path: Path) -> None:
        with self._filled(tmp_path) as store:
            store.add([TextNode(id_="cat", text="bread and cheese")])
            assert len(store.get_nodes()) == len(_HELD)
            assert [node.get_content() for node in store.get_nodes(["cat"])] == ["bread and cheese"]

    def test_delete_takes_all_nodes_of_a_source_document(self, tmp_path: Path) -> None:
        with self._filled(tmp_path) as store:
            store.delete("land")
            store.delete("land")
            store.delete("gone")
            assert _ids(store.get_nodes()) == {"bird", "fish"}
            asyncio.run(store.adelete("air"))
            assert self._found(store) == {"fish"}

    def test_nodes_are_deleted_by_id_and_by_filter(self, tmp_path: Path) -> None:
        with self._filled(tmp_path) as store:
            store.delete_nodes([])
            store.delete_nodes(["cat", "gone"])
            assert self._found(store) == {"dog", "bird", "fish"}
            store.delete_nodes(filters=_filters(FilterOperator.LT, "legs", 3))
            assert self._found(store) == {"dog"}
            store.clear()
            assert self._found(store) == set()

    def test_all_operators_of_filters_hold(self, tmp_path: Path) -> None:
        assert set(OPERATORS) == set(FilterOperator)
        with self._filled(tmp_path) as store:
            for operator, (key, value, expected) in OPERATORS.items():
                filters = _filters(operator, key, value)
                assert self._found(store, filters=filters) == expected, operator
                assert _ids(store.get_nodes(filters=filters)) == expected, operator

    def test_conditions_and_nested_filters_hold(self, tmp_path: Path) -> None:
        pet = _filters(FilterOperator.CONTAINS, "tags", "pet")
        loud = _filters(FilterOperator.CONTAINS, "tags", "loud")
        both = MetadataFilters(filters=[pet, loud], condition=FilterCondition.AND)
        either = MetadataFilters(filters=[pet, loud], condition=FilterCondition.OR)
        neither = MetadataFilters(filters=[pet, loud], condition=FilterCondition.NOT)
        inner = MetadataFilters(filters=[both, neither], condition=FilterCondition.OR)
        few = MetadataFilters(filters=[inner, _filters(FilterOperator.LTE, "legs", 2)])
        for filters, expected in (
            (both, {"dog"}),
            (either, {"cat", "dog", "bird"}),
            (neither, {"fish"}),
            (inner, {"dog", "fish"}),
            (few, {"fish"}),
        ):
            with self._filled(tmp_path / str(len(expected)) / str(id(filters))) as store:
                assert self._found(store, filters=filters) == expected

    def test_ids_restrict_and_empty_ids_do_not(self, tmp_path: Path) -> None:
        with self._filled(tmp_path) as store:
            assert self._found(store, node_ids=[]) == ALL
            assert self._found(store, doc_ids=[]) == ALL
            assert self._found(store, node_ids=["dog", "gone"]) == {"dog"}
            assert self._found(store, doc_ids=["land", "gone"]) == {"cat", "dog"}
            assert self._found(store, doc_ids=["land"], node_ids=["bird", "cat"]) == {"cat"}

    def test_all_modes_work_through_a_vector_store_index(self, tmp_path: Path) -> None:
        for mode in ("default", "sparse", "text_search", "hybrid", "mmr"):
            with self._filled(tmp_path / mode) as store:
                index = VectorStoreIndex.from_vector_store(
                    store, embed_model=BGEM3Embedding(engine=store.engine)
                )
                retriever = index.as_retriever(vector_store_query_mode=mode, similarity_top_k=3)
                found = retriever.retrieve(QUERY)
                assert found[0].node.node_id == "cat", mode
                assert len(found) == 3, mode
                assert {type(scored.score) for scored in found} == {float}, mode
                assert asyncio.run(retriever.aretrieve(QUERY)) == found, mode

    def test_lexical_modes_need_no_embedding(self, tmp_path: Path) -> None:
        with self._filled(tmp_path) as store:
            query = VectorStoreQuery(query_str="bird", mode=VectorStoreQueryMode.SPARSE)
            assert store.query(query).ids[0] == "bird"

    def test_alpha_goes_from_lexical_to_dense(self, tmp_path: Path) -> None:
        with self._filled(tmp_path) as store:
            hybrid, sparse = VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.SPARSE
            lexical = store.query(VectorStoreQuery(query_str=QUERY, mode=sparse))
            zero = store.query(VectorStoreQuery(query_str=QUERY, mode=hybrid, alpha=0.0))
            one = store.query(VectorStoreQuery(query_str=QUERY, mode=hybrid, alpha=1.0))
            assert zero.similarities == lexical.similarities
            assert one.similarities != lexical.similarities

    def test_an_unknown_mode_is_a_value_error(self, tmp_path: Path) -> None:
        with self._filled(tmp_path) as store:
            query = VectorStoreQuery(query_str=QUERY, mode=VectorStoreQueryMode.SVM)
            assert "svm" in refusal(lambda: store.query(query))

    def test_each_text_costs_one_forward(self, tmp_path: Path) -> None:
        encoder = FakeEncoder()
        with self._store(tmp_path, encoder) as store:
            context = StorageContext.from_defaults(vector_store=store)
            embedding = BGEM3Embedding(engine=store.engine)
            nodes = make_nodes()
            index = VectorStoreIndex(nodes, storage_context=context, embed_model=embedding)
            index.as_retriever(vector_store_query_mode="hybrid").retrieve(QUERY)
            texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
            assert encoder.forwards == dict.fromkeys([QUERY, *texts], 1)

    def test_the_async_twins_do_the_same(self, tmp_path: Path) -> None:
        async def ran(store: Any) -> None:
            assert await store.async_add(make_nodes()) == list(_HELD)
            query = VectorStoreQuery(query_str=QUERY, similarity_top_k=9)
            assert await store.aquery(query) == store.query(query)
            assert await store.aget_nodes(["cat"]) == make_nodes()[:1]
            await store.adelete_nodes(["cat"])
            assert _ids(await store.aget_nodes()) == ALL - {"cat"}
            await store.aclear()
            assert await store.aget_nodes() == []

        with self._store(tmp_path) as store:
            asyncio.run(ran(store))

    def test_awaiting_leaves_the_event_loop_free(self, tmp_path: Path) -> None:
        encoder = GatedEncoder()
        with self._store(tmp_path, encoder) as store:
            assert leaves_the_loop_free(encoder, lambda: store.async_add(make_nodes()))
            query = VectorStoreQuery(query_str=QUERY)
            assert leaves_the_loop_free(encoder, lambda: store.aquery(query))

    def test_upserts_replace_changed_documents(self, tmp_path: Path) -> None:
        with self._store(tmp_path) as store:
            pipeline = _pipeline(store, DocstoreStrategy.UPSERTS)
            assert len(pipeline.run(documents=_documents("a cat", "a dog"))) == 2
            assert pipeline.run(documents=_documents("a cat", "a dog")) == []
            pipeline.run(documents=_documents("a cat", "a cow"))
            assert _contents(store) == ["a cat", "a cow"]

    def test_duplicates_are_not_added_twice(self, tmp_path: Path) -> None:
        with self._store(tmp_path) as store:
            pipeline = _pipeline(store, DocstoreStrategy.DUPLICATES_ONLY)
            pipeline.run(documents=_documents("a cat", "a dog"))
            assert pipeline.run(documents=_documents("a cat")) == []
            assert _contents(store) == ["a cat", "a dog"]

    def test_upserts_and_delete_drops_missing_documents(self, tmp_path: Path) -> None:
        with self._store(tmp_path) as store:
            pipeline = _pipeline(store, DocstoreStrategy.UPSERTS_AND_DELETE)
            pipeline.run(documents=_documents("a cat", "a dog", "a cow"))
            pipeline.run(documents=_documents("a cat", "a bird"))
            assert _contents(store) == ["a bird", "a cat"]

    def test_a_storage_context_persists_it_and_loads_it(self, tmp_path: Path) -> None:
        encoder, persisted = FakeEncoder(), tmp_path / "persisted"
        with self._store(tmp_path, encoder) as store:
            context = StorageContext.from_defaults(vector_store=store)
            embedding = BGEM3Embedding(engine=store.engine)
            VectorStoreIndex(make_nodes(), storage_context=context, embed_model=embedding)
            context.persist(str(persisted))
            forwards = encoder.forwards.total()
            back = self.reload(store.engine, persisted)
            again = StorageContext.from_defaults(persist_dir=str(persisted), vector_store=back)
            index = load_index_from_storage(again, embed_model=embedding)
            assert encoder.forwards.total() == forwards
            found = index.as_retriever(similarity_top_k=9).retrieve(QUERY)
            assert {scored.node.node_id for scored in found} == ALL
            self.close(back)

    @contextmanager
    def _store(self, folder: Path, encoder: FakeEncoder | None = None) -> Iterator[Any]:
        folder.mkdir(parents=True, exist_ok=True)
        store = self.make(BGEM3(encoder or FakeEncoder()), folder / "store")
        try:
            yield store
        finally:
            self.close(store)

    @contextmanager
    def _filled(self, folder: Path) -> Iterator[Any]:
        with self._store(folder) as store:
            store.add(make_nodes())
            yield store

    @staticmethod
    def _found(store: Any, **restrictions: Any) -> set[str]:
        query = VectorStoreQuery(query_str=QUERY, similarity_top_k=99, **restrictions)
        return set(store.query(query).ids)


def _filters(operator: FilterOperator, key: str, value: Any) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])


def _ids(nodes: Sequence[BaseNode]) -> set[str]:
    return {node.node_id for node in nodes}


def _contents(store: Any) -> list[str]:
    return sorted(node.get_content(metadata_mode=MetadataMode.NONE) for node in store.get_nodes())


def _documents(*texts: str) -> list[Document]:
    """The document of each place in the list has the same id in every call."""
    return [Document(id_=f"document-{place}", text=text) for place, text in enumerate(texts)]


def _pipeline(store: Any, strategy: DocstoreStrategy) -> IngestionPipeline:
    return IngestionPipeline(
        transformations=[SentenceSplitter(), BGEM3Embedding(engine=store.engine)],
        vector_store=store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=strategy,
    )
