"""One call for both kinds, similarity, and lengths in tokens."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

from bge_m3_integrations import BGEM3, InputError
from bge_m3_integrations.core.embeddings import MODES, Mode
from bge_m3_integrations.encoders.torch.load import CheckpointSource
from bge_m3_integrations.testing import FakeEncoder

TEXTS = ["the fox", "a dog", "", "the fox and the dog"]


@pytest.fixture
def fake() -> FakeEncoder:
    return FakeEncoder(query_instruction="ask: ")


@pytest.fixture
def engine(fake: FakeEncoder) -> BGEM3:
    return BGEM3(fake)


def test_encode_has_both_kinds(engine: BGEM3, fake: FakeEncoder) -> None:
    for kind, same in (
        ("document", engine.encode_documents),
        ("query", engine.encode_queries),
    ):
        assert np.array_equal(engine.encode(["fox"], kind=kind).dense, same(["fox"]).dense)
    assert np.array_equal(engine.encode(["fox"]).dense, engine.encode_documents(["fox"]).dense)
    assert {call.kind for call in fake.calls} == {"document", "query"}
    wrong: str = "passage"
    with pytest.raises(InputError, match=r"\['query', 'document'\], not 'passage'"):
        engine.encode(["fox"], kind=wrong)  # type: ignore[arg-type]


async def test_encode_has_an_asynchronous_twin(engine: BGEM3) -> None:
    found = await engine.aencode(["fox"], kind="query", modes=["dense"])
    assert np.array_equal(found.dense, engine.encode_queries(["fox"]).dense)
    twin, own = (inspect.signature(call).parameters for call in (engine.aencode, engine.encode))
    assert dict(twin) == {name: held for name, held in own.items() if name != "progress"}


@pytest.mark.parametrize("mode", MODES)
def test_similarity_is_symmetric_to_the_bit(engine: BGEM3, mode: Mode) -> None:
    there = engine.similarity(TEXTS, TEXTS[:3], mode=mode)
    assert there.shape == (4, 3)
    assert there.dtype == np.float32
    assert np.array_equal(there, engine.similarity(TEXTS[:3], TEXTS, mode=mode).T)
    assert engine.similarity("the fox", "a dog", mode=mode) == engine.similarity(
        "a dog", "the fox", mode=mode
    )


def test_similarity_of_real_numbers_is_symmetric_to_the_bit(xlm_roberta: Path) -> None:
    engine = BGEM3(xlm_roberta, device="cpu")
    for mode in MODES:
        there = engine.similarity(TEXTS, TEXTS[1:3], mode=mode)
        assert np.array_equal(there, engine.similarity(TEXTS[1:3], TEXTS, mode=mode).T)


def test_a_text_is_fully_similar_to_itself_by_dense_and_colbert(engine: BGEM3) -> None:
    assert engine.similarity("the fox", "the fox") == pytest.approx(1, abs=1e-6)
    assert engine.similarity("the fox", "the fox", mode="colbert") == pytest.approx(1, abs=1e-6)
    assert isinstance(engine.similarity("the fox", "the fox"), float)


def test_similarity_is_the_cosine_and_ignores_the_query_instruction(
    engine: BGEM3, fake: FakeEncoder
) -> None:
    found = engine.similarity(["the fox"], ["a dog", "the fox"])
    dense = engine.encode_documents(["the fox", "a dog"]).dense
    assert found == pytest.approx(np.array([[dense[0] @ dense[1], 1.0]]), abs=1e-6)
    assert {call.kind for call in fake.calls} == {"document"}


def test_similarity_encodes_each_text_once_and_only_what_it_compares(
    engine: BGEM3, fake: FakeEncoder
) -> None:
    engine.similarity(["a", "b", "a"], ["b", "c"])
    assert fake.forwards == {"a": 1, "b": 1, "c": 1}
    assert {call.modes for call in fake.calls} == {frozenset({"dense"})}


def test_a_single_text_and_no_text_have_matrices_too(engine: BGEM3) -> None:
    assert engine.similarity("fox", ["a", "b"]).shape == (1, 2)
    assert engine.similarity([], ["a"]).shape == (0, 1)
    assert engine.similarity([], [], mode="colbert").shape == (0, 0)


def test_similarity_refuses_what_it_cannot_compare(engine: BGEM3) -> None:
    wrong: str = "cosine"
    with pytest.raises(InputError, match="mode must be one of"):
        engine.similarity("a", "b", mode=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="text 1 must be str, not int"):
        engine.similarity(["a", 3], "b")  # type: ignore[list-item]
    with pytest.raises(InputError, match="no \\['colbert'\\]"):
        BGEM3(FakeEncoder(modes=["dense"])).similarity("a", "b", mode="colbert")


def test_tokens_are_counted_as_they_are_encoded(engine: BGEM3) -> None:
    counts = engine.count_tokens(TEXTS)
    assert counts == engine.encode(TEXTS).tokens.tolist()
    assert engine.count_tokens("the fox") == counts[0] == 4
    assert engine.count_tokens("fox", kind="query") == engine.count_tokens("ask: fox")
    assert engine.count_tokens([]) == []


def test_counting_cuts_nothing_off() -> None:
    engine = BGEM3(FakeEncoder(max_length=8))
    text = "one two three " * 100
    assert engine.count_tokens(text) == 302
    assert engine.length_function(text) == 300
    assert engine.token_ids(text) == engine.token_ids("one two three") * 100


def test_lengths_for_splitters_leave_special_tokens_and_instructions_out() -> None:
    engine = BGEM3(FakeEncoder())
    assert engine.length_function("one two three") == 3
    assert engine.length_function("") == 0
    assert len(engine.token_ids("one two three")) == 3


@pytest.mark.parametrize("text", ["", " ", "a", "稀疏权重" * 2000, "one two. " * 3000, "x" * 9000])
def test_lengths_of_a_real_tokenizer_agree(xlm_roberta: Path, text: str) -> None:
    engine = BGEM3(xlm_roberta, device="cpu")
    length = engine.length_function(text)
    assert engine.count_tokens(text) == length + 2
    assert abs(len(engine.token_ids(text)) - length) <= length // 500


def test_counting_loads_no_weights(xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: CheckpointSource) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(CheckpointSource, "modules", property(load))
    engine = BGEM3(xlm_roberta, device="cpu")
    assert engine.count_tokens(["the fox"])[0] == engine.length_function("the fox") + 2


def test_a_text_splitter_makes_chunks_that_fit(xlm_roberta: Path) -> None:
    splitters = pytest.importorskip("langchain_text_splitters")
    engine = BGEM3(xlm_roberta, device="cpu")
    text = "\n\n".join(f"Paragraph {i} is about foxes and dogs. " * (i % 7) for i in range(60))
    splitter = splitters.RecursiveCharacterTextSplitter(
        chunk_size=62, chunk_overlap=0, length_function=engine.length_function
    )
    counts = engine.count_tokens(splitter.split_text(text))
    assert max(counts) <= 64
    assert sum(counts) / len(counts) > 32


def test_a_splitter_of_llama_index_makes_chunks_that_fit(xlm_roberta: Path) -> None:
    parsers = pytest.importorskip("llama_index.core.node_parser")
    engine = BGEM3(xlm_roberta, device="cpu")
    splitter = parsers.TokenTextSplitter(chunk_size=62, chunk_overlap=0, tokenizer=engine.token_ids)
    counts = engine.count_tokens(splitter.split_text("Foxes and dogs are animals. " * 60))
    assert max(counts) <= 64
    assert len(counts) > 1


@pytest.mark.parametrize("text", [3, None, b"a", "\ud800"])
def test_what_is_no_text_cannot_be_counted(engine: BGEM3, text: object) -> None:
    for count in (engine.length_function, engine.token_ids):
        with pytest.raises(InputError):
            count(text)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        engine.count_tokens([text])  # type: ignore[list-item]


@pytest.mark.parametrize("clean", [False, True])
def test_ids_of_a_long_text_are_those_of_what_is_encoded(clean: bool) -> None:
    if clean:
        pytest.importorskip("ftfy")
    engine = BGEM3(FakeEncoder(max_length=16), clean=clean)
    text = "one   two\x00  three\u200b four " * 50
    ids = engine.token_ids(text)
    assert len(ids) == engine.length_function(text) == 200
    assert ids == engine.token_ids("one two three four") * 50
