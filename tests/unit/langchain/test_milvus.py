from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_milvus")
pytest.importorskip("milvus_lite")

from langchain_milvus import Milvus
from milvus_lite.server_manager import server_manager_instance
from pymilvus import DataType, MilvusClient

from bge_m3_integrations import BGEM3, Weights
from bge_m3_integrations.core.scores import FixedWeights
from bge_m3_integrations.errors import FilterError, InputError, StoreError
from bge_m3_integrations.langchain import BGEM3Embeddings
from bge_m3_integrations.langchain.milvus import (
    SPARSE_INDEX,
    SPARSE_SEARCH,
    BGEM3MilvusSparse,
    HybridMilvus,
    hybrid_milvus,
    search_options,
)
from bge_m3_integrations.testing import FakeEncoder
from tests.counting import counted_packs
from tests.unit.langchain.gated import GatedEncoder

pytestmark = pytest.mark.filterwarnings("ignore:No ids provided")

TEXTS = ["red fox", "lazy dog", "a fox and a dog", "green tea", "the red tea of a dog"]
IDS = ["a", "b", "c", "d", "e"]
QUERY = "red dog"
MIB = 1024 * 1024


@pytest.fixture
def uri(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "milvus.db")
    yield path
    server_manager_instance.release_server(path)


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def engine(encoder: FakeEncoder) -> BGEM3:
    return BGEM3(encoder)


@pytest.fixture
def store(engine: BGEM3, uri: str) -> Iterator[HybridMilvus]:
    store = hybrid_milvus(engine, "docs", connection_args={"uri": uri})
    yield store
    store.client.close()


def test_weights_are_the_engines_as_python_numbers(engine: BGEM3) -> None:
    expected = engine.encode_documents(TEXTS).sparse
    assert expected is not None
    rows = BGEM3MilvusSparse(engine).embed_documents(TEXTS)
    assert rows == [expected.as_dict(i) for i in range(len(TEXTS))]
    assert {(type(i), type(w)) for row in rows for i, w in row.items()} == {(int, float)}


async def test_a_text_without_words_is_the_padding_token_on_both_sides(engine: BGEM3) -> None:
    sparse = BGEM3MilvusSparse(engine)
    nothing = {engine.encoder.pad_token_id: 1e-6}
    assert sparse.embed_query("") == await sparse.aembed_query("") == nothing
    assert sparse.embed_documents(["", "fox", "!"])[::2] == [nothing, nothing]
    assert engine.encoder.pad_token_id not in sparse.embed_query("fox")


def test_embeddings_stand_for_their_engine(engine: BGEM3, encoder: FakeEncoder, uri: str) -> None:
    embeddings = BGEM3Embeddings(engine=engine)
    store = hybrid_milvus(embeddings, "docs", connection_args={"uri": uri})
    store.add_texts(TEXTS)
    assert encoder.forwards == dict.fromkeys(TEXTS, 1)
    store.client.close()
    with pytest.raises(InputError, match="engine must be a BGEM3, or an index"):
        hybrid_milvus("BAAI/bge-m3", "docs", connection_args={"uri": uri})  # type: ignore[arg-type]


def test_queries_and_documents_are_told_apart() -> None:
    sparse = BGEM3MilvusSparse(BGEM3(FakeEncoder(query_instruction="find this:")))
    assert sparse.embed_query("fox") != sparse.embed_documents(["fox"])[0]


async def test_the_async_methods_give_the_same_and_leave_the_loop_free(engine: BGEM3) -> None:
    sparse = BGEM3MilvusSparse(engine)
    assert await sparse.aembed_documents(TEXTS) == sparse.embed_documents(TEXTS)
    assert await sparse.aembed_query(QUERY) == sparse.embed_query(QUERY)
    gated = GatedEncoder()
    assert await gated.runs_beside_the_loop(BGEM3MilvusSparse(BGEM3(gated)).aembed_query(QUERY))


