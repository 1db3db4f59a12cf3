"""Development scores of a student during training: nDCG@10 on the held-out paragraphs."""

from __future__ import annotations

import random
from dataclasses import dataclass

import ir_measures
import numpy as np
import torch
from ir_measures import Qrel, ScoredDoc, nDCG
from torch import Tensor

from scripts.train_demo.data import Split
from scripts.train_demo.losses import MIX
from scripts.train_demo.model import Student
from scripts.train_demo.pieces import Pieces
from scripts.train_demo.synth import Vocabulary

MODES = ("dense", "sparse", "colbert", "hybrid")


@dataclass
class Encoded:
    """The three representations of a list of texts."""

    dense: Tensor
    sparse: Tensor
    colbert: list[Tensor]


@torch.no_grad()
def encode(student: Student, rows: list[list[int]]) -> Encoded:
    """Encodes token ids in batches of like length.

    Args:
        student: The student.
        rows: Token ids of each text.

    Returns:
        The representations in the order of the texts.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    dense = torch.zeros((len(rows), student.config.hidden_size))
    sparse = torch.zeros((len(rows), student.config.vocab_size))
    colbert: list[Tensor] = [torch.zeros(0)] * len(rows)
    for start in range(0, len(order), 32):
        batch = order[start : start + 32]
        out = student(*pad([rows[i] for i in batch]))
        dense[batch] = out.dense
        sparse[batch] = student.sparse_vectors(out)
        for place, i in enumerate(batch):
            colbert[i] = out.colbert[place, : len(rows[i]) - 1]
    return Encoded(dense, sparse, colbert)


def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Pads token ids.

    Args:
        rows: Token ids of each text.

    Returns:
        The ids and the attention mask.
    """
    width = max(map(len, rows))
    ids = torch.tensor([row + [1] * (width - len(row)) for row in rows])
    return ids, (ids != 1).long()


def score(query: Encoded, doc: Encoded) -> dict[str, np.ndarray]:
    """Scores all queries with all documents.

    Args:
        query: The queries.
        doc: The documents.

    Returns:
        A matrix for each mode.
    """
    colbert = torch.zeros((len(query.colbert), len(doc.colbert)))
    joined = torch.cat(doc.colbert)
    owner = torch.repeat_interleave(
        torch.arange(len(doc.colbert)), torch.tensor([len(part) for part in doc.colbert])
    )
    for i, vectors in enumerate(query.colbert):
        best = torch.full((len(vectors), len(doc.colbert)), -1.0)
        best.scatter_reduce_(1, owner.expand(len(vectors), -1), vectors @ joined.T, "amax")
        colbert[i] = best.mean(0)
    dense = query.dense @ doc.dense.T
    sparse = query.sparse @ doc.sparse.T
    hybrid = MIX[0] * dense + MIX[1] * sparse + MIX[2] * colbert
    parts = (dense, sparse, colbert, hybrid)
    return {mode: part.numpy() for mode, part in zip(MODES, parts, strict=True)}


def ndcg(scores: np.ndarray, docs: list[str], answers: list[str]) -> float:
    """Measures nDCG@10 where each query has one answer.

    Args:
        scores: Queries by documents.
        docs: The documents' keys.
        answers: The key of the answer to each query.

    Returns:
        The mean.
    """
    qrels = [Qrel(str(i), answer, 1) for i, answer in enumerate(answers)]
    run = [
        ScoredDoc(str(i), docs[j], float(row[j]))
        for i, row in enumerate(scores)
        for j in np.argsort(-row)[:10]
    ]
    return float(ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10])


class Dev:
    """The development tasks."""

    def __init__(self, train: Split, dev: Split, pieces: Pieces, words: Vocabulary) -> None:
        rng = random.Random(5)
        docs = {key: pieces.words(text) for key, text in {**dev.docs, **train.docs}.items()}
        english = [key for key in docs if key.startswith("en-")]
        chinese = [key for key in docs if key.startswith("zh-")]
        cmrc = [key for key in docs if key.startswith("c-")][:300]
        asked = {
            lang: [(pieces.words(pair.query), pair.doc) for pair in pairs]
            for lang, pairs in dev.questions.items()
        }
        self.texts = {key: docs[key] for key in [*english, *chinese, *cmrc]}
        # Every paragraph in words that the corpus lacks: a task from an unknown field.
        for key in english:
            number = int(key[3:])
            asked_here = [q for q, doc in asked["en"] if doc == key]
            new = words.substitute([docs[key], *asked_here], random.Random(number), 0.9)
            self.texts[f"s-{number}"] = new[0]
            asked.setdefault("sub", []).extend((query, f"s-{number}") for query in new[1:])
        synonyms = [(words.paraphrase(q, rng, 0.5), key) for q, key in asked["en"]]
        self.sets = {
            "en": (asked["en"], english),
            "zh": (asked["zh"], chinese),
            "en-zh": ([(q, "zh" + key[2:]) for q, key in asked["en"]], chinese),
            "zh-en": ([(q, "en" + key[2:]) for q, key in asked["zh"]], english),
            "cmrc": (asked["cmrc"], cmrc),
            "unseen": (asked["sub"], [f"s-{key[3:]}" for key in english]),
            "synonym": (synonyms, english),
        }
        self._pieces = pieces

    def rows(self, limit: int = 300) -> dict[str, list[int]]:
        """Cuts all paragraphs into pieces.

        Args:
            limit: Tokens of a paragraph at most.

        Returns:
            Token ids by key.
        """
        return {key: self._pieces.text(words, limit) for key, words in self.texts.items()}

    def scores(self, student: Student, docs: Encoded) -> dict[str, dict[str, np.ndarray]]:
        """Scores the questions of every task.

        Args:
            student: The student.
            docs: All paragraphs, in the order of `texts`.

        Returns:
            Matrices by task and mode.
        """
        place = {key: i for i, key in enumerate(self.texts)}
        result = {}
        for name, (asked, corpus) in self.sets.items():
            query = encode(student, [self._pieces.text(words, 64) for words, _ in asked])
            picked = [place[key] for key in corpus]
            colbert = [docs.colbert[i] for i in picked]
            result[name] = score(query, Encoded(docs.dense[picked], docs.sparse[picked], colbert))
        return result

    def ndcg(self, name: str, scores: np.ndarray) -> float:
        """Measures one task.

        Args:
            name: The task.
            scores: Questions by paragraphs.

        Returns:
            nDCG@10.
        """
        asked, corpus = self.sets[name]
        return ndcg(scores, corpus, [key for _, key in asked])

    def match(self, name: str, scores: dict[str, np.ndarray]) -> float:
        """Finds the usual sparse score of a question and its answer.

        Args:
            name: The task.
            scores: Matrices by mode.

        Returns:
            The median.
        """
        asked, corpus = self.sets[name]
        column = [corpus.index(key) for _, key in asked]
        return float(np.median(scores["sparse"][np.arange(len(column)), column]))

    def run(self, student: Student) -> dict[str, dict[str, float]]:
        """Measures every task.

        Args:
            student: The student.

        Returns:
            nDCG@10 by task and mode, and under `match` the median sparse score of an answer.
        """
        student.eval()
        docs = encode(student, list(self.rows().values()))
        result: dict[str, dict[str, float]] = {}
        for name, scores in self.scores(student, docs).items():
            result[name] = {mode: round(self.ndcg(name, scores[mode]), 4) for mode in MODES}
            result[name]["match"] = round(self.match(name, scores), 4)
        student.train()
        return result
