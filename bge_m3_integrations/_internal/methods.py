"""Missing methods: one table of other libraries' names, and the error that says what to call."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

_NAMES: Sequence[tuple[str, str]] = (
    # our methods, of which the first that a class has is meant | other libraries' names
    ("as_query_engine similarity_search search retrieve invoke", "query ask"),
    (
        "similarity_search search retrieve invoke as_retriever query",
        "search retrieve invoke find hybrid_search similarity_search get_relevant_documents",
    ),
    ("asimilarity_search asearch aretrieve ainvoke", "aget_relevant_documents aquery"),
    (
        "encode embed_documents get_text_embedding_batch",
        "encode embed embed_texts encode_documents encode_batch encode_corpus",
    ),
    ("encode_queries embed_query get_query_embedding", "encode_query embed_query"),
    (
        "score_pairs score rerank postprocess_nodes",
        "compute_score compute_scores predict score compute_lexical_matching_score colbert_score",
    ),
    ("rerank postprocess_nodes", "rank rerank rerank_documents compress_documents"),
    ("add_documents insert_nodes add", "add add_documents upsert insert add_nodes add_texts"),
    ("get_by_ids get_nodes get", "get get_by_id fetch peek"),
    ("persist", "save save_to_disk save_local dump"),
    ("delete", "delete_by_ids remove delete_ids"),
    ("length_function count_tokens", "count_tokens get_num_tokens"),
)
_REMARKS: Mapping[str, str] = {
    "persist save save_local save_to_disk dump flush_to_disk": (
        "an index in a folder (path=) is saved by each call that adds or deletes, and "
        "index.backup(folder) copies it"
    ),
    "load_local load_from_disk from_existing_collection from_existing_index from_client "
    "from_collection from_params from_uri": (
        "an index that exists is opened by its folder: BGEM3VectorStore(engine, path=...)"
    ),
    "delete_collection reset_collection drop drop_collection drop_index": (
        "delete(delete_all=True) deletes all documents (in LlamaIndex: clear())"
    ),
    "add_embeddings from_embeddings": (
        "texts are encoded here, in all modes: from_texts, add_texts and add_documents"
    ),
    "update_document update_documents update": (
        "adding a document with the id of a stored one replaces it"
    ),
    "count ntotal size num_entities": "len(index) counts the records",
    "collection col docstore index_to_docstore_id": "the records are in the attribute index",
    "similarity_search_by_vector_with_relevance_scores similarity_search_with_vectors "
    "max_marginal_relevance_search_with_score": (
        "include_scores=True puts the scores into each document's metadata"
    ),
}
"""Said where the class has no method for the thing."""

_NAME = "__getattr__"
_REMARK_OF = {name: remark for names, remark in _REMARKS.items() for name in names.split()}


class HintingMeta(ABCMeta):
    """Says what to call in place of a class method that a class does not have."""

    if not TYPE_CHECKING:  # a checker would take every misspelt name for one that there is

        def __getattr__(cls, name: str) -> Any:
            raise AttributeError(missing(cls, name), name=name, obj=cls)


def missing(owner: object, name: str) -> str:
    """Say what to call in place of a method that there is not.

    Args:
        owner: The object, or the class.
        name: Of the attribute that was looked for.

    Returns:
        Python's own message, with a hint where other libraries have such a method.
    """
    cls = owner if isinstance(owner, type) else type(owner)
    kind = "type object " if isinstance(owner, type) else ""
    noun = "" if kind else " object"
    said = f"{kind}{cls.__name__!r}{noun} has no attribute {name!r}"
    hint = _hint(cls, name)
    return f"{said}; {hint}" if hint else said


def hint_methods(cls: type) -> None:
    """Have a class's objects say what to call in place of a method that they do not have.

    Args:
        cls: What its bases do for missing attributes is done first.
    """
    held = next((vars(base)[_NAME] for base in cls.__mro__ if _NAME in vars(base)), None)
    before: Callable[[object, str], Any] = held or object.__getattribute__

    def find(self: object, name: str) -> Any:
        if _is_defined(type(self), name) or _hint(type(self), name) is None:
            return before(self, name)  # a property's own error is not hidden
        raise AttributeError(missing(self, name), name=name, obj=self)

    setattr(cls, _NAME, find)


def _is_defined(cls: type, name: str) -> bool:
    return any(name in vars(base) for base in cls.__mro__)


def _hint(cls: type, name: str) -> str | None:
    for ours, foreign in _NAMES:
        if name in foreign.split():
            for meant in ours.split():
                if _is_defined(cls, meant):
                    return f"did you mean {meant}?"
    remark = _REMARK_OF.get(name)
    return None if remark is None else f"{remark}."
