"""BGEM3VectorStore alone and under LlamaIndex's VectorStoreIndex, in memory and in a folder."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import (
    BaseNode,
    IndexNode,
    MetadataMode,
    NodeRelationship,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from bge_m3_integrations import BGEM3, HybridIndex, InputError, Weights
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Mode, Modes
from bge_m3_integrations.core.filters import Compare, matches
from bge_m3_integrations.errors import BGEM3Error, StoreError
from bge_m3_integrations.llama_index import BGEM3Embedding
from bge_m3_integrations.llama_index.nodes import REF_DOC_KEY
from bge_m3_integrations.llama_index.vector_store import BGEM3VectorStore
from bge_m3_integrations.stores.edge.shard.shard import Shard
from bge_m3_integrations.stores.memory.store import MemoryStore
from bge_m3_integrations.testing import FakeEncoder
from tests.loop_gaps import longest_gap

QUERY = "the cat barks"
MODE = VectorStoreQueryMode
SOURCE = NodeRelationship.SOURCE


def piece(name: str, text: str, source: str | None = None, **metadata: Any) -> TextNode:
    related = {} if source is None else {SOURCE: RelatedNodeInfo(node_id=source)}
    return TextNode(id_=name, text=text, metadata=metadata, relationships=related)


@pytest.fixture(params=["memory", "edge"])
def index(request: pytest.FixtureRequest, engine: BGEM3, tmp_path: Path) -> Iterator[HybridIndex]:
    place = tmp_path / "index"
    with (
        HybridIndex(engine)
        if request.param == "memory"
        else HybridIndex.open(place, engine, colbert="float32", create=True)
    ) as index:
        yield index


@pytest.fixture
def store(index: HybridIndex) -> BGEM3VectorStore:
    return BGEM3VectorStore(index)


@pytest.fixture
def filled(store: BGEM3VectorStore, nodes: list[TextNode]) -> BGEM3VectorStore:
    store.add(nodes)
    return store


def ask(text: str | None = QUERY, **fields: Any) -> VectorStoreQuery:
    return VectorStoreQuery(query_str=text, **{"similarity_top_k": 4, **fields})


def ranking(store: BGEM3VectorStore, query: VectorStoreQuery, **options: Any) -> dict[str, float]:
    result = store.query(query, **options)
    assert result.nodes is not None
    assert result.ids == [node.node_id for node in result.nodes]
    return dict(zip(result.ids or [], result.similarities or [], strict=True))


def searched(store: BGEM3VectorStore, weights: Weights | None = None) -> dict[str, float]:
    """What the index itself finds."""
    hits = store.index.search(QUERY, limit=4, weights=weights)
    return {hit.id: hit.score for hit in hits}


def listed(ranked: dict[str, float]) -> list[tuple[str, float]]:
    return list(ranked.items())


def dense_of(engine: BGEM3, text: str) -> list[float]:
    dense = engine.encode_queries([text], modes={"dense"}).dense
    assert dense is not None
    vector: list[float] = dense[0].tolist()
    return vector


# modes


@pytest.mark.parametrize("mode", [MODE.DEFAULT, MODE.HYBRID])
def test_default_and_hybrid_are_the_indexs_hybrid_search(
    filled: BGEM3VectorStore, mode: VectorStoreQueryMode
) -> None:
    assert listed(ranking(filled, ask(mode=mode))) == listed(searched(filled))


@pytest.mark.parametrize("mode", [MODE.SPARSE, MODE.TEXT_SEARCH])
def test_sparse_and_text_search_rank_by_the_lexical_score(
    filled: BGEM3VectorStore, mode: VectorStoreQueryMode
) -> None:
    lexical = Weights.only("sparse")
    assert listed(ranking(filled, ask(mode=mode))) == listed(searched(filled, lexical))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_alpha_is_the_share_of_the_dense_score(filled: BGEM3VectorStore, alpha: float) -> None:
    ranked = ranking(filled, ask(mode=MODE.HYBRID, alpha=alpha))
    assert listed(ranked) == listed(searched(filled, Weights(alpha, 1 - alpha, 0)))


def test_weights_come_from_the_store_and_before_them_from_the_query(index: HybridIndex) -> None:
    store = BGEM3VectorStore(index, weights=(0, 0, 1))
    store.add([piece("a", "cat cat dog"), piece("b", "the cat barks now")])
    assert listed(ranking(store, ask())) == listed(searched(store, Weights(0, 0, 1)))
    dense = ranking(store, ask(), weights=(1, 0, 0))
    assert listed(dense) == listed(searched(store, Weights(1, 0, 0)))


@pytest.mark.parametrize("place", ["store", "query"])
def test_alpha_beside_weights_is_an_error(index: HybridIndex, place: str) -> None:
    store = BGEM3VectorStore(index, weights=(1, 1, 1) if place == "store" else None)
    options = {"weights": (1, 1, 1)} if place == "query" else {}
    with pytest.raises(InputError, match=r"alpha=0.5.*contradict"):
        store.query(ask(mode=MODE.HYBRID, alpha=0.5), **options)


@pytest.mark.parametrize(
    "mode", [MODE.SEMANTIC_HYBRID, MODE.SVM, MODE.LINEAR_REGRESSION, MODE.LOGISTIC_REGRESSION]
)
def test_a_mode_that_is_not_supported_is_refused_by_name(
    store: BGEM3VectorStore, mode: VectorStoreQueryMode
) -> None:
    with pytest.raises(ValueError, match=mode.value) as caught:
        store.query(ask(mode=mode))
    assert isinstance(caught.value, BGEM3Error)


@pytest.mark.parametrize(
    ("fields", "options", "named"),
    [
        ({"alpha": 0.5}, {}, "alpha"),
        ({"mode": MODE.HYBRID, "alpha": 1.5}, {}, "1.5"),
        ({"mode": MODE.SPARSE, "hybrid_top_k": 3}, {}, "hybrid_top_k"),
        ({"mode": MODE.SPARSE}, {"weights": (1, 1, 1)}, "weights"),
        ({}, {"mmr_threshold": 0.5}, "mmr_threshold"),
        ({"mode": MODE.MMR, "mmr_threshold": 0.1}, {"mmr_threshold": 0.5}, "twice"),
        ({"mode": MODE.MMR, "mmr_threshold": 2.0}, {}, "2.0"),
        ({}, {"wieghts": (1, 1, 1)}, "wieghts"),
        ({"similarity_top_k": 0}, {}, "similarity_top_k"),
        ({"text": None}, {}, "query_str"),
    ],
)
def test_what_does_not_go_together_is_named(
    filled: BGEM3VectorStore, fields: dict[str, Any], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        filled.query(ask(**fields), **options)


def test_a_mode_may_be_named_by_a_string(filled: BGEM3VectorStore) -> None:
    query: Any = {"mode": "sparse", "sparse_top_k": 5}
    assert ranking(filled, ask(**query)) == ranking(filled, ask(mode=MODE.SPARSE))
    with pytest.raises(InputError, match="bm25"):
        filled.query(ask(mode="bm25"))


class SeenStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}

    def find(self, queries: EmbeddingBatch, mode: Mode, *, limit: int, where: Any = None) -> Any:
        self.seen[mode] = limit
        return super().find(queries, mode, limit=limit, where=where)


@pytest.mark.parametrize(
    ("fields", "lookups", "found"),
    [
        ({"similarity_top_k": 3}, {"dense": 100, "sparse": 100}, 3),
        ({"sparse_top_k": 7}, {"dense": 100, "sparse": 7}, 4),
        ({"hybrid_top_k": 2}, {"dense": 100, "sparse": 100}, 2),
        ({"similarity_top_k": 300, "hybrid_top_k": 2}, {"dense": 300, "sparse": 100}, 2),
        ({"mode": MODE.SPARSE, "sparse_top_k": 7}, {"sparse": 7}, 4),
        ({"mode": MODE.TEXT_SEARCH}, {"sparse": 100}, 4),
    ],
)
def test_top_ks_decide_what_is_looked_up_and_what_comes_back(
    engine: BGEM3,
    nodes: list[TextNode],
    fields: dict[str, Any],
    lookups: dict[str, int],
    found: int,
) -> None:
    seen = SeenStore()
    store = BGEM3VectorStore(HybridIndex(engine, seen))
    store.add(nodes)
    assert len(ranking(store, ask(**{"mode": MODE.HYBRID, **fields}))) == found
    assert seen.seen == lookups


def test_candidates_of_the_store_are_looked_up(engine: BGEM3, nodes: list[TextNode]) -> None:
    seen = SeenStore()
    store = BGEM3VectorStore(HybridIndex(engine, seen), candidates={"dense": 9, "colbert": 8})
    store.add(nodes)
    store.query(ask())
    assert seen.seen == {"dense": 9, "colbert": 8}


def test_an_mmr_threshold_of_one_ranks_by_relevance_and_of_zero_by_unlikeness(
    store: BGEM3VectorStore,
) -> None:
    store.add([piece(f"same{i}", "the cat barks") for i in range(3)])
    store.add([piece("other", "a cat of quite another sort")])
    plain = listed(ranking(store, ask()))
    assert plain[-1][0] == "other"
    relevant = ranking(store, ask(mode=MODE.MMR, mmr_threshold=1.0))
    assert listed(relevant) == plain
    unlike = ranking(store, ask(mode=MODE.MMR), mmr_threshold=0)
    assert list(unlike)[:2] == [plain[0][0], "other"]
    assert unlike == dict(plain)


def test_mmr_chooses_among_as_many_as_it_is_told(store: BGEM3VectorStore) -> None:
    store.add([piece(f"same{i}", "the cat barks") for i in range(3)])
    store.add([piece("other", "a cat of quite another sort")])
    few = ask(mode=MODE.MMR, similarity_top_k=2, mmr_threshold=0.0)
    assert "other" in ranking(store, few)
    assert "other" not in ranking(store, few, mmr_prefetch_k=3)


@pytest.mark.parametrize("wanted", [2, 55, 70])
def test_mmr_gives_as_many_as_are_asked_for(store: BGEM3VectorStore, wanted: int) -> None:
    store.add([piece(f"n{i}", f"the cat number {i}") for i in range(60)])
    found = store.query(ask(mode=MODE.MMR, similarity_top_k=wanted))
    assert len(set(found.ids or [])) == min(wanted, 60)


@pytest.mark.parametrize("mode", [MODE.DEFAULT, MODE.MMR])
def test_mmr_and_default_of_an_empty_store_find_nothing(
    store: BGEM3VectorStore, mode: VectorStoreQueryMode
) -> None:
    result = store.query(ask(mode=mode))
    assert (result.ids, result.nodes, result.similarities) == ([], [], [])


# texts and vectors


@pytest.mark.parametrize("mode", [MODE.DEFAULT, MODE.SPARSE, MODE.HYBRID, MODE.MMR])
async def test_a_query_costs_one_forward(
    filled: BGEM3VectorStore, encoder: FakeEncoder, mode: VectorStoreQueryMode
) -> None:
    encoder.forwards.clear()
    filled.query(ask(mode=mode))
    await filled.aquery(ask("another text", mode=mode))
    assert encoder.forwards == {QUERY: 1, "another text": 1}


@pytest.mark.parametrize("text", [None, ""])
def test_a_vector_alone_is_a_dense_search_without_a_forward(
    filled: BGEM3VectorStore, encoder: FakeEncoder, engine: BGEM3, text: str | None
) -> None:
    longer = [3 * number for number in dense_of(engine, QUERY)]
    expected = searched(filled, Weights.only("dense"))
    encoder.forwards.clear()
    assert ranking(filled, ask(text, query_embedding=longer)) == pytest.approx(expected, abs=1e-6)
    assert not encoder.forwards


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"mode": MODE.HYBRID}, {}),
        ({"mode": MODE.SPARSE}, {}),
        ({"sparse_top_k": 5}, {}),
        ({}, {"weights": (1, 1, 1)}),
    ],
)
def test_what_a_vector_alone_cannot_do_asks_for_the_text(
    filled: BGEM3VectorStore, engine: BGEM3, fields: dict[str, Any], options: dict[str, Any]
) -> None:
    query = ask(None, query_embedding=dense_of(engine, QUERY), **fields)
    with pytest.raises(InputError, match="needs query_str"):
        filled.query(query, **options)


@pytest.mark.parametrize("text", [QUERY, None])
@pytest.mark.parametrize("vector", [[1.0] * 5, [0.0] * 32, [float("nan")] * 32])
async def test_a_query_vector_without_use_is_refused(
    filled: BGEM3VectorStore, engine: BGEM3, text: str | None, vector: list[float]
) -> None:
    query = ask(text, query_embedding=vector)
    with pytest.raises(InputError, match="query_embedding has"):
        filled.query(query)
    with pytest.raises(InputError, match="query_embedding has"):
        await filled.aquery(query)


async def test_a_query_vector_of_another_model_is_refused_naming_both(
    filled: BGEM3VectorStore, engine: BGEM3
) -> None:
    query = ask(query_embedding=dense_of(engine, "something else entirely"))
    with pytest.raises(InputError, match=r"cosine 0\.\d+ .*FakeEncoder.*embed_model"):
        filled.query(query)
    with pytest.raises(InputError, match=r"cosine 0\.\d+ .*FakeEncoder.*embed_model"):
        await filled.aquery(query)


def test_a_query_vector_that_a_dtype_away_changed_is_accepted(
    filled: BGEM3VectorStore, engine: BGEM3
) -> None:
    rough = np.array(dense_of(engine, QUERY)).astype(np.float16).tolist()
    assert listed(ranking(filled, ask(query_embedding=rough))) == listed(searched(filled))


def test_a_node_of_another_models_width_is_refused_before_anything_is_encoded(
    store: BGEM3VectorStore, encoder: FakeEncoder
) -> None:
    wrong = TextNode(id_="n9", text="x", embedding=[0.5] * 7)
    with pytest.raises(InputError, match=r"'n9' has 7 numbers .*FakeEncoder have \d+.*embed_model"):
        store.add([piece("fine", "text"), wrong])
    assert not encoder.forwards
    assert store.index.count() == 0


def test_a_node_of_another_models_direction_is_refused_and_not_kept(
    store: BGEM3VectorStore, engine: BGEM3
) -> None:
    vector = dense_of(engine, "something else")
    wrong = TextNode(id_="n9", text="x", embedding=vector)
    with pytest.raises(InputError, match=r"'n9' has cosine .*FakeEncoder.*embed_model"):
        store.add([wrong])
    assert store.index.count() == 0


def test_the_vector_that_is_kept_is_the_engines(store: BGEM3VectorStore, engine: BGEM3) -> None:
    rough = np.array(dense_of(engine, "x")) + 0.01
    store.add([TextNode(id_="n", text="x", embedding=rough.tolist())])
    held = store.index.store.vectors(["n"], ["dense"]).dense
    assert held is not None
    np.testing.assert_allclose(held[0], dense_of(engine, "x"), atol=1e-6)


# nodes


def test_nodes_come_back_equal_and_without_embedding(
    filled: BGEM3VectorStore, nodes: list[TextNode]
) -> None:
    result = filled.query(ask())
    assert result.nodes is not None
    given = {node.node_id: node for node in nodes}
    assert list(result.nodes) == [given[node.node_id] for node in result.nodes]


def test_adding_a_known_id_replaces_it_and_the_later_of_two_holds(
    store: BGEM3VectorStore,
) -> None:
    assert store.add([piece("a", "old")]) == ["a"]
    again = [piece("a", "middle"), piece("b", "other"), piece("a", "new")]
    assert store.add(again) == ["a", "b", "a"]
    assert [node.get_content() for node in store.get_nodes(["a", "b"])] == ["new", "other"]


def test_2048_nodes_in_one_call_cost_one_forward_each(encoder: FakeEncoder, engine: BGEM3) -> None:
    store = BGEM3VectorStore(HybridIndex(engine))
    added = store.add([piece(f"n{i}", f"text {i}") for i in range(2048)])
    assert len(added) == store.index.count() == 2048
    assert set(encoder.forwards.values()) == {1}


@pytest.mark.parametrize("method", ["add", "delete", "delete_nodes"])
def test_unknown_keywords_are_refused(store: BGEM3VectorStore, method: str) -> None:
    first: Any = "x" if method == "delete" else []
    with pytest.raises(InputError, match="batchsize"):
        getattr(store, method)(first, batchsize=3)


def test_a_document_is_deleted_with_all_its_nodes_and_twice_is_no_error(
    store: BGEM3VectorStore,
) -> None:
    store.add([piece("a1", "one", "a"), piece("a2", "two", "a"), piece("b1", "three", "b")])
    store.add([piece("a", "a node without a source is its own document")])
    store.add([piece("inner", "four", "a1")])
    for _ in range(2):
        store.delete("a")
        assert [node.node_id for node in store.get_nodes()] == ["b1", "inner"]
    store.delete("never seen")
    assert store.index.count() == 2


def test_deleting_a_document_reads_no_other_records(
    engine: BGEM3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    pages = Shard.pages

    def counted(self: Shard, *args: Any) -> Iterator[Any]:
        for page in pages(self, *args):
            read.append(len(page))
            yield page

    with HybridIndex.open(tmp_path / "index", engine) as index:
        store = BGEM3VectorStore(index)
        store.add([piece(f"n{i}", f"text {i}", f"doc{i % 100}") for i in range(300)])
        monkeypatch.setattr(Shard, "pages", counted)
        store.delete("doc7")
        assert sum(read) == 3
        assert index.count() == 297


def test_get_nodes_takes_ids_filters_or_both(filled: BGEM3VectorStore) -> None:
    cats = MetadataFilters(
        filters=[MetadataFilter(key="name", operator=FilterOperator.IN, value=["cat", "dog"])]
    )

    def names(found: list[BaseNode]) -> list[str]:
        return [node.node_id for node in found]

    assert names(filled.get_nodes()) == ["bird", "cat", "dog", "fish"]
    assert names(filled.get_nodes([])) == []
    assert names(filled.get_nodes(["fish", "nobody", "bird"])) == ["fish", "bird"]
    assert names(filled.get_nodes(filters=cats)) == ["cat", "dog"]
    assert names(filled.get_nodes(["fish", "dog"], cats)) == ["dog"]


def test_delete_nodes_takes_ids_filters_or_both_but_not_nothing(filled: BGEM3VectorStore) -> None:
    cat = MetadataFilters(filters=[MetadataFilter(key="name", value="cat")])
    filled.delete_nodes([])
    filled.delete_nodes(["dog", "nobody"], cat)
    assert filled.index.count() == 4
    filled.delete_nodes(["dog", "nobody"])
    filled.delete_nodes(filters=cat)
    assert [node.node_id for node in filled.get_nodes()] == ["bird", "fish"]
    for filters in (None, MetadataFilters(filters=[])):
        with pytest.raises(InputError, match="clear"):
            filled.delete_nodes(filters=filters)
    assert filled.index.count() == 2


def test_clear_empties_the_store_for_new_nodes(filled: BGEM3VectorStore) -> None:
    filled.clear()
    assert filled.index.count() == 0
    filled.clear()
    filled.add([piece("a", "text")])
    assert list(ranking(filled, ask())) == ["a"]


def test_user_metadata_under_the_usual_names_of_a_source_stays_what_it_is(
    store: BGEM3VectorStore,
) -> None:
    own = {"ref_doc_id": "mine", "doc_id": 5, "document_id": None}
    node = piece("n", "text", "source", **own)
    store.add([node])
    [back] = store.get_nodes()
    assert back.metadata == own
    assert back.ref_doc_id == "source"
    mine = MetadataFilters(filters=[MetadataFilter(key="ref_doc_id", value="mine")])
    assert list(ranking(store, ask(filters=mine))) == ["n"]
    store.delete("mine")
    assert store.index.count() == 1


def test_metadata_under_the_reserved_key_is_refused(store: BGEM3VectorStore) -> None:
    with pytest.raises(InputError, match=rf"'n'.*{REF_DOC_KEY}"):
        store.add([piece("n", "text", "source", **{REF_DOC_KEY: "other"})])


# filters


def test_empty_lists_of_ids_mean_all_and_others_restrict(store: BGEM3VectorStore) -> None:
    store.add([piece("a1", "one", "a"), piece("a2", "two", "a"), piece("b1", "three", "b")])
    assert len(ranking(store, ask(node_ids=[], doc_ids=[]))) == 3
    assert set(ranking(store, ask(doc_ids=["a", "c"]))) == {"a1", "a2"}
    assert set(ranking(store, ask(node_ids=["a1", "b1", "zz"]))) == {"a1", "b1"}
    assert set(ranking(store, ask(node_ids=["a1", "b1"], doc_ids=["a"]))) == {"a1"}
    assert set(ranking(store, ask(doc_ids=["nobody"]))) == set()


HELD: dict[str, dict[str, Any]] = {
    "none": {},
    "null": {"k": None},
    "text": {"k": "Red wine"},
    "red": {"k": "red"},
    "list": {"k": ["red", "blue"]},
    "empty": {"k": []},
    "three": {"k": 3},
    "half": {"k": 4.5},
    "one": {"k": 1},
    "true": {"k": True},
}
FILTERS: list[tuple[FilterOperator, Any, set[str]]] = [
    (FilterOperator.EQ, "red", {"red"}),
    (FilterOperator.NE, "red", set(HELD) - {"red"}),
    (FilterOperator.GT, 3, {"half"}),
    (FilterOperator.GTE, 3, {"three", "half"}),
    (FilterOperator.LT, 3, {"one"}),
    (FilterOperator.LTE, 3, {"three", "one"}),
    (FilterOperator.IN, [1, 3], {"one", "true", "three"}),
    (FilterOperator.NIN, [1, 3], set(HELD) - {"one", "true", "three"}),
    (FilterOperator.ANY, ["blue", "green"], {"list"}),
    (FilterOperator.ALL, ["red", "blue"], {"list"}),
    (FilterOperator.TEXT_MATCH, "ed", {"text", "red"}),
    (FilterOperator.TEXT_MATCH_INSENSITIVE, "RED", {"text", "red"}),
    (FilterOperator.CONTAINS, "blue", {"list"}),
    (FilterOperator.IS_EMPTY, None, {"none", "null", "empty"}),
]


@pytest.fixture
def held(store: BGEM3VectorStore) -> BGEM3VectorStore:
    store.add([piece(name, f"the {name} cat", **metadata) for name, metadata in HELD.items()])
    return store


def test_all_operators_are_among_the_filters() -> None:
    assert {operator for operator, _, _ in FILTERS} == set(FilterOperator)


@pytest.mark.parametrize(
    ("operator", "value", "names"), FILTERS, ids=[f"{row[0].name}-{row[1]}"[:30] for row in FILTERS]
)
def test_every_operator_restricts_before_the_limit(
    held: BGEM3VectorStore, operator: FilterOperator, value: Any, names: set[str]
) -> None:
    one = MetadataFilter(key="k", operator=operator, value=value)
    filters = MetadataFilters(filters=[one])
    assert set(ranking(held, ask(filters=filters, similarity_top_k=20))) == names
    few = ranking(held, ask(filters=filters, similarity_top_k=1))
    assert len(few) == 1
    assert set(few) <= names
    negated = MetadataFilters(filters=[filters], condition=FilterCondition.NOT)
    assert set(ranking(held, ask(filters=negated, similarity_top_k=20))) == set(HELD) - names
    assert {node.node_id for node in held.get_nodes(filters=filters)} == names


def test_conditions_nest_with_one_another_and_with_documents(held: BGEM3VectorStore) -> None:
    red = MetadataFilter(key="k", value="red")
    numbers = MetadataFilter(key="k", operator=FilterOperator.GT, value=0)
    big = MetadataFilter(key="k", operator=FilterOperator.GT, value=3)
    small = MetadataFilters(filters=[big], condition=FilterCondition.NOT)
    both = MetadataFilters(filters=[numbers, small], condition=FilterCondition.AND)
    either = MetadataFilters(filters=[red, both], condition=FilterCondition.OR)
    assert set(ranking(held, ask(filters=either, similarity_top_k=20))) == {"red", "three", "one"}
    assert set(ranking(held, ask(filters=either, doc_ids=["red"]))) == {"red"}


# as LlamaIndex sees it


def test_it_is_a_vector_store_that_keeps_texts(store: BGEM3VectorStore) -> None:
    assert isinstance(store, BasePydanticVectorStore)
    assert store.stores_text
    assert store.is_embedding_query
    assert store.class_name() == "BGEM3VectorStore"
    assert store.client is store.index


def test_only_an_index_will_do(engine: BGEM3) -> None:
    with pytest.raises(InputError, match="must be a BGEM3, or an index or adapter over one, not"):
        BGEM3VectorStore(7)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give an engine"):
        BGEM3VectorStore()
    with pytest.raises(ValueError, match="wieghts"):
        BGEM3VectorStore(HybridIndex(engine), wieghts=(1, 1, 1))


def test_making_one_reads_no_model() -> None:
    store = BGEM3VectorStore(HybridIndex(BGEM3("no/such-model", offline=True)))
    assert store.engine._encoder is None


def test_a_copy_shares_the_index_and_a_pickle_is_refused(filled: BGEM3VectorStore) -> None:
    twin = copy.deepcopy(filled)
    assert twin.index is filled.index
    assert ranking(twin, ask()) == ranking(filled, ask())
    with pytest.raises(InputError, match="persist"):
        pickle.dumps(filled)


@pytest.mark.parametrize("mode", ["default", "sparse", "hybrid", "mmr", "text_search"])
async def test_a_vector_store_index_costs_one_forward_per_text_in_every_mode(
    encoder: FakeEncoder, engine: BGEM3, index: HybridIndex, nodes: list[TextNode], mode: str
) -> None:
    store = BGEM3VectorStore(index)
    over = VectorStoreIndex.from_vector_store(store, embed_model=BGEM3Embedding(engine=engine))
    over.insert_nodes(nodes)
    texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
    assert encoder.forwards == dict.fromkeys(texts, 1)
    retriever = over.as_retriever(vector_store_query_mode=mode, similarity_top_k=3)
    results = retriever.retrieve(QUERY)
    again = await retriever.aretrieve(QUERY)
    assert encoder.forwards == dict.fromkeys([*texts, QUERY], 1)
    assert len(results) == 3
    assert results == again


def test_a_retriever_passes_weights_on(filled: BGEM3VectorStore, engine: BGEM3) -> None:
    embed = BGEM3Embedding(engine=engine)
    over = VectorStoreIndex.from_vector_store(filled, embed_model=embed)
    retriever = over.as_retriever(
        similarity_top_k=4, vector_store_kwargs={"weights": {"dense": 0, "sparse": 0, "colbert": 1}}
    )
    found = {result.node.node_id: result.score for result in retriever.retrieve(QUERY)}
    assert found == searched(filled, Weights.only("colbert"))


def test_an_index_of_another_embed_model_is_refused_when_it_inserts_and_when_it_asks(
    filled: BGEM3VectorStore,
) -> None:
    other = BGEM3Embedding(engine=BGEM3(FakeEncoder(dim=8)))
    over = VectorStoreIndex.from_vector_store(filled, embed_model=other)
    with pytest.raises(InputError, match="'new' has 8 numbers"):
        over.insert_nodes([piece("new", "text")])
    with pytest.raises(InputError, match="query_embedding has 8 numbers"):
        over.as_retriever().retrieve(QUERY)


def test_a_store_told_so_gets_no_query_embedding(
    filled: BGEM3VectorStore,
) -> None:
    other = FakeEncoder(dim=8)
    store = BGEM3VectorStore(filled.index, is_embedding_query=False)
    embed = BGEM3Embedding(engine=BGEM3(other))
    over = VectorStoreIndex.from_vector_store(store, embed_model=embed)
    results = over.as_retriever(similarity_top_k=4).retrieve(QUERY)
    assert [result.node.node_id for result in results] == list(searched(filled))
    assert not other.forwards


def test_texts_that_stand_for_the_query_are_refused_and_not_dropped(
    filled: BGEM3VectorStore, engine: BGEM3
) -> None:
    over = VectorStoreIndex.from_vector_store(filled, embed_model=BGEM3Embedding(engine=engine))
    bundle = QueryBundle(QUERY, custom_embedding_strs=["an imagined answer about lakes"])
    with pytest.raises(InputError, match="of another text"):
        over.as_retriever().retrieve(bundle)


def test_deleting_through_a_vector_store_index(store: BGEM3VectorStore, engine: BGEM3) -> None:
    over = VectorStoreIndex.from_vector_store(store, embed_model=BGEM3Embedding(engine=engine))
    over.insert_nodes([piece("a1", "one", "a"), piece("a2", "two", "a"), piece("b1", "three", "b")])
    over.delete_nodes(["a1"])
    assert [node.node_id for node in store.get_nodes()] == ["a2", "b1"]
    over.delete_ref_doc("a")
    assert [node.node_id for node in store.get_nodes()] == ["b1"]


def test_an_index_node_comes_back_as_one(store: BGEM3VectorStore) -> None:
    store.add([IndexNode(id_="i", text="points on", index_id="table")])
    [back] = store.get_nodes()
    assert isinstance(back, IndexNode)
    assert back.index_id == "table"


# asynchronously


async def test_the_awaited_methods_do_what_the_others_do(store: BGEM3VectorStore) -> None:
    added = await store.async_add([piece("a", "one", "doc"), piece("b", "two"), piece("c", "cat")])
    assert added == ["a", "b", "c"]
    assert (await store.aquery(ask())).ids == store.query(ask()).ids
    assert [node.node_id for node in await store.aget_nodes(["b", "a"])] == ["b", "a"]
    await store.adelete("doc")
    await store.adelete_nodes(["b"])
    assert [node.node_id for node in await store.aget_nodes()] == ["c"]
    await store.aclear()
    assert store.index.count() == 0


class SlowEncoder(FakeEncoder):
    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        time.sleep(0.3)
        return super().encode(texts, kind=kind, modes=modes, max_length=max_length)


@pytest.mark.parametrize("kind", ["memory", "edge"])
async def test_the_event_loop_turns_while_texts_are_encoded(kind: str, tmp_path: Path) -> None:
    engine = BGEM3(SlowEncoder())
    index = HybridIndex(engine) if kind == "memory" else HybridIndex.open(tmp_path / "i", engine)
    with index:
        store = BGEM3VectorStore(index)
        await store.async_add([piece("a", "one"), piece("b", "two")])
        best = 1.0
        for attempt in range(20):  # a busy machine may hold one of them up, not all
            gap = await longest_gap(store.aquery(ask(f"query {attempt}")))
            best = min(best, gap.work)
            if best <= 0.05:
                break
        assert best <= 0.05
        gaps = [await longest_gap(store.async_add([piece("c", f"{i}")])) for i in range(3)]
        assert min(gap.work for gap in gaps) < 0.3


class ThreadedStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def find(self, *args: Any, **kwargs: Any) -> Any:
        self.threads.add(threading.get_ident())
        return super().find(*args, **kwargs)


async def test_an_awaited_search_runs_beside_the_event_loop(engine: BGEM3) -> None:
    threaded = ThreadedStore()
    store = BGEM3VectorStore(HybridIndex(engine, threaded))
    await store.aquery(ask())
    assert threaded.threads
    assert threading.get_ident() not in threaded.threads


# beside LangChain


def test_langchains_retriever_gives_the_same_ids_order_and_scores(
    filled: BGEM3VectorStore,
) -> None:
    from bge_m3_integrations.langchain import BGEM3Retriever

    for weights in (None, (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        retriever = BGEM3Retriever(index=filled.index, k=4, weights=weights, include_scores=True)
        documents = retriever.invoke(QUERY)
        expected = [(d.id, d.metadata["bge_m3_scores"]["score"]) for d in documents]
        options = {} if weights is None else {"weights": weights}
        assert listed(ranking(filled, ask(), **options)) == expected


def test_langchain_reads_a_nodes_text_metadata_and_source(store: BGEM3VectorStore) -> None:
    from bge_m3_integrations.langchain.documents import to_document, to_record

    store.add([piece("n", "the body", "source", lang="en")])
    [record] = store.index.get(["n"])
    assert record is not None
    document = to_document(record)
    assert document.page_content == "the body"
    assert document.metadata == {"lang": "en", REF_DOC_KEY: "source"}
    store.index.add([to_record(document)])
    [back] = store.get_nodes()
    assert (back.metadata, back.ref_doc_id) == ({"lang": "en"}, "source")
    assert matches(Compare(REF_DOC_KEY, "$eq", "source"), document.metadata)
    store.delete("source")
    assert store.index.count() == 0


def test_documents_of_langchain_are_found_and_deleted_by_id(store: BGEM3VectorStore) -> None:
    from langchain_core.documents import Document

    from bge_m3_integrations.langchain.documents import to_record

    store.index.add([to_record(Document("the cat", id="d1", metadata={"lang": "en"}))])
    result = store.query(ask())
    assert result.nodes is not None
    assert result.nodes[0].metadata == {"lang": "en"}
    store.delete("d1")
    assert store.index.count() == 0


def test_a_store_over_an_index_without_a_mode_searches_by_the_others(engine: BGEM3) -> None:
    store = BGEM3VectorStore(HybridIndex(engine, modes={"sparse", "colbert"}))
    store.add([TextNode(id_="a", text="the cat", embedding=dense_of(engine, "the cat"))])
    vector = dense_of(engine, QUERY)
    assert list(ranking(store, ask(query_embedding=vector))) == ["a"]
    with pytest.raises(InputError, match="dense"):
        store.query(ask(None, query_embedding=vector))
    with pytest.raises(InputError, match="cosine"):
        store.query(ask("something else", query_embedding=vector))


def test_from_dict_reopens_a_folder_and_asks_for_an_index_in_memory(
    filled: BGEM3VectorStore, engine: BGEM3
) -> None:
    store = BGEM3VectorStore(filled.index, weights="keyword", candidates={"dense": 50})
    data = store.to_dict()
    expected = ranking(store, ask())
    if data["path"] is None:
        with pytest.raises(StoreError, match="in memory"):
            BGEM3VectorStore.from_dict(data)
        again = BGEM3VectorStore.from_dict(data, index=filled.index)
    else:
        again = BGEM3VectorStore.from_dict(data, engine=engine)
        assert again.index is not filled.index
        again.index.close()
        again = BGEM3VectorStore.from_dict(data, index=filled.index)
    assert again.to_dict() == data
    assert ranking(again, ask()) == expected
