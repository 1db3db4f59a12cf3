"""Builds everything that comes before the first step of training."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import XLMRobertaTokenizer

from scripts.train_demo import data, dictionary, lexicon, model, tokenizer, wordnet
from scripts.train_demo.bilingual import HAN, Bilingual, segment
from scripts.train_demo.crossing import Crossing
from scripts.train_demo.distil import Distillation
from scripts.train_demo.evaluate import Dev
from scripts.train_demo.pieces import Pieces
from scripts.train_demo.synth import FUNCTION_RANKS, Vocabulary
from scripts.train_demo.tasks import Tasks
from scripts.train_demo.teacher import Teacher
from scripts.train_demo.thesaurus import Thesaurus

VOCABULARY = 15_600
TEXT_WORDS = 1600
DICTIONARY_WORDS = 2300
LARGEST_RANK = 20_000
TECHNICAL = {"en": 15, "zh": 8}
"""Words that messages use so often become pieces."""
TERM_SCORE = -9.0
"""The guess of their log probability."""

Glosses = dict[str, tuple[str, ...]]

_LATIN = re.compile("[a-z]{2,}")


@dataclass
class Kit:
    """What training needs.

    Attributes:
        tokenizer: The tokenizer.
        tasks: The contrastive tasks.
        distillation: Texts with the teacher's answers.
        dev: The held-out set.
        student: A new student.
        idf: A guess of each piece's sparse weight.
    """

    tokenizer: XLMRobertaTokenizer
    tasks: Tasks
    distillation: Distillation
    dev: Dev
    student: model.Student
    idf: Tensor


def idf(tok: XLMRobertaTokenizer) -> Tensor:
    """Guesses a sparse weight for each piece from its probability in the tokenizer.

    Args:
        tok: The tokenizer.

    Returns:
        A weight from 0 (frequent or a mere ending) to 0.35 (rare).
    """
    vocab = json.loads(tok.backend_tokenizer.to_str())["model"]["vocab"]
    weights = torch.tensor([min(max((-score - 6.5) / 4.5, 0.0), 1.0) for _, score in vocab])
    for place, (piece, _) in enumerate(vocab):
        if piece[0] != "▁" and piece.isascii():
            weights[place] *= 0.6
    weights[: model.SPECIAL_IDS] = 0
    return weights * 0.35


def learned_words(
    pieces: Pieces, tok: XLMRobertaTokenizer, parallel: list[tuple[str, str]]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Learns which words translate each other from the parallel sentences.

    Args:
        pieces: The tokenizer with a cache.
        tok: The tokenizer.
        parallel: English and Chinese sentences.

    Returns:
        English words with weights for Chinese pieces, and Chinese pieces for English words whose
        best translation is clear.
    """
    bare = tok.convert_tokens_to_ids("▁")

    def cut(text: str) -> list[int]:
        return [i for i in pieces.text(pieces.words(text))[1:-1] if i != bare]

    there, back = lexicon.translations([(cut(a), cut(b)) for a, b in parallel], len(tok))
    names = tok.convert_ids_to_tokens(range(len(tok)))
    to_english = {
        names[row]: {names[i][1:]: weight for i, weight in heads.items() if names[i][0] == "▁"}
        for row, heads in there.items()
    }
    to_chinese = {
        names[row][1:]: {names[i]: weight for i, weight in heads.items() if HAN.fullmatch(names[i])}
        for row, heads in back.items()
        if names[row][0] == "▁" and max(heads.values()) > 0.2
    }
    return to_english, {word: row for word, row in to_chinese.items() if row}


def starts(
    tok: XLMRobertaTokenizer, glosses: Glosses, learned: dict[str, dict[str, float]]
) -> dict[int, dict[str, float]]:
    """Collects English words for the start of each Chinese piece.

    Args:
        tok: The tokenizer.
        glosses: The dictionary.
        learned: English words with weights for Chinese pieces, from the parallel sentences.

    Returns:
        English words with weights by row; both sources count the same.
    """
    rows: dict[int, dict[str, float]] = {}
    for piece, row in tok.get_vocab().items():
        weights: dict[str, float] = {}
        for place, gloss in enumerate(glosses.get(piece, ())[:4]):
            words = dictionary.key(gloss).split()
            for word in words:
                weights[word] = weights.get(word, 0.0) + 1 / (1 + place) / len(words)
        for source in (weights.copy(), learned.get(piece, {})):
            total = sum(source.values())
            for word, weight in source.items():
                rows.setdefault(row, {})
                rows[row][word] = rows[row].get(word, 0.0) + weight / total
    return rows


