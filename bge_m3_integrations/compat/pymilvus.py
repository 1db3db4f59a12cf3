"""`pymilvus.model.hybrid.BGEM3EmbeddingFunction` over this engine, without FlagEmbedding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypedDict, Unpack

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations._internal.keywords import public_class
from bge_m3_integrations.compat.flag_embedding import BGEM3FlagModel
from bge_m3_integrations.core.display import called
from bge_m3_integrations.core.embeddings import SparseRows
from bge_m3_integrations.encoders.config import DEFAULT_MODEL
from bge_m3_integrations.encoders.placement import TorchDevice
from bge_m3_integrations.errors import InputError


class FlagOptions(TypedDict, total=False):
    """The keywords of `compat.BGEM3FlagModel` that pymilvus' class does not name itself."""

    use_bf16: bool
    query_instruction_for_retrieval: str | None
    query_instruction_format: str
    devices: str | int | TorchDevice | list[str] | list[int] | None
    pooling_method: str
    trust_remote_code: bool
    cache_dir: str | None
    colbert_dim: int
    query_max_length: int
    passage_max_length: int
    truncate_dim: int | None
    passage_instruction_for_retrieval: str | None
    passage_instruction_format: str


@public_class
class BGEM3EmbeddingFunction:
    """pymilvus' BGE-M3 embedding function (pymilvus-model 0.3) over this engine.

    Results are dicts with the keys "dense" (a list of `(dim,) float32` arrays), "sparse" (one
    `scipy.sparse.csr_array` of shape `(texts, vocabulary)`, float32; extra "milvus-compat") and
    "colbert_vecs" (a list of `(tokens - 1, colbert_dim) float32` arrays); a mode that is off has no
    key. `docs/migration.md` lists every difference with its reason.

    Args:
        model_name: A folder or a hub id. Loaded at the first use, not here.
        batch_size: Changes nothing: forward passes are batched by tokens.
        device: One device such as "cpu" or "cuda:0"; None or "" chooses one.
        normalize_embeddings: Only True; see `BGEM3FlagModel`.
        use_fp16: float16 on a GPU; a CPU computes in float32.
        return_dense: Whether to return dense vectors.
        return_sparse: Whether to return lexical weights.
        return_colbert_vecs: Whether to return token vectors.
        max_length: Limit in tokens of queries and documents alike, in place of
            `query_max_length` and `passage_max_length` (512 each).
        **options: Further options of `compat.BGEM3FlagModel`, such as
            `query_instruction_for_retrieval`; an unknown one is refused.

    Raises:
        InputError: An argument is unknown, or asks for something this engine does not do.
    """

    def __init__(  # noqa: PLR0917 - pymilvus' order
        self,
        model_name: str | Path = DEFAULT_MODEL,
        batch_size: int = 16,
        device: str | None = None,
        normalize_embeddings: bool = True,
        use_fp16: bool = False,
        return_dense: bool = True,
        return_sparse: bool = True,
        return_colbert_vecs: bool = False,
        *,
        max_length: int | None = None,
        **options: Unpack[FlagOptions],
    ) -> None:
        if max_length is not None:
            limited = [n for n in ("query_max_length", "passage_max_length") if n in options]
            if limited:
                raise InputError(
                    f"max_length={max_length} sets {limited} too; give one or the other"
                )
            options["query_max_length"] = options["passage_max_length"] = max_length
        options.setdefault("devices", device or None)
        self.model_name = model_name
        self.model: BGEM3FlagModel = BGEM3FlagModel(
            model_name,
            normalize_embeddings=normalize_embeddings,
            use_fp16=use_fp16,
            batch_size=batch_size,
            return_dense=return_dense,
            return_sparse=return_sparse,
            return_colbert_vecs=return_colbert_vecs,
            **options,
        )

    def __repr__(self) -> str:
        return called(self, lambda: [repr(self.model)])

    @property
    def dim(self) -> dict[str, int]:
        """Widths: "dense", "colbert_vecs", and "sparse" for the vocabulary; no weights are read."""
        encoder = self.model.engine.encoder
        kept = self.model.truncate_dim
        return {
            "dense": min(encoder.dim, kept or encoder.dim),
            "colbert_vecs": min(encoder.colbert_dim, kept or encoder.colbert_dim),
            "sparse": encoder.vocab_size,
        }

    def __call__(self, texts: Iterable[str]) -> dict[str, Any]:
        """Encode texts without an instruction; see `encode_documents`.

        Args:
            texts: Any number of strings, also none.

        Returns:
            See the class.
        """
        return self._result(self.model.encode, texts)

    def encode_queries(self, queries: Iterable[str]) -> dict[str, Any]:
        """Encode queries, with the query instruction and limit if there are any."""
        return self._result(self.model.encode_queries, queries)

    def encode_documents(self, documents: Iterable[str]) -> dict[str, Any]:
        """Encode documents, with the passage instruction and limit if there are any."""
        return self._result(self.model.encode_corpus, documents)

    def _result(
        self, encode: Callable[[list[str]], dict[str, Any]], texts: Iterable[str]
    ) -> dict[str, Any]:
        if isinstance(texts, str):
            raise InputError(f"texts must be a list of strings, not one string {texts!r}")
        # before the forward pass: a missing extra must not cost one
        sparse = self.model.return_sparse
        scipy_sparse = require("scipy.sparse", extra="milvus-compat") if sparse else None
        output = encode(list(texts))
        result: dict[str, Any] = {}
        if output["dense_vecs"] is not None:
            result["dense"] = list(output["dense_vecs"])
        if scipy_sparse is not None:
            rows = SparseRows.from_dicts(
                {int(token_id): weight for token_id, weight in row.items()}
                for row in output["lexical_weights"]
            )
            result["sparse"] = scipy_sparse.csr_array(
                (rows.weights, rows.token_ids, rows.indptr), shape=(len(rows), self.dim["sparse"])
            )
        if output["colbert_vecs"] is not None:
            result["colbert_vecs"] = output["colbert_vecs"]
        return result
