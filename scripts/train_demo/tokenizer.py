"""Builds the tokenizer: XLM-R's layout, a vocabulary from the teacher and the Chinese texts.

The normaliser is a SentencePiece character map as in XLM-R, with other rules: NFKC, case folding,
no accents, and spaces around ASCII punctuation, so that its words are the teacher's words.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as spm_proto
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import XLMRobertaTokenizer

from scripts.train_demo.bilingual import HAN, bases
from scripts.train_demo.seeds import COMMON, NAMES
from scripts.train_demo.teacher import Teacher

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
FREQUENT = 600
OUTSIDE_RANK = 15_000
"""The rank that technical words outside the teacher's vocabulary get."""
_RANGES = [(0x20, 0x590), (0x1E00, 0x2E80), (0x3000, 0x3040), (0xFB00, 0xFB07), (0xFE30, 0xFFEF)]
_QUOTES = {
    "\u2018": "'",
    "\u2019": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u2013": "-",
    "\u2014": "-",
    "\u2212": "-",
}
_SUFFIXES = ("s", "es", "ed", "ing", "ly", "d", "er", "ers", "ness", "ment", "ments", "r")


def _fold(char: str) -> str:
    text = unicodedata.normalize("NFKC", _QUOTES.get(char, char)).casefold()
    if char < "\u2e80":
        text = unicodedata.normalize("NFD", text)
        text = "".join(part for part in text if unicodedata.category(part) != "Mn")
    text = unicodedata.normalize("NFC", text)
    is_ascii_mark = char < "\u2e80" and len(text) == 1 and text < "\x7f" and not text.isalnum()
    return f" {text} " if is_ascii_mark and text != " " else text


def charsmap() -> bytes:
    """Compiles the normalisation rules.

    Returns:
        A SentencePiece `precompiled_charsmap`.
    """
    rules = {}
    for first, last in _RANGES:
        for char in map(chr, range(first, last)):
            if unicodedata.category(char) not in ("Cn", "Cs", "Co") and _fold(char) != char:
                rules[char] = _fold(char)
    with tempfile.TemporaryDirectory() as name:
        table, text, model = (str(Path(name) / part) for part in ("rules.tsv", "text", "model"))
        lines = [
            f"{ord(char):X}\t{' '.join(f'{ord(part):X}' for part in target)}\n"
            for char, target in sorted(rules.items())
            if target
        ]
        Path(table).write_text("".join(lines), encoding="utf-8")
        Path(text).write_text("hello world this is a test of rules\n" * 50, encoding="utf-8")
        spm.SentencePieceTrainer.train(
            input=text,
            model_prefix=model,
            vocab_size=40,
            hard_vocab_limit=False,
            normalization_rule_tsv=table,
            minloglevel=2,
        )
        proto: Any = spm_proto.ModelProto()  # type: ignore[attr-defined]
        proto.ParseFromString(Path(model + ".model").read_bytes())
        return bytes(proto.normalizer_spec.precompiled_charsmap)


def _names(words: list[str], vectors: np.ndarray) -> np.ndarray:
    index = {word: i for i, word in enumerate(words)}
    names = [index[word] for word in NAMES if word in index]
    common = [index[word] for word in COMMON if word in index]
    model = LogisticRegression(C=10.0, max_iter=1000)
    model.fit(vectors[names + common], [1] * len(names) + [0] * len(common))
    return np.asarray(model.predict_proba(vectors))[:, 1]


def english_words(
    teacher: Teacher, budget: int, known: frozenset[str], technical: frozenset[str]
) -> list[tuple[str, int]]:
    """Chooses whole words of the teacher: frequent ones, few names, few inflected forms.

    Technical words come first, with those that the teacher cuts into parts.

    Args:
        teacher: The teacher, whose vocabulary is sorted by frequency.
        budget: How many words.
        known: The words of WordNet; other words (or their base forms) must be very frequent.
        technical: Words that are frequent in technical texts.

    Returns:
        The words with their rank.
    """
    words = [word for word in teacher.vocab if re.fullmatch(r"[a-z]{2,}", word)]
    vectors = teacher.encode([[word] for word in words]).vectors.astype(np.float32)
    table = teacher.model.embeddings.word_embeddings.weight.detach().numpy()
    ids = [teacher.pieces(word)[0] for word in words]
    features = np.hstack([vectors * 3, table[ids] / np.linalg.norm(table[ids], axis=1)[:, None]])
    is_name = _names(words, features)
    index = {word: i for i, word in enumerate(words)}
    chosen: list[tuple[str, int]] = []
    for rank, word in enumerate(words):
        stems = [
            index[word[: -len(end)]]
            for end in _SUFFIXES
            if word.endswith(end)
            and len(word) - len(end) >= 3
            and word[: -len(end)] in index
            and (end not in ("d", "r") or word[-2] == "e")
        ]
        inflected = any(
            vectors[rank] @ vectors[base] > 0.6 and is_name[base] < 0.5 for base in stems
        )
        listed = rank < FREQUENT or any(base in known for base in bases(word))
        named = is_name[rank] > (0.9 if rank < 3000 else 0.5)
        wanted = word in technical or (listed and not named)
        if rank < FREQUENT or (wanted and not inflected):
            chosen.append((word, rank))
    outside = [
        (word, OUTSIDE_RANK)
        for word in sorted(technical - index.keys())
        if not any(base in index or base in technical for base in bases(word)[1:])
    ]
    chosen.sort(key=lambda item: item[0] not in technical)
    return [*outside, *chosen][:budget]


