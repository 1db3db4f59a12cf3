"""Reads the training texts and cuts the held-out development set."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.train_demo import messages

ARTICLE = 5
"""XQuAD has 48 articles of five consecutive paragraphs each."""
DEV_ARTICLES = frozenset({3, 11, 19, 27, 35, 43})
DEV_CMRC_EVERY = 11

_EN_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")
_ZH_END = re.compile("(?<=[\u3002\uff01\uff1f\uff1b])")


@dataclass
class Pair:
    """A query and the key of the document that answers it.

    Attributes:
        query: The question.
        doc: The key of its document.
    """

    query: str
    doc: str


@dataclass
class Split:
    """Texts of one split (train or dev).

    Attributes:
        docs: Paragraphs by key: `en-3` and `zh-3` are translations of each other, `c-7` is CMRC.
        questions: Questions by language (`en`, `zh`, `cmrc`) with the key of their paragraph.
        parallel: English and Chinese sentences that translate each other.
        messages: Messages of programs in both languages; they are in `parallel` too.
    """

    docs: dict[str, str] = field(default_factory=dict)
    questions: dict[str, list[Pair]] = field(
        default_factory=lambda: {"en": [], "zh": [], "cmrc": []}
    )
    parallel: list[tuple[str, str]] = field(default_factory=list)
    messages: list[tuple[str, str]] = field(default_factory=list)


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def sentences(text: str, lang: str) -> list[str]:
    """Splits a paragraph into sentences.

    Args:
        text: The paragraph.
        lang: `en` or `zh`.

    Returns:
        The sentences that are not empty.
    """
    parts = (_EN_END if lang == "en" else _ZH_END).split(text)
    return [part.strip() for part in parts if part.strip()]


def _xquad(root: Path, train: Split, dev: Split) -> None:
    for name in ("corpus", "queries"):
        for row in _rows(root / "xquad" / f"{name}.jsonl"):
            if row["lang"] not in ("en", "zh"):
                continue
            split = dev if row["paragraph"] // ARTICLE in DEV_ARTICLES else train
            key = f"{row['lang']}-{row['paragraph']}"
            if name == "corpus":
                split.docs[key] = row["text"]
            else:
                split.questions[row["lang"]].append(Pair(row["text"], key))


def _cmrc(root: Path, train: Split, dev: Split) -> None:
    dev_docs = set()
    for number, row in enumerate(_rows(root / "cmrc2018" / "corpus.jsonl")):
        if number % DEV_CMRC_EVERY == 0:
            dev_docs.add(row["_id"])
        (dev if row["_id"] in dev_docs else train).docs[f"c-{row['_id']}"] = row["text"]
    for row in _rows(root / "cmrc2018" / "queries.jsonl"):
        split = dev if row["doc"] in dev_docs else train
        split.questions["cmrc"].append(Pair(row["text"], f"c-{row['doc']}"))


def load(root: Path, packages: Path) -> tuple[Split, Split]:
    """Reads XQuAD (English, Chinese), CMRC 2018, Tatoeba and the messages of programs.

    Args:
        root: The folder that holds `xquad`, `cmrc2018` and `tatoeba-en-zh`.
        packages: The folder with the programs' packages.

    Returns:
        The training split and the development split. No paragraph is in both.
    """
    train, dev = Split(), Split()
    _xquad(root, train, dev)
    _cmrc(root, train, dev)
    pairs = (root / "tatoeba-en-zh" / "pairs.tsv").read_text(encoding="utf-8").splitlines()
    train.parallel += [(line.split("\t")[0], line.split("\t")[1]) for line in pairs if line]
    for english, chinese in zip(train.questions["en"], train.questions["zh"], strict=True):
        train.parallel.append((english.query, chinese.query))
    for key, text in train.docs.items():
        if key.startswith("en-"):
            left = sentences(text, "en")
            right = sentences(train.docs["zh-" + key[3:]], "zh")
            if len(left) == len(right):
                train.parallel += zip(left, right, strict=True)
    train.messages = messages.pairs(packages)
    train.parallel += train.messages
    return train, dev
