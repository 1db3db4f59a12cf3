"""Carries words between English and Chinese with the dictionary."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from scripts.train_demo.dictionary import LONGEST_HEAD, key, productivity

HAN = re.compile(r"[\u4e00-\u9fff]+")
_RUNS = re.compile(r"[\u4e00-\u9fff]+|[^\u4e00-\u9fff]+")
CHOICES = 5
LONGEST_PHRASE = 3
_ENDINGS = (("ies", "y"), ("es", ""), ("s", ""), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"))


@dataclass(frozen=True, slots=True)
class Unit:
    """Some words of a text, or what stands for them in the other language.

    Attributes:
        start: The place of the first word.
        stop: The place behind the last one.
        text: The word, or its translation.
        changed: Whether it is a translation.
    """

    start: int
    stop: int
    text: str
    changed: bool


def bases(word: str) -> list[str]:
    """Guesses the forms under which a dictionary may list a word.

    Args:
        word: An English word.

    Returns:
        The word and what stays without a regular ending.
    """
    cut = [
        word.removesuffix(end) + more
        for end, more in _ENDINGS
        if word.endswith(end) and len(word) - len(end) > 2
    ]
    return [word, *cut]


def _short(meanings: tuple[str, ...]) -> str:
    """Takes the first short gloss, or the first one."""
    short = (gloss for gloss in map(key, meanings[:3]) if gloss.count(" ") < LONGEST_PHRASE)
    return next(short, key(meanings[0]))


def segment(run: str, heads: Collection[str]) -> list[str]:
    """Cuts Chinese characters into the longest words of a dictionary, from the left.

    Args:
        run: Characters without spaces.
        heads: The words of the dictionary.

    Returns:
        The words; a character that begins none stands alone.
    """
    words, start = [], 0
    while start < len(run):
        size = next((n for n in range(LONGEST_HEAD, 1, -1) if run[start : start + n] in heads), 1)
        words.append(run[start : start + size])
        start += len(words[-1])
    return words


class Bilingual:
    """Translations in both directions and Chinese synonyms.

    Attributes:
        to_chinese: Chinese words with weights for English words and short phrases.
        to_english: A short gloss of each Chinese word, without `to` and articles.
        pairs: Common words that translate each other (English, Chinese), by kind: True for verbs.
    """

    def __init__(
        self,
        glosses: dict[str, tuple[str, ...]],
        texts: list[str],
        learned: dict[str, dict[str, float]],
        rank: dict[str, int],
        function: frozenset[str],
    ) -> None:
        self._heads = set(glosses)
        self.to_english = {head: _short(meanings) for head, meanings in glosses.items()}
        use = Counter(
            part for text in texts for run in HAN.findall(text) for part in self.segment(run)
        )
        built = productivity(list(glosses))
        self.use = {
            head: (1 + 2 * use[head]) ** 0.4 * (1 + built[head]) ** 0.6
            * (1.0 if len(head) in (2, 3) else 0.4 if head[1:] else 0.1)
            for head in glosses
        }  # fmt: skip
        self.to_chinese = self._translations(glosses, learned, function)
        self._synonyms = self._groups(glosses)
        self.pairs: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
        self._verbs = {head for head, meanings in glosses.items() if meanings[0][:3] == "to "}
        for word in sorted(rank, key=lambda word: rank[word]):
            for head in list(self.to_chinese.get(word, {}))[:2]:
                if len(head) > 1 and head in glosses:
                    self.pairs[head in self._verbs].append((word, head))

    def _translations(
        self,
        glosses: dict[str, tuple[str, ...]],
        learned: dict[str, dict[str, float]],
        function: frozenset[str],
    ) -> dict[str, dict[str, float]]:
        table: dict[str, dict[str, float]] = {}
        for head, meanings in glosses.items():
            for place, gloss in enumerate(meanings[:6]):
                if gloss.count(" ") <= LONGEST_PHRASE and key(gloss) not in function:
                    weight = self.use[head] / (1 + place) / len(meanings) ** 0.3
                    row = table.setdefault(key(gloss), {})
                    row[head] = row.get(head, 0.0) + weight
        for word, chinese in learned.items():
            row = table.setdefault(word, {})
            top = max(row.values(), default=1.0)
            for piece, weight in chinese.items():
                row[piece] = row.get(piece, 0.0) + 2 * weight * top
        best = {}
        for word, row in table.items():
            ordered = sorted(row.items(), key=lambda item: -item[1])[:CHOICES]
            best[word] = {head: w for head, w in ordered if w > 0.15 * ordered[0][1]}
        return best

    def _groups(self, glosses: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
        """Groups the Chinese words that share one of their first two glosses."""
        shared: dict[str, list[str]] = {}
        for head, meanings in glosses.items():
            if len(head) > 1 and self.use[head] > 1.2:
                for gloss in meanings[:2]:
                    shared.setdefault(key(gloss), []).append(head)
        groups: dict[str, list[str]] = {}
        for heads in shared.values():
            for head in heads if 1 < len(heads) < 12 else []:
                groups.setdefault(head, []).extend(other for other in heads if other != head)
        return groups

    def segment(self, run: str) -> list[str]:
        """Cuts Chinese characters into the longest words of the dictionary, from the left.

        Args:
            run: Characters without spaces.

        Returns:
            The words; a character that begins none stands alone.
        """
        return segment(run, self._heads)

    def parts(self, word: str) -> list[str]:
        """Cuts the Chinese characters in a word into words of the dictionary.

        Args:
            word: A word, or Chinese text without spaces.

        Returns:
            Its parts; without Chinese characters the word alone.
        """
        runs = _RUNS.findall(word)
        return [part for run in runs for part in (self.segment(run) if HAN.match(run) else [run])]

    def chinese(self, phrase: str, rng: random.Random) -> str | None:
        """Picks a translation.

        Args:
            phrase: An English word or phrase.
            rng: The source of chance.

        Returns:
            A Chinese word, likely ones more often, or None.
        """
        for base in bases(phrase):
            row = self.to_chinese.get(base)
            if row:
                return rng.choices(list(row), list(row.values()))[0]
        return None

    def units(self, words: list[str], rng: random.Random, share: float) -> list[Unit]:
        """Translates a part of an English text word by word, long phrases first.

        Args:
            words: The text.
            rng: The source of chance.
            share: Which part is translated, where a translation is known.

        Returns:
            The text in units, in order.
        """
        units, start = [], 0
        while start < len(words):
            size, found = 1, None
            if rng.random() < share:
                for size in range(min(LONGEST_PHRASE, len(words) - start), 0, -1):
                    found = self.chinese(" ".join(words[start : start + size]), rng)
                    if found:
                        break
            units.append(Unit(start, start + size, found or words[start], found is not None))
            start += size
        return units

    def translate(
        self, words: list[str], rng: random.Random, share: float, dropped: frozenset[str]
    ) -> list[str]:
        """Translates an English text word by word.

        Args:
            words: The text.
            rng: The source of chance.
            share: Which part is translated, where a translation is known.
            dropped: Words that are mostly left out where they have no translation.

        Returns:
            The mixed text; neighbouring Chinese words are one word.
        """
        mixed: list[str] = []
        joined = False
        for unit in self.units(words, rng, share):
            if unit.changed and joined:
                mixed[-1] += unit.text
            elif unit.changed or unit.text not in dropped or rng.random() < 0.3:
                mixed.append(unit.text)
            else:
                continue
            joined = unit.changed
        return mixed

    def gloss(self, words: list[str], rng: random.Random, share: float) -> list[str]:
        """Replaces Chinese words by their English glosses.

        Args:
            words: A Chinese text.
            rng: The source of chance.
            share: Which part is replaced.

        Returns:
            The mixed text.
        """
        mixed: list[str] = []
        for part in (part for word in words for part in _RUNS.findall(word)):
            for piece in self.segment(part) if HAN.fullmatch(part) else [part]:
                english = self.to_english.get(piece, "")
                if len(piece) == 1 and rng.random() < 0.5 * share:
                    continue  # single characters are mostly particles or have many meanings
                mixed += english.split() if english and rng.random() < share else [piece]
        return mixed

    def reword(self, words: list[str], rng: random.Random, share: float) -> list[str]:
        """Replaces Chinese words by others with the same gloss.

        Args:
            words: A Chinese text.
            rng: The source of chance.
            share: Which part is replaced, where another word is known.

        Returns:
            The new text.
        """

        def other(part: str) -> str:
            group = self._synonyms.get(part)
            return rng.choice(group) if group and rng.random() < share else part

        return [
            HAN.sub(lambda run: "".join(map(other, self.segment(run.group()))), word)
            for word in words
        ]

    def aligned(self, english: list[str], chinese: str) -> dict[str, str]:
        """Finds words that translate each other in two texts.

        Args:
            english: The words of an English text.
            chinese: A Chinese text.

        Returns:
            Chinese words of two characters or more by English words.
        """
        found = {}
        for word in sorted(set(english)):
            rows = [self.to_chinese.get(base, {}) for base in bases(word)]
            heads = [head for row in rows for head in row if len(head) > 1 and head in chinese]
            if heads:
                found[word] = max(heads, key=len)
        return found

    def other_pair(self, like: str, rng: random.Random) -> tuple[str, str]:
        """Draws common words that translate each other.

        Args:
            like: A Chinese word that is a verb or not.
            rng: The source of chance.

        Returns:
            An English and a Chinese word, frequent ones more often.
        """
        pool = self.pairs[like in self._verbs]
        return pool[int(len(pool) * rng.random() ** 1.5)]
