"""Calibration: how far probabilities and percentiles hold on queries and pairs that were not seen.

    python -m benchmarks.calibration --data FOLDER [FOLDER ...] [--model PATH] [--max-length 256]

The bars: the calibration error on held-out queries is at least three times lower than that of the
raw hybrid score read as a probability; percentiles of held-out unrelated pairs are uniform
(Kolmogorov-Smirnov distance at most 0.05). Exits with 1 where one is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bge_m3_integrations import BGEM3, HybridIndex, InputError, ScaledSum, Weights
from bge_m3_integrations.core.calibration import Calibration
from bge_m3_integrations.core.filters import Ids
from bge_m3_integrations.core.fusion import Fusion, WeightedSum
from bge_m3_integrations.demo import checkpoint_path
from bge_m3_integrations.evaluation import Dataset, calibrate, load_dataset
from bge_m3_integrations.evaluation.calibration import calibration_error, reliability
from bge_m3_integrations.evaluation.unrelated import unrelated_pairs
from bge_m3_integrations.index.request import SearchOptions

FUSIONS: Sequence[tuple[Weights, Fusion]] = (
    (Weights(), WeightedSum()),
    (Weights(0.2, 0.5, 0.3), ScaledSum()),
)
FOLDS = 5


def split(data: Dataset, fold: int, *, held_out: bool) -> Dataset:
    """The queries of one fold, or all others."""
    order = np.random.default_rng(7).permutation(len(data.qrels)) % FOLDS
    some = [q for q, at in zip(data.qrels, order, strict=True) if (at == fold) == held_out]
    return replace(
        data,
        queries={query: data.queries[query] for query in some},
        qrels={query: data.qrels[query] for query in some},
        records=(),
    )


def held_out_errors(index: HybridIndex, data: Dataset, options: SearchOptions) -> tuple[float, ...]:
    """Calibration errors of probability and raw score, and the Brier ratio, through searches."""
    rows: list[tuple[float, float, bool]] = []
    for fold in range(FOLDS):
        index.calibration = calibrate(index, split(data, fold, held_out=False), **options)
        test = split(data, fold, held_out=True)
        for query, text in test.queries.items():
            hits = index.search(text, **options)
            rows += [
                (hit.probability or 0.0, hit.score, test.qrels[query].get(hit.id, 0) > 0)
                for hit in hits
            ]
    index.calibration = None
    chance, raw, relevant = (np.array(column, float) for column in zip(*rows, strict=True))
    base = relevant.mean()
    return (
        calibration_error(reliability(chance, relevant > 0)),
        calibration_error(reliability(np.clip(raw, 0, 1), relevant > 0)),
        float(((chance - relevant) ** 2).mean() / (base * (1 - base))),
    )


def distance(calibration: Calibration, values: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance of percentiles from the uniform distribution."""
    share = np.sort(calibration.percentile(values)) / 100
    steps = np.arange(len(share) + 1) / len(share)
    return float(max(np.abs(share - steps[1:]).max(), np.abs(share - steps[:-1]).max()))


def unseen(index: HybridIndex, data: Dataset, options: SearchOptions) -> tuple[float, float]:
    """Distances for pairs of documents that were not seen, and of real queries."""
    chosen = np.random.default_rng(3)
    records = list(data.records)
    half = set(chosen.permutation(len(records))[: len(records) // 2].tolist())
    values = []
    for side in (True, False):
        part = HybridIndex(index.engine)
        kept = [record for i, record in enumerate(records) if (i in half) == side]
        part.add(kept, progress=False)
        values.append((calibrate(part, **options), part))
    (learned, _), (_, other) = values
    pairs = unrelated_pairs(other, options, seed=11, tell=lambda *_: None)
    spread = np.repeat(pairs.levels, np.diff(np.append(pairs.below, pairs.pairs)))
    whole = calibrate(index, **options)
    ids = [record.id for record in records]
    real = [
        hit.score
        for query, grades in data.qrels.items()
        for hit in index.search(
            data.queries[query],
            **(
                options
                | SearchOptions(
                    where=Ids(set(chosen.choice(ids, 60, replace=False)) - set(grades)),
                    exact=True,
                    limit=60,
                )
            ),
        )
    ]
    return distance(learned, spread), distance(whole, np.array(real))


def main() -> None:
    """Print a row for each collection and fusion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, nargs="+", help="folders in BEIR's layout")
    parser.add_argument("--model", default=str(checkpoint_path()))
    parser.add_argument("--max-length", type=int, default=256)
    options = parser.parse_args()
    engine = BGEM3(options.model, max_length=options.max_length)
    good = True
    print(
        "| collection | fusion | ECE | raw ECE | Brier / base | KS unseen | KS real queries | s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for folder in options.data:
        data = load_dataset(folder)
        if not isinstance(data, Dataset):
            raise InputError(f"{folder} holds pairs; give a folder with judged queries")
        index = HybridIndex(engine)
        index.add(data.records, progress=False)
        for weights, fusion in FUSIONS:
            start = time.perf_counter()
            search = SearchOptions(weights=weights, fusion=fusion)
            calibrate(index, data, **search)
            seconds = time.perf_counter() - start
            error, raw, brier = held_out_errors(index, data, search)
            new, real = unseen(index, data, search)
            good &= new <= 0.05 and (fusion.name != "weighted_sum" or 3 * error <= raw)
            print(
                f"| {Path(folder).name} | {fusion.name} | {error:.3f} | {raw:.3f} | {brier:.2f} | "
                f"{new:.3f} | {real:.3f} | {seconds:.1f} |",
                flush=True,
            )
    sys.exit(not good)


if __name__ == "__main__":
    main()