def chinese_pieces(
    texts: Iterable[str], words: int, heads: Collection[str], common: list[tuple[str, float]]
) -> list[tuple[str, float]]:
    """Learns Chinese characters and words.

    Args:
        texts: Chinese texts.
        words: How many words of the dictionary to take for their frequency in the texts.
        heads: The words of the dictionary.
        common: More words with a guess of their log probability.

    Returns:
        The pieces with their log probability.
    """
    runs = [run for text in texts for run in HAN.findall(text)]
    counts = Counter(char for run in runs for char in run)
    gb2312 = [
        bytes([high, low]).decode("gb2312", errors="ignore")
        for high in range(0xB0, 0xD8)
        for low in range(0xA1, 0xFF)
    ]
    chars = {char for char, count in counts.items() if count >= 12 or char in set(gb2312)}
    trainer = trainers.UnigramTrainer(
        vocab_size=12000,
        max_piece_length=4,
        show_progress=False,
        unk_token="<unk>",
        special_tokens=["<unk>"],
    )
    model = Tokenizer(models.Unigram())
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.train_from_iterator(runs, trainer)
    learned = dict(json.loads(model.to_str())["model"]["vocab"])
    floor = math.log(0.3 / sum(counts.values()))
    single = {char: learned.get(char, floor) for char in sorted(chars)}
    multi = sorted(
        (piece for piece in learned if piece in heads and len(piece) > 1),
        key=lambda piece: -learned[piece],
    )[:words]
    pieces = single | {piece: learned[piece] for piece in multi}
    for word, score in common:
        if all(char in single for char in word):
            # A word must beat its characters, or it is never used.
            least = sum(single[char] for char in word) + 1.0
            pieces.setdefault(word, max(score, least))
    return list(pieces.items())


@dataclass(frozen=True, slots=True)
class Sources:
    """What the vocabulary is made of.

    Attributes:
        teacher: The teacher, for English words and word parts.
        texts: Chinese training texts.
        heads: The words of the Chinese dictionary.
        common: Common words of the dictionary with a guess of their log probability.
        known: The words of WordNet.
        technical: English words that are frequent in technical texts.
    """

    teacher: Teacher
    texts: list[str]
    heads: Collection[str]
    common: list[tuple[str, float]]
    known: frozenset[str]
    technical: frozenset[str]


def build(sources: Sources, size: int, zh_words: int) -> XLMRobertaTokenizer:
    """Builds the tokenizer.

    Args:
        sources: What the vocabulary is made of.
        size: How many pieces in all.
        zh_words: How many Chinese words to take for their frequency in the texts.

    Returns:
        A tokenizer that `save_pretrained` writes in XLM-R's format.
    """
    teacher = sources.teacher
    ascii_marks = [chr(code) for code in range(0x21, 0x7F)]
    pieces: dict[str, float] = {"▁": -3.0}
    for char in ascii_marks:
        if char == char.lower():
            pieces[char] = -13.0 if char.isalnum() else -5.0
            pieces[f"▁{char}"] = -12.0 if char.isalpha() else -5.0
    for mark in "。、《》「」·…":
        pieces[mark] = -5.0
    for word in ("a", "i"):
        pieces[f"▁{word}"] = -4.0
    for piece, score in chinese_pieces(sources.texts, zh_words, sources.heads, sources.common):
        pieces[piece] = score
    numbers = [word for word in teacher.vocab if re.fullmatch(r"[1-9]\d{1,3}", word)]
    for rank, number in enumerate(numbers[:220]):
        pieces[f"▁{number}"] = -8.0 - math.log(rank + 3)
    parts = [word[2:] for word in teacher.vocab if re.fullmatch(r"##[a-z]{2,}|##\d\d", word)]
    for rank, part in enumerate(parts[:900]):
        pieces.setdefault(part, -5.5 - math.log(rank + 3))
    for part in ("s", "es", "ed", "ing", "ly", "d", "er", "ers", "r", "ness", "ment", "ments"):
        pieces[part] = -5.0
    total = math.log(12.0)
    room = size - len(pieces) - len(SPECIAL) - 1
    for word, rank in english_words(teacher, room, sources.known, sources.technical):
        pieces[f"▁{word}"] = -total - math.log(rank + 3)
    ordered = sorted(pieces.items(), key=lambda item: -item[1])
    return XLMRobertaTokenizer(
        vocab=[*((token, 0.0) for token in SPECIAL), *ordered, ("<mask>", 0.0)],
        _spm_precompiled_charsmap=charsmap(),
        model_max_length=512,
    )
