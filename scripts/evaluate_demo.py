"""Evaluates a checkpoint on Cranfield and on the demo handbook, beside BM25 and random weights.

Example:
    python -m scripts.evaluate_demo --checkpoint bge_m3_integrations/demo/checkpoint \
        --demo bge_m3_integrations/demo --cranfield ../shared/data/cranfield
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import ir_measures
import numpy as np
import snowballstemmer
import torch
from bm25s.stopwords import STOPWORDS_EN
from FlagEmbedding import BGEM3FlagModel
from ir_measures import RR, Qrel, ScoredDoc, Success, nDCG
from safetensors.torch import save_file
from scipy.sparse import csr_matrix
from transformers import XLMRobertaConfig, XLMRobertaModel

MEASURES = {"hit@3": Success @ 3, "ndcg@10": nDCG @ 10, "mrr@10": RR @ 10}
GROUPS = ("plain", "keyword", "cross", "paraphrase", "all")
Scores = dict[str, np.ndarray]


@dataclass
class Collection:
    """Documents, queries and judgements.

    Attributes:
        docs: Texts by id.
        queries: Texts by id.
        qrels: Grades by query id and document id.
        groups: The group of each query; every query also belongs to `all`.
    """

    docs: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    groups: dict[str, str]


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def cranfield(folder: Path) -> Collection:
    """Reads Cranfield in BEIR's layout.

    Args:
        folder: The folder with `corpus.jsonl`, `queries.jsonl` and `qrels.tsv`.

    Returns:
        The collection. Empty documents stay, as empty texts.
    """
    docs = {
        row["_id"]: f"{row['title']}\n{row['text']}".strip()
        for row in _rows(folder / "corpus.jsonl")
    }
    queries = {row["_id"]: row["text"] for row in _rows(folder / "queries.jsonl")}
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, doc, grade = line.split("\t")
        qrels.setdefault(query, {})[doc] = int(grade)
    return Collection(docs, queries, qrels, dict.fromkeys(queries, "all"))


def handbook(folder: Path) -> Collection:
    """Reads the demo handbook and its questions.

    Args:
        folder: The folder with `handbook` and `questions.jsonl`.

    Returns:
        The collection; English and Chinese pages are searched together.
    """
    pages = sorted((folder / "handbook").rglob("*.md"))
    docs = {
        page.relative_to(folder / "handbook").with_suffix("").as_posix(): page.read_text(
            encoding="utf-8"
        ).removeprefix("# ")
        for page in pages
    }
    rows = _rows(folder / "questions.jsonl")
    return Collection(
        docs,
        {row["id"]: row["text"] for row in rows},
        {row["id"]: row["relevant"] for row in rows},
        {row["id"]: row["group"] for row in rows},
    )


def _sparse(weights: list[dict[str, float]], size: int) -> csr_matrix:
    rows = [i for i, part in enumerate(weights) for _ in part]
    columns = [int(token) for part in weights for token in part]
    values = [float(value) for part in weights for value in part.values()]
    return csr_matrix((values, (rows, columns)), shape=(len(weights), size))


def model_scores(checkpoint: Path, collection: Collection) -> Scores:
    """Scores all queries with all documents.

    Args:
        checkpoint: A folder in BGE-M3's format.
        collection: What to search.

    Returns:
        A matrix, queries by documents, for each mode.
    """
    model = BGEM3FlagModel(str(checkpoint), use_fp16=False, devices="cpu")
    both = [
        model.encode(
            list(texts.values()),
            batch_size=16,
            max_length=512,
            return_dense=True,
            return_sparse=True,
            return_colbert_vecs=True,
        )
        for texts in (collection.queries, collection.docs)
    ]
    query, doc = both
    size = model.model.model.config.vocab_size
    dense = query["dense_vecs"] @ doc["dense_vecs"].T
    sparse = _sparse(query["lexical_weights"], size) @ _sparse(doc["lexical_weights"], size).T
    colbert = np.zeros_like(dense)
    for j, vectors in enumerate(doc["colbert_vecs"]):
        for i, asked in enumerate(query["colbert_vecs"]):
            colbert[i, j] = (asked @ vectors.T).max(axis=1).mean()
    scores = {"dense": dense, "sparse": sparse.toarray(), "colbert": colbert}
    for name, (a, b, c) in {"0.4/0.2/0.4": (0.4, 0.2, 0.4), "1/0.3/1": (1, 0.3, 1)}.items():
        scores[f"hybrid {name}"] = a * scores["dense"] + b * scores["sparse"] + c * colbert
    return scores


def bm25_tokens(text: str) -> list[str]:
    """Cuts a text for BM25: stemmed English words and pairs of Chinese characters.

    Args:
        text: Any text.

    Returns:
        The tokens.
    """
    words = [word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in STOPWORDS_EN]
    tokens: list[str] = snowballstemmer.stemmer("english").stemWords(words)
    for run in re.findall(r"[\u4e00-\u9fff]+", text):
        tokens += [run[i : i + 2] for i in range(max(1, len(run) - 1))]
    return tokens


def bm25_scores(collection: Collection) -> np.ndarray:
    """Scores all queries with all documents by BM25.

    Args:
        collection: What to search.

    Returns:
        A matrix, queries by documents.
    """
    retriever = bm25s.BM25()
    retriever.index([bm25_tokens(text) for text in collection.docs.values()], show_progress=False)
    known = retriever.vocab_dict
    rows = []
    for text in collection.queries.values():
        tokens = [token for token in bm25_tokens(text) if token in known]
        rows.append(retriever.get_scores(tokens) if tokens else np.zeros(len(collection.docs)))
    return np.stack(rows)


def measure(collection: Collection, scores: np.ndarray) -> dict[str, dict[str, float]]:
    """Measures a ranking.

    Args:
        collection: The queries and judgements.
        scores: Queries by documents. Documents that score 0 or less are not found.

    Returns:
        The measures by group.
    """
    docs = list(collection.docs)
    run = [
        ScoredDoc(query, docs[j], float(row[j]))
        for query, row in zip(collection.queries, scores, strict=True)
        for j in np.argsort(-row, kind="stable")[:100]
        if row[j] > 0
    ]
    result = {}
    for group in GROUPS:
        wanted = {query for query, name in collection.groups.items() if group in ("all", name)}
        qrels = [
            Qrel(query, doc, grade)
            for query in wanted
            for doc, grade in collection.qrels.get(query, {}).items()
        ]
        if qrels:
            found = [doc for doc in run if doc.query_id in wanted]
            values = ir_measures.calc_aggregate(list(MEASURES.values()), qrels, found)
            result[group] = {name: round(values[part], 4) for name, part in MEASURES.items()}
            result[group]["queries"] = len({part.query_id for part in qrels})
    return result


def random_checkpoint(checkpoint: Path, out: Path) -> None:
    """Writes a checkpoint of the same shape and tokenizer with random weights.

    Args:
        checkpoint: The folder to imitate.
        out: The new folder.
    """
    torch.manual_seed(0)
    shutil.copytree(checkpoint, out, dirs_exist_ok=True)
    config = XLMRobertaConfig.from_pretrained(checkpoint)
    model = XLMRobertaModel(config)
    save_file(model.state_dict(), out / "model.safetensors", metadata={"format": "pt"})
    for name, width in (("colbert_linear", config.hidden_size), ("sparse_linear", 1)):
        head = torch.nn.Linear(config.hidden_size, width)
        torch.save(head.state_dict(), out / f"{name}.pt")


def main() -> None:
    """Evaluates, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument("--cranfield", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="the JSON file; evaluation.json beside the model")
    args = parser.parse_args()
    report: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        random_checkpoint(args.checkpoint, Path(name))
        folders = {"checkpoint": args.checkpoint, "random": Path(name)}
        for title, items in (
            ("cranfield", cranfield(args.cranfield)),
            ("handbook", handbook(args.demo)),
        ):
            report[title] = {"bm25": measure(items, bm25_scores(items))}
            for label, folder in folders.items():
                for mode, scores in model_scores(folder, items).items():
                    report[title][f"{label} {mode}"] = measure(items, scores)
    for title, systems in report.items():
        for system, groups in systems.items():
            for group, values in groups.items():
                line = " ".join(f"{key} {value:.3f}" for key, value in values.items())
                print(f"{title:10} {system:32} {group:11} {line}")
    out = args.out or args.checkpoint / "evaluation.json"
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
