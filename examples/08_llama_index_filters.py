"""A LlamaIndex vector store in memory: query modes, nested filters, diversity.

Runs offline on the demo checkpoint; BGE_M3_PATH names another one.
"""

from __future__ import annotations

import os
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.vector_stores import FilterCondition, MetadataFilter, MetadataFilters

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.demo import checkpoint_path, load_corpus
from bge_m3_integrations.llama_index import BGEM3Embedding, BGEM3VectorStore

QUESTION = "how to filter by metadata"
ENGLISH = MetadataFilter(key="lang", value="en")
CHINESE = MetadataFilter(key="lang", value="zh")


def titled(word: str) -> MetadataFilter:
    """A test for a word in the title, in any case."""
    return MetadataFilter(key="title", value=word, operator="text_match_insensitive")


def main() -> None:
    """Index the handbook and search it in several ways."""
    engine = BGEM3(os.environ.get("BGE_M3_PATH") or checkpoint_path())
    store = BGEM3VectorStore(HybridIndex(engine))
    store.index.add(load_corpus())  # records of any adapter are nodes here
    index = VectorStoreIndex.from_vector_store(store, embed_model=BGEM3Embedding(engine=engine))

    def show(title: str, **options: Any) -> None:
        print(title)
        retriever = index.as_retriever(**{"similarity_top_k": 3, **options})
        for found in retriever.retrieve(QUESTION):
            print(f"  {found.score:.3f}  {found.node.node_id:<32} {found.node.metadata['title']}")

    show("Dense, sparse and ColBERT together:")
    show("By dense scores alone:", vector_store_kwargs={"weights": (1, 0, 0)})
    show("By sparse scores alone:", vector_store_query_mode="sparse")
    show("Half dense, half sparse:", vector_store_query_mode="hybrid", alpha=0.5)
    diverse = {"mmr_threshold": 0.3}
    show("Unlike each other:", vector_store_query_mode="mmr", vector_store_kwargs=diverse)

    either = MetadataFilters(
        filters=[titled("filter"), titled("index")], condition=FilterCondition.OR
    )
    english = MetadataFilters(filters=[ENGLISH, either], condition=FilterCondition.AND)
    show("English, with one of two words in the title:", filters=english)
    neither = MetadataFilters(filters=[CHINESE, either], condition=FilterCondition.NOT)
    show("Not Chinese, with neither word in the title:", filters=neither)

    forwards, pages = engine.stats.forwards, store.index.count()
    print(f"\n{forwards} forward passes for {pages} pages and a question")


if __name__ == "__main__":
    main()
