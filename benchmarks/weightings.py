"""Weightings: how long many of them take once the component scores are there.

    python -m benchmarks.weightings --data FOLDER [--weightings 200]

The bar: 200 weightings of 225 queries over 1,400 documents in at most 5 s on two cores.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from bge_m3_integrations import BGEM3, HybridIndex, InputError
from bge_m3_integrations.demo import checkpoint_path
from bge_m3_integrations.evaluation import Dataset, load_dataset, score_candidates


def main() -> None:
    """Encode a collection once, then time weightings alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder in BEIR's layout")
    parser.add_argument("--weightings", type=int, default=200)
    parser.add_argument("--max-length", type=int, default=256)
    options = parser.parse_args()
    data = load_dataset(options.data)
    if not isinstance(data, Dataset):
        raise InputError(f"{options.data} holds pairs; give a folder with judged queries")
    with HybridIndex(BGEM3(checkpoint_path(), max_length=options.max_length)) as index:
        index.add(data.records)
        scores = score_candidates(index, data, exact=True)
    weightings = np.random.default_rng(0).dirichlet([1, 1, 1], options.weightings)
    start = time.perf_counter()
    table = scores.measure(weightings)
    seconds = time.perf_counter() - start
    one = time.perf_counter()
    scores.measure(weightings[:1])
    one = time.perf_counter() - one
    values = sum(len(held.ids) for held in scores.candidates) * len(weightings)
    print(
        f"{len(weightings)} weightings x {len(scores.queries)} queries x {len(data.records)} "
        f"documents: {seconds:.2f} s ({values / seconds / 1e6:.0f} million values/s), "
        f"{len(weightings) * one / seconds:.1f} times as fast as one at a time; "
        f"best nDCG@10 {table.mean(1).max():.3f}, worst {table.mean(1).min():.3f}"
    )


if __name__ == "__main__":
    main()