async def test_no_texts_give_no_vectors_and_load_nothing() -> None:
    sparse = BGEM3MilvusSparse(BGEM3("no/such-model"))
    assert sparse.embed_documents([]) == await sparse.aembed_documents([]) == []


def test_a_deep_copy_shares_the_engine_and_an_unpickled_one_declares_its_needs() -> None:
    sparse = BGEM3MilvusSparse(BGEM3("no/such-model"))
    assert copy.deepcopy(sparse).engine is sparse.engine
    loaded = pickle.loads(pickle.dumps(sparse))
    assert loaded.engine.name == "no/such-model"
    assert loaded.engine._needs.of("document") == {"sparse"}


def test_texts_and_queries_cost_one_forward_each(store: HybridMilvus, encoder: FakeEncoder) -> None:
    assert not encoder.calls
    assert store.add_texts(TEXTS, ids=IDS) == IDS
    assert len(store.similarity_search(QUERY)) == 4
    assert encoder.forwards == dict.fromkeys([*TEXTS, QUERY], 1)


async def test_so_they_do_through_the_async_methods(engine: BGEM3, uri: str) -> None:
    encoder = FakeEncoder()
    store = hybrid_milvus(BGEM3(encoder), "docs", connection_args={"uri": uri})
    assert await store.aadd_texts(TEXTS, ids=IDS) == IDS
    found = await store.asimilarity_search(QUERY, k=5)
    assert encoder.forwards == dict.fromkeys([*TEXTS, QUERY], 1)
    assert found == store.similarity_search(QUERY, k=5)
    await store.aclient.close()
    store.client.close()


def test_five_thousand_texts_are_forwarded_once_through_a_small_memo(uri: str) -> None:
    encoder = FakeEncoder(dim=4, colbert_dim=4)
    engine = BGEM3(encoder, memo_bytes=4 * MIB)
    texts = [f"text {i}" for i in range(5_000)]
    store = hybrid_milvus(engine, "docs", connection_args={"uri": uri})
    assert len(set(store.add_texts(texts))) == 5_000
    assert encoder.forwards == dict.fromkeys(texts, 1)
    assert engine.stats.forwards == 5_000
    store.client.close()


