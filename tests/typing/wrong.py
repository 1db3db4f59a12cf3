"""Calls that type checkers must refuse: one in every line that ends in "# wrong"."""

from __future__ import annotations

from pathlib import Path

from bge_m3_integrations import BGEM3, HybridIndex, Record, Weights
from bge_m3_integrations import langchain as lc
from bge_m3_integrations import llama_index as li


def engines() -> None:
    BGEM3(model_name="BAAI/bge-m3")  # wrong
    BGEM3(use_fp16=True)  # wrong
    engine = BGEM3(device="cpu")
    engine.encode(["text"], kind="passage")  # wrong
    engine.encode(["text"], batch_size=8)  # wrong
    engine.encode_queries(["text"], return_dense=True)  # wrong
    engine.similarity("a", "b", mode="cosine")  # wrong
    engine.score(["a"], ["b"], weights_for_different_modes=[1, 1, 1])  # wrong
    engine.rerank("a", ["b"], top_k=3)  # wrong
    engine.count_tokens(3)  # wrong
    Weights(dense="much")  # wrong
    Record(id="a", text="b", metadatas={})  # wrong


def indexes(engine: BGEM3, folder: Path) -> None:
    index = HybridIndex(engine)
    index.search("query", top_k=3)  # wrong
    index.search("query", filter={"n": 1})  # wrong
    index.search_batch(["query"], k=3)  # wrong
    index.add([3])  # wrong
    HybridIndex.open(folder, engine, persist_directory="x")  # wrong
    name = index.search("query")[0].txt  # wrong
    index.delete(ids=name, filter={})  # wrong


def adapters(engine: BGEM3, index: HybridIndex, folder: Path) -> None:
    lc.BGEM3VectorStore(engine, persist_directory=folder)  # wrong
    lc.BGEM3VectorStore(engine).similarity_search("query", wrong=3)  # wrong
    li.BGEM3Retriever(index, top_k=3)  # wrong
