from __future__ import annotations

import copy
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("langchain_qdrant")

from langchain_core.documents import Document
from langchain_qdrant import QdrantVectorStore, RetrievalMode
from qdrant_client import QdrantClient, models

from bge_m3_integrations import BGEM3
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.langchain import BGEM3Embeddings, BGEM3Reranker
from bge_m3_integrations.langchain.qdrant import (
    BGEM3QdrantSparse,
    hybrid_qdrant,
    qdrant_id,
    search_options,
)
from bge_m3_integrations.testing import FakeEncoder
from tests.counting import counted_packs
from tests.unit.langchain.gated import GatedEncoder

TEXTS = ["red fox", "lazy dog", "a fox and a dog", "green tea", "the red tea of a dog"]
QUERY = "red dog"
MIB = 1024 * 1024


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    client = QdrantClient(":memory:")
    yield client
    client.close()


def sparse_store(engine: BGEM3, client: QdrantClient) -> QdrantVectorStore:
    return QdrantVectorStore(
        client,
        "docs",
        sparse_embedding=BGEM3QdrantSparse(engine),
        retrieval_mode=RetrievalMode.SPARSE,
        validate_collection_config=False,
    )


def lexical(engine: BGEM3, query: str) -> dict[str, float]:
    scores = engine.score([query], TEXTS, weights={"dense": 0, "sparse": 1, "colbert": 0}).sparse
    assert scores is not None
    return dict(zip(TEXTS, scores[0].tolist(), strict=True))


def test_weights_are_the_engines_as_python_numbers_in_order_of_id() -> None:
    engine = BGEM3(FakeEncoder())
    expected = engine.encode_documents(TEXTS).sparse
    assert expected is not None
    for i, vector in enumerate(BGEM3QdrantSparse(engine).embed_documents(TEXTS)):
        assert dict(zip(vector.indices, vector.values, strict=True)) == expected.as_dict(i)
        assert vector.indices == sorted(set(vector.indices))
        assert {type(n) for n in vector.indices} == {int}
        assert {type(n) for n in vector.values} == {float}


def test_queries_and_documents_are_told_apart() -> None:
    sparse = BGEM3QdrantSparse(BGEM3(FakeEncoder(query_instruction="find this:")))
    assert sparse.embed_query("fox") != sparse.embed_documents(["fox"])[0]


async def test_the_async_methods_give_the_same_and_leave_the_loop_free() -> None:
    sparse = BGEM3QdrantSparse(BGEM3(FakeEncoder()))
    assert await sparse.aembed_documents(TEXTS) == sparse.embed_documents(TEXTS)
    assert await sparse.aembed_query(QUERY) == sparse.embed_query(QUERY)
    gated = GatedEncoder()
    assert await gated.runs_beside_the_loop(BGEM3QdrantSparse(BGEM3(gated)).aembed_query(QUERY))


async def test_no_texts_give_no_vectors_and_load_nothing() -> None:
    sparse = BGEM3QdrantSparse(BGEM3("no/such-model"))
    assert sparse.embed_documents([]) == await sparse.aembed_documents([]) == []


def test_a_deep_copy_shares_the_engine_and_an_unpickled_one_declares_its_needs() -> None:
    sparse = BGEM3QdrantSparse(BGEM3("no/such-model"))
    assert copy.deepcopy(sparse).engine is sparse.engine
    loaded = pickle.loads(pickle.dumps(sparse))
    assert loaded.engine.name == "no/such-model"
    assert loaded.engine._needs.of("document") == {"sparse"}


def test_texts_and_queries_of_a_hybrid_store_cost_one_forward_each(client: QdrantClient) -> None:
    encoder = FakeEncoder()
    store = hybrid_qdrant(BGEM3(encoder), "docs", client=client)
    assert not encoder.calls
    store.add_texts(TEXTS)
    store.similarity_search(QUERY)
    assert encoder.forwards == dict.fromkeys([*TEXTS, QUERY], 1)


