"""English words in other words: synonyms, wider terms and definitions from WordNet."""

from __future__ import annotations

import random
from dataclasses import dataclass

from scripts.train_demo.pieces import Words
from scripts.train_demo.wordnet import Sense

LONGEST = 24


@dataclass(frozen=True, slots=True)
class Meaning:
    """A meaning whose texts are cut into words.

    Attributes:
        words: The words and phrases that share it.
        definition: What it means.
        examples: Texts with one of the words.
        parents: Wider terms.
    """

    words: tuple[Words, ...]
    definition: Words
    examples: tuple[Words, ...]
    parents: tuple[Words, ...]


class Thesaurus:
    """The meanings of known words.

    Attributes:
        meanings: Meanings with at least one phrase of known words.
    """

    def __init__(self, senses: list[Sense], known: dict[str, int]) -> None:
        self.meanings: list[Meaning] = []
        self._of: dict[str, list[int]] = {}
        for sense in senses:
            phrases = [word.split() for word in sense.words]
            phrases = [phrase for phrase in phrases if all(part in known for part in phrase)]
            if not phrases:
                continue
            for phrase in phrases:
                self._of.setdefault(" ".join(phrase), []).append(len(self.meanings))
            self.meanings.append(
                Meaning(
                    tuple(phrases),
                    _plain(sense.definition),
                    tuple(_plain(text) for text in sense.examples),
                    tuple(word.split() for word in sense.parents),
                )
            )

    def knows(self, word: str) -> bool:
        """Tells whether a word has a meaning here.

        Args:
            word: A word or phrase.

        Returns:
            True if `other` may change it.
        """
        return word in self._of

    def other(self, word: str, rng: random.Random) -> Words:
        """Says one word in another way.

        Args:
            word: A word.
            rng: The source of chance.

        Returns:
            A synonym, a wider term or the definition; the word itself where nothing is known.
        """
        places = self._of.get(word)
        if not places:
            return [word]
        meaning = self.meanings[rng.choice(places[:3])]
        same = [phrase for phrase in meaning.words if phrase != [word]]
        kind = rng.random()
        if same and kind < 0.6:
            return rng.choice(same)
        if kind < 0.8 and len(meaning.definition) < LONGEST // 2:
            return meaning.definition
        return rng.choice(meaning.parents) if meaning.parents else [word]

    def reword(self, words: Words, rng: random.Random, share: float) -> Words:
        """Says some words of a text in another way.

        Args:
            words: The text.
            rng: The source of chance.
            share: Which part of the known words is changed.

        Returns:
            The new text.
        """
        changed: Words = []
        for word in words:
            changed += self.other(word, rng) if rng.random() < share else [word]
        return changed

    def texts(self) -> list[Words]:
        """Lists the real texts.

        Returns:
            Definitions and examples of more than four words, cut to a fixed length.
        """
        found = [text for m in self.meanings for text in (m.definition, *m.examples)]
        return [text[:LONGEST] for text in found if len(text) > 4]


def _plain(text: str) -> Words:
    """Cuts an English text into words and marks, in lower case."""
    spaced = "".join(char if char.isalnum() or char == " " else f" {char} " for char in text)
    return spaced.lower().split()
