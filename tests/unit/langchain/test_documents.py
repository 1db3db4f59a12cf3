from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from langchain_core.documents import Document

from bge_m3_integrations import BGEM3, FilterError, InputError, Record
from bge_m3_integrations.core.filters import matches, parse
from bge_m3_integrations.langchain import BGEM3Retriever
from bge_m3_integrations.langchain.documents import (
    document_filter,
    to_document,
    to_record,
    to_records,
)
from bge_m3_integrations.testing import FakeEncoder


def test_a_document_with_an_id_comes_back_equal() -> None:
    document = Document(id="a", page_content="one\ntwo ", metadata={"tags": ["x", {"y": 1}]})
    assert to_document(to_record(document)) == document


def test_a_document_without_an_id_gets_one_of_its_content_and_keeps_the_rest() -> None:
    document = Document(page_content="one", metadata={"year": 2024})
    first, second = to_record(document), to_record(document)
    assert first.id == second.id
    others = [
        Document(page_content="two", metadata={"year": 2024}),
        Document(page_content="one", metadata={"year": 2025}),
        Document(page_content="one"),
    ]
    assert len({first.id, *(to_record(other).id for other in others)}) == 4
    assert document.id is None
    assert to_document(first) == Document(id=first.id, page_content="one", metadata={"year": 2024})


def test_metadata_is_shared_in_neither_direction() -> None:
    document = Document(id="a", page_content="one", metadata={"tags": ["x"]})
    before = deepcopy(document)
    record = to_record(document)
    record.metadata["tags"].append("y")
    to_document(record).metadata["tags"].append("z")
    assert document == before
    assert record.metadata == {"tags": ["x", "y"]}


def test_a_record_of_the_other_framework_shows_its_content_and_hides_its_payload() -> None:
    record = Record(
        id="node",
        text="title: Cats\n\nThey sleep.",
        metadata={"title": "Cats"},
        content="They sleep.",
        payload={"relationships": {}},
    )
    expected = Document(id="node", page_content="They sleep.", metadata={"title": "Cats"})
    assert to_document(record) == expected


def test_given_ids_win_over_the_documents_own_and_none_leaves_them() -> None:
    documents = [Document(id="a", page_content="one"), Document(id="b", page_content="two")]
    assert [record.id for record in to_records(documents, ids=["x", None])] == ["x", "b"]


def test_another_number_of_ids_is_refused_with_both_numbers() -> None:
    with pytest.raises(InputError, match="2 documents, but 1 ids"):
        to_records([Document(page_content="a"), Document(page_content="b")], ids=["x"])


@pytest.mark.parametrize("wrong", ["a text", None, {"page_content": "a"}])
def test_what_is_no_document_is_refused(wrong: object) -> None:
    with pytest.raises(InputError, match="Document is needed"):
        to_records([wrong])  # type: ignore[list-item]


def is_long(document: Document) -> bool:
    return len(document.page_content) > 3


def test_a_function_as_filter_is_asked_about_what_a_reader_sees() -> None:
    where = document_filter(is_long)
    short = Record(id="a", text="title one", content="one", metadata={"year": 1})
    assert where is not None
    assert matches(where, {}, record=Record(id="a", text="four"))
    assert not matches(where, short.metadata, record=short)
    assert where == document_filter(is_long) != document_filter(len)


def test_a_filter_of_any_other_form_is_what_the_core_reads() -> None:
    assert document_filter(None) is None
    assert document_filter({"year": 1}) == document_filter(parse({"year": 1})) == parse({"year": 1})
    with pytest.raises(FilterError, match="a dict, a function or a filter tree"):
        document_filter(7)


@pytest.mark.parametrize(
    "module", ["", ".embeddings", ".retriever", ".compressor", ".documents", ".tool"]
)
def test_without_langchain_every_module_gives_the_pip_line(module: str) -> None:
    code = f"""
import sys
sys.modules["langchain_core"] = None
from bge_m3_integrations import MissingExtraError
try:
    import bge_m3_integrations.langchain{module}
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "bge-m3-integrations[langchain]"' in done.stdout


def test_importing_the_adapters_loads_no_torch() -> None:
    code = """
import sys
from bge_m3_integrations.langchain import BGEM3Embeddings, BGEM3Reranker, BGEM3Retriever
BGEM3Embeddings(model="no-such-model")
print({"torch", "transformers", "llama_index"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_scores_take_the_place_of_a_value_of_their_name_in_a_copy_alone() -> None:
    document = Document(id="a", page_content="tea", metadata={"bge_m3_scores": "mine"})
    retriever = BGEM3Retriever.from_documents([document], BGEM3(FakeEncoder()), include_scores=True)
    [found] = retriever.invoke("tea")
    assert found.metadata["bge_m3_scores"].keys() >= {"score", "fusion", "hybrid"}
    assert document.metadata == {"bge_m3_scores": "mine"}
    assert retriever.index.get(["a"])[0].metadata == {"bge_m3_scores": "mine"}  # type: ignore[union-attr]


NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
HOLDING_ITSELF: list[Any] = []
HOLDING_ITSELF.append(HOLDING_ITSELF)


def test_a_date_comes_back_and_is_filtered_by_as_its_text() -> None:
    metadata = {"at": NOW, "local": datetime(2026, 1, 2), "day": date(2026, 1, 2)}
    document = Document(id="a", page_content="one", metadata=metadata)
    record = to_record(document)
    assert to_document(record) == document
    assert document.metadata == metadata
    assert matches(parse({"at": {"$gte": "2026-01-01"}, "day": "2026-01-02"}), record.metadata)
    kept = document_filter(lambda document: document.metadata["at"] == NOW)
    assert kept is not None
    assert matches(kept, record.metadata, record=record)
    assert to_record(Document(id="a", page_content="one")).payload is None


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        ([NOW], "isoformat"),
        (pd.Timestamp(2026, 1, 2), "isoformat"),
        (Decimal(1), "float"),
        (np.zeros(1), "tolist"),
        (10**5000, "5,001 digits"),
        (HOLDING_ITSELF, "levels"),
    ],
    ids=range(6),
)
def test_what_no_store_keeps_is_refused_by_the_documents_id(value: Any, fix: str) -> None:
    with pytest.raises(InputError, match="document 'the-id': metadata") as error:
        to_record(Document(id="the-id", page_content="one", metadata={"v": value}))
    assert fix in str(error.value)


def test_values_of_numpy_become_pythons() -> None:
    metadata = {"year": np.int64(2020), "on": np.bool_(True), "tags": (np.str_("a"),)}
    record = to_record(Document(page_content="one", metadata=metadata))
    assert repr(record.metadata) == "{'year': 2020, 'on': True, 'tags': ['a']}"
