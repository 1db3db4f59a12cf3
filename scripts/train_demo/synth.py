"""Makes up English texts, so that the student meets words that the small corpus lacks."""

from __future__ import annotations

import random
import re

import numpy as np

from scripts.train_demo.seeds import TEMPLATES
from scripts.train_demo.teacher import Teacher

FUNCTION_RANKS = 130
NEIGHBOURS = 16
_ENDINGS = ("ing", "ed", "ly", "s", "")


class Vocabulary:
    """The teacher's whole words, with their neighbours.

    Attributes:
        words: The words, frequent ones first.
        rank: The place of each word.
        function: The most frequent words, which carry little meaning.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.words = [word for word in teacher.vocab if re.fullmatch(r"[a-z]{2,}", word)]
        self.rank = {word: i for i, word in enumerate(self.words)}
        self.function = [*self.words[:FUNCTION_RANKS], "a", "i"]
        self._function = set(self.function)
        vectors = teacher.encode([[word] for word in self.words]).vectors.astype(np.float32)
        self._near = np.zeros((len(self.words), NEIGHBOURS), dtype=np.int32)
        for start in range(0, len(self.words), 2048):
            scores = vectors[start : start + 2048] @ vectors.T
            rows = np.arange(len(scores))
            scores[rows, rows + start] = -1
            scores[:, :FUNCTION_RANKS] = -1
            self._near[start : start + 2048] = np.argsort(-scores, axis=1)[:, :NEIGHBOURS]
        self._by_ending: dict[str, list[str]] = {ending: [] for ending in _ENDINGS}
        for word in self.words[FUNCTION_RANKS:]:
            self._by_ending[self._ending(word)].append(word)

    @staticmethod
    def _ending(word: str) -> str:
        return next(ending for ending in _ENDINGS if word.endswith(ending))

    def is_content(self, word: str) -> bool:
        """Tells whether a word carries meaning.

        Args:
            word: A lower-case word.

        Returns:
            False for function words and punctuation.
        """
        return word not in self._function and any(char.isalnum() for char in word)

    def near(self, word: str, rng: random.Random, count: int = 8) -> str:
        """Picks a word of similar meaning.

        Args:
            word: A word.
            rng: The source of chance.
            count: How many neighbours may be picked.

        Returns:
            A neighbour, or the word itself where the vocabulary lacks it.
        """
        place = self.rank.get(word)
        if place is None:
            return word
        return self.words[int(self._near[place][rng.randrange(count)])]

    def any_word(self, rng: random.Random, like: str = "") -> str:
        """Picks a content word, frequent words more often.

        Args:
            rng: The source of chance.
            like: A word whose ending the result shares.

        Returns:
            The word.
        """
        pool = self._by_ending[self._ending(like)] if like else self.words[FUNCTION_RANKS:]
        return pool[int(len(pool) * rng.random() ** 1.5)]

    def substitute(
        self, texts: list[list[str]], rng: random.Random, share: float
    ) -> list[list[str]]:
        """Replaces content words by other words, the same way in all the texts.

        Args:
            texts: The words of texts that belong together.
            rng: The source of chance.
            share: Which part of the distinct content words is replaced.

        Returns:
            The new texts.
        """
        mapping = {
            word: str(rng.randrange(2, 2000)) if word.isdigit() else self.any_word(rng, word)
            for word in sorted({word for text in texts for word in text if self.is_content(word)})
            if rng.random() < share
        }
        return [[mapping.get(word, word) for word in text] for text in texts]

    def paraphrase(self, words: list[str], rng: random.Random, share: float) -> list[str]:
        """Replaces content words by neighbours.

        Args:
            words: A text.
            rng: The source of chance.
            share: Which part of the content words is replaced.

        Returns:
            The new text.
        """
        return [
            self.near(word, rng) if self.is_content(word) and rng.random() < share else word
            for word in words
        ]

    def text(self, rng: random.Random, sentences: list[list[str]]) -> list[str]:
        """Makes up one text.

        Args:
            rng: The source of chance.
            sentences: Real sentences to start from.

        Returns:
            Its words.
        """
        kind = rng.random()
        if kind < 0.15:
            return [self.any_word(rng) for _ in range(rng.randint(1, 6))]
        if kind < 0.40:
            seed = self.any_word(rng)
            words = [seed]
            for _ in range(rng.randint(1, 7)):
                words.append(self.near(rng.choice(words), rng, NEIGHBOURS))
                if rng.random() < 0.35:
                    words.append(rng.choice(self.function))
            rng.shuffle(words)
            return words
        if kind < 0.65:
            seed = self.any_word(rng)
            parts = rng.choice(TEMPLATES).split()
            for i, part in enumerate(parts):
                if part == "{}":
                    parts[i] = self.near(seed, rng) if rng.random() < 0.6 else self.any_word(rng)
                    seed = parts[i]
            return parts
        base = rng.choice(sentences)
        if kind < 0.85:
            return self.substitute([base], rng, rng.choice([0.3, 0.6, 0.9]))[0]
        return self.paraphrase(base, rng, rng.choice([0.3, 0.7]))
