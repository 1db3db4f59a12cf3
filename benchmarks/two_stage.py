"""What looking up candidates by dense and lexical scores loses against scoring every document.

    python -m benchmarks.two_stage --cranfield PATH/TO/cranfield --more PATH/TO/xquad \
        PATH/TO/cmrc2018 --documents 5000

A search scores the best N by each of the two modes exactly, in all modes that have a weight. A
document that neither lookup brings is not found, however high its ColBERT score is. Here the same
queries are ranked both ways over the same index in memory, by the demo checkpoint in float32.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks._machine import machine
from benchmarks._quality.gate import Change, change, ndcg
from benchmarks._table import markdown, plain
from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Mode
from bge_m3_integrations.core.scores import Weights
from scripts.evaluate_demo import Collection, cranfield

_TOP = 10
_CHECKPOINT = Path("bge_m3_integrations/demo/checkpoint")
_WEIGHTS: Mapping[str, Weights] = {
    "ColBERT alone": Weights(0, 0, 1),
    "hybrid": Weights.parse("default"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One way of looking up, against scoring every document.

    Attributes:
        weights: What was ranked by.
        candidates: By each of dense and sparse.
        scored: Mean number of documents that were scored.
        kept: Mean share of the full ranking's first ten that the first ten hold.
        whole: Share of queries whose first ten are the same documents.
        quality: nDCG@10 of both.
    """

    weights: str
    candidates: int
    scored: float
    kept: float
    whole: float
    quality: Change

    def cells(self) -> list[str]:
        """As the table shows it."""
        q = self.quality
        return [
            self.weights,
            str(self.candidates),
            f"{self.scored:.0f}",
            f"{self.kept:.4f}",
            f"{100 * self.whole:.1f}%",
            f"{q.reference:.4f} → {q.value:.4f}: {100 * q.relative:+.2f}% "
            f"[{100 * q.low:+.2f}%, {100 * q.high:+.2f}%]",
        ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    given = _parser().parse_args(arguments)
    judged = cranfield(given.cranfield)
    documents = dict(judged.docs)
    for folder in given.more:
        documents |= {f"{folder.name} {key}": text for key, text in texts_of(folder).items()}
    documents = dict(list(documents.items())[: given.documents])
    rows = measured(judged, documents, given.candidates)
    header = ["ranked by", "candidates per mode", "scored", "of the ten", "same ten", "nDCG@10"]
    table = [header, *(row.cells() for row in rows)]
    print(f"{len(documents)} documents, {len(judged.queries)} queries")
    print((markdown if given.markdown else plain)(table))
    if given.json:
        found = {"machine": machine(), "documents": len(documents), "rows": list(map(asdict, rows))}
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


def measured(
    judged: Collection, documents: Mapping[str, str], candidates: Sequence[int]
) -> list[Row]:
    """Rank the queries by every weighting, with every number of candidates and with all."""
    engine = BGEM3(_CHECKPOINT, device="cpu", dtype="float32")
    index = HybridIndex(engine)
    index.add([Record(key, text) for key, text in documents.items()])
    queries = engine.encode_queries(list(judged.queries.values()))
    rows = []
    for name, weights in _WEIGHTS.items():
        full, _ = _ranked(index, queries, weights, len(documents))
        for number in candidates:
            found, scored = _ranked(index, queries, weights, number)
            shares = [len(set(a) & set(b)) / len(a) for a, b in zip(full, found, strict=True)]
            quality = change(*(_ndcg(ranks, judged) for ranks in (full, found)))
            whole = float(np.mean([share == 1 for share in shares]))
            rows.append(Row(name, number, scored, float(np.mean(shares)), whole, quality))
    return rows


def texts_of(folder: Path) -> dict[str, str]:
    """Documents of a `corpus.jsonl`, with their ids."""
    lines = (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    held = map(json.loads, lines)
    return {one["_id"]: f"{one.get('title', '')} {one['text']}".strip() for one in held}


def _ranked(
    index: HybridIndex, queries: EmbeddingBatch, weights: Weights, candidates: int
) -> tuple[list[list[str]], float]:
    """The first ten of each query, and how many documents were scored for one, on average."""
    looked_up: dict[Mode, int] = {"dense": candidates, "sparse": candidates}
    found, scored = [], []
    for i in range(len(queries)):
        one = queries.take([i])
        hits = index.search_embedded(one, weights=weights, candidates=looked_up, limit=_TOP)[0]
        found.append([hit.id for hit in hits])
        each = (index.store.find(one, mode, limit=n)[0] for mode, n in looked_up.items())
        scored.append(len({candidate.id for candidates in each for candidate in candidates}))
    return found, float(np.mean(scored))


def _ndcg(rankings: Sequence[Sequence[str]], judged: Collection) -> np.ndarray:
    """nDCG@10 of each judged query, of documents in the order in which they were found."""
    known = list(dict.fromkeys(key for ranking in rankings for key in ranking))
    place = {key: j for j, key in enumerate(known)}
    scores = np.zeros((len(rankings), len(known)), np.float32)
    for i, ranking in enumerate(rankings):
        for rank, key in enumerate(ranking):
            scores[i, place[key]] = 1 / (1 + rank)
    return ndcg(scores, list(judged.queries), known, judged.qrels)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_stage", description=__doc__)
    parser.add_argument("--cranfield", type=Path, required=True, help="judged, in BEIR's layout")
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="further documents")
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--candidates", type=int, nargs="+", default=[20, 50, 100, 200])
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    main()
