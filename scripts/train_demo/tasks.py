"""The retrieval tasks of the contrastive loss: batches of queries and documents."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

from scripts.train_demo import crossing
from scripts.train_demo.crossing import Crossing, Example
from scripts.train_demo.data import Split, sentences
from scripts.train_demo.pieces import Pieces, Words
from scripts.train_demo.synth import Vocabulary

SHARES = {
    "qa_en": 6, "qa_sub": 12, "qa_zh": 5, "qa_cmrc": 12, "qa_reword": 8, "zh_reword": 6,
    "cross_qa": 20, "cross_switch": 10, "cross_gloss": 6, "cross_pair": 14, "cross_word": 10,
    "cross_part": 24, "parallel": 16, "para_cross": 2, "define": 10, "cloze_en": 4, "cloze_zh": 5,
    "keys_en": 12, "keys_zh": 4, "paraphrase": 5,
}  # fmt: skip
SHORT = frozenset({"parallel", "keys_en", "keys_zh", "paraphrase"}) | crossing.SHORT
SYMMETRIC = frozenset({"parallel", "para_cross", "paraphrase"}) | crossing.SHORT
MADE = frozenset({"qa_reword", "cross_qa", "cross_switch", "cross_part"}) | crossing.SHORT
ARTICLES = 4


@dataclass
class Tasks:
    """Draws examples of every task.

    Attributes:
        split: The training texts.
        pieces: The tokenizer.
        vocabulary: The teacher's words.
        crossing: The tasks made with the dictionary and WordNet.
    """

    split: Split
    pieces: Pieces
    vocabulary: Vocabulary
    crossing: Crossing

    def __post_init__(self) -> None:
        """Cuts all texts into sentences once."""
        cut = self.pieces.words
        self.docs, self.asked = self.crossing.docs, self.crossing.asked
        self.parallel = self.crossing.parallel
        self.parts = {
            key: [cut(part) for part in sentences(text, key[:2] if key[:2] == "en" else "zh")]
            for key, text in self.split.docs.items()
        }
        self.english = [parts for key, parts in self.parts.items() if key.startswith("en-")]
        self.simple = [left for left, _ in self.parallel if len(left) > 4]
        self.simple += self.crossing.texts[:: max(1, len(self.crossing.texts) // 20_000)]
        self.chinese = [key for key, parts in self.parts.items() if key[0] != "e" and parts[1:]]

    def window(self, query: Words, key: str, rng: random.Random) -> Words:
        """Cuts the part out of a long Chinese paragraph that shares most with the question.

        Args:
            query: The question.
            key: The paragraph.
            rng: The source of chance.

        Returns:
            Some of its sentences.
        """
        if rng.random() < 0.15:
            return self.docs[key]
        text = "".join(query)
        grams = {text[i : i + 2] for i in range(len(text) - 1)}
        parts = ["".join(part) for part in self.parts[key]]
        best = max(range(len(parts)), key=lambda i: sum(gram in parts[i] for gram in grams))
        start = max(0, best - rng.randint(0, 2))
        return [word for part in self.parts[key][start : best + rng.randint(1, 3)] for word in part]

    def keywords(self, words: Words, rng: random.Random) -> Words:
        """Picks keywords of a sentence and mixes in function words.

        Args:
            words: The sentence.
            rng: The source of chance.

        Returns:
            A short query.
        """
        content = [word for word in words if self.vocabulary.is_content(word)] or words
        picked = rng.sample(content, min(len(content), rng.randint(1, 4)))
        if rng.random() < 0.6:
            for _ in range(rng.randint(1, 4)):
                glue = rng.choice(self.vocabulary.function)
                picked.insert(rng.randint(0, len(picked)), glue)
        return picked

    def example(self, task: str, rng: random.Random, articles: list[int]) -> Example:
        """Draws one example.

        Args:
            task: A key of `SHARES`.
            rng: The source of chance.
            articles: Where the tasks across languages draw from; everywhere if empty.

        Returns:
            The words of the query, the words of the document, and a key that two examples share if
            their documents answer each other's query.
        """
        if task in MADE:
            return self.crossing.example(task, rng, articles)
        if task in ("cloze_zh", "keys_zh"):
            return self._chinese(task, rng)
        if task == "parallel":
            left, right = rng.choice(self.parallel)
            return left, right, " ".join(right)
        if task == "para_cross":
            key = rng.choice([key for key in self.docs if key.startswith("en-")])
            return self.docs[key], self.docs["zh" + key[2:]], key
        if task in ("cloze_en", "keys_en", "paraphrase"):
            return self._english(task, rng)
        return self._question(task, rng)

    def _question(self, task: str, rng: random.Random) -> Example:
        lang = {"qa_zh": "zh", "qa_cmrc": "cmrc", "qa_en": "en", "qa_sub": "en"}.get(task)
        query, key = rng.choice(self.asked[lang or rng.choice(["zh", "cmrc", "cmrc"])])
        doc = self.window(query, key, rng) if key[0] == "c" else self.docs[key]
        if task == "qa_sub":
            query, doc = self.vocabulary.substitute([query, doc], rng, rng.choice([0.5, 0.9]))
            query = [word for word in query if rng.random() < 0.9] or query
        elif task == "cross_gloss":
            query = self.crossing.bilingual.gloss(query, rng, 1.0) or query
        elif task == "zh_reword":
            query = self.crossing.bilingual.reword(query, rng, 0.8)
        return query, doc, key

    def _chinese(self, task: str, rng: random.Random) -> Example:
        key = rng.choice(self.chinese)
        number = rng.randrange(len(self.parts[key]))
        part = self.parts[key][number]
        if task == "keys_zh":
            text = "".join(part)
            starts = [rng.randrange(max(1, len(text) - 3)) for _ in range(rng.randint(1, 3))]
            return [text[i : i + rng.randint(2, 4)] for i in starts], part, key
        first = max(0, number - 2)
        rest = self.parts[key][first:number] + self.parts[key][number + 1 : number + 3]
        return part, [word for other in rest for word in other], key

    def _english(self, task: str, rng: random.Random) -> Example:
        parts = rng.choice(self.english)
        if task == "cloze_en":
            parts = self.vocabulary.substitute(parts, rng, rng.choice([0.0, 0.5, 0.9]))
            number = rng.randrange(len(parts))
            rest = [word for i, part in enumerate(parts) if i != number for word in part]
            return parts[number], rest or parts[number], str(rng.random())
        sentence = rng.choice(parts) if rng.random() < 0.5 else rng.choice(self.simple)
        if rng.random() < 0.8:
            sentence = self.vocabulary.substitute([sentence], rng, 0.8)[0]
        if task == "keys_en":
            return self.keywords(sentence, rng), sentence, str(rng.random())
        return self.vocabulary.paraphrase(sentence, rng, 0.6), sentence, str(rng.random())

    def batch(self, task: str, rng: random.Random, tokens: int) -> list[tuple[list[int], ...]]:
        """Draws a batch of one task.

        Args:
            task: A key of `SHARES`.
            rng: The source of chance.
            tokens: About how many document tokens.

        Returns:
            Query ids, document ids and the document's key as one number in a list.
        """
        size = 96 if task in SHORT else 32
        limit = 160 if rng.random() < 0.85 else 510
        rows: list[tuple[list[int], ...]] = []
        width = 0
        # Few articles or areas at a time: the wrong documents are about the same things, and in
        # both languages.
        some = self.crossing.some(task, ARTICLES, rng) if rng.random() < 0.5 else []
        while len(rows) < size:
            query, doc, key = self.example(task, rng, some)
            ids = self.pieces.text(doc, limit)
            width = max(width, len(ids))
            if len(rows) > 3 and width * (len(rows) + 1) > tokens:
                break
            rows.append((self.pieces.text(query, 64 if task != "para_cross" else limit), ids,
                         [hash_key(key)]))  # fmt: skip
        return rows


def hash_key(key: str) -> int:
    """Turns a key into a number that is the same in every run.

    Args:
        key: Any text.

    Returns:
        A number.
    """
    return zlib.crc32(key.encode())