async def test_metadata_and_ids_stay_with_their_texts_over_many_batches(
    store: HybridMilvus,
) -> None:
    texts = [f"text {i}" for i in range(7)]
    metadatas = [{"n": i} for i in range(7)]
    store.add_texts(texts, metadatas, batch_size=2, ids=[f"id{i}" for i in range(7)])
    await store.aadd_texts(texts, metadatas, batch_size=3, ids=[f"other{i}" for i in range(7)])
    found = store.similarity_search("text 5", k=14)
    assert {(d.page_content, d.metadata["n"], d.metadata["pk"]) for d in found} == {
        (f"text {i}", i, f"{name}{i}") for i in range(7) for name in ("id", "other")
    }
    await store.aclient.close()


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"ids": ["a"]}, "5 texts came with 1 ids"),
        ({"metadatas": [{}] * 6}, "5 texts came with 6 metadatas"),
        ({"ids": ["a", "b", "c", "d", "a"]}, "5 ids hold 4 distinct ones"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
async def test_lists_that_do_not_fit_write_nothing(
    store: HybridMilvus, encoder: FakeEncoder, beside: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        store.add_texts(TEXTS, **beside)
    with pytest.raises(InputError, match=named):
        await store.aadd_texts(TEXTS, **beside)
    assert not encoder.calls
    assert not store.client.has_collection("docs")


def test_no_texts_write_nothing(store: HybridMilvus) -> None:
    assert store.add_texts([]) == []
    assert not store.client.has_collection("docs")


def test_sparse_retrieval_scores_as_the_engine_does(engine: BGEM3, uri: str) -> None:
    store = Milvus(
        BGEM3MilvusSparse(engine),
        connection_args={"uri": uri},
        index_params=SPARSE_INDEX,
        search_params=SPARSE_SEARCH,
    )
    store.add_texts([*TEXTS, ""])
    scores = engine.score([QUERY], TEXTS).sparse
    assert scores is not None
    expected = {text: s for text, s in zip(TEXTS, scores[0].tolist(), strict=True) if s > 0}
    found = store.similarity_search_with_score(QUERY, k=6)
    assert {d.page_content: score for d, score in found} == pytest.approx(expected, abs=1e-5)
    store.client.close()


@pytest.mark.parametrize("weights", [(1, 0, 0), (0.3, 0.7, 0), (0.4, 0.2, 0.4), "keyword"])
def test_weighted_scores_are_the_engines_over_both_modes(
    store: HybridMilvus, engine: BGEM3, weights: FixedWeights
) -> None:
    store.add_texts(TEXTS, ids=IDS)
    query = "red dog fox tea"  # shares a word with every text
    two = Weights.parse(weights).restricted(["dense", "sparse"])
    expected = engine.score([query], TEXTS, weights=two).hybrid[0].tolist()
    found = store.similarity_search_with_score(query, **search_options(5, weights=weights))
    assert {d.page_content: score for d, score in found} == pytest.approx(
        dict(zip(TEXTS, expected, strict=True)), abs=1e-5
    )


def test_an_empty_text_is_kept_and_an_empty_query_is_answered(store: HybridMilvus) -> None:
    store.add_texts([*TEXTS, ""], ids=[*IDS, "f"])
    assert store.similarity_search("", k=1)[0].page_content == ""
    assert len(store.similarity_search("", k=6)) == 6


async def test_a_search_gives_k_documents_by_itself(store: HybridMilvus) -> None:
    store.add_texts([f"{a} {b} fox" for a in "abcdefgh" for b in "ijklmnop"])
    assert len(store.similarity_search("a j fox", k=9)) == 9
    assert len(await store.asimilarity_search("a j fox", k=9)) == 9
    assert len(store.as_retriever(search_kwargs=dict(search_options(9))).invoke("a j fox")) == 9
    narrow = store.similarity_search("a j fox", k=9, fetch_k=2)
    assert len(narrow) <= 4
    await store.aclient.close()


@pytest.mark.filterwarnings("error")
def test_a_search_takes_no_deprecated_path(store: HybridMilvus) -> None:
    store.add_texts(TEXTS, ids=IDS)
    assert len(store.similarity_search(QUERY, k=5)) == 5


def test_options_of_the_caller_win(store: HybridMilvus, engine: BGEM3) -> None:
    store.add_texts(TEXTS, ids=IDS)
    options = search_options(5, weights=(1, 0, 0))
    ranked = store.similarity_search_with_score(QUERY, k=5)
    weighted = store.similarity_search_with_score(QUERY, **options)
    by_name = {"ranker_type": "weighted", "ranker_params": {"weights": [1.0, 0.0]}}
    with pytest.warns(DeprecationWarning, match="ranker_type"):
        old = store.similarity_search_with_score(QUERY, k=5, **by_name)
    assert [d for d, _ in old] == [d for d, _ in weighted]
    assert [s for _, s in ranked] != [s for _, s in weighted]


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 3, "fetch_k": 0}, {"k": 3, "weights": "no"}])
def test_malformed_search_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        search_options(**wrong)


def test_weights_of_colbert_alone_leave_nothing_to_rank_by() -> None:
    with pytest.raises(InputError, match="leave nothing to score by"):
        search_options(3, weights=(0, 0, 1))


