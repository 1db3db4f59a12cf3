"""Warnings of threads point to the user's line that awaits them."""

from __future__ import annotations

import inspect
import warnings

from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from bge_m3_integrations import BGEM3, FilterWarning
from bge_m3_integrations.llama_index import BGEM3Index, BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder


async def test_a_filter_that_matches_nothing_is_told_at_the_line_that_awaits() -> None:
    def missing(key: str) -> MetadataFilters:
        return MetadataFilters(filters=[MetadataFilter(key=key, value=1)])

    store = BGEM3VectorStore(BGEM3(FakeEncoder()))
    store.add([TextNode(text="tea", id_="tea", metadata={"topic": "tea"})])
    index = BGEM3Index(store)

    async def user() -> None:
        await store.adelete_nodes(filters=missing("a"))
        await index.as_retriever(filters=missing("b")).aretrieve("tea")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await user()
    first = inspect.getsourcelines(user)[1]
    told = [(w.category, w.filename, w.lineno) for w in caught]
    assert told == [(FilterWarning, __file__, first + 1), (FilterWarning, __file__, first + 2)]
