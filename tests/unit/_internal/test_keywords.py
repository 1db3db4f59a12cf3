"""Unknown keywords: what was meant is said, wherever a user types one."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from bge_m3_integrations import (
    BGEM3,
    EmbeddingCache,
    HybridIndex,
    InputError,
    KeywordError,
    Record,
)
from bge_m3_integrations._internal import keywords as module
from bge_m3_integrations.testing import FakeEncoder

Call = Callable[[BGEM3, HybridIndex], Any]

MEANT: list[tuple[Call, str]] = [
    (lambda e, i: BGEM3(model_name="x"), "did you mean model?"),
    (lambda e, i: BGEM3(model_name_or_path="x"), "did you mean model?"),
    (lambda e, i: BGEM3(use_fp16=True), "did you mean dtype?"),
    (lambda e, i: BGEM3(torch_dtype="x"), "did you mean dtype?"),
    (lambda e, i: BGEM3(devices=[0]), "did you mean device?"),
    (lambda e, i: BGEM3(device_map="auto"), "did you mean device?"),
    (lambda e, i: BGEM3(query_max_length=8), "did you mean max_length?"),
    (lambda e, i: BGEM3(max_seq_length=8), "did you mean max_length?"),
    (lambda e, i: BGEM3(modle="x"), "did you mean model?"),
    (lambda e, i: BGEM3(local_files_only=True), "did you mean offline?"),
    (lambda e, i: BGEM3(normalize_embeddings=True), "all vectors have norm 1"),
    (lambda e, i: BGEM3(batch_size=8), "token_budget"),
    (lambda e, i: BGEM3(host="x"), "no server: an index lives in a folder"),
    (lambda e, i: BGEM3.from_flag(None, max_len=3), "did you mean max_length?"),
    (lambda e, i: HybridIndex(embedding_function=e), "did you mean engine?"),
    (lambda e, i: HybridIndex(e, collection_name="x"), "lives in a folder of its own, path="),
    (lambda e, i: HybridIndex.open(persist_directory="x"), "did you mean path?"),
    (lambda e, i: HybridIndex.open(persist_dir="x"), "did you mean path?"),
    (lambda e, i: HybridIndex.open("x", embed_model=e), "did you mean engine?"),
    (lambda e, i: HybridIndex.open("x", url="x"), "no server: an index lives in a folder"),
    (lambda e, i: HybridIndex.open("x", index_name="x"), "lives in a folder of its own, path="),
    (lambda e, i: i.add(documents=[]), "did you mean records?"),
    (lambda e, i: i.add([], show_progress=True), "did you mean progress?"),
    (lambda e, i: i.search("q", top_k=3), "did you mean limit?"),
    (lambda e, i: i.search("q", k=3), "did you mean limit?"),
    (lambda e, i: i.search("q", filter={}), "did you mean where?"),
    (lambda e, i: i.search("q", weights_for_different_modes=[1, 1, 1]), "did you mean weights?"),
    (lambda e, i: i.search("q", include_scores=True), "score and components"),
    (lambda e, i: i.search("q", limt=3), "did you mean limit?"),
    (lambda e, i: i.search_batch(["q"], top_k=3), "did you mean limit?"),
    (lambda e, i: i.search_embedded(None, filters={}), "did you mean where?"),
    (lambda e, i: i.search_diverse("q", fetch_k=3), "did you mean fetch?"),
    (lambda e, i: i.search_diverse("q", lambda_mult=0.5), "did you mean mmr_lambda?"),
    (lambda e, i: asyncio.run(i.asearch("q", top_n=3)), "did you mean limit?"),
    (lambda e, i: i.delete(filter={"a": 1}), "did you mean where?"),
    (lambda e, i: i.rerank("q", ["a"], top_n=3), "did you mean limit?"),
    (lambda e, i: e.encode_queries(["a"], batch_size=3), "token_budget"),
    (lambda e, i: e.encode_documents(["a"], max_tokens=3), "did you mean max_length?"),
    (lambda e, i: asyncio.run(e.aencode_queries(["a"], mode="dense")), "did you mean modes?"),
    (lambda e, i: asyncio.run(e.aencode_documents(["a"], max_len=8)), "did you mean max_length?"),
    (lambda e, i: e.tokenize(sentences=["a"]), "did you mean texts?"),
    (lambda e, i: e.submit(["a"], mode="dense"), "did you mean modes?"),
    (lambda e, i: e.score(["a"], passages=["a"]), "did you mean documents?"),
    (lambda e, i: e.score_pairs(sentence_pairs=[]), "did you mean pairs?"),
    (lambda e, i: e.rerank("a", docs=["a"]), "did you mean documents?"),
    (lambda e, i: EmbeddingCache(persist_dir="x"), "did you mean path?"),
]


@pytest.fixture
def engine() -> BGEM3:
    return BGEM3(FakeEncoder())


@pytest.mark.parametrize(("call", "said"), MEANT)
def test_a_foreign_or_misspelt_keyword_is_a_type_error_that_says_which_one_was_meant(
    engine: BGEM3, call: Call, said: str
) -> None:
    with pytest.raises(TypeError, match="unknown keyword ") as caught:
        call(engine, HybridIndex(engine))
    assert said in str(caught.value)
    assert isinstance(caught.value, KeywordError)
    assert isinstance(caught.value, InputError)


def test_a_keyword_that_nobody_uses_is_answered_by_those_that_there_are(engine: BGEM3) -> None:
    with pytest.raises(TypeError, match=r"unknown keyword 'wrong'; there are query, documents, "):
        engine.rerank("q", ["a"], wrong=3)  # type: ignore[call-arg]


def test_all_unknown_keywords_of_a_call_are_named(engine: BGEM3) -> None:
    with pytest.raises(TypeError, match=r"'top_k'; did you mean limit\? unknown keyword 'filter'"):
        HybridIndex(engine).search("q", top_k=3, filter={})  # type: ignore[call-arg]


def test_no_name_is_meant_that_the_signature_lacks() -> None:
    for name in [*module._OURS_OF, *module._REMARK_OF]:
        said = module.told(name, ["xyz"])
        assert "did you mean" not in said
        assert said.startswith(f"unknown keyword {name!r}; ")


def test_signatures_are_as_they_are_written() -> None:
    for function in (HybridIndex.search, BGEM3.encode_queries, BGEM3.aencode_documents):
        assert "unknown" not in inspect.signature(function).parameters
    assert list(inspect.signature(BGEM3.encode_queries).parameters)[1:] == [
        "texts",
        "modes",
        "max_length",
        "progress",
    ]
    parameters = list(inspect.signature(BGEM3).parameters)
    assert parameters[0] == "model"
    assert {"device", "dtype", "cache"} <= set(parameters)
    assert list(inspect.signature(HybridIndex.open).parameters)[:2] == ["path", "engine"]
    assert inspect.iscoroutinefunction(BGEM3.aencode_queries)
    assert HybridIndex.add.__doc__ is not None


def test_a_search_and_an_encoding_pass_through_no_frame_of_the_check(engine: BGEM3) -> None:
    index = HybridIndex(engine)
    index.add([Record("a", "the fox")])
    files: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            files.append(Path(frame.f_code.co_filename).name)

    index.search("fox")
    sys.setprofile(note)
    try:
        index.search("fox", limit=3)
        engine.encode_queries(["dog"], max_length=7)
    finally:
        sys.setprofile(None)
    assert {"searching.py", "encoding.py"} <= set(files)
    assert "keywords.py" not in files


def test_an_engine_is_pickled_as_before() -> None:
    assert pickle.loads(pickle.dumps(BGEM3("a", max_length=7))).options["max_length"] == 7


@pytest.mark.parametrize("name", ["index_params", "hybrid_ranker", "index_to_docstore_id"])
def test_another_librarys_setting_is_not_taken_for_a_misspelling(name: str) -> None:
    from bge_m3_integrations.langchain import BGEM3VectorStore

    with pytest.raises(KeywordError) as caught:
        BGEM3VectorStore(BGEM3(FakeEncoder()), **{name: 1})  # type: ignore[arg-type]
    assert "did you mean" not in str(caught.value)
    assert "there are" not in str(caught.value)


def test_keywords_with_one_hint_share_it() -> None:
    with pytest.raises(KeywordError) as caught:
        HybridIndex.open("x", url="x", port=1, k=3)  # type: ignore[call-arg]
    assert str(caught.value).count("there is no server") == 1
    assert "unknown keywords 'url', 'port'; there is no server" in str(caught.value)
    assert "unknown keyword 'k'; it is an option of a search" in str(caught.value)


def test_functions_say_which_keyword_was_meant_too() -> None:
    from langchain_core.documents import Document

    from bge_m3_integrations.langchain import to_record

    with pytest.raises(KeywordError, match="unknown keyword 'doc_id'; "):
        to_record(Document(page_content="tea"), doc_id="x")  # type: ignore[call-arg]
