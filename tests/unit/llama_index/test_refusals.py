"""Values of another kind than LlamaIndex's interfaces have are named, with what was meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.schema import NodeWithScore, TextNode

from bge_m3_integrations import BGEM3, InputError
from bge_m3_integrations.llama_index import BGEM3Index, BGEM3Reranker, BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder

ENGINE = BGEM3(FakeEncoder())
NODE = TextNode(text="tea", id_="tea")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BGEM3VectorStore(ENGINE).query("tea"), r"not str.*query_str=\.\.\."),
        (
            lambda: BGEM3Reranker(ENGINE).postprocess_nodes([NODE], query_str="tea"),
            r"nodes\[0\] must be a NodeWithScore, not TextNode",
        ),
        (
            lambda: BGEM3Reranker(ENGINE).postprocess_nodes([NodeWithScore(node=NODE)], "tea"),
            "must be a QueryBundle, not str; a text goes by query_str=",
        ),
        (lambda: BGEM3Index.from_documents([], ENGINE), "not BGEM3; an engine goes by engine="),
        (lambda: BGEM3Index([], storage_context="x"), "must be a StorageContext, not str"),
    ],
)
def test_a_value_of_another_kind_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
