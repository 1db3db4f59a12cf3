"""Reranking 100 documents: from their texts, and from stored embeddings in memory.

python -m benchmarks.rerank --cache CACHE --json rerank.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import _cases
from benchmarks._cases import Case
from benchmarks._peers import Setting
from benchmarks._shape import Shape
from benchmarks._vectors import lexical_rows, offsets, unit_rows
from benchmarks._workloads import text_of

if TYPE_CHECKING:
    from bge_m3_integrations.core.embeddings import EmbeddingBatch

DOCUMENTS, DOCUMENT_TOKENS, QUERY_TOKENS, WIDTH = 100, 120, 16, 1024
WEIGHTS = (0.4, 0.2, 0.4)
_FLOPS = 2.0 * (QUERY_TOKENS - 1) * DOCUMENTS * (DOCUMENT_TOKENS - 1) * WIDTH

Call = Callable[[], np.ndarray]


def _texts(setting: Setting) -> tuple[str, list[str]]:
    shape = Shape.of(setting.checkpoint)
    query = text_of(QUERY_TOKENS, shape=shape, seed=(1,))
    return query, [text_of(DOCUMENT_TOKENS, shape=shape, seed=(2, i)) for i in range(DOCUMENTS)]


def _fresh_ours(setting: Setting, *, dtype: str) -> Call:
    from bge_m3_integrations import BGEM3

    engine = BGEM3(setting.checkpoint, device="cpu", dtype=dtype)
    query, documents = _texts(setting)
    engine.encode_documents([f"{document} babeci" for document in documents[:2]])

    def call() -> np.ndarray:
        ranked = engine.rerank(query, documents, weights=WEIGHTS)
        return np.array([row.score for row in sorted(ranked, key=lambda row: row.index)])

    return call


def _fresh_flag(setting: Setting) -> Call:
    from FlagEmbedding import BGEM3FlagModel

    model = BGEM3FlagModel(str(setting.checkpoint), use_fp16=False, devices="cpu")
    query, documents = _texts(setting)
    model.encode([f"{document} babeci" for document in documents[:2]])
    pairs = [(query, document) for document in documents]

    def call() -> np.ndarray:
        found = model.compute_score(
            pairs,
            batch_size=12,
            max_passage_length=8192,
            weights_for_different_modes=list(WEIGHTS),
        )
        return np.array(found["colbert+sparse+dense"])

    return call


def _batch(texts: int, tokens: int, *, seed: int, stored: str = "float32") -> EmbeddingBatch:
    """Embeddings as a store holds them."""
    from bge_m3_integrations.core.embeddings import EmbeddingBatch, SparseRows, TokenVectors

    vectors = unit_rows(texts * (tokens - 1), WIDTH, seed=seed).astype(stored)
    return EmbeddingBatch(
        dense=unit_rows(texts, WIDTH, seed=seed + 1),
        sparse=SparseRows.from_dicts(lexical_rows(texts, tokens - 2, seed=seed + 2)),
        colbert=TokenVectors(vectors, offsets((tokens - 1,) * texts)),
        tokens=np.full(texts, tokens),
        truncated=np.zeros(texts, np.int64),
    )


def _stored_ours(setting: Setting, *, stored: str, kernel: bool = False) -> Call:
    """All three components, their weighted mean and the ranking."""
    from bge_m3_integrations.core import scoring
    from bge_m3_integrations.core.embeddings import ALL_MODES
    from bge_m3_integrations.core.fusion import Candidates
    from bge_m3_integrations.core.scores import Components, Weights
    from bge_m3_integrations.core.weighting import WeightProfile
    from bge_m3_integrations.engine.engine import ranking

    query = _batch(1, QUERY_TOKENS, seed=10)
    documents = _batch(DOCUMENTS, DOCUMENT_TOKENS, seed=20, stored=stored)
    weights = Weights.parse(WEIGHTS)
    if kernel:  # without it, nothing of torch is to be in memory
        from bge_m3_integrations.encoders.torch.maxsim import maxsim

    def call() -> np.ndarray:
        if not kernel:
            parts = scoring.components(query, documents, ALL_MODES)
        else:
            parts = Components(
                dense=scoring.dense(query.dense, documents.dense),
                sparse=scoring.lexical(query.sparse, documents.sparse),
                colbert=maxsim(query.colbert, documents.colbert),
            )
        ranking(Candidates((), parts.take(0), 0.0), WeightProfile(None, weights))
        return scoring.hybrid(parts, weights).hybrid[0]

    return call


def _stored_flag(setting: Setting) -> Call:
    """Its three scoring functions over stored vectors, as its documentation shows them."""
    from FlagEmbedding import BGEM3FlagModel

    query = _batch(1, QUERY_TOKENS, seed=10)
    documents = _batch(DOCUMENTS, DOCUMENT_TOKENS, seed=20)
    left = {str(k): v for k, v in query.sparse.as_dict(0).items()}
    right = [{str(k): v for k, v in documents.sparse.as_dict(i).items()} for i in range(DOCUMENTS)]
    vectors = [documents.colbert.row(i) for i in range(DOCUMENTS)]
    lexical = partial(BGEM3FlagModel.compute_lexical_matching_score, None)
    colbert = partial(BGEM3FlagModel.colbert_score, None)

    def call() -> np.ndarray:
        dense = query.dense @ documents.dense.T
        sparse = lexical([left], right)
        late = np.array([[float(colbert(query.colbert.vectors, one)) for one in vectors]])
        wd, ws, wc = WEIGHTS
        return (wd * dense + ws * sparse + wc * late)[0] / (wd + ws + wc)

    return call


def _case(task: str, name: str, make: Any) -> Case:
    ours = name.startswith("ours")
    package = "torch" if ours else "FlagEmbedding"
    versions = ("bge-m3-integrations" if ours else "FlagEmbedding", "torch")
    flops = _FLOPS if task == "stored" else 0.0
    return Case(task, name, (package,), versions, make, flops=flops, slow=task == "fresh")


CASES = (
    _case("fresh", "ours-fp32", partial(_fresh_ours, dtype="float32")),
    _case("fresh", "ours-bf16", partial(_fresh_ours, dtype="bfloat16")),
    _case("fresh", "ours-int8", partial(_fresh_ours, dtype="int8")),
    _case("fresh", "flag", _fresh_flag),
    _case("stored", "ours-numpy", partial(_stored_ours, stored="float32")),
    _case("stored", "ours-numpy-fp16", partial(_stored_ours, stored="float16")),
    _case("stored", "ours-kernel-fp32", partial(_stored_ours, stored="float32", kernel=True)),
    _case("stored", "flag-loop", _stored_flag),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    _cases.main("benchmarks.rerank", __doc__ or "", CASES, arguments)


if __name__ == "__main__":
    main()