async def test_an_expression_filters_and_a_filter_is_refused(store: HybridMilvus) -> None:
    store.add_texts(TEXTS, [{"n": n} for n in range(5)], ids=IDS)
    found = store.similarity_search(QUERY, k=5, expr="n >= 3")
    assert {document.metadata["n"] for document in found} == {3, 4}
    for asked in ({"filter": "n >= 3"}, {"filter": None}):
        with pytest.raises(FilterError, match="write expr="):
            store.similarity_search(QUERY, k=5, **asked)
        with pytest.raises(FilterError, match="write expr="):
            await store.asimilarity_search(QUERY, k=5, **asked)
    with pytest.raises(FilterError, match="write expr="):
        store.as_retriever(search_kwargs={"filter": {"n": 3}}).invoke(QUERY)


def test_a_collection_that_fits_is_taken_as_it_is(
    store: HybridMilvus, engine: BGEM3, uri: str
) -> None:
    store.add_texts(TEXTS, ids=IDS)
    again = hybrid_milvus(engine, "docs", connection_args={"uri": uri})
    assert len(again.similarity_search(QUERY, k=5)) == 5
    fresh = hybrid_milvus(engine, "docs", connection_args={"uri": uri}, drop_old=True)
    assert fresh.similarity_search(QUERY, k=5) == []
    for one in (again, fresh):
        one.client.close()


Field = tuple[str, DataType, dict[str, Any], str]
SPARSE: Field = ("sparse", DataType.SPARSE_FLOAT_VECTOR, {}, "IP")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (
            [("dense", DataType.FLOAT_VECTOR, {"dim": 8}, "IP"), SPARSE],
            "field 'dense' of FLOAT_VECTOR(8) by IP",
        ),
        (
            [("dense", DataType.FLOAT_VECTOR, {"dim": 32}, "L2"), SPARSE],
            "field 'dense' of FLOAT_VECTOR(32) by L2",
        ),
        ([("dense", DataType.FLOAT_VECTOR, {"dim": 32}, "IP")], "no field 'sparse'"),
        ([("vector", DataType.FLOAT_VECTOR, {"dim": 32}, "IP"), SPARSE], "no field 'dense'"),
    ],
)
def test_a_collection_that_does_not_fit_is_refused_with_both_sides(
    uri: str, fields: list[Field], named: str
) -> None:
    client = MilvusClient(uri=uri)
    schema, indexes = client.create_schema(), client.prepare_index_params()
    schema.add_field("pk", DataType.VARCHAR, is_primary=True, max_length=100)
    for name, kind, params, metric in fields:
        schema.add_field(name, kind, **params)
        indexes.add_index(name, metric_type=metric, index_type=_index_type(kind), params={})
    client.create_collection("docs", schema=schema, index_params=indexes)
    encoder = FakeEncoder()
    with pytest.raises(StoreError) as error:
        hybrid_milvus(BGEM3(encoder), "docs", connection_args={"uri": uri})
    assert named in str(error.value)
    assert "this model needs field 'dense' of FLOAT_VECTOR(32) by IP; field" in str(error.value)
    assert not encoder.calls
    client.close()


def test_an_option_that_the_store_does_not_know_is_refused(engine: BGEM3, uri: str) -> None:
    with pytest.raises(TypeError, match="colection_properties"):
        hybrid_milvus(engine, "docs", connection_args={"uri": uri}, colection_properties={})


def test_a_real_model_runs_each_text_once_and_finds_it(uri: str, xlm_roberta: Path) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    store = hybrid_milvus(engine, "docs", connection_args={"uri": uri})
    with counted_packs() as packs:
        store.add_texts([*TEXTS, ""])
        after_texts = len(packs)
        options = search_options(6, weights=(0.5, 0.5, 0))
        (document, score), *_ = store.similarity_search_with_score(TEXTS[2], **options)
    assert (after_texts, len(packs)) == (1, 2)
    expected = engine.score([TEXTS[2]], [document.page_content], weights=(0.5, 0.5, 0))
    assert score == pytest.approx(expected.hybrid[0, 0], abs=1e-5)
    store.client.close()


def _index_type(kind: DataType) -> str:
    return "SPARSE_INVERTED_INDEX" if kind == DataType.SPARSE_FLOAT_VECTOR else "AUTOINDEX"