async def test_so_they_do_through_the_async_methods(client: QdrantClient) -> None:
    encoder = FakeEncoder()
    store = hybrid_qdrant(BGEM3(encoder), "docs", client=client)
    await store.aadd_texts(TEXTS)
    found = await store.asimilarity_search(QUERY, **search_options(2))
    assert len(found) == 2
    assert encoder.forwards == dict.fromkeys([*TEXTS, QUERY], 1)


def test_a_reranker_behind_the_store_costs_the_query_no_forward(client: QdrantClient) -> None:
    encoder = FakeEncoder()
    engine = BGEM3(encoder)
    reranker = BGEM3Reranker(engine=engine, top_n=1)
    store = hybrid_qdrant(engine, "docs", client=client)
    store.add_texts(TEXTS)
    found = store.similarity_search(QUERY, **search_options(5))
    (best,) = reranker.compress_documents(found, QUERY)
    assert best.page_content == TEXTS[engine.rerank(QUERY, TEXTS)[0].index]
    assert encoder.forwards[QUERY] == 1


def test_five_thousand_texts_are_forwarded_once_through_a_small_memo(client: QdrantClient) -> None:
    encoder = FakeEncoder(dim=4, colbert_dim=4)
    engine = BGEM3(encoder, memo_bytes=16 * MIB)
    texts = [f"text {i}" for i in range(5_000)]
    hybrid_qdrant(engine, "docs", client=client).add_texts(texts)
    assert encoder.forwards == dict.fromkeys(texts, 1)
    assert engine.stats.forwards == client.count("docs").count == 5_000


def test_sparse_retrieval_scores_as_the_engine_does(client: QdrantClient) -> None:
    engine = BGEM3(FakeEncoder())
    hybrid_qdrant(engine, "docs", client=client).add_texts(TEXTS)
    found = sparse_store(engine, client).similarity_search_with_score(QUERY, k=5)
    scores = lexical(engine, QUERY)
    positive = {text for text, score in scores.items() if score > 0}
    assert {document.page_content for document, _ in found} == positive
    for document, score in found:
        assert score == pytest.approx(scores[document.page_content], abs=1e-5)


@pytest.mark.parametrize("distance", [models.Distance.COSINE, models.Distance.DOT])
def test_dense_retrieval_scores_as_the_engine_does(
    client: QdrantClient, distance: models.Distance
) -> None:
    engine = BGEM3(FakeEncoder())
    hybrid_qdrant(engine, "docs", client=client, distance=distance).add_texts(TEXTS)
    dense = QdrantVectorStore(
        client, "docs", BGEM3Embeddings(engine=engine), distance=distance, vector_name=""
    )
    found = dense.similarity_search_with_score(QUERY, k=5)
    expected = engine.score([QUERY], TEXTS).dense
    assert expected is not None
    assert [score for _, score in found] == pytest.approx(
        np.sort(expected[0])[::-1].tolist(), abs=1e-5
    )


def test_an_empty_text_is_kept_and_an_empty_query_is_answered(client: QdrantClient) -> None:
    engine = BGEM3(FakeEncoder())
    store = hybrid_qdrant(engine, "docs", client=client)
    store.add_texts([*TEXTS, ""])
    assert store.similarity_search("", k=1)[0].page_content == ""
    assert sparse_store(engine, client).similarity_search("", k=6) == []


def test_candidates_beyond_k_take_part_in_the_fusion(client: QdrantClient) -> None:
    store = hybrid_qdrant(BGEM3(FakeEncoder(vocab_size=20)), "docs", client=client)
    store.add_texts([f"{a} {b} fox" for a in "abcdefgh" for b in "ijklmnop"])
    all_of_them = store.similarity_search_with_score("a j fox", k=100)
    few = store.similarity_search_with_score("a j fox", **search_options(3))
    assert len(all_of_them) == 64
    assert [score for _, score in few] == [score for _, score in all_of_them[:3]]
    assert store.similarity_search_with_score("a j fox", k=3) == few
    narrow = store.similarity_search_with_score("a j fox", k=3, fetch_k=3)
    assert [score for _, score in narrow] != [score for _, score in few]


