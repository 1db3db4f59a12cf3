"""A program that runs again over the same folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.schema import TextNode

from bge_m3_integrations import BGEM3
from bge_m3_integrations.llama_index import BGEM3Embedding, BGEM3Index, BGEM3VectorStore
from bge_m3_integrations.llama_index import duplicates as module
from bge_m3_integrations.testing import FakeEncoder

TEXTS = ["the cat sat on the mat", "the dog barks at the cat", "a bird sings in the tree"]
SPLIT: Any = [TokenTextSplitter(chunk_size=16, chunk_overlap=0, tokenizer=str.split)]


def run(path: Path, kind: str) -> int:
    """A program as users write it: documents without ids of their own."""
    documents = [Document(text=text) for text in TEXTS]
    with BGEM3VectorStore(BGEM3(FakeEncoder()), path=path) as store:
        if kind == "ours":
            BGEM3Index.from_documents(documents, vector_store=store, transformations=SPLIT)
        else:
            VectorStoreIndex.from_documents(
                documents,
                storage_context=StorageContext.from_defaults(vector_store=store),
                transformations=SPLIT,
                embed_model=BGEM3Embedding(store),
            )
        return store.index.count()


@pytest.mark.parametrize("kind", ["ours", "stock"])
def test_adding_the_same_documents_again_warns_with_the_fix(tmp_path: Path, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path / "index", kind)
    with pytest.warns(UserWarning, match=r"3 of 3 nodes already.*from_vector_store.*refresh_ref"):
        assert run(tmp_path / "index", kind) == 2 * len(TEXTS)


def test_a_large_index_is_looked_at_in_part(engine: BGEM3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAMPLE", 10)
    texts = [f"text number {i}" for i in range(100)]
    store = BGEM3VectorStore(engine)
    store.add([TextNode(text=text) for text in texts])
    again = BGEM3VectorStore(store.index)
    with pytest.warns(UserWarning, match="10 of 100 nodes already"):
        again.add([TextNode(text=text) for text in texts])


@pytest.mark.filterwarnings("error")
def test_new_texts_known_ids_and_one_text_among_many_are_no_doubles(engine: BGEM3) -> None:
    def added(nodes: list[TextNode]) -> None:
        BGEM3VectorStore(first.index).add(nodes)

    first = BGEM3VectorStore(engine)
    nodes = [TextNode(id_=str(i), text=text) for i, text in enumerate(TEXTS)]
    first.add(nodes)
    added(nodes)
    added([TextNode(text="something new")])
    added([TextNode(text=TEXTS[0]), *(TextNode(text=f"new {i}") for i in range(5))])
