"""Scoring: MaxSim, lexical and dense scores of vectors at hand, and pairs of texts.

python -m benchmarks.score --cache CACHE --json score.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import _cases
from benchmarks._cases import Case
from benchmarks._peers import Setting
from benchmarks._shape import Shape
from benchmarks._vectors import DOCUMENTS, lexical_rows, offsets, unit_rows
from benchmarks._workloads import text_of

WIDTH = 1024
QUERY_VECTORS = 24
_OURS = ("bge-m3-integrations", "torch")
_FLAG = ("FlagEmbedding", "torch")
_FLOPS = 2.0 * QUERY_VECTORS * sum(DOCUMENTS) * WIDTH

Call = Callable[[], np.ndarray]


def _query_vectors() -> np.ndarray:
    return unit_rows(QUERY_VECTORS, WIDTH, seed=1)


def _document_vectors() -> np.ndarray:
    return unit_rows(sum(DOCUMENTS), WIDTH, seed=2)


def _documents() -> list[np.ndarray]:
    return np.split(_document_vectors(), offsets(DOCUMENTS)[1:-1])


def _maxsim_numpy(setting: Setting, *, half: bool = False) -> Call:
    from bge_m3_integrations.core import scoring
    from bge_m3_integrations.core.embeddings import TokenVectors

    query = TokenVectors(_query_vectors(), offsets((QUERY_VECTORS,)))
    held = _document_vectors().astype(np.float16) if half else _document_vectors()
    documents = TokenVectors(held, offsets(DOCUMENTS))
    return lambda: scoring.maxsim(query, documents)


def _maxsim_kernel(setting: Setting) -> Call:
    from bge_m3_integrations.core.embeddings import TokenVectors
    from bge_m3_integrations.encoders.torch.maxsim import maxsim

    query = TokenVectors(_query_vectors(), offsets((QUERY_VECTORS,)))
    documents = TokenVectors(_document_vectors(), offsets(DOCUMENTS))
    return lambda: maxsim(query, documents)


def _maxsim_flag(setting: Setting) -> Call:
    from FlagEmbedding import BGEM3FlagModel

    query, documents = _query_vectors(), _documents()
    score = partial(BGEM3FlagModel.colbert_score, None)  # it uses nothing of the model
    return lambda: np.array([[float(score(query, document)) for document in documents]])


def _maxsim_cpu(setting: Setting) -> Call:
    import maxsim_cpu

    query, documents = _query_vectors(), _documents()

    def call() -> np.ndarray:  # it sums over the query's vectors; BGE-M3 takes their mean
        return maxsim_cpu.maxsim_scores_variable(query, documents)[None] / QUERY_VECTORS

    return call


def _lexical_ours(setting: Setting) -> Call:
    from bge_m3_integrations.core import scoring
    from bge_m3_integrations.core.embeddings import SparseRows

    query = SparseRows.from_dicts(lexical_rows(1, 20, seed=1))
    documents = SparseRows.from_dicts(lexical_rows(1_000, 130, seed=2))
    return lambda: scoring.lexical(query, documents)


def _lexical_flag(setting: Setting) -> Call:
    from FlagEmbedding import BGEM3FlagModel

    query = [{str(k): v for k, v in row.items()} for row in lexical_rows(1, 20, seed=1)]
    documents = [{str(k): v for k, v in row.items()} for row in lexical_rows(1_000, 130, seed=2)]
    score = partial(BGEM3FlagModel.compute_lexical_matching_score, None)
    return lambda: score(query, documents)


def _dense_ours(setting: Setting) -> Call:
    from bge_m3_integrations.core import scoring

    query, documents = unit_rows(1, WIDTH, seed=1), unit_rows(100_000, WIDTH, seed=2)
    return lambda: scoring.dense(query, documents)


def _pairs(setting: Setting) -> list[tuple[str, str]]:
    """Every of 4 queries with every of 8 documents."""
    shape = Shape.of(setting.checkpoint)
    queries = [text_of(12, shape=shape, seed=(1, i)) for i in range(4)]
    documents = [text_of(64, shape=shape, seed=(2, i)) for i in range(8)]
    return [(query, document) for query in queries for document in documents]


def _pairs_ours(setting: Setting, *, dtype: str) -> Call:
    from bge_m3_integrations import BGEM3

    engine = BGEM3(setting.checkpoint, device="cpu", dtype=dtype)
    pairs = _pairs(setting)
    engine.encode_documents([pairs[0][1] + " babeci"])
    return lambda: engine.score_pairs(pairs, weights=(1, 1, 1)).hybrid


def _pairs_flag(setting: Setting) -> Call:
    from FlagEmbedding import BGEM3FlagModel

    model = BGEM3FlagModel(str(setting.checkpoint), use_fp16=False, devices="cpu")
    pairs = _pairs(setting)
    model.encode([pairs[0][1] + " babeci"])
    return lambda: _hybrid(model.compute_score(pairs, batch_size=12, max_passage_length=8192))


def _hybrid(scores: Any) -> np.ndarray:
    return np.array(scores["colbert+sparse+dense"])


def _case(task: str, name: str, make: Any, *, slow: bool = False) -> Case:
    families = {"ours": (("torch",), _OURS), "flag": (("FlagEmbedding",), _FLAG)}
    families["maxsimcpu"] = (("maxsim_cpu",), ("maxsim-cpu",))
    modules, distributions = families[name.partition("-")[0]]
    flops = _FLOPS if task == "maxsim" else 0.0
    return Case(task, name, modules, distributions, make, flops=flops, slow=slow)


CASES = (
    _case("maxsim", "ours-numpy", _maxsim_numpy),
    _case("maxsim", "ours-numpy-fp16", partial(_maxsim_numpy, half=True)),
    _case("maxsim", "ours-kernel-fp32", _maxsim_kernel),
    _case("maxsim", "flag-loop", _maxsim_flag),
    _case("maxsim", "maxsimcpu", _maxsim_cpu),
    _case("lexical", "ours", _lexical_ours),
    _case("lexical", "flag-loop", _lexical_flag),
    _case("dense", "ours", _dense_ours),
    _case("pairs", "ours-fp32", partial(_pairs_ours, dtype="float32"), slow=True),
    _case("pairs", "ours-bf16", partial(_pairs_ours, dtype="bfloat16"), slow=True),
    _case("pairs", "flag", _pairs_flag, slow=True),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    _cases.main("benchmarks.score", __doc__ or "", CASES, arguments)


if __name__ == "__main__":
    main()
