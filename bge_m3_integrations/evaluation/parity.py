"""Do this installation's numbers equal FlagEmbedding's, and the published ones? Nothing prints."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations.compat.conversions import five_scores
from bge_m3_integrations.core.embeddings import ALL_MODES, EmbeddingBatch, ordered_modes
from bge_m3_integrations.encoders.config import DEFAULT_MODEL
from bge_m3_integrations.encoders.wrapper import innermost
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.evaluation.parity_report import (
    PACKAGES,
    Check,
    Hardware,
    Report,
    cpu_name,
    file_digests,
    installed_version,
    package_versions,
)

TEXTS: tuple[str, ...] = (
    "What is BGE M3?",
    "BGE M3 is an embedding model supporting dense retrieval, lexical matching and "
    "multi-vector interaction.",
    "Defination of BM25",
    "BM25 is a bag-of-words retrieval function that ranks a set of documents based on the query "
    "terms appearing in each document",
    "混合检索的权重怎么选？",
    "混合检索把稠密向量、稀疏词权和多向量的分数按权重相加，权重要在自己的数据上调。",
    "BGE-M3 的 sparse 向量和 BM25 有什么区别？",
    "稀疏权重 (lexical weights) 由模型学到，不是 TF-IDF，也不能跨文本直接比较。",
    "error code E-4021 on model X200-B",
    "型号 X200-B 报错 E-4021 时，请先断电再重启。",
    "naïve café, 123,456.78 EUR, a_b(c)[0] = None",
    "the the the 的的的",
)
"""The texts that are compared: English, Chinese, mixed, codes, repetition."""

WEIGHTS = (0.4, 0.2, 0.4)

LEXICAL_QUERY = TEXTS[0]
PUBLISHED_LEXICAL: Mapping[str, float] = {
    "What": 0.08356,
    "is": 0.0814,
    "B": 0.1296,
    "GE": 0.252,
    "M": 0.1702,
    "3": 0.2695,
    "?": 0.04092,
}
"""Lexical weights that BAAI/bge-m3's model card prints, computed in float16."""

PUBLISHED_PAIRS = tuple((TEXTS[i], TEXTS[j]) for i in (0, 2) for j in (1, 3))
PUBLISHED_SCORES: Mapping[str, tuple[float, ...]] = {
    "dense": (0.62598, 0.34741, 0.34985, 0.67822),
    "sparse": (0.19556, 0.00880, 0.0, 0.18030),
    "colbert": (0.77965, 0.46215, 0.45238, 0.78986),
    "hybrid": (0.60136, 0.32558, 0.32089, 0.62329),
}
"""What the same model card prints for `compute_score` with 0.4, 0.2, 0.4, in float16."""

PUBLISHED_TOLERANCE = 2e-3
"""The published figures were computed in float16."""
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}
"""Largest difference that rounding explains, for lexical weights and scores of a few units."""

FLAG_SCORES = ("dense", "sparse", "colbert", "sparse+dense", "colbert+sparse+dense")