def technical_words(
    messages: list[tuple[str, str]], lang: str, heads: Collection[str]
) -> list[str]:
    """Finds the words that messages of programs use often.

    Args:
        messages: English and Chinese messages.
        lang: `en` or `zh`.
        heads: The words of the Chinese dictionary.

    Returns:
        Words in order; Chinese ones have two to four characters.
    """
    if lang == "en":
        used = Counter(word for left, _ in messages for word in _LATIN.findall(left.lower()))
    else:
        runs = (run for _, right in messages for run in HAN.findall(right))
        used = Counter(word for run in runs for word in segment(run, heads) if 1 < len(word) < 5)
    return sorted(word for word, count in used.items() if count >= TECHNICAL[lang])


def _tokenizer(
    teacher: Teacher,
    train: data.Split,
    glosses: Glosses,
    senses: list[wordnet.Sense],
    rank: dict[str, int],
) -> XLMRobertaTokenizer:
    parallel = [right for _, right in train.parallel]
    chinese = [text for key, text in train.docs.items() if not key.startswith("en-")]
    technical = {lang: technical_words(train.messages, lang, glosses) for lang in ("en", "zh")}
    sources = tokenizer.Sources(
        teacher,
        [*parallel * 3, *chinese],
        glosses.keys(),
        [
            *((word, TERM_SCORE) for word in technical["zh"]),
            *dictionary.common(glosses, rank, DICTIONARY_WORDS),
        ],
        frozenset(word for sense in senses for word in sense.words),
        frozenset(technical["en"]),
    )
    return tokenizer.build(sources, VOCABULARY, TEXT_WORDS)


def prepare(root: Path, wordnet_root: Path, packages: Path, seed: int, synthetic: int) -> Kit:
    """Builds everything that comes before the first step.

    Args:
        root: The data folder.
        wordnet_root: The folder of WordNet's database files.
        packages: The folder with the packages whose messages are translated.
        seed: The seed.
        synthetic: How many made-up texts.

    Returns:
        The tokenizer, the tasks, the distillation data, the held-out set and a new student.
    """
    torch.manual_seed(seed)
    train, dev = data.load(root, packages)
    teacher, glosses, senses = (
        Teacher(),
        dictionary.entries(dictionary.lines()),
        wordnet.senses(wordnet_root),
    )
    vocabulary = Vocabulary(teacher)
    content = [(word, i) for word, i in vocabulary.rank.items() if i >= FUNCTION_RANKS]
    rank = {word: i for word, i in content if i < LARGEST_RANK}
    tok = _tokenizer(teacher, train, glosses, senses, rank)
    pieces = Pieces(tok)
    to_english, to_chinese = learned_words(pieces, tok, train.parallel)
    texts = [*(right for _, right in train.parallel)]
    texts += [text for key, text in train.docs.items() if not key.startswith("en-")]
    function = frozenset(vocabulary.function)
    crossing = Crossing(
        Bilingual(glosses, texts, to_chinese, rank, function),
        Thesaurus(senses, vocabulary.rank),
        vocabulary,
        {key: pieces.words(text) for key, text in train.docs.items()},
        {
            lang: [(pieces.words(pair.query), pair.doc) for pair in pairs]
            for lang, pairs in train.questions.items()
        },
        [(pieces.words(left), pieces.words(right)) for left, right in train.parallel],
        len(train.messages),
    )
    tasks = Tasks(train, pieces, vocabulary, crossing)
    distillation = Distillation(teacher, vocabulary, tasks, synthetic, seed)
    student = model.Student(len(tok))
    neurons = model.keep_neurons(teacher, distillation.targets.texts[:4000:4])
    model.initialise(student, teacher, tok, neurons, starts(tok, glosses, to_english))
    held_out = Dev(train, dev, pieces, vocabulary)
    return Kit(tok, tasks, distillation, held_out, student, idf(tok))
