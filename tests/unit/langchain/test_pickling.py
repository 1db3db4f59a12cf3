"""What another process can be sent, and what it must make itself."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bge_m3_integrations import BGEM3, HybridIndex, InputError
from bge_m3_integrations.langchain import (
    BGEM3Embeddings,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3VectorStore,
    to_record,
)
from tests.unit.langchain.animals import DOCUMENTS, made


@pytest.fixture
def index(tmp_path: Path, xlm_roberta: Path) -> Iterator[HybridIndex]:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    with HybridIndex.open(tmp_path / "index", engine) as index:
        index.add(map(to_record, DOCUMENTS))
        yield index


def test_a_retriever_over_a_folder_comes_back_over_that_folder(index: HybridIndex) -> None:
    retriever = BGEM3Retriever(index=index, k=2, weights="keyword", filter={"year": {"$gte": 2021}})
    again = pickle.loads(pickle.dumps(retriever))
    assert again == retriever
    assert again.source.loaded is None
    assert again.invoke("honey") == retriever.invoke("honey")
    again.index.close()


@pytest.mark.parametrize("over_folder", [True, False])
@pytest.mark.parametrize(
    ("holder", "fix"),
    [
        (lambda index: BGEM3VectorStore(index=index), r"BGEM3VectorStore\(engine, path="),
        (lambda index: BGEM3VectorStore(index=index).as_retriever(), r"BGEM3VectorStore\(engine"),
        (lambda index: BGEM3Reranker(index=index), r"BGEM3Reranker\(index=HybridIndex\.open"),
    ],
    ids=["store", "its retriever", "reranker"],
)
def test_what_holds_an_index_says_what_to_make_in_another_process(
    index: HybridIndex, holder: Callable[[HybridIndex], Any], fix: str, over_folder: bool
) -> None:
    held = holder(index if over_folder else made()[1].index)
    with pytest.raises(InputError, match=f"cannot be pickled.*{fix}"):
        pickle.dumps(held)
    assert type(copy.copy(held)) is type(copy.deepcopy(held)) is type(held)


def test_a_retriever_over_what_no_folder_says_says_what_to_make(
    tmp_path: Path, xlm_roberta: Path
) -> None:
    assert copy.copy(made()[1]).k == copy.deepcopy(made()[1]).k == 4
    with pytest.raises(InputError, match=r"in memory.*cannot be pickled.*HybridIndex\.open\(path"):
        pickle.dumps(made()[1])
    HybridIndex.open(tmp_path / "index", BGEM3(xlm_roberta, device="cpu"), create=True).close()
    engine = BGEM3(xlm_roberta, device="cpu", query_instruction="find: ")
    with (
        HybridIndex.open(tmp_path / "index", engine) as index,
        pytest.raises(InputError, match="query instruction"),
    ):
        pickle.dumps(BGEM3Retriever(index=index))


def test_a_retriever_asks_elsewhere_with_the_instruction_that_its_index_was_made_with(
    tmp_path: Path, xlm_roberta: Path
) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", query_instruction="find: ", clean=True)
    with HybridIndex.open(tmp_path / "index", engine, create=True) as index:
        pickled = pickle.dumps(BGEM3Retriever(index=index))
    retriever = pickle.loads(pickled)
    with retriever.index as again:
        options = again.engine.options
    assert (options["query_instruction"], options["clean"]) == ("find: ", True)


def test_an_unpickled_reranker_shares_forwards_again(xlm_roberta: Path) -> None:
    dense = BGEM3Embeddings(model=str(xlm_roberta), device="cpu", dtype="float32")
    reranker = BGEM3Reranker(engine=dense.engine, top_n=2)
    dense, again = pickle.loads(pickle.dumps((dense, reranker)))
    dense.embed_query("honey")
    question = {"query": "honey", "documents": DOCUMENTS}
    assert again.invoke(question) == reranker.invoke(question)
    assert again.engine.stats.forwards == 1 + len(DOCUMENTS)