def verify_model(
    model: str, *, device: str = "auto", dtype: str = "float32", published: bool | None = None
) -> Report:
    """Compare a checkpoint's numbers here with every reference that is at hand.

    Args:
        model: A folder or a hub id.
        device: See `BGEM3`.
        dtype: See `BGEM3`; float32 tells rounding from mistakes.
        published: Whether to check the figures published for BAAI/bge-m3; None is for that id.

    Returns:
        The report; `passed` says whether all is well.

    Raises:
        CheckpointError: The checkpoint cannot be had or read.
        InputError: The device or dtype is unknown.
    """
    from bge_m3_integrations.encoders.torch.devices import pick_device, pick_dtype
    from bge_m3_integrations.encoders.torch.hub import resolve_checkpoint

    files = resolve_checkpoint(model)
    where = pick_device(device)
    precision = str(pick_dtype(dtype, where)).removeprefix("torch.")
    engine = BGEM3(str(files.folder), device=str(where), dtype=precision)
    encoder: Any = innermost(engine.encoder)
    tolerance = TOLERANCES[precision]
    checks = [alone_or_together(engine, tolerance=tolerance)]
    notes = []
    flag = _flag_or_reason(engine, files.folder, device=str(where), half=precision == "float16")
    if isinstance(flag, str):
        notes.append(f"not compared with FlagEmbedding: {flag}")
    else:
        checks += compare_with_flag(engine, flag, tolerance=tolerance)
    if model == DEFAULT_MODEL if published is None else published:
        slack = max(tolerance, PUBLISHED_TOLERANCE)
        checks += compare_with_published(engine, tolerance=slack)
    else:
        notes.append(f"the figures published for {DEFAULT_MODEL} do not apply to this model")
    return Report(
        model,
        engine.fingerprint,
        file_digests([*files.weights, *files.heads.values(), files.tokenizer]),
        package_versions(PACKAGES),
        f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}",
        Hardware(
            cpu_name(), os.cpu_count() or 1, str(where), precision, encoder.source.computed_by
        ),
        datetime.now(UTC).isoformat(timespec="seconds"),
        tuple(checks),
        tuple(notes),
    )


def load_flag(folder: Path, *, device: str, half: bool) -> Any:
    """FlagEmbedding's model over the same files; extra "flag"."""
    from bge_m3_integrations._internal.extras import require

    flag_embedding = require("FlagEmbedding", extra="flag")
    return flag_embedding.BGEM3FlagModel(str(folder), use_fp16=half, devices=device)


def _flag_or_reason(engine: BGEM3, folder: Path, *, device: str, half: bool) -> Any:
    """FlagEmbedding's model, or in one line why there is nothing to compare with."""
    if missing := ordered_modes(ALL_MODES - engine.modes):
        return f"the checkpoint has no {' and '.join(missing)} head, and it would make random ones"
    pip = 'run: pip install "bge-m3-integrations[flag]"'
    if find_spec("FlagEmbedding") is None:
        return f"it is not installed; {pip}"
    try:
        return load_flag(folder, device=device, half=half)
    except Exception as error:  # whatever fails in there is no reason to fail here
        versions = [
            f"{name} {installed_version(name)}" for name in ("FlagEmbedding", "transformers")
        ]
        said = " ".join(str(error).split())[:300]
        return (
            f"{versions[0]} does not work with {versions[1]} ({type(error).__name__}: {said}); "
            f"{pip}, which takes versions that fit"
        )


def alone_or_together(engine: BGEM3, *, tolerance: float) -> Check:
    """Whether a text's dense vector is the same alone and in a batch with longer texts."""
    together = _dense(engine.encode_documents(TEXTS, modes={"dense"}))
    alone = [_dense(engine.encode_documents([text], modes={"dense"})) for text in TEXTS]
    return _check("a text alone or in a batch, dense", together, np.concatenate(alone), tolerance)


def compare_with_flag(engine: BGEM3, flag_model: Any, *, tolerance: float) -> list[Check]:
    """Compare embeddings and scores with FlagEmbedding's.

    Args:
        engine: Ours.
        flag_model: A `BGEM3FlagModel` over the same weights.
        tolerance: The largest difference that passes.

    Returns:
        Dense vectors, lexical weights and token vectors of `TEXTS`, then FlagEmbedding's five
        scores of each text with the next. FlagEmbedding scores one pair at a time, since its
        scores depend on the padding of a batch.
    """
    ours = engine.encode_documents(TEXTS)
    theirs = flag_model.encode(
        list(TEXTS), return_dense=True, return_sparse=True, return_colbert_vecs=True
    )
    pairs = list(pairwise(TEXTS))
    expected = [_flag_scores(flag_model, pair) for pair in pairs]
    scores = engine.score_pairs(pairs, weights=WEIGHTS)
    actual = five_scores(scores.components, scores.weights)
    return [
        _check("FlagEmbedding, dense vectors", _dense(ours), theirs["dense_vecs"], tolerance),
        _lexical_check(ours, theirs["lexical_weights"], tolerance),
        _colbert_check(ours, theirs["colbert_vecs"], tolerance),
        *(
            _check(
                f"FlagEmbedding, score {name}",
                actual[name],
                [flag_scores[name] for flag_scores in expected],
                tolerance,
            )
            for name in FLAG_SCORES
        ),
    ]


