"""Unknown keywords: one table of other libraries' names, and the error that says what was meant."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypedDict, TypeVar, Unpack, cast, get_args, get_origin

from bge_m3_integrations._internal.methods import hint_methods
from bge_m3_integrations.errors import KeywordError

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C")

_CHECKS = "__checks_keywords__"
"""Keywords between classes of this package, which no user gives."""

_NAMES: Sequence[tuple[str, str]] = (
    # our names, of which the first that a signature has is meant | other libraries' names
    (
        "path index persist_dir",
        "persist_directory persist_path db_path dir directory folder folder_path location uri "
        "index_path save_path working_dir persist_location",
    ),
    (
        "engine embedding embed_model model",
        "embedding_function embeddings embedding_model embedder embed_fn embedding_fn encoder "
        "sparse_embedding sparse_embeddings sparse_encoder sparse_embedding_function m3 bge_m3 bge",
    ),
    (
        "model model_name model_name_or_path engine",
        "model_id model_path model_dir checkpoint repo_id name_or_path",
    ),
    ("index vector_store vectorstore store", "hybrid_index retriever"),
    (
        "limit k top_n similarity_top_k",
        "top_k topk n_results num_results max_results n size count n_best",
    ),
    (
        "where filter filters",
        "where_document expr pre_filter post_filter query_filter search_filter metadata_filter "
        "metadata_filters filter_dict metadata",
    ),
    (
        "dtype use_fp16",
        "torch_dtype fp16 half use_half use_bf16 bf16 precision quantization load_in_8bit "
        "load_in_4bit compute_type",
    ),
    (
        "device devices",
        "device_map device_ids target_devices gpu use_gpu cuda device_name",
    ),
    (
        "max_length query_max_length passage_max_length",
        "max_seq_length max_tokens max_len query_maxlen doc_maxlen max_query_length "
        "cross_encoder_max_length max_passage_length document_max_length truncate model_max_length",
    ),
    (
        "batch_size embed_batch_size insert_batch_size",
        "encode_batch_size chunk_size bulk_size mini_batch_size",
    ),
    (
        "weights",
        "weights_for_different_modes hybrid_weights mode_weights weight alpha dense_weight "
        "sparse_weight colbert_weight ensemble_weights ratio",
    ),
    (
        "modes weights",
        "mode return_dense return_sparse return_colbert_vecs return_colbert only_dense "
        "vector_types representations retrieval_mode",
    ),
    (
        "include_scores",
        "return_scores return_score with_score with_scores include_score show_scores",
    ),
    (
        "score_threshold",
        "similarity_cutoff similarity_threshold min_score minimum_score threshold cutoff "
        "relevance_threshold",
    ),
    ("fetch_k fetch mmr_prefetch_k candidates", "num_candidates n_candidates prefetch rescore_k"),
    ("lambda_mult mmr_threshold mmr_lambda", "diversity lambda_ lambda_param"),
    (
        "fusion",
        "fusion_type hybrid_fusion fusion_mode fusion_algorithm ranker rank_fusion ranker_type",
    ),
    (
        "documents texts pairs text_pairs records nodes",
        "docs document doc passages passage corpus sentences sentence text contexts chunks items "
        "inputs input sentence_pairs data",
    ),
    ("query queries", "query_text query_texts query_str question questions q search_query"),
    ("ids node_ids doc_ids", "id uuids keys record_ids document_ids doc_id ref_doc_id ref_doc_ids"),
    ("metadatas metadata", "metas meta payloads payload"),
    (
        "query_instruction query_instruction_for_retrieval",
        "query_prompt query_prefix prompt prompts prompt_name instruction",
    ),
    (
        "document_instruction passage_instruction_for_retrieval",
        "passage_prompt document_prompt passage_prefix document_prefix embed_instruction "
        "text_instruction passage_instruction",
    ),
    ("pooling pooling_method", "pooling_mode pool"),
    ("cache_dir cache", "cache_folder hf_cache download_dir local_dir cache_path"),
    ("token", "use_auth_token auth_token hf_token huggingface_token huggingfacehub_api_token"),
    ("offline", "local_files_only local_only"),
    ("progress show_progress", "show_progress_bar progress_bar tqdm disable_tqdm"),
    ("filter_fields", "payload_indexes indexed_fields index_fields metadata_fields"),
    (
        "search_kwargs",
        "retriever_kwargs k top_k limit top_n similarity_top_k filter filters where weights "
        "candidates fusion score_threshold fetch_k lambda_mult",
    ),
    ("read_only", "readonly"),
    ("create", "create_if_missing exist_ok overwrite"),
)
"""Each row's names stand for one thing, whoever calls it so."""

