"""Question answering with LlamaIndex: retrieve and rerank by all three scores of BGE-M3.

Runs offline on the demo checkpoint and a mock LLM, which answers with the prompt it was given. For
a real one, set BGE_M3_EXAMPLE_LLM to the name of an OpenAI model, OPENAI_API_KEY to a key, and
install llama-index-llms-openai. BGE_M3_PATH names another checkpoint.
"""

from __future__ import annotations

import os

from llama_index.core.llms import LLM, MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import Document

from bge_m3_integrations import BGEM3, Record
from bge_m3_integrations.demo import checkpoint_path, load_corpus
from bge_m3_integrations.llama_index import BGEM3Reranker, BGEM3Retriever

QUESTION = "Why does a query cost two forward passes, and how can it cost one?"


def choose_llm() -> LLM:
    """The LLM that the environment names, or the mock."""
    name = os.environ.get("BGE_M3_EXAMPLE_LLM")
    if not name:
        return MockLLM()
    from llama_index.llms.openai import OpenAI

    return OpenAI(model=name)


def as_document(record: Record) -> Document:
    """A document whose metadata is not encoded: its title is the first line of the text."""
    return Document(
        id_=record.id,
        text=record.text,
        metadata=dict(record.metadata),
        excluded_embed_metadata_keys=list(record.metadata),
    )


def main() -> None:
    """Index the handbook, ask one question, show where the answer came from."""
    engine = BGEM3(os.environ.get("BGE_M3_PATH") or checkpoint_path())

    # Over one engine, and made before the documents are added: no text is encoded twice.
    reranker = BGEM3Reranker(engine=engine, top_n=3, keep_retrieval_score=True)
    retriever = BGEM3Retriever.from_documents(
        [as_document(record) for record in load_corpus()],
        engine,
        similarity_top_k=10,
        weights=(2, 1, 0),  # dense and sparse find, the reranker adds ColBERT
    )
    query_engine = RetrieverQueryEngine.from_args(
        retriever, llm=choose_llm(), node_postprocessors=[reranker]
    )

    answer = query_engine.query(QUESTION)
    print(f"{QUESTION}\n\n{answer}\n\nSources:")
    for source in answer.source_nodes:
        found = source.node.metadata["retrieval_score"]
        print(f"  {source.score:.3f} (found with {found:.3f})  {source.node.metadata['title']}")
    chunks = retriever.index.count()
    print(f"\n{engine.stats.forwards} forward passes for {chunks} chunks and one question")


if __name__ == "__main__":
    main()