def compare_with_published(engine: BGEM3, *, tolerance: float) -> list[Check]:
    """Compare with what BAAI/bge-m3's model card prints.

    Args:
        engine: With the weights of BAAI/bge-m3.
        tolerance: The largest difference that passes.

    Returns:
        The lexical weights of `LEXICAL_QUERY`, then four scores of `PUBLISHED_PAIRS`.
    """
    weights = readable_weights(engine, LEXICAL_QUERY)
    scores = engine.score_pairs(PUBLISHED_PAIRS, weights=WEIGHTS)
    found = dict([*scores.components.items(), ("hybrid", scores.hybrid)])
    names = sorted(weights.keys() | PUBLISHED_LEXICAL.keys())
    return [
        _check(
            "published lexical weights",
            [weights.get(name, 0.0) for name in names],
            [PUBLISHED_LEXICAL.get(name, 0.0) for name in names],
            tolerance,
        ),
        *(
            _check(f"published {name} scores", found[name], values, tolerance)
            for name, values in PUBLISHED_SCORES.items()
        ),
    ]


def readable_weights(engine: BGEM3, text: str) -> dict[str, float]:
    """A query's lexical weights by token, without SentencePiece's mark of a word's start."""
    weights = engine.encode_queries([text], modes={"sparse"})[0].sparse or {}
    tokens = engine.encoder.id_to_token(list(weights))
    return {
        token.replace("▁", "").strip(): weight
        for token, weight in zip(tokens, weights.values(), strict=True)
    }


def _dense(batch: EmbeddingBatch) -> NDArray[Any]:
    if batch.dense is None:
        raise InputError('dense vectors were not encoded; add "dense" to modes')
    return batch.dense


def _check(name: str, ours: Any, theirs: Any, tolerance: float) -> Check:
    left, right = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if left.shape != right.shape:
        return Check(f"{name} (shape {left.shape} against {right.shape})", np.inf, tolerance, False)
    difference = float(np.abs(left - right).max(initial=0.0))
    return Check(name, difference, tolerance, difference <= tolerance)


def _lexical_check(
    ours: EmbeddingBatch, theirs: Sequence[Mapping[str, float]], tolerance: float
) -> Check:
    gaps = [0.0]
    for text, expected in zip(ours, theirs, strict=True):
        left = text.sparse or {}
        right = {int(token): float(weight) for token, weight in expected.items()}
        gaps += [abs(left.get(i, 0.0) - right.get(i, 0.0)) for i in left.keys() | right.keys()]
    return _check("FlagEmbedding, lexical weights", gaps, np.zeros(len(gaps)), tolerance)


def _colbert_check(ours: EmbeddingBatch, theirs: Sequence[NDArray[Any]], tolerance: float) -> Check:
    checks = [
        _check("FlagEmbedding, token vectors", text.colbert, expected, tolerance)
        for text, expected in zip(ours, theirs, strict=True)
    ]
    # a NaN difference compares as nothing, so the failed come first
    return next((c for c in checks if not c.passed), max(checks, key=lambda c: c.difference))


def _flag_scores(flag_model: Any, pair: tuple[str, str]) -> dict[str, float]:
    scores = flag_model.compute_score(
        [list(pair)], batch_size=2, weights_for_different_modes=list(WEIGHTS)
    )
    return {name: float(scores[name][0]) for name in FLAG_SCORES}
