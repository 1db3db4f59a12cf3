"""One row of the table: a kind's bytes, errors, quality and time."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np

from benchmarks._quality.errors import ScoreErrors, score_errors
from benchmarks._quality.gate import Change, change
from benchmarks._storage.kinds import REENCODE, SIGNS, Kind, sign_bytes, signs
from benchmarks._storage.shard import Disk, Searched, keep, search
from benchmarks._storage.texts import Encoding, Judged, Vectors
from bge_m3_integrations.core.embeddings import FloatArray
from bge_m3_integrations.encoders.torch.maxsim import maxsim
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.index.reencode import Reencoder

JUDGED, DRAWN = "Cranfield", "full size"
COPIES, CALLS, QUERIES_AGAIN = 10, 200, 5
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a kind takes over the full-size vectors; bytes are per token before pooling.

    Attributes:
        disk: Of the folder without its log.
        log: Bytes of the log, in all.
        files: Pages of mapped files in memory when all was scored once.
        mappings: The same as the process' resident size has it.
        anonymous: Other memory, in bytes per token.
        p50: Milliseconds to score 100 candidates.
    """

    disk: float
    log: int = 0
    files: float | None = None
    mappings: float | None = None
    anonymous: float | None = None
    p50: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A kind.

    Attributes:
        kind: What it is.
        cost: Bytes and time.
        errors: Of scores against float32's, by texts.
        quality: nDCG@10 beside float32's: "colbert" and "hybrid".
    """

    kind: Kind
    cost: Cost
    errors: Mapping[str, ScoreErrors] = field(default_factory=dict)
    quality: Mapping[str, Change] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Row:
        """Read back what `dataclasses.asdict` made of it."""
        return cls(
            Kind(**raw["kind"]),
            Cost(**raw["cost"]),
            {name: ScoreErrors(**held) for name, held in raw["errors"].items()},
            {name: Change(**held) for name, held in raw["quality"].items()},
        )


def measured(kind: Kind, texts: Judged, full: Vectors, folder: Path) -> Row:
    """Keep both sets of vectors as that kind, score, compare.

    Args:
        kind: Any but "reencode".
        texts: Cranfield.
        full: Full-size vectors.
        folder: For stores, each removed at the end.

    Returns:
        The row.
    """
    if kind.colbert == SIGNS:
        kept = full.kept(kind.pooling)
        cost, large = Cost(sign_bytes(kept) / full.count), maxsim(full.tokens, signs(kept))
        small = maxsim(texts.vectors.tokens, signs(texts.vectors.kept(kind.pooling)))
    else:
        disk, found = _in_store(kind, full, folder, copies=COPIES, calls=CALLS)
        cost, large = _cost(disk, found, COPIES * full.count), found.scores
        small = _in_store(kind, texts.vectors, folder, copies=1, calls=0)[1].scores
    errors = {JUDGED: errors_of(texts.vectors, small), DRAWN: errors_of(full, large)}
    return Row(kind, cost, errors, changes(texts, small))


def again(engine: BGEM3, texts: Judged, documents: Mapping[str, str]) -> tuple[Row, Encoding]:
    """Encode some queries' first candidates again: up to 100, without any cache.

    Args:
        engine: Cranfield's.
        texts: Cranfield.
        documents: Its texts by id.

    Returns:
        The row, with the errors of these pairs and no quality, which is float32's; and the
        median encoding.
    """
    encoder, keys = Reencoder(engine, cache_bytes=0), list(documents)
    errors, encodings = [], []
    for i in range(QUERIES_AGAIN):
        rows = np.flatnonzero(texts.candidates[i])[:100]
        query = texts.vectors.queries.take([i])
        start = time.perf_counter()
        (found,) = encoder.scores(query, [[(keys[j], documents[keys[j]]) for j in rows]])
        seconds = time.perf_counter() - start
        errors.append((texts.vectors.reference[i, rows], found))
        tokens = int(texts.vectors.documents.tokens[rows].sum())
        encodings.append(Encoding(len(rows), tokens, seconds))
    middle = sorted(encodings, key=lambda held: held.seconds)[len(encodings) // 2]
    reference, found = (np.concatenate(side) for side in zip(*errors, strict=True))
    held = score_errors({"c": reference}, {"c": found})["c"]
    return Row(Kind(REENCODE), Cost(0.0), {JUDGED: held}), middle


def errors_of(vectors: Vectors, scores: FloatArray) -> ScoreErrors:
    """Differences from float32's scores; a score is a mean over query tokens already."""
    return score_errors({"c": vectors.reference}, {"c": scores})["c"]


def changes(texts: Judged, scores: FloatArray) -> dict[str, Change]:
    """nDCG@10 beside float32's, with the gate's interval."""
    reference = texts.quality(texts.vectors.reference)
    return {name: change(reference[name], held) for name, held in texts.quality(scores).items()}


def _in_store(
    kind: Kind, vectors: Vectors, folder: Path, *, copies: int, calls: int
) -> tuple[Disk, Searched]:
    with tempfile.TemporaryDirectory(dir=folder) as held:
        place, kept = Path(held) / "store", vectors.kept(kind.pooling)
        disk = _apart(keep, place, kind, kept, copies=copies)
        return disk, _apart(search, place, vectors.tokens, len(kept), calls=calls)


def _apart(call: Callable[..., _Result], *given: Any, **named: Any) -> _Result:
    """In a process of its own, so that memory is what this call needs."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(call, *given, **named).result()


def _cost(disk: Disk, found: Searched, tokens: int) -> Cost:
    before, after = found.before, found.after
    return Cost(
        disk.rest / tokens,
        disk.log,
        (after.files - before.files) / tokens,
        (after.mappings - before.mappings) / tokens,
        (after.anonymous - before.anonymous) / tokens,
        1000 * median(found.seconds) if found.seconds else None,
    )