def test_the_fusion_can_be_chosen_and_a_retriever_takes_the_options(client: QdrantClient) -> None:
    store = hybrid_qdrant(BGEM3(FakeEncoder()), "docs", client=client)
    store.add_texts(TEXTS)
    by_rank = store.similarity_search_with_score(QUERY, **search_options(3))
    by_score = store.similarity_search_with_score(QUERY, **search_options(3, fusion="dbsf"))
    assert [s for _, s in by_rank] != [s for _, s in by_score]
    retriever = store.as_retriever(search_kwargs=dict(search_options(3)))
    assert retriever.invoke(QUERY) == [document for document, _ in by_rank]


async def test_k_is_how_many_come_back_also_where_a_call_says_another(client: QdrantClient) -> None:
    store = hybrid_qdrant(BGEM3(FakeEncoder()), "docs", client=client)
    store.add_texts([f"tea number {n}" for n in range(12)])
    retriever = store.as_retriever(search_kwargs=dict(search_options(5)))
    assert [len(retriever.invoke("tea", k=k)) for k in (2, 5, 10)] == [2, 5, 10]
    assert [len(await retriever.ainvoke("tea", k=k)) for k in (2, 10)] == [2, 10]
    assert len(store.similarity_search("tea")) == 4
    pairs = store.similarity_search_with_relevance_scores("tea", **search_options(5))
    assert len(pairs) == 5


def test_a_page_of_results_goes_on_where_the_one_before_ended(client: QdrantClient) -> None:
    store = hybrid_qdrant(BGEM3(FakeEncoder()), "docs", client=client)
    store.add_texts([f"tea number {n}" for n in range(9)])
    both = store.similarity_search("tea", k=6, fetch_k=1)
    assert store.similarity_search("tea", k=3, offset=3, fetch_k=1) == both[3:]


async def test_mmr_takes_the_options_of_a_search(client: QdrantClient) -> None:
    store = hybrid_qdrant(BGEM3(FakeEncoder()), "docs", client=client)
    store.add_texts(TEXTS)
    found = store.max_marginal_relevance_search(QUERY, **search_options(3))
    assert len(found) == 3
    assert await store.amax_marginal_relevance_search(QUERY, **search_options(3)) == found
    retriever = store.as_retriever(search_type="mmr", search_kwargs=dict(search_options(3)))
    assert retriever.invoke(QUERY) == found


def test_embeddings_stand_for_their_engine(client: QdrantClient) -> None:
    encoder = FakeEncoder()
    embeddings = BGEM3Embeddings(engine=BGEM3(encoder))
    hybrid_qdrant(embeddings, "docs", client=client).add_texts(TEXTS)
    assert encoder.forwards == dict.fromkeys(TEXTS, 1)
    with pytest.raises(InputError, match="engine must be a BGEM3, or an index"):
        hybrid_qdrant("BAAI/bge-m3", "docs", client=client)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 3, "fetch_k": 0}, {"k": 3, "fusion": "sum"}])
def test_malformed_search_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be"):
        search_options(**wrong)


def test_a_limit_beside_k_is_refused_with_what_each_means(client: QdrantClient) -> None:
    store = hybrid_qdrant(BGEM3(FakeEncoder()), "limited", client=client)
    with pytest.raises(InputError, match="k says how many come back, fetch_k"):
        store.similarity_search("fox", k=2, limit=5)


def test_a_filter_holds_for_both_lookups(client: QdrantClient) -> None:
    store = hybrid_qdrant(BGEM3(FakeEncoder()), "docs", client=client)
    store.add_texts(TEXTS, [{"n": n} for n in range(5)])
    late = models.FieldCondition(key="metadata.n", range=models.Range(gte=3))
    found = store.similarity_search(QUERY, filter=models.Filter(must=[late]), **search_options(5))
    assert {document.metadata["n"] for document in found} == {3, 4}


def test_an_id_of_any_text_replaces_what_had_it_before(client: QdrantClient) -> None:
    store = hybrid_qdrant(BGEM3(FakeEncoder()), "docs", client=client)
    store.add_documents([Document("old")], ids=[qdrant_id("doc-1")])
    store.add_documents([Document("new")], ids=[qdrant_id("doc-1")])
    assert [d.page_content for d in store.get_by_ids([qdrant_id("doc-1")])] == ["new"]
    assert qdrant_id("doc-1") != qdrant_id("doc-2")
    assert str(uuid.UUID(qdrant_id("doc-1"))) == qdrant_id("doc-1")
    with pytest.raises(InputError, match="name must be str, not NoneType"):
        qdrant_id(None)  # type: ignore[arg-type]


