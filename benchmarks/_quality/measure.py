"""One process: encode in float32 and in other dtypes, and compare."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._quality.errors import (
    ScoreErrors,
    VectorErrors,
    all_scores,
    score_errors,
    vector_errors,
)
from benchmarks._quality.gate import Change, change, ndcg
from benchmarks._shape import Shape
from benchmarks._workloads import text_of
from bge_m3_integrations import BGEM3
from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.encoders.torch import devices

if TYPE_CHECKING:
    from scripts.evaluate_demo import Collection

REFERENCE = "float32"
_RANDOM_QUERIES = (12,) * 4
_RANDOM_DOCUMENTS = (16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 80, 96, 128)


@dataclass(frozen=True, slots=True)
class Texts:
    """What to encode; without judgements only vectors and scores are compared."""

    name: str
    queries: Mapping[str, str]
    documents: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Result:
    """A dtype against float32 on one set of texts.

    Attributes:
        isa: "full" or the instruction set that the process was kept to.
        dtype: As `BGEM3` takes it.
        texts: Name of the set.
        pairs: How many queries with how many documents.
        vectors: Of queries and documents together.
        scores: By mode.
        quality: nDCG@10 by mode; empty without judgements.
    """

    isa: str
    dtype: str
    texts: str
    pairs: tuple[int, int]
    vectors: VectorErrors
    scores: Mapping[str, ScoreErrors]
    quality: Mapping[str, Change]

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> Result:
        """Read back what `dataclasses.asdict` made of it."""
        return cls(
            raw["isa"],
            raw["dtype"],
            raw["texts"],
            tuple(raw["pairs"]),
            VectorErrors(**raw["vectors"]),
            {mode: ScoreErrors(**held) for mode, held in raw["scores"].items()},
            {mode: Change(**held) for mode, held in raw["quality"].items()},
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """A dtype's encoding of a set of texts, with what follows from it."""

    both: EmbeddingBatch
    scores: Mapping[str, np.ndarray]
    quality: Mapping[str, np.ndarray]


def compared(
    checkpoint: Path, texts: Texts, dtypes: Sequence[str], *, isa: str
) -> Iterator[Result]:
    """Each dtype against float32; one dtype's vectors are in memory beside float32's.

    Args:
        checkpoint: A folder in BGE-M3's format.
        texts: What to encode.
        dtypes: As `BGEM3` takes them.
        isa: What this process was kept to.

    Yields:
        One result per dtype.
    """
    reference = encoded(checkpoint, texts, REFERENCE)
    for dtype in dtypes:
        other = encoded(checkpoint, texts, dtype)
        yield Result(
            isa,
            dtype,
            texts.name,
            (len(texts.queries), len(texts.documents)),
            vector_errors(reference.both, other.both),
            score_errors(reference.scores, dict(other.scores)),
            {mode: change(reference.quality[mode], other.quality[mode]) for mode in other.quality},
        )


def encoded(checkpoint: Path, texts: Texts, dtype: str) -> Encoded:
    """Encode, score, and measure where there are judgements."""
    print(f"{texts.name}: {dtype}", file=sys.stderr, flush=True)
    engine = BGEM3(checkpoint, device="cpu", dtype=dtype)
    queries = engine.encode_queries(list(texts.queries.values()))
    documents = engine.encode_documents(list(texts.documents.values()))
    scores = all_scores(queries, documents)
    ids = list(texts.queries), list(texts.documents)
    quality = {mode: ndcg(held, *ids, texts.qrels) for mode, held in scores.items() if texts.qrels}
    return Encoded(EmbeddingBatch.concat([queries, documents]), scores, quality)


def collection(name: str, held: Collection) -> Texts:
    """A collection as `scripts.evaluate_demo` reads it."""
    return Texts(name, held.queries, held.docs, held.qrels)


def random_texts(checkpoint: Path) -> Texts:
    """20 short texts in the made-up words of a random checkpoint."""
    shape = Shape.of(checkpoint)
    sides = [
        {str(i): text_of(n, shape=shape, seed=(side, i)) for i, n in enumerate(lengths)}
        for side, lengths in enumerate((_RANDOM_QUERIES, _RANDOM_DOCUMENTS))
    ]
    return Texts("full size, random weights", *sides, {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare on all that is given, and write JSON."""
    given = parser().parse_args(arguments)
    if given.isa != "full":
        _hide_bfloat16()
    results: list[Result] = []
    for checkpoint, texts in _work(given):
        for result in compared(checkpoint, texts, given.dtype, isa=given.isa):
            results.append(result)
            # after each, so that an interruption loses one
            given.out.write_text(json.dumps([asdict(r) for r in results]), encoding="utf-8")


def _hide_bfloat16() -> None:
    """Let int8 keep its states in float32, as on a CPU that really has no more than this.

    The variables limit the kernels but not what the processor says of itself, and oneDNN's 8-bit
    product with bfloat16 results takes 2,000 times as long without AVX-512.
    """
    devices.cpu_has_bfloat16 = lambda: False


def parser() -> argparse.ArgumentParser:
    """The worker's own arguments."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--isa", default="full")
    made.add_argument("--dtype", nargs="+", required=True)
    made.add_argument("--out", type=Path, required=True)
    for name in ("--checkpoint", "--demo", "--cranfield", "--full-size"):
        made.add_argument(name, type=Path)
    return made


def _work(given: argparse.Namespace) -> Iterator[tuple[Path, Texts]]:
    from scripts.evaluate_demo import cranfield, handbook

    if given.cranfield:
        yield given.checkpoint, collection("Cranfield", cranfield(given.cranfield))
    if given.demo:
        yield given.checkpoint, collection("demo questions", handbook(given.demo))
    if given.full_size:
        yield given.full_size, random_texts(given.full_size)


if __name__ == "__main__":
    main()