_REMARKS: Mapping[str, str] = {
    "client aclient url host port grpc_port prefer_grpc connection_args api_key cloud "
    "chroma_cloud_api_key client_settings": "there is no server: an index lives in a folder, path=",
    "chroma_collection faiss_index": (
        "another library's index is not read; ours is in a folder, path="
    ),
    "api_base base_url organization": "there is no server: models run in this process",
    "path persist_directory persist_dir persist_path uri folder": (
        "a folder is opened by HybridIndex.open(path, engine) or BGEM3VectorStore(engine, path=...)"
    ),
    "weights_for_different_modes vector_store_query_mode sparse_top_k hybrid_top_k": (
        "weights= of a vector store, a retriever or a search say how much each score counts"
    ),
    "enable_hybrid enable_sparse enable_dense hybrid_ranker hybrid_ranker_params ranker_params "
    "fastembed_sparse_model": "all three scores are there; weights= says how much each counts",
    "index_params search_params index_config collection_properties collection_metadata "
    "consistency consistency_level hnsw_config vector_name sparse_vector_name content_payload_key "
    "metadata_payload_key text_key doc_id_field embedding_field vector_field text_field": (
        "an index here has no such settings"
    ),
    "docstore index_to_docstore_id": "an index here keeps texts and metadata itself",
    "drop_old force_recreate": (
        "nothing is deleted by opening; delete(delete_all=True) deletes all documents"
    ),
    "offset": "a search has no offset: ask for more and leave out the first ones",
    "show_progress show_progress_bar progress progress_bar": (
        "a bar is shown by what adds to an index: progress="
    ),
    "collection_name collection index_name table_name namespace tenant database": (
        "an index has no name: it lives in a folder of its own, path="
    ),
    "normalize_embeddings normalize normalize_l2 normalise": "all vectors have norm 1",
    "model_kwargs encode_kwargs query_encode_kwargs tokenizer_kwargs use_fp16 use_bf16 fp16 half "
    "dtype torch_dtype precision quantization load_in_8bit device devices device_map max_length "
    "query_max_length passage_max_length max_seq_length pooling pooling_method cache_folder "
    "revision trust_remote_code query_instruction document_instruction": (
        "options of the model are keywords of BGEM3, such as device=, dtype= and max_length="
    ),
    "batch_size encode_batch_size embed_batch_size": (
        "texts are packed by their lengths; BGEM3(token_budget=) bounds a forward pass"
    ),
    "distance metric metric_type distance_strategy similarity_metric similarity_fn_name": (
        "scores are what docs/scores.md says: there is no metric to choose"
    ),
    "truncate_dim dimensions dimension dim embed_dim vector_size": (
        "vectors have the width of the model"
    ),
    "include_scores return_scores with_score with_scores return_score include_score": (
        "results bring their scores: score and components"
    ),
    "search_kwargs search_type": (
        "options of a search are keywords of their own; "
        "BGEM3VectorStore.as_retriever takes search_type= and search_kwargs="
    ),
    "k top_k limit top_n n_results similarity_top_k filter filters where score_threshold fetch_k "
    "lambda_mult candidates": "it is an option of a search",
    "multi_process parallel_process num_workers n_jobs num_threads threads workers parallel": (
        "torch.set_num_threads says how many threads compute"
    ),
}
"""Said where the signature has no name for the thing."""

_TYPO, _FOREIGN_TYPO = 0.7, 0.85
"""Least likeness of a misspelt name: a guess further off would lead astray."""


class NoMore(TypedDict):
    """The type of a catch-all that takes nothing: type checkers see no further keyword."""


def refuse(unknown: Iterable[str], known: Callable[..., Any] | Iterable[str]) -> NoReturn:
    """Raise for keywords that a signature does not have.

    Args:
        unknown: Their names, at least one.
        known: The names that there are, or the function whose parameters they are.

    Raises:
        KeywordError: Always; it says which name was meant.
    """
    names = names_of(known) if callable(known) else list(known)
    raise KeywordError(" ".join(_told_together(list(unknown), names)))


def told(name: str, known: Sequence[str]) -> str:
    """Say what was meant by an unknown keyword, or which keywords there are."""
    return f"unknown keyword {name!r}; {_hint(name, known)}"