def test_a_collection_that_fits_is_taken_as_it_is(client: QdrantClient) -> None:
    encoder = FakeEncoder()
    hybrid_qdrant(BGEM3(encoder), "docs", client=client, vector_name="d").add_texts(TEXTS)
    again = hybrid_qdrant(BGEM3(encoder), "docs", client=client, vector_name="d")
    assert len(again.similarity_search(QUERY, k=5)) == 5
    assert encoder.forwards == {**dict.fromkeys(TEXTS, 1), QUERY: 1}


def test_a_collection_that_was_made_with_one_unnamed_vector_is_read_as_such(
    client: QdrantClient,
) -> None:
    unnamed = models.VectorParams(size=32, distance=models.Distance.COSINE)
    sparse = {"langchain-sparse": models.SparseVectorParams()}
    client.create_collection("docs", unnamed, sparse_vectors_config=sparse)
    store = hybrid_qdrant(BGEM3(FakeEncoder()), "docs", client=client)
    store.add_texts(TEXTS)
    assert len(store.similarity_search(QUERY, k=5)) == 5


COSINE = models.Distance.COSINE
MAX_SIM = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
IDF = {"langchain-sparse": models.SparseVectorParams(modifier=models.Modifier.IDF)}
PLAIN = {"langchain-sparse": models.SparseVectorParams()}


@pytest.mark.parametrize(
    ("dense", "sparse", "named"),
    [
        (models.VectorParams(size=8, distance=COSINE), PLAIN, "8 numbers by Cosine"),
        (models.VectorParams(size=32, distance=models.Distance.DOT), PLAIN, "32 numbers by Dot"),
        (
            models.VectorParams(size=32, distance=COSINE, multivector_config=MAX_SIM),
            PLAIN,
            "in multivectors",
        ),
        ({"d": models.VectorParams(size=32, distance=COSINE)}, PLAIN, "no dense vectors named ''"),
        (models.VectorParams(size=32, distance=COSINE), None, "no sparse vectors named"),
        (models.VectorParams(size=32, distance=COSINE), IDF, "with modifier idf"),
    ],
)
def test_a_collection_that_does_not_fit_is_refused_with_both_sides(
    client: QdrantClient, dense: Any, sparse: Any, named: str
) -> None:
    client.create_collection("docs", dense, sparse_vectors_config=sparse)
    encoder = FakeEncoder()
    with pytest.raises(StoreError) as error:
        hybrid_qdrant(BGEM3(encoder), "docs", client=client)
    assert named in str(error.value)
    assert "this model needs dense vectors '' of 32 numbers by Cosine; sparse" in str(error.value)
    assert not encoder.calls


def test_a_distance_that_would_change_the_ranking_is_refused(client: QdrantClient) -> None:
    with pytest.raises(InputError, match="Euclid"):
        hybrid_qdrant(BGEM3(FakeEncoder()), "d", client=client, distance=models.Distance.EUCLID)


def test_an_option_that_the_store_does_not_know_is_refused(client: QdrantClient) -> None:
    with pytest.raises(TypeError, match="content_key"):
        hybrid_qdrant(BGEM3(FakeEncoder()), "docs", client=client, content_key="text")


def test_a_real_model_runs_each_text_once_and_finds_it(
    client: QdrantClient, xlm_roberta: Path
) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    store = hybrid_qdrant(engine, "docs", client=client)
    with counted_packs() as packs:
        store.add_texts(TEXTS)
        after_texts = len(packs)
        (document, _), *_ = store.similarity_search_with_score(TEXTS[2], **search_options(2))
    assert document.page_content == TEXTS[2]
    assert (after_texts, len(packs)) == (1, 2)
    found = sparse_store(engine, client).similarity_search_with_score(TEXTS[2], k=5)
    scores = lexical(engine, TEXTS[2])
    assert found
    for document, score in found:
        assert score == pytest.approx(scores[document.page_content], abs=1e-5)
