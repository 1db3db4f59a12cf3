"""A store over another model's `Embeddings`: dense, and nothing embedded twice or only to probe."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from bge_m3_integrations import BGEM3, EncodingError, HybridIndex, InputError, StoreError
from bge_m3_integrations.encoders.base import Encoder
from bge_m3_integrations.langchain import BGEM3Retriever, BGEM3VectorStore
from bge_m3_integrations.langchain.foreign import EmbeddingsEncoder
from bge_m3_integrations.testing import FakeEncoder

TEXTS = [f"text number {i}" for i in range(7)]


class Counted(Embeddings):
    """Vectors of any length and norm, and what was asked for."""

    model = "counted-1"

    def __init__(self, dim: int = 5) -> None:
        self.fake = DeterministicFakeEmbedding(size=dim)
        self.batches: list[list[str]] = []
        self.queries: list[str] = []
        self.instead: dict[str, list[float]] = {}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.batches.append(texts)
        return [self.instead.get(t) or self.fake.embed_documents([t])[0] for t in texts]

    def embed_query(self, text: str) -> list[float]:
        self.queries.append(text)
        return self.fake.embed_query(text)

    @property
    def documents(self) -> list[str]:
        return sorted(text for batch in self.batches for text in batch)


class Other(Counted): ...


def encoded(encoder: EmbeddingsEncoder, texts: Sequence[str], kind: Any = "document") -> Any:
    return encoder.encode(texts, kind=kind, modes=["dense"]).dense


@pytest.fixture(params=["memory", "edge"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "index" if request.param == "edge" else None


def test_it_is_an_encoder_of_dense_vectors_of_norm_1() -> None:
    embeddings = Counted()
    encoder = EmbeddingsEncoder(embeddings)
    rows = encoded(encoder, TEXTS)
    raw = np.array(embeddings.fake.embed_documents(TEXTS))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rows, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)
    assert encoder.dim == 5
    assert isinstance(encoder, Encoder)


def test_documents_are_one_call_and_queries_one_each_and_none_no_call() -> None:
    embeddings = Counted()
    encoder = EmbeddingsEncoder(embeddings)
    assert encoded(encoder, []).shape == (0, 0)
    encoded(encoder, TEXTS[:3])
    encoded(encoder, TEXTS[:2], "query")
    assert embeddings.batches == [TEXTS[:3]]
    assert embeddings.queries == TEXTS[:2]


def test_tokens_are_counted_as_0_because_nobody_tells_them() -> None:
    batch = EmbeddingsEncoder(Counted()).encode(TEXTS, kind="document", modes=["dense"])
    assert batch.tokens.tolist() == batch.truncated.tolist() == [0] * 7
    assert batch.modes == {"dense"}


def test_huge_numbers_do_not_overflow_and_tiny_ones_do_not_vanish() -> None:
    embeddings = Counted(dim=2)
    embeddings.instead = {"huge": [3e38, 4e38], "tiny": [3e-38, 4e-38]}
    rows = encoded(EmbeddingsEncoder(embeddings), ["huge", "tiny"])
    np.testing.assert_allclose(rows, [[0.6, 0.8]] * 2, atol=1e-6)


@pytest.mark.parametrize(
    "bad", [[0.0] * 5, [math.nan] * 5, [math.inf, 0, 0, 0, 0], [[1.0]], [None]]
)
def test_a_vector_without_direction_names_the_texts_position(bad: Any) -> None:
    embeddings = Counted()
    embeddings.instead = {"bad": bad}
    with pytest.raises(
        EncodingError, match="text 2 got a vector from Counted that is zero"
    ) as seen:
        encoded(EmbeddingsEncoder(embeddings), ["a", "b", "bad"])
    assert seen.value.position == 2


def test_a_width_is_learned_from_the_first_sound_batch_and_held() -> None:
    embeddings = Counted()
    embeddings.instead = {"wide": [1.0] * 9}
    encoder = EmbeddingsEncoder(embeddings)
    with pytest.raises(InputError, match="width of Counted is known after its first vector"):
        _ = encoder.dim
    with pytest.raises(EncodingError, match=r"text 1 got a vector of 5 numbers.*before have 9"):
        encoded(encoder, ["wide", "a"])
    encoded(encoder, ["a"])
    with pytest.raises(EncodingError, match=r"text 1 got a vector of 9 numbers.*before have 5"):
        encoded(encoder, ["b", "wide"])
    with pytest.raises(InputError, match="an index of 7 numbers a vector, but 5 came before"):
        encoder.expect(7)


def test_a_list_of_another_length_is_refused() -> None:
    class Short(Counted):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return super().embed_documents(texts)[:-1]

    with pytest.raises(InputError, match="Short gave 1 vectors for 2 documents"):
        encoded(EmbeddingsEncoder(Short()), ["a", "b"])


def test_what_embeddings_do_not_have_is_refused_by_name() -> None:
    encoder = EmbeddingsEncoder(Counted())
    with pytest.raises(InputError, match=r"dense vectors only, not \['sparse'\]"):
        encoder.encode(["a"], kind="document", modes=["dense", "sparse"])
    with pytest.raises(InputError, match="max_length=12 cannot be handed to Counted"):
        encoder.encode(["a"], kind="document", modes=["dense"], max_length=12)
    for call in [
        lambda: encoder.tokenize(["a"], kind="document"),
        lambda: encoder.id_to_token([1]),
    ]:
        with pytest.raises(InputError, match=r"Counted is a LangChain Embeddings.*no tokens"):
            call()


def test_the_fingerprint_is_that_of_id_or_class_and_width() -> None:
    def fingerprint(embeddings: Embeddings, name: str | None = None) -> str:
        encoder = EmbeddingsEncoder(embeddings, embedding_id=name)
        encoded(encoder, ["a"])
        return encoder.fingerprint

    same = fingerprint(Counted())
    assert same == fingerprint(Counted())
    others = [Other(), Counted(6)]
    names = [fingerprint(Counted(), "m1"), fingerprint(Counted(), "m2")]
    assert len({same, *map(fingerprint, others), *names}) == 5
    assert fingerprint(Other(), "m1") == names[0]


# in a store --------------------------------------------------------------------------------------


def test_every_text_is_embedded_once_also_the_first_of_a_new_folder(path: Path | None) -> None:
    embeddings = Counted()
    with BGEM3VectorStore(embeddings, path=path) as store:
        about = [{"again": True}, *({} for _ in TEXTS)]
        store.add_texts([TEXTS[0], *TEXTS], about, batch_size=3)
        assert embeddings.documents == sorted(TEXTS)
        assert [len(batch) for batch in embeddings.batches] == [2, 3, 2]
        assert not embeddings.queries
        store.similarity_search("question")
        assert embeddings.queries == ["question"]
        assert store.index.count() == 8


async def test_before_the_first_document_everything_is_empty(tmp_path: Path) -> None:
    embeddings = Counted()
    path = tmp_path / "index"
    with BGEM3VectorStore(embeddings, path=path, create=True) as store:
        assert store.similarity_search("a") == []
        assert await store.asimilarity_search_with_score("a") == []
        assert store.similarity_search_by_vector([1.0, 2.0]) == []
        assert await store.amax_marginal_relevance_search("a") == []
        assert store.search("a", "dense") == []
        assert await store.asearch("a", "dense") == []
        assert store.similarity_search_with_relevance_scores("a") == []
        assert store.get_by_ids(["a"]) == []
        assert store.delete(["a"]) is True
        assert store.delete(delete_all=True) is True
        assert store.add_documents([]) == []
        with pytest.raises(InputError, match="becomes an index with its first document"):
            _ = store.index
        assert not (
            path / "manifest.json"
        ).exists()  # held, since it was asked for, and no index yet
        assert not embeddings.queries
        assert not embeddings.batches


def test_a_folder_is_found_again_without_embedding_anything(tmp_path: Path) -> None:
    with BGEM3VectorStore.from_texts(TEXTS, Counted(), path=tmp_path) as store:
        found = store.similarity_search_with_score("question", k=3)
    embeddings = Counted()
    with BGEM3VectorStore(embeddings, path=tmp_path) as store:
        assert store.index.count() == 7
        assert not embeddings.batches
        assert store.similarity_search_with_score("question", k=3) == found
        store.add_texts(["more", *TEXTS[:2]])
        assert embeddings.batches == [["more", *TEXTS[:2]]]


def test_another_model_is_refused_by_the_folder(tmp_path: Path) -> None:
    BGEM3VectorStore.from_texts(TEXTS, Counted(), path=tmp_path, embedding_id="first").close()
    for other, name in [(Counted(), "second"), (Counted(), None), (Other(), None)]:
        with (
            BGEM3VectorStore(other, path=tmp_path, embedding_id=name) as store,
            pytest.raises(StoreError, match="their numbers cannot be compared"),
        ):
            store.similarity_search("a")
    with BGEM3VectorStore(Other(), path=tmp_path, embedding_id="first") as store:
        assert len(store.similarity_search("a")) == 4


class Stated(Counted):
    """States its model as HuggingFaceEmbeddings does; `model` is an object there."""

    model: Any = object()

    def __init__(self, model_name: str) -> None:
        super().__init__()
        self.model_name = model_name


def test_another_model_of_one_class_and_width_is_refused_with_both_names(tmp_path: Path) -> None:
    BGEM3VectorStore.from_texts(TEXTS, Stated("old/MiniLM"), path=tmp_path).close()
    with (
        BGEM3VectorStore(Stated("bge-small"), path=tmp_path) as store,
        pytest.raises(StoreError, match=r"Stated old/MiniLM'.*Stated bge-small'") as seen,
    ):
        store.similarity_search("a")
    assert "their numbers cannot be compared" in str(seen.value)


def test_a_model_that_was_moved_is_let_in_by_the_id_that_the_error_says(tmp_path: Path) -> None:
    BGEM3VectorStore.from_texts(TEXTS, Stated("old/MiniLM"), path=tmp_path).close()
    moved = Stated("new/MiniLM")
    with (
        BGEM3VectorStore(moved, path=tmp_path) as store,
        pytest.raises(StoreError, match="embedding_id='") as seen,
    ):
        store.similarity_search("a")
    said = str(seen.value).rpartition("embedding_id='")[2].rstrip("'")
    with BGEM3VectorStore(moved, path=tmp_path, embedding_id=said) as store:
        assert len(store.similarity_search("a")) == 4


def test_a_folder_of_bge_m3_is_refused_and_so_is_the_reverse(tmp_path: Path) -> None:
    BGEM3VectorStore.from_texts(TEXTS, BGEM3(FakeEncoder()), path=tmp_path / "m3").close()
    with (
        BGEM3VectorStore(Counted(), path=tmp_path / "m3") as store,
        pytest.raises(StoreError, match="was made by"),
    ):
        store.add_texts(["a"])
    engine = BGEM3(FakeEncoder())
    BGEM3VectorStore.from_texts(TEXTS, engine, path=tmp_path / "s", modes=["sparse"]).close()
    with (
        BGEM3VectorStore(Counted(), path=tmp_path / "s") as store,
        pytest.raises(StoreError, match="keeps no dense vectors"),
    ):
        store.add_texts(["a"])
    BGEM3VectorStore.from_texts(TEXTS, Counted(), path=tmp_path / "foreign").close()
    with (
        BGEM3VectorStore(engine, path=tmp_path / "foreign") as store,
        pytest.raises(StoreError, match="was made by"),
    ):
        store.add_texts(["a"])


def test_another_width_later_is_an_error_with_both_numbers(path: Path | None) -> None:
    embeddings = Counted()
    with BGEM3VectorStore.from_texts(TEXTS, embeddings, path=path) as store:
        embeddings.fake = DeterministicFakeEmbedding(size=8)
        with pytest.raises(EncodingError, match=r"8 numbers from Counted.*before have 5"):
            store.add_texts(["later"])
        with pytest.raises(EncodingError, match=r"8 numbers from Counted.*before have 5"):
            store.similarity_search("question")
        assert store.index.count() == 7
    if path is not None:
        with (
            BGEM3VectorStore(Counted(8), path=path, embedding_id="n") as store,
            pytest.raises(StoreError, match="cannot be compared"),
        ):
            store.similarity_search("question")


def test_a_bad_first_batch_names_the_document_and_begins_no_folder(path: Path | None) -> None:
    embeddings = Counted()
    embeddings.instead = {"bad": [0.0] * 5}
    with BGEM3VectorStore(embeddings, path=path) as store:
        texts = ["good", "good", "bad"]
        documents = [Document(id=f"id-{text}", page_content=text) for text in texts]
        documents[0].id = "another"
        with pytest.raises(EncodingError, match="record 'id-bad' got a vector from Counted"):
            store.add_documents(documents)
        assert path is None or not path.exists()
        embeddings.instead = {}
        store.add_documents(documents)
        assert store.index.count() == 3


def test_a_folder_that_cannot_be_begun_costs_no_second_embedding(tmp_path: Path) -> None:
    embeddings = Counted()
    store = BGEM3VectorStore(embeddings, path=tmp_path / "index", modes=["dense", "sparse"])
    with pytest.raises(InputError, match="sparse"):
        store.add_texts(TEXTS)
    with pytest.raises(InputError, match="sparse"):
        store.add_texts(TEXTS)
    assert embeddings.documents == sorted(TEXTS)


def test_it_ranks_as_langchains_own_store_does(path: Path | None) -> None:
    embeddings = Counted(dim=12)
    theirs = InMemoryVectorStore(embeddings.fake)
    theirs.add_texts(TEXTS, ids=TEXTS)
    with BGEM3VectorStore.from_texts(TEXTS, embeddings, ids=TEXTS, path=path) as store:
        ours = store.similarity_search_with_score("question", k=7)
        expected = theirs.similarity_search_with_score("question", k=7)
        assert [d for d, _ in ours] == [d for d, _ in expected]
        assert [s for _, s in ours] == pytest.approx([s for _, s in expected], abs=1e-5)
        asked: dict[str, Any] = {"k": 4, "fetch_k": 7, "lambda_mult": 1.0}
        assert store.max_marginal_relevance_search("question", **asked) == [
            d for d, _ in expected[:4]
        ]


def test_the_embeddings_that_were_given_are_the_stores_own() -> None:
    embeddings = Counted()
    store = BGEM3VectorStore.from_texts(TEXTS, embeddings)
    assert store.embeddings is embeddings
    assert BGEM3VectorStore(index=store.index).embeddings is embeddings
    assert store.as_retriever().tags == ["BGEM3VectorStore", "Counted"]
    params = store.as_retriever()._get_ls_params()
    assert params["ls_embedding_provider"] == "Counted"
    assert params["ls_embedding_model"] == "counted-1"
    assert (
        EmbeddingsEncoder(DeterministicFakeEmbedding(size=2)).model == "DeterministicFakeEmbedding"
    )


def test_other_modes_of_a_foreign_model_are_refused() -> None:
    store = BGEM3VectorStore.from_texts(TEXTS, Counted())
    with pytest.raises(InputError, match=r"count \['sparse'\], which this index lacks"):
        store.search("a", "sparse")
    with pytest.raises(InputError, match=r"\['dense', 'sparse', 'colbert'\]|'sparse', 'colbert'"):
        store.similarity_search("a", weights="keyword")
    with pytest.raises(InputError, match="not possible: the engine has"):
        BGEM3VectorStore(Counted(), modes=["sparse"]).add_texts(["a"])


class Remote(Counted):
    """Counts how many queries wait for an answer at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.open = self.most = 0

    async def aembed_query(self, text: str) -> list[float]:
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0.01)
        self.open -= 1
        return self.fake.embed_query(text)


