from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.load import dumpd, dumps, load
from langchain_core.runnables import ConfigurableField

from bge_m3_integrations import BGEM3, HybridIndex, ReciprocalRank, ScaledSum
from bge_m3_integrations.core.filters import And, Compare, Ids, Not, Or, parse
from bge_m3_integrations.core.fusion import WeightedSum
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.langchain import BGEM3Retriever, to_record
from bge_m3_integrations.langchain.serialization import filter_as_json
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.animals import DOCUMENTS, ids, made

pytestmark = pytest.mark.filterwarnings("ignore:.*is in beta.*")


def loaded(written: Any) -> BGEM3Retriever:
    retriever = load(
        json.loads(json.dumps(written)),
        valid_namespaces=["bge_m3_integrations"],
        allowed_objects=[BGEM3Retriever],
    )
    assert isinstance(retriever, BGEM3Retriever)
    return retriever


@pytest.fixture
def index(tmp_path: Path, xlm_roberta: Path) -> Iterator[HybridIndex]:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    with HybridIndex.open(tmp_path / "index", engine) as index:
        index.add(map(to_record, DOCUMENTS))
        yield index


OPTIONS: list[dict[str, Any]] = [
    {},
    {"k": 2, "weights": "keyword", "score_threshold": 0.1, "include_scores": True},
    {"filter": {"year": {"$gte": 2021, "$nin": [2023]}, "$not": {"lang": "de"}}},
    {"filter": {"lc": 1, "type": "constructor"}},
    {"filter": {}},
    {"fusion": ScaledSum(), "candidates": {"dense": 5}},
    {"fusion": ReciprocalRank(k=7), "weights": (1, 0, 1)},
    {"tags": ["a"], "metadata": {"b": 1}, "name": "handbook"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_over_a_folder_what_is_written_is_read_as_an_equal_retriever(
    index: HybridIndex, options: dict[str, Any]
) -> None:
    retriever = BGEM3Retriever(index=index, **options)
    again = loaded(dumpd(retriever))
    assert again == retriever
    assert again.source.loaded is None  # type: ignore[union-attr]
    assert again.invoke("honey") == retriever.invoke("honey")
    assert again.index.engine.name == index.engine.name
    again.index.close()


async def test_what_is_read_opens_its_folder_once_at_the_first_search(index: HybridIndex) -> None:
    again = loaded(dumpd(BGEM3Retriever(index=index, k=1)))
    assert "ls_embedding_model" not in again._get_ls_params()
    configurable = again.configurable_fields(k=ConfigurableField(id="k"))
    for k in (1, 2):
        found = await configurable.ainvoke("honey", {"configurable": {"k": k}})
        assert len(found) == k
    opened = again.source.loaded  # type: ignore[union-attr]
    assert opened is not None
    assert opened.store is index.store
    prepared, _ = configurable.prepare({"configurable": {"k": 3}})  # type: ignore[attr-defined]
    assert prepared.index is again.index is opened
    opened.close()
    assert index.count() == len(DOCUMENTS)


def test_it_is_written_as_its_folder_and_what_is_not_the_default(index: HybridIndex) -> None:
    written = dumpd(BGEM3Retriever(index=index, k=2, weights="keyword", fusion=WeightedSum()))
    assert written["id"] == ["bge_m3_integrations", "langchain", "retriever", "BGEM3Retriever"]
    assert written["kwargs"] == {
        "k": 2,
        "index": str(index.store.path),  # type: ignore[attr-defined]
        "weights": "keyword",
        "fusion": {"name": "weighted_sum"},
    }
    written = dumpd(BGEM3Retriever(index=index, weights=(3, 5, 2)))
    assert written["kwargs"]["weights"] == {"dense": 3, "sparse": 5, "colbert": 2}


def test_a_folder_can_be_given_in_place_of_an_index(index: HybridIndex) -> None:
    path: Path = index.store.path  # type: ignore[attr-defined]
    retriever = BGEM3Retriever(index=path)
    assert retriever == BGEM3Retriever(index=str(path)) == BGEM3Retriever(index=index)
    assert ids(retriever.invoke("honey")) == [hit.id for hit in index.search("honey", limit=4)]
    retriever.index.close()


def test_retrievers_over_other_folders_or_indexes_are_not_equal(tmp_path: Path) -> None:
    for name in "ab":
        HybridIndex.open(tmp_path / name, BGEM3(FakeEncoder()), create=True).close()
    assert BGEM3Retriever(index=tmp_path / "a") != BGEM3Retriever(index=tmp_path / "b")
    assert made()[1] != made()[1]
    _, retriever = made(filter=str.isalpha)
    assert retriever == BGEM3Retriever(index=retriever.index, filter=str.isalpha)


def only(document: Document) -> bool:
    return document.id == "a"


class Own:
    name = "scaled_sum"
    rank_values = ScaledSum().rank_values
    max_score = ScaledSum().max_score


@pytest.mark.parametrize(
    "options",
    [{"filter": only}, {"filter": Ids(["a"])}, {"fusion": Own()}, {"metadata": {"a": object()}}],
    ids=lambda options: str(next(iter(options))),
)
def test_what_no_json_stands_for_is_not_implemented(tmp_path: Path, options: Any) -> None:
    HybridIndex.open(tmp_path, BGEM3(FakeEncoder()), create=True).close()
    retriever = BGEM3Retriever(index=tmp_path, **options)
    assert dumpd(retriever)["type"] == "not_implemented"
    assert json.loads(dumps(retriever))["id"][-1] == "BGEM3Retriever"


def test_over_an_index_in_memory_it_is_not_implemented() -> None:
    _, retriever = made()
    assert dumpd(retriever)["type"] == "not_implemented"


def test_an_engine_that_asks_otherwise_than_the_folder_says_is_not_written(
    tmp_path: Path, xlm_roberta: Path
) -> None:
    HybridIndex.open(tmp_path / "index", BGEM3(xlm_roberta, device="cpu"), create=True).close()
    engine = BGEM3(xlm_roberta, device="cpu", query_instruction="find: ")
    with HybridIndex.open(tmp_path / "index", engine) as index:
        assert dumpd(BGEM3Retriever(index=index))["type"] == "not_implemented"


@pytest.mark.parametrize("options", [{"query_instruction": "find: "}, {"clean": True}], ids=str)
def test_an_engine_that_the_folder_describes_is_written(
    tmp_path: Path, xlm_roberta: Path, options: dict[str, Any]
) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", **options)
    with HybridIndex.open(tmp_path / "index", engine, create=True) as index:
        written = dumpd(BGEM3Retriever(index=index))
    with loaded(written).index as again:
        assert options.items() <= again.engine.options.items()


async def test_a_folder_without_a_models_name_says_what_to_assign(tmp_path: Path) -> None:
    engine = BGEM3(FakeEncoder())
    with HybridIndex.open(tmp_path / "index", engine) as index:
        index.add(map(to_record, DOCUMENTS))
        again = loaded(dumpd(BGEM3Retriever(index=index, k=1)))
        with pytest.raises(StoreError, match=r"retriever\.index = HybridIndex\.open\("):
            again.invoke("honey")
        with pytest.raises(StoreError, match=r"retriever\.index = HybridIndex\.open\("):
            await again.abatch(["honey"])
        again.index = index
        assert ids(again.invoke("honey")) == ["bee"]


def test_a_folder_without_an_index_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no index in"):
        BGEM3Retriever(index=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "where",
    [
        And([]),
        Or([]),
        parse({"a": 1, "b": {"$in": [1, [2, "x"]]}}),
        parse({"a.b": {"$exists": False, "$contains": "x"}}),
        Or([Not(Compare("a", "$eq", None)), And([Compare("b", "$lt", 1.5), Or([])])]),
    ],
    ids=str,
)
def test_a_filters_dict_form_is_read_as_an_equal_filter(where: Any) -> None:
    assert parse(json.loads(json.dumps(filter_as_json(where)))) == where
