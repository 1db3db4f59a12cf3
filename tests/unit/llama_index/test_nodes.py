"""Nodes to records and back."""

from __future__ import annotations

import copy
import datetime
from typing import Any

import numpy as np
import pytest
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    IndexNode,
    MetadataMode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)

from bge_m3_integrations import InputError, Record
from bge_m3_integrations.core.filters import matches
from bge_m3_integrations.llama_index import node_to_record, record_to_node
from bge_m3_integrations.llama_index.nodes import REF_DOC_KEY, of_documents


def rich_node() -> TextNode:
    return TextNode(
        id_="n1",
        text="body",
        metadata={"title": "T", "secret": "s", "tags": ["a", {"deep": [1]}]},
        excluded_embed_metadata_keys=["secret"],
        excluded_llm_metadata_keys=["title"],
        metadata_template="{key}={value}",
        metadata_separator="; ",
        text_template="{metadata_str} | {content}",
        start_char_idx=3,
        end_char_idx=7,
        relationships={
            NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc", metadata={"x": 1}),
            NodeRelationship.CHILD: [RelatedNodeInfo(node_id="c1"), RelatedNodeInfo(node_id="c2")],
        },
    )


@pytest.mark.parametrize(
    "node",
    [
        rich_node(),
        TextNode(id_="empty", text=""),
        Document(id_="d", text="whole", metadata={"a": None}),
        IndexNode(id_="i", text="points on", index_id="table"),
        ImageNode(id_="p", text="a picture", image_url="file.png"),
    ],
    ids=["text", "empty", "document", "index", "image"],
)
def test_a_node_comes_back_equal_and_of_its_own_class(node: BaseNode) -> None:
    back = record_to_node(node_to_record(node))
    assert type(back) is type(node)
    assert back == node
    assert back.ref_doc_id == node.ref_doc_id


def test_the_embed_text_is_encoded_and_the_bare_text_is_shown() -> None:
    record = node_to_record(rich_node())
    assert record.text == "title=T; tags=['a', {'deep': [1]}] | body"
    assert record.display_text == "body"
    assert record.id == "n1"


def test_an_embedding_that_a_node_carries_is_not_kept() -> None:
    node = TextNode(id_="n", text="x", embedding=[1.0, 2.0])
    assert record_to_node(node_to_record(node)).embedding is None
    assert node.embedding == [1.0, 2.0]


def test_a_record_shares_nothing_with_its_node_nor_a_node_with_its_record() -> None:
    node = rich_node()
    record = node_to_record(node)
    held = copy.deepcopy(record)
    node.metadata["tags"][1]["deep"].append(2)
    record_to_node(record).metadata["tags"][1]["deep"].append(3)
    assert record == held


def test_a_record_of_another_adapter_becomes_a_text_node_that_embeds_as_it_was_indexed() -> None:
    record = Record("r", "what was encoded", {"lang": "en", "n": [1]}, payload={"other": 1})
    node = record_to_node(record)
    assert isinstance(node, TextNode)
    assert (node.node_id, node.text, node.metadata) == ("r", record.text, {"lang": "en", "n": [1]})
    assert node.get_content(metadata_mode=MetadataMode.EMBED) == record.text
    node.metadata["n"].append(2)
    assert record.metadata["n"] == [1]


def test_content_is_preferred_over_the_encoded_text_for_a_reader() -> None:
    assert record_to_node(Record("r", "title body", content="body")).get_content() == "body"


def test_metadata_that_json_cannot_hold_is_refused_by_name() -> None:
    node = TextNode(id_="n7", text="x", metadata={"when": datetime.date(2020, 1, 1)})
    with pytest.raises(InputError, match=r"n7.*date"):
        node_to_record(node)


def test_values_of_numpy_become_pythons_in_the_node_and_in_what_it_came_from() -> None:
    source = RelatedNodeInfo(node_id="d", metadata={"year": np.int64(2020)})
    node = TextNode(id_="n", text="x", metadata={"year": np.int64(2020), "on": np.bool_(True)})
    node.relationships[NodeRelationship.SOURCE] = source
    back = record_to_node(node_to_record(node))
    assert repr(back.metadata) == "{'year': 2020, 'on': True}"
    assert repr(back.relationships[NodeRelationship.SOURCE].metadata) == "{'year': 2020}"  # type: ignore[union-attr]


@pytest.mark.parametrize("levels", [101, 1000])
def test_metadata_too_deep_to_be_read_are_refused_by_the_nodes_id(levels: int) -> None:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    with pytest.raises(InputError, match=r"node 'n7': metadata.*100 levels"):
        node_to_record(TextNode(id_="n7", text="x", metadata={"v": value}))


def test_a_nodes_source_can_be_filtered_by_and_is_not_shown_by_the_node() -> None:
    node = rich_node()
    record = node_to_record(node)
    assert record.metadata == {**node.metadata, REF_DOC_KEY: "doc"}
    assert record_to_node(record).metadata == node.metadata
    assert REF_DOC_KEY not in node_to_record(TextNode(id_="alone", text="x")).metadata


@pytest.mark.parametrize(
    ("ids", "found"), [(["d"], ["a", "b"]), (["d", "c"], ["a", "b", "c"]), (["a"], []), ([], [])]
)
def test_a_document_is_its_nodes_and_a_node_without_a_source_is_its_own(
    ids: list[str], found: list[str]
) -> None:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="d")}
    nodes = [TextNode(id_=name, text="x", relationships=source) for name in ("a", "b")]
    records = [node_to_record(node) for node in [*nodes, TextNode(id_="c", text="x")]]
    where = of_documents(ids)
    assert [r.id for r in records if matches(where, r.metadata, record_id=r.id)] == found


def test_a_source_survives_the_way_through_another_adapter() -> None:
    record = node_to_record(rich_node())
    elsewhere = Record(record.id, record.display_text, copy.deepcopy(dict(record.metadata)))
    back = record_to_node(elsewhere)
    assert back.ref_doc_id == "doc"
    assert REF_DOC_KEY not in back.metadata
    assert node_to_record(back).metadata == record.metadata
    assert back.get_content(metadata_mode=MetadataMode.EMBED) == "body"


def test_metadata_under_the_key_of_the_source_is_refused_unless_it_says_the_same() -> None:
    node = rich_node()
    node.metadata[REF_DOC_KEY] = "doc"
    assert node_to_record(node).metadata[REF_DOC_KEY] == "doc"
    node.metadata[REF_DOC_KEY] = "another"
    with pytest.raises(InputError, match=f"n1.*'another'.*{REF_DOC_KEY}.*'doc'"):
        node_to_record(node)