async def test_a_retriever_asks_the_models_own_coroutine_side_by_side() -> None:
    embeddings = Remote()
    store = await BGEM3VectorStore.afrom_texts(TEXTS, embeddings)
    retriever = BGEM3Retriever(index=store.index)
    found = await asyncio.gather(*(retriever.ainvoke(f"q{i}") for i in range(10)))
    assert embeddings.most == 10
    assert await retriever.abatch([f"q{i}" for i in range(10)]) == found
    assert not embeddings.queries
    assert found[3] == retriever.invoke("q3") == store.similarity_search("q3")


def test_a_batch_of_a_retriever_over_another_model_runs_in_several_threads() -> None:
    class Waits(Counted):
        all_there = threading.Barrier(3)

        def embed_query(self, text: str) -> list[float]:
            self.all_there.wait(10)
            return super().embed_query(text)

    store = BGEM3VectorStore.from_texts(TEXTS, Waits())
    found = BGEM3Retriever(index=store.index).batch(["a", "b", "c"], {"max_concurrency": 3})
    assert [len(documents) for documents in found] == [4, 4, 4]


async def test_a_retriever_over_another_model_tells_its_steps_and_its_name() -> None:
    store = BGEM3VectorStore.from_texts(TEXTS, Counted())
    retriever = BGEM3Retriever(index=store.index)
    events = [event async for event in retriever.astream_events("a", version="v2")]
    steps = [event["name"] for event in events if event["event"] == "on_custom_event"]
    assert steps == ["bge_m3.encode", "bge_m3.find", "bge_m3.score", "bge_m3.rank"]
    params = retriever._get_ls_params()
    assert params["ls_embedding_provider"] == "Counted"
    assert params["ls_embedding_model"] == "counted-1"


