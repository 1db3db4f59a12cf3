"""Storage contexts around a `BGEM3VectorStore`, and the words that LlamaIndex's engines take."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from llama_index.core import StorageContext
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.schema import BaseNode, ImageNode, IndexNode
from llama_index.core.vector_stores.simple import DEFAULT_VECTOR_STORE, SimpleVectorStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.index.arguments import (
    EngineLike,
    IndexLike,
    engine_of,
    given_once,
    has_index,
)
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.llama_index.vector_store import BGEM3VectorStore

_TWICE = "the first argument and {}="


def with_ours(
    given: StorageContext | None, vector_store: BGEM3VectorStore | None, engine: BGEM3 | None
) -> StorageContext:
    """The given storage context, or a new one, with our vector store as its default one.

    The store is put into it so that its `persist` writes what the index holds; an empty
    `SimpleVectorStore` there is replaced. Without a store there is a new one in memory, over the
    engine or `BGEM3()`. Arguments that contradict each other are an `InputError`.
    """
    if given is not None and not isinstance(given, StorageContext):
        raise InputError(
            f"storage_context must be a StorageContext, not {type(given).__name__}; an engine goes "
            "by engine=, a vector store by vector_store="
        )
    held = None if given is None else given.vector_stores.get(DEFAULT_VECTOR_STORE)
    if isinstance(held, SimpleVectorStore) and not held.data.embedding_dict:
        held = None  # what every storage context begins with
    if held is not None and vector_store is not None and held is not vector_store:
        raise InputError(
            f"the storage context's {type(held).__name__} is not the given vector_store; give one"
        )
    store = vector_store if held is None else held
    if store is None:
        store = BGEM3VectorStore(HybridIndex(BGEM3() if engine is None else engine))
    if not isinstance(store, BGEM3VectorStore):
        raise InputError(
            f"BGEM3Index needs a BGEM3VectorStore, not the {type(store).__name__} it was given"
        )
    if engine is not None and store.engine is not engine:
        raise InputError(
            f"the engine over {engine.name} is not the vector store's, over {store.engine.name}; "
            "give one of them"
        )
    context = StorageContext.from_defaults() if given is None else given
    context.vector_stores[DEFAULT_VECTOR_STORE] = store
    return context


def parted(
    nodes: Sequence[BaseNode] | EngineLike | IndexLike | None,
    engine: EngineLike | None,
    vector_store: IndexLike | None,
) -> tuple[Sequence[BaseNode] | None, BGEM3 | None, BGEM3VectorStore | None]:
    """Nodes, the engine and the vector store, where either of the latter may come first.

    What a vector store can be made over stands for one; `InputError` where one of both comes twice.
    """
    first: Any = nodes
    if has_index(first):
        vector_store, first = given_once(first, vector_store, _TWICE.format("vector_store")), None
    elif isinstance(first, BGEM3) or hasattr(first, "engine"):
        engine, first = given_once(engine_of(first), engine, _TWICE.format("engine")), None
    if vector_store is not None and not isinstance(vector_store, BasePydanticVectorStore):
        vector_store = BGEM3VectorStore(vector_store)
    made: Any = vector_store
    return first, None if engine is None else engine_of(engine), made


def lists_texts(struct: IndexDict, context: StorageContext) -> bool:
    """Whether an index was made with `store_nodes_override`: its list has plain nodes too."""
    listed = struct.nodes_dict.values()
    held = (context.docstore.get_document(i, raise_error=False) for i in listed)
    return any(node is not None and not isinstance(node, ImageNode | IndexNode) for node in held)


def store_of(context: StorageContext) -> BGEM3VectorStore:
    """The vector store of a context from `with_ours`."""
    return cast(BGEM3VectorStore, context.vector_stores[DEFAULT_VECTOR_STORE])


def struct_of(context: StorageContext, index_id: str | None, persist_dir: str | Path) -> IndexDict:
    """LlamaIndex's own description of one index that was loaded; no id means the only one there."""
    held = {struct.index_id: struct for struct in context.index_store.index_structs()}
    if index_id is None and len(held) == 1:
        index_id = next(iter(held))
    struct = held.get(index_id or "")
    if not isinstance(struct, IndexDict):
        raise StoreError(
            f"{persist_dir} has the indexes {sorted(held)}, of which index_id={index_id!r} names "
            "none; give one of them"
        )
    return struct


def words(function: Any) -> set[str]:
    """The parameters that have names."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
    named = {name for name, parameter in parameters.items() if parameter.kind in kinds}
    return named - {"self", "cls", "index", "retriever"}


def engine_words() -> set[str]:
    """The keywords that `as_query_engine` and `as_chat_engine` hand to `as_retriever` as well."""
    from llama_index.core import chat_engine
    from llama_index.core.query_engine import RetrieverQueryEngine

    return set().union(
        words(RetrieverQueryEngine.from_args),
        words(chat_engine.ContextChatEngine.from_defaults),
        words(chat_engine.CondensePlusContextChatEngine.from_defaults),
        words(chat_engine.CondenseQuestionChatEngine.from_defaults),
    )
