"""The retrieval tasks of the contrastive loss: batches of queries and documents."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

from transformers import XLMRobertaTokenizer

from scripts.train_demo.data import Split, sentences
from scripts.train_demo.synth import Vocabulary

Words = list[str]
Example = tuple[Words, Words, str]

SHARES = {
    "qa_en": 7, "qa_sub": 16, "qa_zh": 6, "qa_cmrc": 14, "qa_cross": 12, "qa_switch": 6,
    "parallel": 20, "cloze_en": 4, "cloze_zh": 6, "para_cross": 3, "keys_en": 14, "keys_zh": 4,
    "paraphrase": 8,
}  # fmt: skip
SHORT = frozenset({"parallel", "keys_en", "keys_zh", "paraphrase"})
SYMMETRIC = frozenset({"parallel", "para_cross", "paraphrase"})


class Pieces:
    """Words and piece ids, the same as the tokenizer's own but with a cache."""

    def __init__(self, tokenizer: XLMRobertaTokenizer) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}

    def words(self, text: str) -> Words:
        """Normalises a text and cuts it at spaces.

        Args:
            text: Any text.

        Returns:
            Its words.
        """
        plain: str = self._tokenizer.backend_tokenizer.normalizer.normalize_str(text)
        return plain.split()

    def ids(self, word: str) -> list[int]:
        """Cuts one word into pieces.

        Args:
            word: A word without spaces.

        Returns:
            Its piece ids.
        """
        if word not in self._cache:
            self._cache[word] = self._tokenizer.encode(word, add_special_tokens=False)
        return self._cache[word]

    def text(self, words: Words, limit: int = 510) -> list[int]:
        """Cuts a text into pieces.

        Args:
            words: Its words.
            limit: How many pieces at most.

        Returns:
            Its piece ids with `<s>` and `</s>`.
        """
        return [0, *[piece for word in words for piece in self.ids(word)][:limit], 2]


@dataclass
class Tasks:
    """Draws examples of every task.

    Attributes:
        split: The training texts.
        pieces: The tokenizer.
        vocabulary: The teacher's words.
        to_chinese: Chinese words for English piece ids.
    """

    split: Split
    pieces: Pieces
    vocabulary: Vocabulary
    to_chinese: dict[int, str]

    def __post_init__(self) -> None:
        """Cuts all texts into words once."""
        cut = self.pieces.words
        self.docs = {key: cut(text) for key, text in self.split.docs.items()}
        self.parts = {
            key: [cut(part) for part in sentences(text, key[:2] if key[:2] == "en" else "zh")]
            for key, text in self.split.docs.items()
        }
        self.asked = {
            lang: [(cut(pair.query), pair.doc) for pair in pairs]
            for lang, pairs in self.split.questions.items()
        }
        self.parallel = [(cut(left), cut(right)) for left, right in self.split.parallel]
        self.english = [parts for key, parts in self.parts.items() if key.startswith("en-")]
        self.simple = [left for left, _ in self.parallel if len(left) > 4]
        self.chinese = [key for key, parts in self.parts.items() if key[0] != "e" and parts[1:]]

    def switch(self, words: Words, rng: random.Random) -> Words:
        """Replaces English words by Chinese ones where a translation is known.

        Args:
            words: An English text.
            rng: The source of chance.

        Returns:
            The mixed text.
        """
        mixed: Words = []
        joined = False
        for word in words:
            first, *rest = self.pieces.ids(word)
            chinese = self.to_chinese.get(first) if not rest or len(rest) == 1 else None
            if chinese is None or rng.random() < 0.1:
                mixed.append(word)
            elif joined:
                mixed[-1] += chinese
            else:
                mixed.append(chinese)
            joined = chinese is not None and mixed[-1] != word
        return mixed

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

    def example(self, task: str, rng: random.Random) -> Example:
        """Draws one example.

        Args:
            task: A key of `SHARES`.
            rng: The source of chance.

        Returns:
            The words of the query, the words of the document, and a key that two examples share if
            their documents answer each other's query.
        """
        if task.startswith("qa_"):
            return self._question(task, rng)
        if task in ("cloze_zh", "keys_zh"):
            return self._chinese(task, rng)
        if task == "parallel":
            left, right = rng.choice(self.parallel)
            return left, right, " ".join(right)
        if task == "para_cross":
            key = rng.choice([key for key in self.docs if key.startswith("en-")])
            return self.docs[key], self.docs["zh" + key[2:]], key
        return self._english(task, rng)

    def _question(self, task: str, rng: random.Random) -> Example:
        if task == "qa_cross":
            lang, other = rng.choice([("en", "zh"), ("zh", "en")])
            query, key = rng.choice(self.asked[lang])
            return query, self.docs[other + key[2:]], key
        if task == "qa_cmrc":
            query, key = rng.choice(self.asked["cmrc"])
            return query, self.window(query, key, rng), key
        query, key = rng.choice(self.asked["zh" if task == "qa_zh" else "en"])
        doc = self.docs[key]
        if task in ("qa_sub", "qa_switch"):
            query, doc = self.vocabulary.substitute([query, doc], rng, rng.choice([0.5, 0.9]))
            query = [word for word in query if rng.random() < 0.9] or query
        return (self.switch(query, rng) if task == "qa_switch" else query), doc, key

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
        while len(rows) < size:
            query, doc, key = self.example(task, rng)
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
