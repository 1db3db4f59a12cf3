"""Learned weights beside presets, fusions, labels and the oracle, on real collections.

    python -m benchmarks.learned_weights --data FOLDER --cache CACHE [--seeds 10] [--json FILE]

FOLDER holds collections: BEIR folders (cranfield, med, cacm), xquad, cmrc2018, tatoeba-en-zh. Each
is also measured with one head replaced, for other balances of the modes: `idf` (lexical weights are
log(1 + N / df) / 8), `srand` (a random lexical weight per token), `drp` (dense vectors projected
at random to 24 numbers), `crp` (token vectors to 16), `cwhite` (token vectors whitened, 96).
Candidates are 100 dense and 100 lexical, as in a search. "half labels" is the best point of a 0.05
grid, over raw and scaled sums, on half of the queries, measured on the other half (30 splits);
"oracle" is chosen on the very queries that it is measured on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._heads import VARIANTS, ReplacedHeads
from bge_m3_integrations import BGEM3, HybridIndex, Record, Weights
from bge_m3_integrations.core.fusion import ReciprocalRank, ScaledSum
from bge_m3_integrations.demo import checkpoint_path
from bge_m3_integrations.evaluation import Dataset, Run, compare, load_dataset, score_candidates
from bge_m3_integrations.evaluation.candidates import CandidateScores
from bge_m3_integrations.index.learning.curve import simplex

_SPLITS = 30
_QUERIES = 250
Rows = list[dict[str, Any]]


def collections(folder: Path) -> Iterator[Dataset]:
    """Every collection that is there."""
    for name in ("cranfield", "med", "cacm"):
        if (folder / name).is_dir():
            made = load_dataset(folder / name)
            if isinstance(made, Dataset):
                yield made
    if (folder / "xquad").is_dir():
        for asked, answered in (("en", "en"), ("zh", "zh"), ("en", "zh"), ("zh", "en")):
            yield _xquad(folder / "xquad", asked, answered)
    if (folder / "cmrc2018").is_dir():
        yield _cmrc(folder / "cmrc2018")
    if (folder / "tatoeba-en-zh").is_dir():
        yield _tatoeba(folder / "tatoeba-en-zh" / "pairs.tsv")


def measure(data: Dataset, variant: str, base: BGEM3, seeds: Sequence[int]) -> dict[str, Any]:
    """All columns of one collection and variant: mean nDCG@10."""
    encoder = ReplacedHeads(base, variant, [record.text for record in data.records])
    with HybridIndex(BGEM3(encoder)) as index:
        index.add(data.records, progress=False)
        scores = score_candidates(index, data)
        runs = _runs(scores)
        row: dict[str, Any] = {run.name: _mean(run) for run in runs}
        single = max(runs[:3], key=_mean)
        row["half labels"], row["oracle"] = _labels(scores)
        learned = []
        for seed in seeds:
            try:
                profile = index.learn_weights(seed=seed, save=False, progress=False)
            except Exception as error:
                row["refused"] = str(error)
                return row
            learned.append(_searched(index, data, scores, profile))
        row["learned"] = _mean(learned[0])
        row["learned by seed"] = [_mean(run) for run in learned]
        found = compare(single, learned[0])
        row["against the best single"] = [
            found.difference.mean, found.difference.low, found.difference.high
        ]  # fmt: skip
        row["weights"] = [profile.weights.dense, profile.weights.sparse, profile.weights.colbert]
    return row


def _runs(scores: CandidateScores) -> list[Run]:
    usual = Weights()
    return [
        scores.run("dense", Weights(1, 0, 0)),
        scores.run("sparse", Weights(0, 1, 0)),
        scores.run("ColBERT", Weights(0, 0, 1)),
        scores.run(".4/.2/.4", usual),
        scores.run("1/.3/1", Weights(1, 0.3, 1)),
        scores.run("scaled", usual, ScaledSum()),
        scores.run("RRF", usual, ReciprocalRank()),
        scores.run("mass =", _equal(scores), ScaledSum()),
    ]


def _equal(scores: CandidateScores) -> Weights:
    """Equal weights after one constant per mode, lexical scores divided by their mass."""
    spread = np.mean([table.var(axis=0) for table in scores.tensor(scaled=True)], axis=0)
    return Weights(*(1 / (np.sqrt(spread) + 1e-9)).tolist())


def _searched(index: HybridIndex, data: Dataset, scores: CandidateScores, weights: Any) -> Run:
    texts = [data.queries[query] for query in scores.queries]
    found = index.search_batch(texts, limit=10, weights=weights)
    rankings = {q: [hit.id for hit in hits] for q, hits in zip(scores.queries, found, strict=True)}
    values = {q: [hit.score for hit in hits] for q, hits in zip(scores.queries, found, strict=True)}
    return Run("learned", rankings, values, data.qrels)


def _labels(scores: CandidateScores) -> tuple[float, float]:
    grid = simplex(3)
    table = np.concatenate([scores.measure(grid), scores.measure(grid, scaled=True)])
    rng = np.random.default_rng(0)
    halves = []
    for _ in range(_SPLITS):
        order = rng.permutation(table.shape[1])
        left, right = order[::2], order[1::2]
        halves.append(table[table[:, left].mean(1).argmax(), right].mean())
    return float(np.mean(halves)), float(table.mean(1).max())


def _mean(run: Run) -> float:
    return float(np.mean(list(run.values("ndcg@10").values())))


def _rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _xquad(folder: Path, asked: str, answered: str) -> Dataset:
    corpus = [row for row in _rows(folder / "corpus.jsonl") if row["lang"] == answered]
    queries = [row for row in _rows(folder / "queries.jsonl") if row["lang"] == asked]
    queries = queries[:: max(1, len(queries) // _QUERIES)][:_QUERIES]
    at = {row["paragraph"]: row["_id"] for row in corpus}
    return Dataset(
        f"xquad-{asked}2{answered}",
        {row["_id"]: row["text"] for row in queries},
        {row["_id"]: {at[row["paragraph"]]: 1} for row in queries},
        [Record(row["_id"], row["text"]) for row in corpus],
    )


def _cmrc(folder: Path) -> Dataset:
    corpus = _rows(folder / "corpus.jsonl")[:400]
    held = {row["_id"] for row in corpus}
    queries = [row for row in _rows(folder / "queries.jsonl") if row["doc"] in held]
    queries = queries[:: max(1, len(queries) // 200)][:200]
    return Dataset(
        "cmrc",
        {row["_id"]: row["text"] for row in queries},
        {row["_id"]: {row["doc"]: 1} for row in queries},
        [Record(row["_id"], row["text"]) for row in corpus],
    )


def _tatoeba(path: Path) -> Dataset:
    pairs = dict(line.split("\t")[:2] for line in path.read_text("utf-8").splitlines()[::13])
    rows = list(pairs.items())[:1500]
    asked = rows[:: max(1, len(rows) // _QUERIES)][:_QUERIES]
    at = {english: f"z{i}" for i, (english, _) in enumerate(rows)}
    return Dataset(
        "tatoeba-en2zh",
        {f"q{i}": english for i, (english, _) in enumerate(asked)},
        {f"q{i}": {at[english]: 1} for i, (english, _) in enumerate(asked)},
        [Record(at[english], chinese) for english, chinese in rows],
    )


def main() -> None:
    """Measure, print a line for each pair, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="embeddings are kept here")
    parser.add_argument("--seeds", type=int, default=10, help="for the model's own heads")
    parser.add_argument("--only", nargs="*", help="names of collections")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    base = BGEM3(checkpoint_path(), max_length=256, cache=options.cache)
    rows = []
    for data in collections(options.data):
        if options.only and data.name not in options.only:
            continue
        for variant in options.variants:
            seeds = range(options.seeds if variant == "own" else 1)
            row = measure(data, variant, base, list(seeds))
            rows.append({"collection": data.name, "variant": variant, **row})
            print(json.dumps(rows[-1]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