async def test_the_models_own_coroutine_answers_queries_side_by_side() -> None:
    embeddings = Remote()
    store = await BGEM3VectorStore.afrom_texts(TEXTS, embeddings)
    found = await asyncio.gather(*(store.asimilarity_search(f"q{i}") for i in range(10)))
    assert embeddings.most == 10
    assert not embeddings.queries
    assert found[3] == store.similarity_search("q3")
    with pytest.raises(InputError, match="text 0 must be str"):
        await store.asimilarity_search(3)  # type: ignore[arg-type]


def test_an_engine_over_foreign_vectors_works_in_an_index_too() -> None:
    index = HybridIndex(BGEM3(EmbeddingsEncoder(Counted())))
    assert index.modes == {"dense"}
    store = BGEM3VectorStore(index=index)
    store.add_texts(TEXTS)
    assert [hit.record.text for hit in index.search("question", limit=3)] == [
        document.page_content for document in store.similarity_search("question", k=3)
    ]


class Given(Counted):
    """Gives documents in whatever form a test says."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.form = form

    def embed_documents(self, texts: list[str]) -> Any:
        return self.form(super().embed_documents(texts))


@pytest.mark.parametrize("form", [iter, np.array, tuple], ids=lambda form: form.__name__)
def test_vectors_may_come_in_any_collection(form: Any) -> None:
    store = BGEM3VectorStore.from_texts(TEXTS, Given(form))
    assert store.index.count() == len(TEXTS)


@pytest.mark.parametrize(("form", "shown"), [(lambda rows: None, "None"), (len, "2")])
def test_what_is_no_collection_of_vectors_is_named(form: Any, shown: str) -> None:
    store = BGEM3VectorStore(Given(form))
    with pytest.raises(
        InputError, match=f"Given.embed_documents gave {shown}; it must give a list"
    ):
        store.add_texts(TEXTS[:2])


class Awaited(Embeddings):
    """Has coroutines alone, as clients of some services do."""

    def __init__(self) -> None:
        self.inner = Counted()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise NotImplementedError

    def embed_query(self, text: str) -> list[float]:
        raise NotImplementedError

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.inner.embed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        return self.inner.embed_query(text)


class Wrapped(Awaited):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return asyncio.run(self.aembed_documents(texts))


async def test_embeddings_of_coroutines_alone_say_how_to_wrap_them() -> None:
    store = BGEM3VectorStore(Awaited())
    fix = r"asyncio\.run\(inner\.aembed_documents"
    with pytest.raises(InputError, match=fix):
        store.add_texts(TEXTS)
    with pytest.raises(InputError, match=fix):
        await store.aadd_texts(TEXTS)
    wrapped = BGEM3VectorStore(Wrapped())
    await wrapped.aadd_texts(TEXTS)
    assert len(await wrapped.asimilarity_search("text", k=3)) == 3
    assert len(await BGEM3Retriever(index=wrapped.index).ainvoke("text", k=3)) == 3
    with pytest.raises(InputError, match=r"asyncio\.run\(inner\.aembed_query"):
        wrapped.similarity_search("text")