def _told_together(unknown: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    """A sentence for each hint, with all names that it is for."""
    by_hint: dict[str, list[str]] = {}
    for name in unknown:
        by_hint.setdefault(_hint(name, known), []).append(repr(name))
    for hint, names in by_hint.items():
        yield f"unknown keyword{'s' * (len(names) > 1)} {', '.join(names)}; {hint}"


def names_of(function: Callable[..., Any]) -> list[str]:
    """The parameters that can be given by name, also those of a catch-all of a typed dict."""
    return _names(_expanded(function))


def checks_itself(function: F) -> F:
    """Mark a method that `public_class` leaves alone: one that runs for each query.

    It refuses unknown keywords itself, by a catch-all of type `NoMore`, or nobody gives it any.
    """
    function.__dict__[_CHECKS] = True
    return function


def public_class(cls: type[C]) -> type[C]:
    """Have a class say which keyword or method was meant, and `dir` show public names.

    Checkers and `inspect.signature` see the signatures as they are written; the latter sees the
    keys of a typed dict in place of `**options: Unpack[...]`. It costs a call, but not where a
    method `checks_itself`.

    Args:
        cls: Its own methods are looked at, those of its bases are not.

    Returns:
        The class.
    """
    for name, held in list(vars(cls).items()):
        if name != "__init__" and name.startswith("_"):
            continue
        if isinstance(held, classmethod | staticmethod):
            setattr(cls, name, type(held)(_hinting(held.__func__)))
        elif inspect.isfunction(held):
            setattr(cls, name, _hinting(held))
    cls.__dir__ = _public_dir  # type: ignore[method-assign]
    hint_methods(cls)
    return cls


def public_function(function: F) -> F:
    """Have a function say which keyword was meant."""
    return cast("F", _hinting(function))


def _public_dir(self: object) -> list[str]:
    """All names but those that begin with one underscore; `object`'s own, which tools look for."""
    held = object.__dir__(self)
    return [name for name in held if name.startswith("__") or not name.startswith("_")]


def _hinting(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a check of its keywords, if it takes any and no others."""
    signature = _expanded(function)
    known = frozenset(_names(signature))
    function.__dict__["__signature__"] = signature
    others = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    if others or not known or _CHECKS in function.__dict__:
        return function

    def check(given: Mapping[str, Any]) -> None:
        if unknown := [name for name in given if name not in known]:
            refuse(unknown, function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            check(kwargs)
        return function(*args, **kwargs)

    @functools.wraps(function)
    async def acall(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            check(kwargs)
        return await function(*args, **kwargs)

    return acall if inspect.iscoroutinefunction(function) else call


def _expanded(function: Callable[..., Any]) -> inspect.Signature:
    """The signature with a typed dict's keys in place of the catch-all that is annotated so."""
    signature = inspect.signature(function)
    kept = list(signature.parameters.values())
    if not kept or kept[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        return signature
    written = kept[-1].annotation
    if isinstance(written, str) and written.startswith("Unpack["):
        written = eval(written, inspect.unwrap(function).__globals__)
    if get_origin(written) is not Unpack:
        return signature
    options = get_args(written)[0].__annotations__
    more = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=...,  # as in a stub: there is one, but not here
            annotation=getattr(kind, "__forward_arg__", kind),
        )
        for name, kind in options.items()
    ]
    return signature.replace(parameters=[*kept[:-1], *more])


def _names(signature: inspect.Signature) -> list[str]:
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = signature.parameters.items()
    return [n for n, p in parameters if p.kind in by_name and n not in {"self", "cls"}]


def _hint(name: str, known: Sequence[str]) -> str:
    meant = _meant(name.lower(), known)
    if meant is not None:
        return f"did you mean {meant}?"
    remark = _REMARK_OF.get(name.lower())
    return remark + "." if remark else f"there are {', '.join(known) or 'none'}."


def _meant(name: str, known: Sequence[str]) -> str | None:
    """The known name for the same thing, else one that is spelt nearly so."""
    for ours in _OURS_OF.get(name, ()):
        if ours in known:
            return ours
    if name in _REMARK_OF:  # what it is called elsewhere is no misspelling
        return None
    near = difflib.get_close_matches(name, known, n=1, cutoff=_TYPO)
    if near:
        return near[0]
    foreign = difflib.get_close_matches(name, _OURS_OF, n=1, cutoff=_FOREIGN_TYPO)
    return next((ours for ours in _OURS_OF[foreign[0]] if ours in known), None) if foreign else None


def _by_name(rows: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Our names for each name; a name of two rows has those of both, in this order."""
    found: dict[str, list[str]] = {}
    for ours, foreign in rows:
        for name in f"{ours} {foreign}".split():
            found.setdefault(name, []).extend(ours.split())
    return found


_OURS_OF = _by_name(_NAMES)
_REMARK_OF = {name: remark for names, remark in _REMARKS.items() for name in names.split()}
